"""What comes over a WebSocket of the daemon's, for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from tests.daemon import Daemon


def connected(daemon: Daemon) -> aiohttp.ClientSession:
    """Whoever runs this, as a client of the daemon's."""
    return aiohttp.ClientSession("http://dkr", connector=aiohttp.UnixConnector(str(daemon.socket)))


async def text(websocket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next message, which must be an object."""
    message = await websocket.receive()
    assert message.type is aiohttp.WSMsgType.TEXT, message
    value = json.loads(message.data)
    assert isinstance(value, dict)
    return value


async def binary(websocket: aiohttp.ClientWebSocketResponse, wanted: bytes) -> None:
    """Exactly this, in however many messages of one kind."""
    data = b""
    while len(data) < len(wanted) - 1:
        message = await websocket.receive()
        assert message.type is aiohttp.WSMsgType.BINARY, message
        assert message.data[:1] == wanted[:1]
        data += message.data[1:]
    assert data == wanted[1:]
