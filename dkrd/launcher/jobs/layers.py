"""Lays a lower layer on disk from its description: how the launcher's jobs make the built-in roots.

The layer's name says what is in it: a hash over its description. So it is made once, never changed, and
another description gets another layer beside it; containers that were made on the old one keep it. It comes
into being by a rename, whole. Owners are 0:0 on disk: the mount of the layers shifts them into the
container's range.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass

from common.errors import HostUnfit
from common.frames import dumps
from dkrd.removal import remove_tree

# Part of every name: raised when the same description comes out as another tree on disk.
GENERATION = 1
_UNFINISHED = ".builtin-"
# All times in the layer, 2000-01-01: no older, there are archive formats that begin in 1980.
_TIME = 946_684_800


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory: path below the layer, mode."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: path below the layer, mode, content."""

    path: str
    mode: int
    text: str


@dataclass(frozen=True, slots=True)
class Program:
    """A regular file that is executed: path below the layer, mode, content."""

    path: str
    mode: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link: path below the layer, target."""

    path: str
    target: str


Entry = Directory | File | Program | Link


def ordered(entries: dict[str, Entry]) -> tuple[Entry, ...]:
    """The entries by path, as `build` takes them: parents before what is in them."""
    return tuple(entries[path] for path in sorted(entries))


def name_of(root: str, entries: tuple[Entry, ...]) -> str:
    """The name of the layer of `entries`: that of its root, and a hash."""
    from hashlib import (
        sha256,  # brings libcrypto, which is for the job alone: each fork would copy its mappings
    )

    described: list[object] = [GENERATION, _TIME]
    for entry in entries:
        match entry:
            case Directory(path, mode):
                described.append(["directory", path, mode])
            case File(path, mode, text):
                described.append(["file", path, mode, text])
            case Program(path, mode, data):
                described.append(["program", path, mode, sha256(data).hexdigest()])
            case Link(path, target):
                described.append(["link", path, target])
    return f"{root}-{sha256(dumps(described)).hexdigest()[:12]}"


def build(state_dir: str, root: str, entries: tuple[Entry, ...]) -> str:
    """Make the layer of `entries` below state_dir/layers, unless it is there; its name.

    root     name of the built-in root that it is for
    entries  parents before what is in them

    Runs as root in a process of its own. Raises HostUnfit if it cannot be made, and if the layers' directory
    is not root's alone: setuid files of images lie there.
    """
    name = name_of(root, entries)
    layers = os.path.join(state_dir, "layers")
    layers_fd = _open_layers(layers)
    try:
        if _is_there(name, layers_fd):
            return name
        # One builder at a time: whatever bears an unfinished name now was left by a process that died.
        fcntl.flock(layers_fd, fcntl.LOCK_EX)
        if not _is_there(name, layers_fd):
            _remove_unfinished(layers_fd)
            _make(name, entries, layers_fd)
    except OSError as err:
        raise HostUnfit(
            f"cannot make the layer {name} in {layers}: {err.strerror}", step="layer", errno=err.errno
        ) from err
    finally:
        os.close(layers_fd)
    return name


def _open_layers(path: str) -> int:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        layers_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        raise HostUnfit(f"cannot open {path}: {err.strerror}", errno=err.errno) from err
    status = os.fstat(layers_fd)
    if status.st_uid != 0 or status.st_mode & 0o077:
        os.close(layers_fd)
        raise HostUnfit(
            f"cannot use {path}: others than root can reach it",
            hint=f"chown root:root {path}; chmod 700 {path}",
        )
    return layers_fd


def _is_there(name: str, layers_fd: int) -> bool:
    try:
        status = os.stat(name, dir_fd=layers_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
        raise HostUnfit(f"cannot use the layer {name}: it is not a directory of root's", hint="remove it")
    return True


def _remove_unfinished(layers_fd: int) -> None:
    for name in os.listdir(layers_fd):
        if name.startswith(_UNFINISHED):
            remove_tree(name, layers_fd)


def _make(name: str, entries: tuple[Entry, ...], layers_fd: int) -> None:
    unfinished = f"{_UNFINISHED}{name}"
    os.mkdir(unfinished, 0o700, dir_fd=layers_fd)
    top = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layers_fd)
    try:
        for entry in entries:
            _lay(entry, top)
        # Last, deepest first: whatever is made in a directory changes its time.
        for entry in reversed(entries):
            os.utime(entry.path, (_TIME, _TIME), dir_fd=top, follow_symlinks=False)
            if isinstance(entry, Directory):
                _sync(entry.path, top)
        os.fchmod(top, 0o755)  # the container's /
        os.utime(top, (_TIME, _TIME))
        os.fsync(top)
        os.rename(unfinished, name, src_dir_fd=layers_fd, dst_dir_fd=layers_fd)
        os.fsync(layers_fd)
    except BaseException:
        remove_tree(unfinished, layers_fd)
        raise
    finally:
        os.close(top)


def _lay(entry: Entry, top: int) -> None:
    """Make one entry. Nobody else can write below `top` yet, so a path of several parts is safe; modes are
    set whatever the umask."""
    match entry:
        case Directory(path, mode):
            os.mkdir(path, 0o700, dir_fd=top)
            os.chmod(path, mode, dir_fd=top)
        case File(path, mode, text):
            _write(path, mode, text.encode(), top)
        case Program(path, mode, data):
            _write(path, mode, data, top)
        case Link(path, target):
            os.symlink(target, path, dir_fd=top)


def _write(path: str, mode: int, data: bytes, top: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600, dir_fd=top), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync(path: str, top: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
