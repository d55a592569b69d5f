"""The setting `default_root` as a directory: opened by root's side itself, for everybody.

It is mapped over the whole range: what belongs to root in it is the container root's. So nobody but root may have a say in
what that path leads to: each directory on the way is root's, and none is a symbolic link.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from common.errors import HostUnfit, StartFailed
from dkrd.runtime import errands, strace, syscalls, tree_root, trees

if TYPE_CHECKING:
    from dkrd.settings import Settings

_SETTING = "see the setting default_root"


def open_directory(path: str, deadline: float) -> int:
    """O_PATH descriptor of the directory. Raises HostUnfit by name; StartFailed where its filesystem does not answer until
    `deadline` (monotonic clock, seconds): an errand opens it.
    """
    try:
        with errands.run(lambda: _open(path), (), deadline) as errand:
            return errand.descriptor
    except StartFailed as err:
        raise (trees.unanswered(path) if err.step == "deadline" else err) from err


def describe(path: str) -> str:
    """What `open_directory` does, in strace's manner."""
    each = "openat2(above, each name of it, {flags=O_PATH|O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS}); fstat()"
    return strace.calls(
        "fork()", f"open({strace.text(path)}): {each}", "sendmsg(guardian, SCM_RIGHTS [rootfs])"
    )


def check(settings: Settings) -> None:
    """Try it without a container. Raises HostUnfit, StartFailed by name where none could have it."""
    path, deadline = settings.default_root, time.monotonic() + settings.start_seconds
    directory = open_directory(path, deadline)
    try:
        source = trees.Source(path, directory, ids=(0, 0), anywhere=True)
        with trees.taken(source, settings.ids_first, deadline) as tree:
            tree_root.map_ids(path, tree.mount, tree.mapping)
    finally:
        os.close(directory)


def _open(path: str) -> int:
    """In the errand: from the top down, one name at a time, so that each is looked at before anything is found in it."""
    walked = ""
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in filter(None, path.split("/")):
        _check(path, walked or "/", directory, above=True)
        walked = f"{walked}/{name}"
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            directory = syscalls.openat2(directory, name, flags, syscalls.RESOLVE_NO_SYMLINKS)
        except OSError as err:
            raise _unopened(path, walked, err) from err
    _check(path, path, directory, above=False)
    return directory


def _unopened(path: str, walked: str, err: OSError) -> HostUnfit:
    if err.errno == errno.ELOOP:
        return HostUnfit(
            f"cannot use {path} as the root: {walked} is a symbolic link",
            hint=f"have the setting default_root name {os.path.realpath(path)}",
            errno=err.errno,
        )
    cause = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}
    told = cause.get(err.errno or 0, f"cannot be opened: {os.strerror(err.errno or 0).lower()}")
    return HostUnfit(f"cannot use {path} as the root: {walked} {told}", hint=_SETTING, errno=err.errno)


def _check(path: str, walked: str, directory: int, *, above: bool) -> None:
    """Raise where others than root could put something else in its place. In a sticky directory above it they cannot."""
    status = os.fstat(directory)
    if status.st_uid != 0:
        raise HostUnfit(
            f"cannot use {path} as the root: {walked} belongs to uid {status.st_uid}, not to root",
            hint=f"chown root {walked}; or {_SETTING}",
        )
    others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if others and not (above and status.st_mode & stat.S_ISVTX):
        raise HostUnfit(
            f"cannot use {path} as the root: others than root may write to {walked}",
            hint=f"chmod go-w {walked}; or {_SETTING}",
        )
