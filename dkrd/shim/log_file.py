"""The log of a container: its output, a line of JSON for each of its own, in files of a bounded size.

The form is the one that other engines call json-file: {"log": "hi\\n", "stream": "stdout", "time": RFC 3339}. Bytes that are
no UTF-8 stand as base64 in `logBase64`, in place of `log`. Each line has a time of its own, later than those before it also where
the clock was set back: a reader that was cut off goes on behind the last that it had. A line about lines that were dropped has
their number as `dropped`.
"""

from __future__ import annotations

import binascii
import os
from typing import TYPE_CHECKING

from common import frames
from common.clock import nanoseconds
from common.log_drivers import Logging
from dkrd.shim.log_queue import LogQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.shim.log_queue import Entry

NAME = "container.log"
DEFAULT = Logging()
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
        self._torn = bool(end) and not end.endswith(b"\n")
        self._last = _last_time(end)
        self.on_written: Callable[[], None] = lambda: None
        self.on_rotated: Callable[[], None] = lambda: None

    def _finish(self) -> None:
        os.close(self._fd)

    def _take(self, entries: list[Entry]) -> int:
        lines = [frames.dumps(_entry(entry)) + b"\n" for entry in entries]
        stand = 0
        try:
            begin, size = 0, self._size
            for number, line in enumerate(lines):
                if size and size + len(line) > self._max_size:
                    stand += self._write(b"".join(lines[begin:number]))
                    if stand < number:
                        return stand
                    self._rotate()
                    begin, size = number, 0
                size += len(line)
            stand += self._write(b"".join(lines[begin:]))
        except OSError:
            if not stand:
                raise
        finally:
            if stand:
                self.on_written()
        return stand

    def _take_block(self, block: bytes) -> int:
        if self._torn or self._size + len(block) > self._max_size:
            return 0  # line by line: some of them are for the next file
        stand = self._write(block)
        if stand:
            self.on_written()
        return stand

    def _write(self, data: bytes) -> int:
        """Write lines in one piece; how many of them stand. Raises OSError where none does."""
        end = b"\n" if data and self._torn else b""
        view = memoryview(end + data)
        written = 0
        try:
            while written < len(view):
                here = os.write(self._fd, view[written:])
                self._size += here
                written += here
                # Where the next write fails: a reader passes over half a line.
                self._torn = written < len(view)
        except OSError:
            stand = _whole(data.splitlines(keepends=True), written - len(end))
            if not stand:
                raise
            return stand
        return data.count(b"\n")

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


def _whole(lines: list[bytes], written: int) -> int:
    """How many of `lines` stand with so many bytes of them written; one lacks no more than its newline, with which the next begins."""
    number = 0
    for line in lines:
        if written < len(line) - 1:
            break
        written -= len(line)
        number += 1
    return number


def _entry(entry: Entry) -> dict[str, object]:
    stream, part, time, dropped = entry
    more: dict[str, object] = {"dropped": dropped} if dropped else {}
    try:
        return {"log": part.decode(), "stream": stream, "time": time, **more}
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
