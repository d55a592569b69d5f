"""HEAD, GET and PUT /v1/containers/{container}/archive, for tools that cannot pass descriptors; and the upgrade for those that can.

What is asked is done by a process inside (dkrd/runtime/copying.py). Here, over HTTP, this process is in the client's place before the
guardian and in the way of the bytes, which it neither reads nor keeps; with an upgrade it has no part in it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import stat
from datetime import UTC, datetime
from io import FileIO
from typing import TYPE_CHECKING

from aiohttp import web

from common.errors import DkrError, Unavailable
from dkrd.api.asks import find
from dkrd.api.attach import hand_over
from dkrd.api.connections import ended_when_lost, evidence
from dkrd.api.sessions import Session, answered_in_time, close_all, copy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from common.copy_models import ArchiveQuery, ExtractQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")

HEADER = "X-Docker-Container-Path-Stat"
TAR = "application/x-tar"
CHUNK = 256 * 1024  # bytes
BODY_SECONDS = 60.0  # in which a client that sends an archive says something
_VERB = "copy from or to"
# os.FileMode of Go, in which Docker's tools read a mode: our bits to theirs.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


async def archive_session(context: Context, peer: Peer, request: web.Request) -> web.StreamResponse:
    """Have a copy made with a pipe of the client's, who says to the guardian what it wants."""
    return await hand_over(context, peer, request, "copy", _VERB, runs=False)


async def archive_stat(
    context: Context, peer: Peer, request: web.Request, query: ArchiveQuery
) -> web.StreamResponse:
    """What is there, in a header."""
    async with _copying(context, peer, request, {"direction": "out", "path": query.path}, ()) as session:
        told = await _stat(session)
        await session.expect("copied")
    return web.Response(headers=_headers(told), content_type=TAR)


async def archive(
    context: Context, peer: Peer, request: web.Request, query: ArchiveQuery
) -> web.StreamResponse:
    """A tar archive of it, as it comes."""
    with _pipe() as (ours, theirs):
        wanted: dict[str, object] = {"direction": "out", "path": query.path}
        async with _copying(context, peer, request, wanted, (theirs.fileno(),)) as session:
            theirs.close()
            told = await _stat(session)
            response = web.StreamResponse(headers={"Server": "dkr", **_headers(told)})
            response.content_type = TAR
            await response.prepare(request)
            try:
                while data := await _read(ours.fileno()):
                    await response.write(data)
                await session.expect("copied")
            except (DkrError, OSError) as err:
                # No problem can be told in the middle of an answer: that it is not whole is.
                log.warning("a copy is not made to its end: %s", err)
                raise ConnectionResetError("the copy could not be made to its end") from err
    return response


async def extract(context: Context, peer: Peer, request: web.Request, query: ExtractQuery) -> None:
    """Lay the archive that is the request's body."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType
    with _pipe() as (theirs, ours):
        wanted: dict[str, object] = {"direction": "in", "path": query.path, "keepIds": query.copy_uidgid}
        async with _copying(context, peer, request, wanted, (theirs.fileno(),)) as session:
            theirs.close()
            await session.expect("copying")
            # What ended it early is told by the guardian, not by the pipe.
            with contextlib.suppress(BrokenPipeError):
                await _send(request, ours.fileno())
            ours.close()
            await session.expect("copied")


@contextlib.asynccontextmanager
async def _copying(
    context: Context, peer: Peer, request: web.Request, wanted: dict[str, object], pipe: tuple[int, ...]
) -> AsyncIterator[Session]:
    """A session of such a copy for the block."""
    container = await find(context, peer, request)
    first: dict[str, object] = {"type": "copy", "container": container.id, "copy": wanted}
    what = f"{_VERB} {container.name}"
    with contextlib.closing(Session(what, first, pipe)) as session, ended_when_lost(request):
        copy(context, container, session, evidence(request))
        yield session


async def _stat(session: Session) -> dict[str, object]:
    async with answered_in_time("find what is to be copied"):
        frame, fds = await session.expect("copying")
    close_all(fds)
    told = frame.get("stat")
    return told if isinstance(told, dict) else {}


def _headers(told: dict[str, object]) -> dict[str, str]:
    mode, mtime = told.get("mode"), told.get("mtime")
    bits = mode if isinstance(mode, int) else 0
    moment = datetime.fromtimestamp(mtime if isinstance(mtime, int | float) else 0, UTC)
    shown = {
        "name": told.get("name"),
        "size": told.get("size"),
        "mode": bits & 0o777
        | _KINDS.get(stat.S_IFMT(bits), 0)
        | sum(theirs for ours, theirs in _BITS.items() if bits & ours),
        "mtime": moment.isoformat().replace("+00:00", "Z"),
        "linkTarget": told.get("linkTarget"),
    }
    return {HEADER: base64.b64encode(json.dumps(shown).encode()).decode("ascii")}


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """Both ends of a pipe, what is read first, for the block."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with FileIO(read, "r") as reader, FileIO(write, "w") as writer:
        yield reader, writer


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if write else loop.add_reader)(fd, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if write else loop.remove_reader)(fd)


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            await _ready(fd, write=False)


async def _send(request: web.Request, fd: int) -> None:
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await request.content.readany()
        except TimeoutError:
            raise Unavailable(
                f"cannot copy: nothing more of the archive came for {BODY_SECONDS:g} s"
            ) from None
        if not data:
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                await _ready(fd, write=True)
