"""GET /v1/containers/{container}/logs: what a container has written, line by line, as its guardian wrote it down.

The guardian gives the files, this process reads them: a client that reads slowly holds neither the guardian nor the container.
With `follow` the guardian says when there is more to read (docs/protocol.md, section 6).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING

from aiohttp import web

from common import frames
from common.clock import now
from common.errors import DkrError
from dkrd.api.asks import ask_guardian, find
from dkrd.api.connections import ended_when_lost
from dkrd.api.log_files import File, Wanted, last_lines
from dkrd.api.openapi import LINES_TYPE
from dkrd.api.sessions import Session, answered_in_time, close_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from common.detached import LogsQuery
    from dkrd.api.context import Context
    from dkrd.api.peers import Peer

log = logging.getLogger("dkr.api")


async def logs(context: Context, peer: Peer, request: web.Request, query: LogsQuery) -> web.StreamResponse:
    """The lines that are wanted, the oldest first; with `follow` as they come, until the container ends."""
    container = await find(context, peer, request)
    what = f"read the log of {container.name}"
    with contextlib.closing(Session(what, None)) as session, ended_when_lost(request):
        ask: dict[str, object] = {"type": "logs", "follow": query.follow}
        await ask_guardian(context, request, container, ask, session.theirs())
        async with answered_in_time(what):
            _, fds = await session.expect("log")
        with contextlib.closing(_Log(session, fds, Wanted.of(query))) as found:
            begin = None if query.tail is None else await last_lines(fds, found.wanted, query.tail)
            response = web.StreamResponse(headers={"Server": "dkr", "Dkr-Container": container.id})
            response.content_type = LINES_TYPE
            await response.prepare(request)
            try:
                await _write(response, found, query, begin)
            except (DkrError, OSError) as err:
                # No problem can be told in the middle of an answer: that it is not whole is.
                log.warning("a log is not read to its end: %s", err)
                raise ConnectionResetError("the log could not be read to its end") from err
    return response


async def _write(
    response: web.StreamResponse, found: _Log, query: LogsQuery, begin: tuple[int, int] | None
) -> None:
    async for chunk in found.standing(begin, follow=query.follow):
        await response.write(chunk)
    if not query.follow:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if query.until is None else _seconds_to(query.until)):
            async for chunk in found.further():
                await response.write(chunk)
            return
    async for chunk in found.rest():
        await response.write(chunk)


def _seconds_to(moment: str) -> float:
    return max(0.0, datetime.fromisoformat(f"{moment[:19]}+00:00").timestamp() + 1 - time.time())


class _Log:
    """A container's log. The files are closed once they are read."""

    def __init__(self, session: Session, fds: list[int], wanted: Wanted) -> None:
        self.wanted = wanted
        self._session = session
        self._files = [File(fd) for fd in fds]
        self._last = b""  # lines of which the last is the last that was read

    async def standing(self, begin: tuple[int, int] | None, *, follow: bool) -> AsyncIterator[bytes]:
        """What there is when it is called, from `begin` on (index of a file, offset in it); of what is to be followed all there is
        when it has been read.
        """
        ends = [None if follow else os.fstat(file.fd).st_size for file in self._files]
        if begin is not None and self._files:
            index, offset = begin
            self._files[index].offset = offset
            for file in self._files[:index]:
                file.close()
            del self._files[:index], ends[:index]
        while self._files:
            async for chunk in self._files[0].chunks(self.wanted, ends.pop(0)):
                self._last = chunk
                yield chunk
            if len(self._files) == 1:
                return
            self._files.pop(0).close()

    async def further(self) -> AsyncIterator[bytes]:
        """What comes, until the guardian says that no more will."""
        while True:
            await self._session.send({"type": "next"})
            got = await self._session.next()
            # Whatever was said: what is in the file by now has been written before.
            async for chunk in self.rest():
                yield chunk
            if got is None:
                return
            frame, fds = got
            if frame.get("type") == "rotated" and fds:
                for file in self._files:
                    file.close()
                self._files = [File(fds.pop(0))]
                if gap := self._gap(frame.get("missed", 0)):
                    yield gap
                async for chunk in self.rest():
                    yield chunk
            close_all(fds)

    async def rest(self) -> AsyncIterator[bytes]:
        """What there is by now of the newest file."""
        for file in self._files:
            async for chunk in file.chunks(self.wanted):
                self._last = chunk
                yield chunk

    def _gap(self, missed: object) -> bytes:
        """A line that says how many files are missing here, if any are and lines of its stream are wanted. Its time is that of the line
        before: who is cut off behind it goes on there.
        """
        if not missed:
            return b""
        *_, last = self._last.rstrip(b"\n").split(b"\n")
        time = frames.loads_object(last)["time"] if last else now()
        text = f"[dkr: {missed} files of the log are missing here: they were removed before they were read]\n"
        line = frames.dumps({"log": text, "stream": "stderr", "time": time, "missed": missed})
        return self.wanted.among([line])

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
