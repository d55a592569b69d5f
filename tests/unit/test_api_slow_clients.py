"""Requests that are begun and not gone on with: the connection ends by itself, and nobody else's does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from dkrd.api import bodies
from dkrd.api.app import _outermost
from dkrd.api.connections import Connection
from dkrd.api.peers import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 20.0  # seconds; only a failure takes that long
SECONDS = 0.3  # for a head: so long a busy machine may hold up this process, where it is in time
PEERS: Any = SimpleNamespace(
    enter=lambda sock: Peer(uid=5, pid=1, owner=5, admin=False), leave=lambda peer: None
)
BODY = b"POST /body HTTP/1.1\r\nHost: dkr\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(
    place: Path, head_seconds: float
) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A server with the connections and the middleware of the api: its socket, what /slow tells, what it waits for."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.Response(text="slow")

    async def body(request: web.Request) -> web.Response:
        return web.Response(body=await bodies.read_json(request))

    app = web.Application(middlewares=[_outermost])
    app.router.add_get("/slow", slow)
    app.router.add_post("/body", body)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    loop = asyncio.get_running_loop()
    path = str(place / "s")
    server: Any = runner.server
    listener = await loop.create_unix_server(lambda: Connection(server, PEERS, loop, head_seconds), path)
    try:
        async with asyncio.timeout(PATIENCE):
            yield path, begun, go_on
    finally:
        listener.close()
        await runner.cleanup()


class Raw:
    """A connection on which a test sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, path: str, data: bytes) -> Raw:
        raw = cls(*await asyncio.open_unix_connection(path))
        raw.writer.write(data)
        return raw

    async def problem(self) -> Any:
        """The problem behind which the server has hung up."""
        said = await self.reader.read()
        self.writer.close()
        head, _, rest = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request"), said
        return json.loads(rest)

    async def answer(self) -> bytes:
        """The body of an ordinary answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), head
        return await self.content(head)

    async def content(self, head: bytes) -> bytes:
        """The body behind `head`."""
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return await self.reader.readexactly(int(length.partition(b":")[2]))


@pytest.mark.parametrize(
    "sent", [b"G", b"GET /slow HTTP/1.1\r\nHost: d", b"GET /slow HTTP/1.1\r\nHost: dkr\r\n"]
)
async def test_half_a_head_is_not_waited_for(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, 0.05) as (path, *_):
        crowd = [await Raw.to(path, sent) for _ in range(100)]
        for raw in crowd:
            told = await raw.problem()
            assert told["detail"] == "cannot read the request: its head has not come within 0.05 s"


async def test_an_answer_takes_as_long_as_it_likes(tmp_path: Path) -> None:
    async with serving(tmp_path, SECONDS) as (path, begun, go_on):
        whole = await Raw.to(path, b"GET /slow HTTP/1.1\r\nHost: dkr\r\n\r\n")
        await begun.wait()
        whole.writer.write(BODY[:9])  # before it has the answer, as a client may
        late = await Raw.to(path, b"G")
        await late.problem()  # so the time was up for the other as well
        go_on.set()
        assert await whole.answer() == b"slow"
        # The next request of the connection has a time of its own.
        whole.writer.write(BODY[9:] + b'{"a": 10}')
        assert await whole.answer() == b'{"a": 10}'
        whole.writer.write(b"GET")
        assert "its head has not come" in (await whole.problem())["detail"]


async def test_half_a_body_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    async with serving(tmp_path, PATIENCE) as (path, *_):
        raw = await Raw.to(path, BODY + b'{"a"')
        head = await raw.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert "its body has not come within 0.05 s" in json.loads(await raw.content(head))["detail"]
        # Who sends the rest after all has kept the connection.
        raw.writer.write(b": 10}" + BODY + b'{"a": 10}')
        assert await raw.answer() == b'{"a": 10}'
        raw.writer.close()


async def test_the_rest_of_a_body_and_empty_lines_are_no_beginning(tmp_path: Path) -> None:
    async with serving(tmp_path, SECONDS) as (path, *_):
        unread = await Raw.to(path, BODY.replace(b"application/json", b"text/plain") + b"1")
        head = await unread.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 415")
        await unread.content(head)
        unread.writer.write(b"23456789")
        empty = await Raw.to(path, b"\r\n")
        await (await Raw.to(path, b"G")).problem()
        for raw in (unread, empty):
            raw.writer.write(BODY + b'{"a": 10}')
            assert await raw.answer() == b'{"a": 10}'
            raw.writer.close()
