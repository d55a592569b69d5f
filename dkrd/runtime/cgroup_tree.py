"""The tree of cgroup v2 below which containers live; cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

    PARENT            of our own, or delegated by systemd: then its holder is in the leaf `holder`
      u<uid>          one a user, made by the first start and removed after the last end
        <id>
          shim        the guardian, born here: not in the daemon's cgroup, which systemd could not start it in again
          c           the container

No process is in an inner directory, and each one passes the controllers on to its children. They are passed on
while nothing is below yet: with processes there the kernel has to move them, behind a lock that stops every fork of
the machine. Directories may be removed by others between any two calls here, so that making is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import os

from common.errors import HostUnfit

CONTROLLERS = frozenset(("cpu", "memory", "pids"))  # those that bound a container
LEAF, SHIM, HOLDER = "c", "shim", "holder"
# A directory was removed meanwhile (before or after it was opened), or one that another process has made passes nothing on yet.
_MOVED = (errno.ENOENT, errno.ENODEV)
_TRIES = 1000  # each lost to another process that removed an empty directory in the same microseconds


def make_leaf(parent: str, names: tuple[str, ...], leaf: str, *, own: bool) -> str:
    """Make PARENT/NAMES…/LEAF, with every controller that PARENT has: its path.

    own  PARENT is ours to make where it is missing

    Directories above the leaf may be there; the leaf must not. Raises OSError, HostUnfit where PARENT is missing; then
    nothing is left of it.
    """
    path = "/".join((parent, *names, leaf))
    repair = False
    try:
        for _ in range(_TRIES):
            try:
                _make_inner(parent, names, own=own, repair=repair)
                os.mkdir(path, 0o755)
            except OSError as err:
                if err.errno not in _MOVED:
                    raise
                repair = True
            else:
                return path
    except OSError:
        prune(path)
        raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


def _make_inner(parent: str, names: tuple[str, ...], *, own: bool, repair: bool) -> None:
    wanted = None
    with contextlib.suppress(FileNotFoundError):
        wanted = _passed_on(parent)
    if wanted is None or wanted != _available(parent):
        # Not made yet, or made anew by its owner: systemd does when the unit is restarted.
        wanted = prepare(parent, own=own)
    # All first, and in haste: what has a directory in it nobody removes.
    paths = [f"{parent}/{'/'.join(names[: depth + 1])}" for depth in range(len(names))]
    made = [path for path in paths if _mkdir(path)]
    for path in paths if repair else made:
        _pass_on(path, wanted - _passed_on(path) if repair else wanted)


def _mkdir(path: str) -> bool:
    """Make it where it is missing; whether it was."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    return True


def prepare(parent: str, *, own: bool) -> frozenset[str]:
    """See to it that PARENT has no processes of its own and passes its controllers on; those that it does.

    own  PARENT is ours: it is made where it is missing, and the directories above it pass controllers on as well

    Raises HostUnfit where it is missing, OSError.
    """
    if own and not os.path.isdir(parent):
        _make_parent(parent)
    try:
        members = _read(f"{parent}/cgroup.procs")
    except FileNotFoundError:
        raise HostUnfit(
            f"cannot make a cgroup: {parent} does not exist",
            hint="systemctl start dkr-containers.service, or set cgroup.parent in dkrd.toml",
        ) from None
    if members:
        _move(members, f"{parent}/{HOLDER}")
    for name in sorted(_available(parent) - _passed_on(parent)):
        try:
            _pass_on(parent, frozenset((name,)))
        except OSError as err:
            # That is cpu, on a kernel that groups realtime processes, while there are any: containers go without.
            if err.errno != errno.EINVAL:
                raise
    return _passed_on(parent)


def _make_parent(parent: str) -> None:
    """mkdir with all that lack above it. Where a directory above has processes, as a container's own root has, it cannot
    pass controllers on, and containers go without.
    """
    above = os.path.dirname(parent)
    if not os.path.isdir(above):
        _make_parent(above)
    for name in sorted(_available(above) - _passed_on(above)):
        with contextlib.suppress(OSError):
            _pass_on(above, frozenset((name,)))
    with contextlib.suppress(FileExistsError):
        os.mkdir(parent, 0o755)


def _move(pids: list[str], leaf: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(leaf, 0o755)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            write(f"{leaf}/cgroup.procs", pid)


def prune(leaf: str) -> None:
    """Remove what stands above and beside the container's LEAF for its sake, as far as nobody is in it."""
    container = os.path.dirname(leaf)
    group = os.path.dirname(container)
    for path in (f"{container}/{SHIM}", container):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    if is_group(os.path.basename(group)):
        with contextlib.suppress(OSError):
            os.rmdir(group)


def group_of(uid: int) -> str:
    """The name of the directory of a user's containers."""
    return f"u{uid}"


def is_group(name: str) -> bool:
    """Whether a directory may be a user's."""
    return name[:1] == "u" and name[1:].isdecimal()


def find(parent: str, name: str) -> list[str]:
    """Every PARENT/u<uid>/NAME there is: one, and a second where a container and its guardian count for two users."""
    found = []
    with contextlib.suppress(OSError):
        for group in os.listdir(parent):
            path = f"{parent}/{group}/{name}"
            if is_group(group) and os.path.isdir(path):
                found.append(path)
    return found


def offered(parent: str) -> frozenset[str]:
    """The controllers that containers below PARENT have, or would have where it is not made yet."""
    path = parent
    while True:
        with contextlib.suppress(FileNotFoundError):
            return _passed_on(path) if path == parent else _available(path)
        path = os.path.dirname(path)


def _available(path: str) -> frozenset[str]:
    return CONTROLLERS & set(_read(f"{path}/cgroup.controllers"))


def _passed_on(path: str) -> frozenset[str]:
    return CONTROLLERS & set(_read(f"{path}/cgroup.subtree_control"))


def _pass_on(path: str, controllers: frozenset[str]) -> None:
    if controllers:
        write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(controllers)))


def _read(path: str) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
    finally:
        os.close(fd)
    return data.decode().split()


def read(path: str) -> str | None:
    """What a file of the cgroup filesystem says; None where it is not there. Raises OSError."""
    try:
        return " ".join(_read(path))
    except FileNotFoundError:
        return None


def write(path: str, text: str) -> None:
    """Write `text` to a file of the cgroup filesystem, which is there or not. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
