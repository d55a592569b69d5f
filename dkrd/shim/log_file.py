"""The log of a container: its output, a line of JSON for each of its own, in files of a bounded size.

The form is the one that other engines call json-file: {"log": "hi\\n", "stream": "stdout", "time": RFC 3339}. Bytes that are
no UTF-8 stand as base64 in `logBase64`, in place of `log`. Each line has a time of its own, later than those before it also where
the clock was set back: a reader that was cut off goes on behind the last that it had. A line about lines that were dropped has
their number as `dropped`.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from common import frames
from common.clock import nanoseconds
from common.log_drivers import Logging
from dkrd.runtime import heap
from dkrd.shim import log_lines
from dkrd.shim.log_queue import LogQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Timer
    from dkrd.shim.log_queue import Entry

NAME = "container.log"
DEFAULT = Logging()
# Bytes of output that are written at once: as many as make some hundred lines. Of the shortest ones the log makes 66 times as much.
_MIN_BLOCK, _FIRST_BLOCK, _MAX_BLOCK = log_lines.MOST, 4096, 32 * 1024
_TIDY = 1.0  # seconds
_MAX_ENTRY = 128 * 1024  # bytes, more than an entry ever has


class LogFile(LogQueue):
    """The files in `directory`: NAME, and before it NAME.1, NAME.2 and so on.

    max_size   bytes of one
    max_files  how many
    wanted, complain as of LogQueue

    on_written, on_rotated  called when that was done

    Raises OSError.
    """

    def __init__(
        self,
        directory: str,
        max_size: int,
        max_files: int,
        complain: Callable[[str], None],
        wanted: Logging = DEFAULT,
    ) -> None:
        super().__init__(wanted, complain)
        self._path = f"{directory}/{NAME}"
        self._max_size = max_size
        self._max_files = max_files
        self._fd = _open(self._path)
        self._size = os.fstat(self._fd).st_size
        end = _end_of(self._path, self._size)
        self._block = _FIRST_BLOCK
        self._tidy: Timer | None = None
        self._torn = bool(end) and not end.endswith(b"\n")
        self._last = _last_time(end)
        self.on_written: Callable[[], None] = lambda: None
        self.on_rotated: Callable[[], None] = lambda: None

    def _finish(self) -> None:
        if self._tidy is not None:
            self._tidy.cancel()
        os.close(self._fd)

    def _take(self, entries: list[Entry]) -> int:
        lines = b"".join(log_lines.entry(*entry) for entry in entries)
        stand = self._put(lines)
        return len(entries) if stand == len(lines) else lines.count(b"\n", 0, stand)

    def _take_lines(self, stream: str, data: bytes) -> int:
        taken = 0
        try:
            while (block := log_lines.lines_from(data, taken, self._block)) is not None:
                here = self._take_block(stream, block)
                taken += here
                if 0 < here <= len(block):
                    break
        except OSError:
            if not taken:
                raise
        return taken

    def _take_block(self, stream: str, block: bytes) -> int:
        """Write lines, of which the last lacks its newline: how many bytes were taken with it; 0 where they are too many, and fewer
        are to be tried. Raises OSError where none was.
        """
        lines, first, count = log_lines.encode(block, stream, max(self._last + 1, time.time_ns()))
        if count > log_lines.MOST:
            self._block = max(_MIN_BLOCK, len(block) * 900 // count)
            return 0
        if len(block) > _FIRST_BLOCK:
            self._tidy_later()
        if count < log_lines.MOST // 2:
            self._block = min(_MAX_BLOCK, 2 * self._block)
        stand = self._put(lines)
        taken = len(block) + 1
        if stand < len(lines):
            count = lines.count(b"\n", 0, stand)
            taken -= len(block.split(b"\n", count)[-1]) + 1
        self._last = first + count - 1
        return taken

    def _tidy_later(self) -> None:
        """What much output takes is given back once it is over; while it lasts, too, which costs next to nothing."""
        if self._tidy is None and self._loop is not None:
            self._tidy = self._loop.later(_TIDY, self._tidied)

    def _tidied(self) -> None:
        self._tidy = None
        heap.trim()

    def _put(self, lines: bytes) -> int:
        """Write lines of the log, into as many files as it takes; how many bytes of them stand, whole lines. Raises OSError where
        none does.
        """
        stand = 0
        try:
            while stand < len(lines):
                end = self._fitting(lines, stand)
                if end == stand:
                    self._rotate()
                    continue
                stand += self._write(lines[stand:end])
                if stand < end:
                    break
        except OSError:
            if not stand:
                raise
        finally:
            if stand:
                self.on_written()
        return stand

    def _fitting(self, lines: bytes, begin: int) -> int:
        """The end of those lines from `begin` on that the file has room for; one that has none in any is a file's only one."""
        room = self._max_size - self._size - self._torn
        if len(lines) - begin <= room:
            return len(lines)
        end = lines.rfind(b"\n", begin, begin + max(0, room)) + 1
        if end:
            return end
        return begin if self._size else lines.find(b"\n", begin) + 1

    def _write(self, lines: bytes) -> int:
        """Write lines into this file; how many bytes of them stand, whole lines. Raises OSError where none does."""
        end = b"\n" if self._torn else b""
        view = memoryview(end + lines)
        written = 0
        try:
            while written < len(view):
                here = os.write(self._fd, view[written:])
                self._size += here
                written += here
                # Where the next write fails: a reader passes over half a line.
                self._torn = written < len(view)
        except OSError:
            stand = _whole(lines, max(0, written - len(end)))
            if not stand:
                raise
            return stand
        return len(lines)

    def _rotate(self) -> None:
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._max_files))]
        # Not renamed over: ext4 then writes the file that takes its place to the disk (auto_da_alloc, ext4(5)), which is to be
        # removed itself soon where output is fast.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(names[-1])
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        fd = _open(self._path)
        os.close(self._fd)
        self._fd, self._size, self._torn = fd, 0, False
        self.on_rotated()


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _end_of(path: str, size: int) -> bytes:
    """The last bytes of the file, its last line among them: a power cut or a full disk may have torn that."""
    if not size:
        return b""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.pread(fd, _MAX_ENTRY, max(0, size - _MAX_ENTRY))
    finally:
        os.close(fd)


def _last_time(end: bytes) -> int:
    """The time of the last whole line in `end`, nanoseconds; 0 where there is none."""
    for line in reversed(end.split(b"\n")):
        try:
            return nanoseconds(str(frames.loads_object(line).get("time")))
        except ValueError:
            continue
    return 0


def _whole(lines: bytes, written: int) -> int:
    """How many bytes of `lines` stand with so many of them written: whole lines, and one that lacks no more than its newline, with
    which the next begins.
    """
    if lines[written : written + 1] == b"\n":
        return written + 1
    return lines.rfind(b"\n", 0, written) + 1


def open_newest(directory: str) -> int:
    """The file that is written now, as a descriptor to read. Raises OSError."""
    return os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_files(directory: str) -> list[int]:
    """The log's files as descriptors to read, the oldest first; none where there is no log. Raises OSError."""
    found: list[int] = []
    number = 0
    while True:
        path = f"{directory}/{NAME}.{number}" if number else f"{directory}/{NAME}"
        try:
            found.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            break
        except OSError:
            for fd in found:
                os.close(fd)
            raise
        number += 1
    return found[::-1]
