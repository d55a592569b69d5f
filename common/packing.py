"""From a tree to a tar stream. The tree may be another's, who changes it meanwhile: all goes by descriptors, no link is followed, no
open waits, and a file is as long as it was when it was opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from common import tar
from common.copies import CHUNK, MAX_DEPTH, Notes, failed
from common.errors import LimitReached

if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO that was put in the place of a file must not hold us up, nor a terminal become ours.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_LINKS = (
    65536  # files of several names that are remembered; further ones are copied once more by each name
)
_GONE = (errno.ENOENT, errno.ESTALE)
_ZEROS = bytes(CHUNK)


class Packer:
    """Writes one archive.

    write   takes all of what it is given
    kernel  st_dev of filesystems whose contents are left out, unless one of them is what is asked for
    """

    def __init__(self, write: Callable[[bytes], object], kernel: frozenset[int] = frozenset()) -> None:
        self._write = write
        self._kernel = kernel
        self._links: dict[tuple[int, int], bytes] = {}
        self.notes = Notes()

    def pack(self, place: int, name: str, top: bytes) -> None:
        """The whole archive: what is called `name` in the directory `place`, as `top`. Raises DkrError; what `write` raises."""
        try:
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
        except OSError as err:
            raise failed("copy", os.fsencode(name), err) from err
        self._kernel -= {found.st_dev}
        self._entry(place, name, top, found, 1)
        self._write(tar.END)

    def _entry(self, place: int, name: str, path: bytes, found: os.stat_result, depth: int) -> None:
        kind = stat.S_IFMT(found.st_mode)
        try:
            if kind == stat.S_IFDIR:
                self._directory(place, name, path, depth)
            elif kind == stat.S_IFREG:
                self._file(place, name, path)
            elif kind == stat.S_IFLNK:
                link = os.fsencode(os.readlink(name, dir_fd=place))
                self._header(path, found, tar.SYMLINK, link)
            elif kind == stat.S_IFIFO:
                self._header(path, found, tar.FIFO)
            else:
                self.notes.add("sockets" if kind == stat.S_IFSOCK else "devices", path)
        except OSError as err:
            if isinstance(err, BrokenPipeError):
                raise  # who reads the archive is gone
            if err.errno in _GONE:
                return
            if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EINVAL):
                self.notes.add("changed", path)  # another thing by now
                return
            raise failed("copy", path, err) from err

    def _header(
        self, path: bytes, found: os.stat_result, kind: bytes, link: bytes = b"", size: int = 0
    ) -> None:
        mode, mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
        self._write(tar.header(tar.Entry(path, kind, mode, found.st_uid, found.st_gid, size, mtime, link)))

    def _directory(self, place: int, name: str, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise LimitReached(
                f"cannot copy {tar.shown(path)}: it is more than {MAX_DEPTH} directories deep",
                hint="copy it in parts",
            )
        fd = os.open(name, _DIRECTORY, dir_fd=place)
        try:
            found = os.fstat(fd)
            self._header(path, found, tar.DIRECTORY)
            if found.st_dev in self._kernel:
                self.notes.add("kernel", path)
                return
            with os.scandir(fd) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # gone by now
                        inner = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
                        self._entry(fd, entry.name, path + b"/" + os.fsencode(entry.name), inner, depth + 1)
        finally:
            os.close(fd)

    def _file(self, place: int, name: str, path: bytes) -> None:
        fd = os.open(name, _FILE, dir_fd=place)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                self.notes.add("changed", path)
                return
            if found.st_nlink > 1:
                known = self._links.get((found.st_dev, found.st_ino))
                if known is not None:
                    self._header(path, found, tar.LINK, known)
                    return
                if len(self._links) < _MAX_LINKS:
                    self._links[found.st_dev, found.st_ino] = path
            self._note_capabilities(fd, path)
            self._header(path, found, tar.FILE, size=found.st_size)
            self._contents(fd, found.st_size)
        finally:
            os.close(fd)

    def _note_capabilities(self, fd: int, path: bytes) -> None:
        with contextlib.suppress(OSError):
            if os.getxattr(fd, "security.capability"):
                self.notes.add("capabilities", path)

    def _contents(self, fd: int, size: int) -> None:
        """So many bytes, whatever becomes of the file: zeros in place of what was cut off."""
        left = size
        while left:
            data = os.read(fd, min(CHUNK, left)) or _ZEROS[: min(CHUNK, left)]
            self._write(data)
            left -= len(data)
        self._write(tar.padding(size))
