"""Reading the files of a container's log: lines that are whole, those that are wanted, from the front or the last so many.

The files come from the guardian as descriptors that can be read only. It writes the newest one while we read: a line without its
newline may be in the making, or was torn by a power cut; what is no line at all is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from common.detached import LogsQuery

CHUNK = 65536  # bytes that are read at once
MAX_LINE = 256 * 1024  # bytes: 16 KiB of output as JSON at its worst, and more than is ever written


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are."""

    streams: frozenset[str]
    since: str | None
    until: str | None

    @classmethod
    def of(cls, query: LogsQuery) -> Wanted:
        """Those that a query asks for."""
        asked = (("stdout", query.stdout), ("stderr", query.stderr))
        return cls(frozenset(name for name, wanted in asked if wanted), query.since, query.until)

    def among(self, lines: list[bytes]) -> bytes:
        """Those of `lines`, which lack their newlines, that are lines of a log and wanted; each with its newline."""
        wanted = list(map(self._is, frames.loads_lines(lines)))
        if not all(wanted):
            lines = [line for line, is_wanted in zip(lines, wanted, strict=True) if is_wanted]
        return b"\n".join((*lines, b""))

    def has(self, line: bytes) -> bool:
        """Whether `line` is one, and wanted."""
        return self._is(frames.loads_lines([line])[0])

    def _is(self, entry: object) -> bool:
        if not isinstance(entry, dict):
            return False
        time, stream = entry.get("time"), entry.get("stream")
        if not isinstance(time, str) or not isinstance(stream, str) or stream not in self.streams:
            return False
        # Texts of one length compare as the times that they are.
        return (self.since is None or time >= self.since) and (self.until is None or time <= self.until)


async def read(fd: int, size: int, offset: int) -> bytes:
    """What pread(2) gives. A disk that has to be waited for holds nobody else."""
    buffer = bytearray(size)
    await asyncio.sleep(0)  # a long log is read in many turns, between which others have theirs
    try:
        # What is in the page cache already, which is nearly always all: preadv2(2).
        return bytes(buffer[: os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)])
    except OSError:
        reading = asyncio.get_running_loop().run_in_executor(None, os.pread, fd, size, offset)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.wait([reading])  # whoever cancels closes the descriptor
            raise


class File:
    """One file of a log, read from the front: chunks of the lines that are wanted, as they stand there."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.offset = 0  # of what is read next; where it is set a line begins
        self._part = b""  # of a line whose end has not been read
        self._skips = False  # the rest of a line that is too long

    async def chunks(self, wanted: Wanted, end: int | None = None) -> AsyncIterator[bytes]:
        """What there is now, or up to `end`."""
        while end is None or self.offset < end:
            size = CHUNK if end is None else min(CHUNK, end - self.offset)
            data = await read(self.fd, size, self.offset)
            if not data:
                return
            self.offset += len(data)
            if found := wanted.among(self._lines(data)):
                yield found

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`, without their newlines."""
        *whole, rest = (self._part + data).split(b"\n")
        if whole and self._skips:
            del whole[0]
            self._skips = False
        self._part = rest
        if len(self._part) > MAX_LINE:
            self._part, self._skips = b"", True
        return whole

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


async def last_lines(fds: list[int], wanted: Wanted, number: int) -> tuple[int, int]:
    """Where the last `number` lines that are wanted begin: (index of the file, offset in it)."""
    for index in range(len(fds) - 1, -1, -1):
        async with contextlib.aclosing(_backwards(fds[index])) as lines:
            async for offset, line in lines:
                if number == 0:
                    return index, offset + len(line)
                if not wanted.has(line):
                    continue
                number -= 1
                if number == 0:
                    return index, offset
        if number == 0:
            return index, 0
    return 0, 0


async def _backwards(fd: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """(offset, line) of the whole lines of a file, the last one first; too long ones are left out."""
    position = os.fstat(fd).st_size
    rest = b""  # what lies behind `position` of a line that may begin before it
    torn = True  # that line has no newline, or is too long
    while position > 0:
        size = min(CHUNK, position)
        position -= size
        first, *lines = (await _exactly(fd, size, position) + rest).split(b"\n")
        begin = position + len(first) + 1
        found = []
        for line in lines:
            found.append((begin, line + b"\n"))
            begin += len(line) + 1
        if found:
            if torn:
                found.pop()
            for one in reversed(found):
                yield one
            torn = False
        rest = first
        if len(rest) > MAX_LINE:
            rest, torn = b"", True
    if not torn:
        yield 0, rest + b"\n"


async def _exactly(fd: int, size: int, offset: int) -> bytes:
    data = b""
    while len(data) < size and (more := await read(fd, size - len(data), offset + len(data))):
        data += more
    return data.ljust(size, b"\n")  # a file that has become shorter has nothing there
