"""POST /v1/containers/prune: what does not run is removed, as by one DELETE after the other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from common import checks
from common.errors import Conflict, DkrError, NotFound
from common.filters import Filters, any_value, has_label, refused
from common.usage import NotPruned, Pruned
from dkrd.api.asks import NEWS_SECONDS
from dkrd.api.containers import discard
from dkrd.api.log import about
from dkrd.api.sizes import sizes_of

if TYPE_CHECKING:
    from aiohttp import web

    from common.models import Container
    from common.usage import PruneRequest
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")


def _moment(value: str) -> str:
    try:
        return str(checks.moment(value))
    except PydanticCustomError as err:
        raise refused(f"until={value[:40]}: {err.message()}", "as in until=2026-01-31T12:00:00Z") from None


KEYS = {"until": _moment, "label": any_value, "label!": any_value}


async def prune(context: Context, peer: Peer, request: web.Request, body: PruneRequest) -> Pruned:
    """Remove the caller's containers (an admin's: everybody's) that were made only or have ended, and are meant.

    One that is started or removed by somebody else meanwhile is passed over.
    """
    filters = Filters(body.filter, KEYS)
    scope = peer.scope()
    await context.channel.catch_up(NEWS_SECONDS)
    there = await context.index.ask(lambda index: index.containers(scope, every=True))
    meant = [one for one in there if one.status in ("created", "stopped") and _is_meant(one, filters)]
    sizes = await sizes_of(context, request, [one.id for one in meant])
    removed: list[str] = []
    failed: list[NotPruned] = []
    for one in meant:
        try:
            if not body.dry_run:
                await discard(context, request, one)
        except (Conflict, NotFound) as err:
            log.debug("it is not pruned: %s", err, extra=about(one.id))
        except DkrError as err:
            failed.append(NotPruned(id=one.id, code=err.code, detail=err.message))
        else:
            removed.append(one.id)
    space = sum(sizes[name].bytes for name in removed if name in sizes)
    return Pruned(removed=tuple(removed), space_reclaimed=space, failed=tuple(failed) or None)


def _is_meant(one: Container, filters: Filters) -> bool:
    return filters.match(
        {
            "until": lambda value: one.created < value,
            "label": lambda value: has_label(one.labels, value),
            "label!": lambda value: not has_label(one.labels, value),
        }
    )
