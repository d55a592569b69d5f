"""GET /v1/info: what a user or a tool wants to know before it asks for anything. No secret, nothing of other tenants."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from common.info import Counts, HostInfo, Info, Limits, RootInfo, You
from common.models import MAX_OUTPUT
from common.version import API_VERSION, VERSION
from dkrd.api.bodies import MAX_BODY
from dkrd.api.peers import MAX_CONNECTIONS
from dkrd.images import roots

if TYPE_CHECKING:
    from aiohttp import web

    from dkrd.api.context import Context
    from dkrd.api.facts import Facts
    from dkrd.api.peers import Peer
    from dkrd.settings import Settings


async def info(context: Context, peer: Peer, request: web.Request) -> Info:
    """The daemon, its host, and what it is to the caller."""
    scope, owner = peer.scope(), peer.account()
    counts = await context.index.ask(lambda index: index.counts(scope))
    return Info(
        version=VERSION,
        api_version=API_VERSION,
        python=platform.python_version(),
        host=_host(context.facts),
        roots=_roots(context.facts),
        default_root=context.settings.default_root,
        limits=_limits(context.settings, owner, admin=peer.admin),
        features=context.facts.features,
        you=You(uid=peer.uid, owner=owner, role="admin" if peer.admin else "tenant"),
        containers=Counts(**counts),
    )


def _host(facts: Facts) -> HostInfo:
    host = os.uname()
    return HostInfo(
        os=host.sysname.lower(),
        arch=host.machine,
        kernel=host.release,
        cpus=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        cgroups=facts.cgroups,
        controllers=facts.controllers,
    )


def _roots(facts: Facts) -> tuple[RootInfo, ...]:
    found = []
    for root in roots.BUILTIN.values():
        missing = facts.missing_roots.get(root.name)
        found.append(
            RootInfo(
                name=root.name,
                about=root.about,
                available=missing is None,
                why=missing.message if missing else None,
                hint=missing.hint if missing else None,
            )
        )
    return tuple(found)


def _limits(settings: Settings, owner: int, *, admin: bool) -> Limits:
    return Limits(
        containers_per_user=settings.containers_per_user if owner else None,
        kept_per_user=settings.kept_per_user if owner else None,
        connections_per_user=MAX_CONNECTIONS if owner else None,
        body=MAX_BODY,
        output=MAX_OUTPUT,
        start_seconds=settings.start_seconds,
        pids_per_container=None if admin else settings.pids_per_container,
    )
