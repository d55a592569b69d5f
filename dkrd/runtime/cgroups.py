"""A container's cgroup on v2, v1 and the hybrid of both, behind one interface; cgroups(7).

v2      PARENT/GROUP/ID below the v2 root, with the leaf `c` for the container: its init is born there
        (CLONE_INTO_CGROUP). Each directory above the leaf passes the controllers on (cgroup_tree.py)
v1      PARENT/ID in each hierarchy that carries a controller of CONTROLLERS; its init moves itself there
        first of all
hybrid  both: v1 for the controllers, and PARENT/ID/c in the v2 tree for what only it has (cgroup.kill, being
        born in it)

A process born in its cgroup costs nothing. On v1 a process moved by another (cgroup.procs, or tasks with a
pid) takes a lock of the whole system and now and then waits for an RCU grace period, some 20 ms; a single
thread that moves itself ("0" to tasks) does not (cgroup_procs_write_start() in kernel/cgroup/cgroup.c). So
init is handed descriptors of the `tasks` files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass

from common.errors import HostUnfit
from dkrd.runtime import cgroup_tree
from dkrd.runtime.cgroup_tree import CONTROLLERS, LEAF

# Of v1, only where there is no v2 tree to kill and freeze by.
FREEZER = "freezer"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hierarchies are mounted on this host.

    unified      mount point of the v2 tree, or None
    legacy       mount points of the v1 hierarchies that matter
    controllers  those of CONTROLLERS that v1 has, each with its hierarchy's mount point
    """

    unified: str | None
    legacy: tuple[str, ...]
    controllers: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """`v1`, `v2`, `hybrid`, or `none`."""
        if self.unified is None:
            return "v1" if self.legacy else "none"
        return "hybrid" if self.legacy else "v2"


