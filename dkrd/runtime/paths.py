"""Paths inside a container's root, resolved by the kernel and never as a string of the host.

Whoever filled the root may have put a symbolic link anywhere. openat2(2) with RESOLVE_IN_ROOT takes every
link, absolute or upward, as one inside the root, and RESOLVE_NO_MAGICLINKS keeps /proc/self/fd and its kin
from leading out.
"""

from __future__ import annotations

import errno
import os
import stat

from common.errors import StartFailed
from dkrd.runtime import syscalls

_PLAIN = "the root must have a plain directory there, or nothing"
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def open_inside(root: int, path: str, *, links: bool = True) -> int:
    """An O_PATH descriptor of `path` below the directory `root`.

    links  False: a symbolic link on the way is an error (ELOOP)

    Raises OSError.
    """
    resolve = _INSIDE | (0 if links else syscalls.RESOLVE_NO_SYMLINKS)
    return syscalls.openat2(root, path.strip("/") or ".", os.O_PATH, resolve)


def open_beneath(directory: int, name: str) -> int:
    """An O_PATH descriptor of the directory `name` in `directory`, which is root's own: no link on the way, no mount.

    Raises OSError.
    """
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
    return syscalls.openat2(directory, name, os.O_PATH | os.O_DIRECTORY, resolve)


def make_directory(root: int, path: str, owner: int, *, links: bool = True) -> int:
    """Like `open_inside`, with the directories that are missing made first (0755, owned by the host id
    `owner`).
    """
    try:
        return _directory(root, path, links)
    except FileNotFoundError:
        pass
    parent, _, name = path.rstrip("/").rpartition("/")
    above = make_directory(root, parent or "/", owner, links=links)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
        os.chown(name, owner, owner, dir_fd=above, follow_symlinks=False)
    except FileExistsError:
        # A dangling link: mkdir does not follow it and neither do we.
        raise StartFailed(f"cannot make {path} in the root: a dangling symbolic link is in the way") from None
    finally:
        os.close(above)
    return _directory(root, path, links)


def _directory(root: int, path: str, links: bool) -> int:
    try:
        fd = open_inside(root, path, links=links)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise StartFailed(
                f"cannot mount on {path}: it is, or lies behind, a symbolic link in the root",
                errno=errno.ELOOP,
                hint=_PLAIN,
            ) from err
        raise
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise StartFailed(
            f"cannot mount on {path}: it is not a directory in the root", errno=errno.ENOTDIR, hint=_PLAIN
        )
    return fd
