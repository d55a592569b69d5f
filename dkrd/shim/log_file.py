"""The log of a container: its output, a line of JSON for each of its own, in files of a bounded size.

The form is the one that other engines call json-file: {"log": "hi\\n", "stream": "stdout", "time": RFC 3339}. Bytes that are
no UTF-8 stand as base64 in `logBase64`, in place of `log`. Each line has a time of its own, later than those before it also where
the clock was set back: a reader that was cut off goes on behind the last that it had.
"""

from __future__ import annotations

import binascii
import os
import time
from typing import TYPE_CHECKING

from common import frames
from common.clock import nanoseconds, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "container.log"
MAX_LINE = 16 * 1024  # bytes of one entry; a longer line is several, of which the last has the newline
_MAX_ENTRY = 128 * 1024  # bytes, more than MAX_LINE ever is as JSON


class LogFile:
    """The files in `directory`: NAME, and before it NAME.1, NAME.2 and so on.

    max_size    bytes of one
    max_files   how many
    complain    told once that nothing can be written, with errno's text, until something can again

    Raises OSError.
    """

    def __init__(
        self, directory: str, max_size: int, max_files: int, complain: Callable[[str], None]
    ) -> None:
        self._path = f"{directory}/{NAME}"
        self._max_size = max_size
        self._max_files = max_files
        self._complain = complain
        self._fd = _open(self._path)
        self._size = os.fstat(self._fd).st_size
        end = _end_of(self._path, self._size)
        self._torn = bool(end) and not end.endswith(b"\n")
        self._last = _last_time(end)  # nanoseconds, of the last line
        self._failing = False
        self._rest: dict[str, bytes] = {}
        self.on_written: Callable[[], None] = lambda: None
        self.on_rotated: Callable[[], None] = lambda: None

    def put(self, stream: str, data: bytes) -> None:
        """Bytes of `stream` ("stdout", "stderr"). What is no whole line yet waits for its end, or for `end`."""
        *lines, rest = (self._rest.pop(stream, b"") + data).split(b"\n")
        entries = [part for line in lines for part in _parts(line + b"\n")]
        if len(rest) > MAX_LINE:
            *full, rest = _parts(rest)
            entries += full
        if rest:
            self._rest[stream] = rest
        self._write(stream, entries)

    def end(self, stream: str) -> None:
        """Nothing more comes of `stream`: what waits is its last line."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._write(stream, _parts(rest))

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        for stream in list(self._rest):
            self.end(stream)
        os.close(self._fd)

    def _write(self, stream: str, entries: list[bytes]) -> None:
        if not entries:
            return
        try:
            self._put_all([frames.dumps(_entry(part, stream, self._moment())) + b"\n" for part in entries])
        except OSError as err:
            if not self._failing:
                self._failing = True
                self._complain(err.strerror or str(err))
            return
        self._failing = False
        self.on_written()

    def _moment(self) -> str:
        self._last = max(self._last + 1, time.time_ns())
        return timestamp(self._last)

    def _put_all(self, lines: list[bytes]) -> None:
        """Write lines, many at a time, into as many files as they take."""
        begin, size = 0, self._size
        for number, line in enumerate(lines):
            if size and size + len(line) > self._max_size:
                self._append(b"".join(lines[begin:number]))
                self._rotate()
                begin, size = number, 0
            size += len(line)
        self._append(b"".join(lines[begin:]))

    def _append(self, data: bytes) -> None:
        view = memoryview(b"\n" + data if data and self._torn else data)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            self._torn = written < len(view)  # where the next write fails: a reader passes over half a line
            view = view[written:]

    def _rotate(self) -> None:
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._max_files))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if os.path.lexists(newer):
                os.rename(newer, older)
        if self._max_files == 1:
            os.unlink(self._path)
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


def _parts(line: bytes) -> list[bytes]:
    """`line` in pieces of at most MAX_LINE bytes, cut between characters where it is text."""
    parts = []
    while len(line) > MAX_LINE:
        end = MAX_LINE
        while end > MAX_LINE - 4 and line[end] & 0xC0 == 0x80:  # inside of a character; utf-8(7)
            end -= 1
        parts.append(line[:end])
        line = line[end:]
    return [*parts, line]


def _entry(part: bytes, stream: str, time: str) -> dict[str, object]:
    try:
        return {"log": part.decode(), "stream": stream, "time": time}
    except UnicodeDecodeError:
        text = binascii.b2a_base64(part, newline=False).decode("ascii")
        return {"logBase64": text, "stream": stream, "time": time}


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