def read_layout(mountinfo: str = "/proc/self/mountinfo") -> Layout:
    """The layout told by proc(5) mountinfo; the first mount of each hierarchy counts."""
    unified: str | None = None
    legacy: dict[str, str] = {}
    with open(mountinfo, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            head, _, tail = line.partition(" - ")
            kind, _, options = tail.split(" ", 2)
            _, _, _, root, mount_point, *_ = head.split(" ")
            if root != "/":
                continue
            if kind == "cgroup2":
                unified = unified or mount_point
            elif kind == "cgroup":
                for controller in options.strip().split(","):
                    legacy.setdefault(controller, mount_point)
    wanted = CONTROLLERS if unified is not None else CONTROLLERS | {FREEZER}
    hierarchies = tuple(dict.fromkeys(path for name, path in legacy.items() if name in wanted))
    return Layout(unified, hierarchies, tuple((n, path) for n, path in legacy.items() if n in CONTROLLERS))


@dataclass(slots=True)
class Cgroup:
    """One container's directories and the descriptors by which its init gets there.

    paths   absolute, the v2 leaf first where there is one
    leaf    descriptor of the v2 leaf, for CLONE_INTO_CGROUP; -1 on v1
    tasks   descriptors of the v1 `tasks` files, writable
    """

    paths: tuple[str, ...]
    leaf: int = -1
    tasks: tuple[int, ...] = ()

    def enter(self, *, born: bool) -> None:
        """Move the calling process, which has one thread, there; `born`: into the v2 leaf it need not."""
        enter(self.tasks)
        if self.leaf >= 0 and not born:
            fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.leaf)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close the descriptors; the directories stay."""
        for fd in (self.leaf, *self.tasks):
            if fd >= 0:
                os.close(fd)
        self.leaf, self.tasks = -1, ()


def enter(tasks: tuple[int, ...]) -> None:
    """Move the calling thread, the only one of its process, into the v1 cgroups behind `tasks`."""
    for fd in tasks:
        os.write(fd, b"0")


def create(layout: Layout, parent: str, name: str, group: str = "") -> Cgroup:
    """Make PARENT/NAME in every hierarchy. Undoes what it made where it fails. Raises HostUnfit or OSError.

    parent  below the mount points: one name, or a path such as /system.slice/some.service
    group   on v2 a directory between PARENT and NAME, made where it is missing
    """
    if layout.kind == "none":
        raise HostUnfit(
            "cannot make a cgroup: no cgroup filesystem is mounted",
            hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
    cgroup = Cgroup(())
    own, parent = not parent.startswith("/"), parent.strip("/")
    try:
        if layout.kind == "v2":
            names = (group, name) if group else (name,)
            cgroup.paths = (cgroup_tree.make_leaf(f"{layout.unified}/{parent}", names, LEAF, own=own),)
        elif layout.unified is not None:
            leaf = f"{_make(cgroup, f'{layout.unified}/{parent}/{name}')}/{LEAF}"
            os.mkdir(leaf, 0o755)
            cgroup.paths = (leaf,)
        if cgroup.paths:
            cgroup.leaf = os.open(cgroup.paths[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for mount_point in layout.legacy:
            path = _make(cgroup, f"{mount_point}/{parent}/{name}")
            cgroup.tasks += (os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC),)
    except OSError:
        cgroup.close()
        remove(cgroup.paths, deadline=0)
        raise
    return cgroup


def reopen(paths: tuple[str, ...]) -> Cgroup:
    """The cgroup that stands at `paths`, with the descriptors by which one more process gets there. Raises OSError."""
    cgroup = Cgroup(paths)
    try:
        for path in paths:
            if path.endswith(f"/{LEAF}"):
                cgroup.leaf = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            else:
                cgroup.tasks += (os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC),)
    except OSError:
        cgroup.close()
        raise
    return cgroup


def is_full(paths: tuple[str, ...]) -> bool:
    """Whether the v1 cgroup has as many processes as it may. One that moves itself there is not held back by that, on v2 one that
    is born there is.
    """
    for path in paths:
        if not path.endswith(f"/{LEAF}"):
            with contextlib.suppress(OSError, ValueError):
                with open(f"{path}/pids.max", encoding="ascii") as bound:
                    most = int(bound.read())  # ValueError: "max"
                with open(f"{path}/pids.current", encoding="ascii") as count:
                    return int(count.read()) >= most
    return False


def places(layout: Layout, parent: str, name: str, group: str = "") -> tuple[str, ...]:
    """The paths that `create` would make."""
    parent = parent.strip("/")
    if layout.kind == "v2":
        return (f"{layout.unified}/{parent}/{f'{group}/{name}' if group else name}/{LEAF}",)
    unified = () if layout.unified is None else (f"{layout.unified}/{parent}/{name}/{LEAF}",)
    return (*unified, *(f"{mount_point}/{parent}/{name}" for mount_point in layout.legacy))


def controllers(layout: Layout, parent: str) -> frozenset[str]:
    """Those of CONTROLLERS by which containers below PARENT can be bounded."""
    if layout.kind == "v2":
        return cgroup_tree.offered(f"{layout.unified}/{parent.strip('/')}")
    return frozenset(name for name, _ in layout.controllers)


def _make(cgroup: Cgroup, path: str) -> str:
    """mkdir, and note it for the undo; the parent only where it is missing, which is once in a machine's
    life.
    """
    try:
        os.mkdir(path, 0o755)
    except FileNotFoundError:
        os.makedirs(path, 0o755)
    cgroup.paths += (path,)
    return path


def oom_kills(paths: tuple[str, ...]) -> int:
    """How many processes of the cgroup the kernel has killed for want of memory; 0 where nothing counts them."""
    for path in paths:
        for name in ("memory.events", "memory.oom_control"):  # v2, v1
            with contextlib.suppress(OSError), open(f"{path}/{name}", encoding="ascii") as file:
                for line in file:
                    word, _, count = line.partition(" ")
                    if word == "oom_kill":
                        return int(count)
    return 0


def kill(paths: tuple[str, ...]) -> None:
    """SIGKILL every process of the cgroup: cgroup.kill on v2 (Linux 5.14), else frozen first so that none
    can fork away.
    """
    for path in paths:
        try:
            cgroup_tree.write(f"{path}/cgroup.kill", "1")
        except FileNotFoundError:
            continue
        return
    freezer = next((p for p in paths if os.path.exists(f"{p}/freezer.state")), None)
    if freezer is None:
        return
    cgroup_tree.write(f"{freezer}/freezer.state", "FROZEN")
    try:
        with open(f"{freezer}/cgroup.procs", encoding="ascii") as file:
            for line in file:
                # The frozen cannot end, so the number cannot have been taken by another meanwhile.
                os.kill(int(line), 9)
    finally:
        cgroup_tree.write(f"{freezer}/freezer.state", "THAWED")


def remove(paths: tuple[str, ...], deadline: float = 2.0) -> tuple[str, ...]:
    """rmdir each path, and what stands above a v2 leaf for it alone; returns those paths that are still busy after
    `deadline` seconds.

    rmdir says EBUSY while a task that has ended is not yet reaped; there is no event for that on v1, hence
    the short waits.
    """
    ends = time.monotonic() + deadline
    left: list[str] = []
    for path in paths:
        if not _rmdir(path, ends):
            left.append(path)
        elif path.endswith(f"/{LEAF}"):
            cgroup_tree.prune(path)
    return tuple(left)


def remove_parent(layout: Layout, parent: str) -> None:
    """Remove PARENT from every hierarchy where no container is left below it; a path is somebody else's and stays."""
    for mount_point in () if parent.startswith("/") else (layout.unified, *layout.legacy):
        with contextlib.suppress(OSError):
            os.rmdir(f"{mount_point}/{parent}")


def _rmdir(path: str, ends: float) -> bool:
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError as err:
            if err.errno != errno.EBUSY:
                raise
            if time.monotonic() >= ends:
                return False
            time.sleep(0.002)
        else:
            return True
