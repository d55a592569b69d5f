"""GET /v1/version and GET /_ping."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from aiohttp import web

from common.info import VersionInfo
from common.version import API_VERSION, VERSION

if TYPE_CHECKING:
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer


async def version(context: Context, peer: Peer, request: web.Request) -> VersionInfo:
    """What answers here: release, API, kernel."""
    host = os.uname()
    return VersionInfo(
        version=VERSION,
        api_version=API_VERSION,
        os=host.sysname.lower(),
        arch=host.machine,
        kernel=host.release,
        python=platform.python_version(),
    )


async def ping(context: Context, peer: Peer, request: web.Request) -> web.Response:
    """Alive."""
    return web.Response(text="OK")
