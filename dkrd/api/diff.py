"""GET /v1/containers/{container}/diff: what a container has changed of its root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from common.errors import DkrError, ProtocolError
from common.usage import Change
from dkrd.api.asks import ask_about, find

if TYPE_CHECKING:
    from aiohttp import web

    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

SECONDS = 60.0  # others may be looked at before
CHUNK = 65536
MAX_BYTES = 16 * 1024 * 1024  # as root's side bounds it
_CHANGE = TypeAdapter(Change)


async def diff(context: Context, peer: Peer, request: web.Request) -> list[Change]:
    """Each path that is new (A), changed (C) or gone (D), in order. Root's side looks, and judges whose it is."""
    container = await find(context, peer, request)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(ours):
        ours.setblocking(False)
        message: dict[str, object] = {"type": "diff", "id": container.id}
        error: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(_read(ours))
                await ask_about(
                    context, request, container, message, f"diff {container.name}", SECONDS, theirs.detach()
                )
        except* (DkrError, ConnectionError) as several:
            error = several.exceptions[0]
        if error is not None:
            raise error
    try:
        return [
            _CHANGE.validate_json(line, by_alias=True, by_name=False)
            for line in reading.result().splitlines()
        ]
    except ValidationError as err:
        raise ProtocolError("cannot understand the launcher: a change has another form") from err


async def _read(sock: socket.socket) -> bytes:
    """All that is written, to its end."""
    data = bytearray()
    while piece := await asyncio.get_running_loop().sock_recv(sock, CHUNK):
        data += piece
        if len(data) > MAX_BYTES:
            raise ProtocolError("cannot understand the launcher: there are more changes than it may tell")
    return bytes(data)
