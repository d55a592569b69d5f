"""A copy from or to a container, from this side: the session with its guardian, and a pipe that the archive goes through.

The api has no part in it. What comes from a container is a hostile archive: it is laid by descriptors, below what was asked for alone
(common/unpacking.py), without setuid bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
from typing import TYPE_CHECKING

from common import tar
from common.copies import (
    CHUNK,
    TOP,
    Destination,
    Source,
    failed,
    is_contents,
    merged,
    name_at,
    split,
    top_of,
)
from common.errors import BadRequest, DkrError, NotFound, ProtocolError, Unavailable, from_wire
from common.packing import Packer
from common.unpacking import Rules, Unpacker
from dkrctl.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    Notes = dict[str, object]
    Sink = Callable[[bytes], object]

_PIPE_SIZE = 1 << 20  # bytes; as many as anybody may have, pipe(7)
_MODES = 0o777  # of what comes: a setuid program of a container's making would be one of whoever copies it


class Copy:
    """One of them. To be closed; what is under way then ends with an error."""

    def __init__(self, descriptor: int, container: str) -> None:
        """Take over the session's `descriptor`; `container` as the caller calls it."""
        self._session = Session(descriptor)
        self._container = container

    def close(self) -> None:
        """Let go: the guardian ends what is not done."""
        self._session.close()

    def cut(self) -> None:
        """The same while another thread is in here: it finds the end."""
        self._session.cut()

    def to_sink(self, path: str, sink: Sink, *, follow: bool = False) -> Notes:
        """Give the archive of `path` inside to `sink`, as it comes; what was left out. Raises DkrError; what `sink` raises."""
        with _Pipe() as pipe:
            self._outward(path, pipe, follow=follow)
            while data := os.read(pipe.reader, CHUNK):
                sink(data)
            return self._last()

    def to_path(self, path: str, where: str, *, follow: bool = False, keep_ids: bool = False) -> Notes:
        """Lay what is called `path` inside at `where`, by Docker's rules; what was left out. Raises DkrError."""
        with _Pipe() as pipe, contextlib.ExitStack() as stack:
            found = self._outward(path, pipe, follow=follow)
            mode = found.get("mode")
            source = Source(top_of(path), isinstance(mode, int) and stat.S_ISDIR(mode))
            place, name = _place(where, source)
            stack.callback(os.close, place)
            rules = Rules(keep_ids=keep_ids, modes=_MODES, top=source.name, name=name)
            unpacker = Unpacker(tar.Reader(lambda most: os.read(pipe.reader, most)), place, rules)
            try:
                unpacker.unpack()
            except DkrError:
                if not pipe.ended():
                    raise
                self._last()  # where the other side knows better why
                raise
            return merged(self._last(), unpacker.notes.to_wire())

    def from_descriptor(self, source: int, path: str, *, keep_ids: bool = False) -> Notes:
        """Lay an archive, which is read from `source` to its end, below the directory `path` inside. Raises DkrError."""
        with _Pipe() as pipe:
            self._inward({"path": path, "keepIds": keep_ids}, pipe)
            with contextlib.suppress(BrokenPipeError):
                while self._is_wanted(source) and (data := os.read(source, CHUNK)):
                    pipe.write(data)
            pipe.end()
            return self._last()

    def _is_wanted(self, source: int) -> bool:
        """Wait for more of the source, or for the guardian's last word: False."""
        poller = select.poll()
        poller.register(source, select.POLLIN)
        poller.register(self._session.fileno(), select.POLLIN)
        return self._session.fileno() not in dict(poller.poll())

    def from_path(self, where: str, path: str, *, follow: bool = False, keep_ids: bool = False) -> Notes:
        """Lay what is at `where` at `path` inside, by Docker's rules. Raises DkrError."""
        place, name, source = _source(where, follow=follow)
        with _Pipe() as pipe, contextlib.ExitStack() as stack:
            stack.callback(os.close, place)
            told = {"name": _text(source.name), "directory": source.directory}
            self._inward({"path": path, "keepIds": keep_ids, "source": told}, pipe)
            packer = Packer(pipe.write)
            with contextlib.suppress(BrokenPipeError):  # why, the other side tells
                packer.pack(place, name, source.name)
            pipe.end()
            return merged(self._last(), packer.notes.to_wire())

    # --- the session

    def _outward(self, path: str, pipe: _Pipe, *, follow: bool) -> dict[str, object]:
        wanted = {"direction": "out", "path": path, "follow": follow}
        return self._begin(wanted, pipe.give_writer())

    def _inward(self, wanted: dict[str, object], pipe: _Pipe) -> None:
        self._begin({"direction": "in", **wanted}, pipe.give_reader())

    def _begin(self, wanted: dict[str, object], descriptor: int) -> dict[str, object]:
        try:
            self._session.first({"type": "copy", "container": self._container, "copy": wanted}, [descriptor])
        finally:
            os.close(descriptor)
        found = self._expect("copying").get("stat")
        return found if isinstance(found, dict) else {}

    def _last(self) -> Notes:
        notes = self._expect("copied").get("notes")
        return notes if isinstance(notes, dict) else {}

    def _expect(self, kind: str) -> dict[str, object]:
        got = self._session.receive()
        if got is None:
            raise Unavailable(
                f"cannot copy: lost the guardian of {self._container}",
                hint="what was copied until then may be there",
            )
        frame, descriptors = got
        for fd in descriptors:
            os.close(fd)
        if frame.get("type") == "error":
            raise from_wire(frame.get("error"))
        if frame.get("type") != kind:
            raise ProtocolError(
                f"cannot understand the guardian: {kind} is expected now, not {frame.get('type')!r}"
            )
        return frame


