"""From a tar stream to a tree. The stream may be a hostile container's, the tree one that a container changes meanwhile: each directory
is opened in the one before, no link is followed, nothing is opened that is there, and no name leads out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import tar
from common.copies import CHUNK, MAX_DEPTH, TOP, Notes, failed
from common.errors import BadRequest, LimitReached, NotPermitted

if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(CHUNK)


@dataclass(frozen=True, slots=True)
class Rules:
    """How members become files.

    owner    uid and gid of all; None: whoever makes them
    keep_ids each has those of the archive instead
    modes    the bits of a mode that are taken over
    top      the one member that is expected, with all below it; None: any
    name     what it is called; None: as it is
    """

    owner: tuple[int, int] | None = None
    keep_ids: bool = False
    modes: int = 0o7777
    top: bytes | None = None
    name: bytes | None = None


@dataclass(slots=True)
class _Level:
    """A directory on the way to where we are. `made`: its entry, where it is ours and not finished."""

    name: bytes
    fd: int
    made: tar.Entry | None = None


class Unpacker:
    """Lays the members of one archive below the directory `place`, which stays the caller's."""

    def __init__(self, reader: tar.Reader, place: int, rules: Rules) -> None:
        self._reader = reader
        self._rules = rules
        self._levels = [_Level(b"", place)]
        self.notes = Notes()

    def unpack(self) -> None:
        """All of them, to the end of what is read. Raises DkrError; then what was laid stays, but no file that is not whole."""
        try:
            while (entry := self._reader.next()) is not None:
                try:
                    self._lay(entry)
                except OSError as err:
                    raise failed("write", entry.name, err) from err
            self._leave(1)
            self._reader.drain()
        finally:
            for level in self._levels[1:]:
                os.close(level.fd)
            del self._levels[1:]

    # --- names

    def _names(self, path: bytes) -> list[bytes]:
        """Those on the way to a member, its own last. Raises BadRequest for one that leads out or is not below what is expected."""
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if b".." in names:
            raise BadRequest(f"cannot copy {tar.shown(path)}: its name leads out of where it is copied to")
        top, new = self._rules.top, self._rules.name
        if top == TOP:
            return names if new is None else [new, *names]
        if top is not None:
            if not names or names[0] != top:
                raise BadRequest(
                    f"cannot copy {tar.shown(path)}: it is not below {tar.shown(top)}, which was asked for"
                )
            names[0] = new or top
        return names

    def _enter(self, names: list[bytes]) -> int:
        """The directory of these names; those that are not there are made."""
        if len(names) > MAX_DEPTH:
            raise _too_deep(names)
        there = 0
        while there < min(len(names), len(self._levels) - 1) and self._levels[there + 1].name == names[there]:
            there += 1
        self._leave(there + 1)
        for name in names[there:]:
            self._open(name, None)
        return self._levels[-1].fd

    def _open(self, name: bytes, made: tar.Entry | None) -> None:
        parent = self._levels[-1].fd
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            made = None  # what is there stays as it is
        except FileNotFoundError:
            # Nobody else gets in before all is laid and its owner is set.
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            made = made or tar.Entry(
                name, tar.DIRECTORY, 0o755, *(self._rules.owner or (0, 0)), mtime=int(time.time())
            )
        except OSError as err:
            if err.errno in (errno.ELOOP, errno.ENOTDIR):
                raise BadRequest(
                    f"cannot copy a directory to {tar.shown(name)}: something else is there", errno=err.errno
                ) from err
            raise
        self._levels.append(_Level(name, fd, made))

    def _leave(self, depth: int) -> None:
        """Be only so deep; what is left is finished."""
        while len(self._levels) > depth:
            level = self._levels.pop()
            try:
                if level.made is not None:
                    self._finish(level.fd, level.made)
            finally:
                os.close(level.fd)

    # --- members

    def _lay(self, entry: tar.Entry) -> None:
        names = self._names(entry.name)
        if entry.further:
            self.notes.add("attributes", entry.name)
        if not names:
            if entry.kind != tar.DIRECTORY:
                raise BadRequest("cannot read the archive: a member has no name")
            return  # the place itself, which is there
        place, name = self._enter(names[:-1]), names[-1]
        if entry.kind == tar.DIRECTORY:
            if len(names) > MAX_DEPTH:
                raise _too_deep(names)
            self._open(name, entry)
            return
        if entry.kind in (tar.CHARACTERS, tar.BLOCKS):
            self.notes.add("devices", entry.name)
            return
        if entry.kind == tar.LINK:
            self._link(place, name, entry)
            return
        self._make_room(place, name, entry)
        if entry.kind == tar.FILE:
            self._file(place, name, entry)
            return
        if entry.kind == tar.SYMLINK:
            os.symlink(entry.link, name, dir_fd=place)
        else:
            os.mkfifo(name, entry.mode & self._rules.modes & 0o777, dir_fd=place)
        self._own(name, place, entry)

    def _make_room(self, place: int, name: bytes, entry: tar.Entry) -> None:
        """Nothing is opened that is there: it goes, and a new one comes."""
        try:
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise BadRequest(f"cannot copy to {tar.shown(entry.name)}: a directory is there")
        os.unlink(name, dir_fd=place)

    def _file(self, place: int, name: bytes, entry: tar.Entry) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=place)
        try:
            self._contents(fd)
            self._finish(fd, entry)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place)
            raise
        finally:
            os.close(fd)

    def _contents(self, fd: int) -> None:
        end = 0
        hole = False
        while data := self._reader.piece(CHUNK):
            end += len(data)
            hole = data == _ZEROS[: len(data)]
            if hole:
                os.lseek(fd, len(data), os.SEEK_CUR)
                continue
            while data:
                data = data[os.write(fd, data) :]
        if hole:
            os.ftruncate(fd, end)

    def _link(self, place: int, name: bytes, entry: tar.Entry) -> None:
        """One more name of a file that was laid before."""
        names = self._names(entry.link)
        with contextlib.ExitStack() as stack:
            where = self._levels[0].fd
            for part in names[:-1]:
                where = os.open(part, _DIRECTORY, dir_fd=where)
                stack.callback(os.close, where)
            found = os.stat(names[-1], dir_fd=where, follow_symlinks=False) if names else None
            if found is None or not stat.S_ISREG(found.st_mode):
                raise BadRequest(
                    f"cannot copy {tar.shown(entry.name)}: it is another name of what is no file"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(found, os.stat(name, dir_fd=place, follow_symlinks=False)):
                    return  # it is that already
            self._make_room(place, name, entry)
            os.link(names[-1], name, src_dir_fd=where, dst_dir_fd=place, follow_symlinks=False)

    def _ids(self, entry: tar.Entry) -> tuple[int, int] | None:
        return (entry.uid, entry.gid) if self._rules.keep_ids else self._rules.owner

    def _finish(self, fd: int, entry: tar.Entry) -> None:
        """Owner first: changing it takes setuid away."""
        ids = self._ids(entry)
        if ids is not None:
            self._give(lambda: os.fchown(fd, *ids), entry)
        os.fchmod(fd, entry.mode & self._rules.modes)
        with contextlib.suppress(OverflowError):
            os.utime(fd, (entry.mtime, entry.mtime))

    def _give(self, change: Callable[[], None], entry: tar.Entry) -> None:
        try:
            change()
        except (OSError, OverflowError) as err:
            number = err.errno if isinstance(err, OSError) else errno.EINVAL
            if number not in (errno.EPERM, errno.EINVAL) or not self._rules.keep_ids:
                raise
            raise NotPermitted(
                f"cannot give {tar.shown(entry.name)} to {entry.uid}:{entry.gid}: {os.strerror(number).lower()}",
                errno=number,
                hint="without --archive all belongs to whoever copies, in a container to root",
            ) from err

    def _own(self, name: bytes, place: int, entry: tar.Entry) -> None:
        ids = self._ids(entry)
        if ids is not None:
            self._give(lambda: os.chown(name, *ids, dir_fd=place, follow_symlinks=False), entry)
        with contextlib.suppress(OverflowError):
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=place, follow_symlinks=False)


def _too_deep(names: list[bytes]) -> LimitReached:
    return LimitReached(
        f"cannot copy {tar.shown(b'/'.join(names))}: it is more than {MAX_DEPTH} directories deep",
        hint="copy it in parts",
    )