class _Pipe:
    """A pipe, for the block; each end is closed once."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a bound on all of this user's pipes
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def give_writer(self) -> int:
        """That end, the caller's."""
        given, self.writer = self.writer, -1
        return given

    def give_reader(self) -> int:
        """That end, the caller's."""
        given, self.reader = self.reader, -1
        return given

    def write(self, data: bytes) -> None:
        """All of it."""
        while data:
            data = data[os.write(self.writer, data) :]

    def end(self) -> None:
        """Nothing more is written."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def ended(self) -> bool:
        """Whether the other side has written all that it will."""
        os.set_blocking(self.reader, False)
        try:
            return not os.read(self.reader, 1)
        except BlockingIOError:
            return False


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BadRequest(
            f"cannot copy {tar.shown(name)}: its name is not UTF-8", hint="by an archive it can be: -"
        ) from None


def _place(where: str, source: Source) -> tuple[int, bytes | None]:
    """The directory, a descriptor, below which it is laid here, and what it is called there."""
    try:
        mode = os.stat(where).st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as err:
        raise failed("copy to", os.fsencode(where), err) from err
    asserted = where.endswith("/") or is_contents(where)
    path = os.path.realpath(where) if os.path.islink(where) else where
    directory, base = split(path)
    there = Destination(where, os.fsencode(base), bool(mode), stat.S_ISDIR(mode), asserted)
    name = name_at(source, there)
    try:
        return os.open(
            where if name is None else directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        ), name
    except OSError as err:
        raise failed("copy to", os.fsencode(where), err) from err


def _source(where: str, *, follow: bool) -> tuple[int, str, Source]:
    """What is at `where` here: its directory, a descriptor, its name in that, and what it is."""
    contents = is_contents(where)
    top = top_of(where)
    if follow or contents or where.endswith("/") or top == TOP:
        path = os.path.realpath(where)
        top = top if contents or top != TOP else os.fsencode(split(path)[1])
    else:
        path = where
    directory, name = split(path)
    try:
        found = os.stat(path, follow_symlinks=False)
        if (contents or where.endswith("/")) and not stat.S_ISDIR(found.st_mode):
            raise BadRequest(f"cannot copy {where}: that is no directory")
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise NotFound(f"cannot copy {where}: there is no such file", errno=err.errno) from err
    except OSError as err:
        raise failed("copy", os.fsencode(where), err) from err
    return place, name, Source(top, stat.S_ISDIR(found.st_mode))
