"""What of the kernel a container sees: its devices, and the walls before the files by which the machine is set or known.

Operations of the plan, like those of operations.py, and carried out with them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import HostUnfit
from dkrd.runtime import paths, strace, syscalls

if TYPE_CHECKING:
    from dkrd.runtime.operations import Stage

NULL_DEVICE = os.makedev(1, 3)
_HOSTS = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_EMPTY = (("source", "mask"), ("size", "4k"), ("nr_inodes", "1"), ("mode", "555"))
# Notes: of an operation on a path that the root does not have; of the first mask of a kind, which makes what all share.
_MISSING, _FIRST = "missing", "first "


@dataclass(frozen=True, slots=True)
class MakeDevices:
    """The default device nodes and links of /dev (OCI config-linux.md, default devices), owned by the
    container's root.
    """

    console: bool
    nodes = (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
    links = (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
        ("core", "/proc/kcore"),
    )
    step = "devices"

    def describe(self, stage: Stage, note: str = "") -> str:
        nodes = ", ".join(f'"{name}" {major}:{minor}' for name, major, minor in self.nodes)
        links = ", ".join(f'"{name}" -> "{target}"' for name, target in self.links)
        console = 'mknodat(dev, "console", S_IFREG|0600); ' if self.console else ""
        return (
            f"{strace.open_inside('root', '/dev', links=False)}; mknodat(dev, {{{nodes}}}, S_IFCHR|0666); "
            f"symlinkat({{{links}}}, dev); {console}fchownat(dev, {{each node}}, {stage.base}, {stage.base}, AT_SYMLINK_NOFOLLOW)"
        )

    def execute(self, stage: Stage) -> None:
        dev = paths.open_inside(stage.root, "/dev", links=False)
        for name, major, minor in self.nodes:
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
            os.chown(name, stage.base, stage.base, dir_fd=dev, follow_symlinks=False)
        for name, target in self.links:
            os.symlink(target, name, dir_fd=dev)
        if self.console:
            os.mknod("console", stat.S_IFREG | 0o600, dir_fd=dev)
            os.chown("console", stage.base, stage.base, dir_fd=dev, follow_symlinks=False)
        os.close(dev)


@dataclass(frozen=True, slots=True)
class MakeReadonly:
    """`path` bound over itself read-only; the clone keeps nosuid, nodev and noexec. Nothing where it does
    not exist.
    """

    path: str
    step = "readonly"

    def describe(self, stage: Stage, note: str = "") -> str:
        found = strace.open_inside("root", self.path, links=False)
        if note == _MISSING:
            return f"{found} = -1 ENOENT"
        return strace.calls(
            found,
            strace.clone_tree("path", recursive=True),
            strace.set_attributes("tree", syscalls.MOUNT_ATTR_RDONLY, recursive=True),
            strace.attach_on("tree", "path"),
        )

    def execute(self, stage: Stage) -> None:
        try:
            target = paths.open_inside(stage.root, self.path, links=False)
        except FileNotFoundError:
            stage.note = _MISSING
            return
        tree = syscalls.open_tree(
            target, "", syscalls.AT_EMPTY_PATH | syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
        )
        syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
        syscalls.move_mount(tree, target)
        os.close(target)
        os.close(tree)


@dataclass(frozen=True, slots=True)
class MaskPath:
    """`path` covered: a directory by an empty read-only tmpfs that all masks share, a file by the host's
    /dev/null.

    The null device is the host's, checked to be 1:3: one taken from the root could have been swapped
    (CVE-2025-31133).
    """

    path: str
    step = "mask"

    def describe(self, stage: Stage, note: str = "") -> str:
        found = strace.open_inside("root", self.path, links=False)
        if note == _MISSING:
            return f"{found} = -1 ENOENT"
        if note.startswith(_FIRST):
            return strace.calls(found, *_describe_first(note.removeprefix(_FIRST)))
        cover = {"directory": "the empty tmpfs", "file": "/dev/null"}.get(note, "/dev/null or an empty tmpfs")
        return strace.calls(found, strace.clone_tree(cover), strace.attach_on("tree", "path"))

    def execute(self, stage: Stage) -> None:
        try:
            target = paths.open_inside(stage.root, self.path, links=False)
        except FileNotFoundError:
            stage.note = _MISSING
            return
        kind = stage.note = "directory" if stat.S_ISDIR(os.fstat(target).st_mode) else "file"
        first = stage.masks.get(kind)
        if first is None:
            stage.note = _FIRST + kind
            # Moved there itself, and cloned from there for the others: a mount that is nowhere cannot be cloned before Linux 6.15.
            stage.masks[kind] = _empty_directory() if kind == "directory" else _null_device()
            syscalls.move_mount(stage.masks[kind], target)
        else:
            tree = syscalls.open_tree(first, "", syscalls.AT_EMPTY_PATH | syscalls.OPEN_TREE_CLONE)
            syscalls.move_mount(tree, target)
            os.close(tree)
        os.close(target)


def _describe_first(kind: str) -> tuple[str, ...]:
    """How the first mask of a kind makes what it covers with, and covers."""
    if kind == "directory":
        made = strace.new_filesystem("tmpfs", _EMPTY, _HOSTS | syscalls.MOUNT_ATTR_NOEXEC)
        return made, strace.attach_on("mount", "path")
    attributes = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
    opened = 'openat(AT_FDCWD, "/dev/null", O_PATH|O_NOFOLLOW|O_CLOEXEC)'
    made = strace.clone_tree("null")
    return opened, made, strace.set_attributes("tree", attributes), strace.attach_on("tree", "path")


def _empty_directory() -> int:
    fs = syscalls.fsopen("tmpfs")
    for key, value in _EMPTY:
        syscalls.fsconfig_string(fs, key, value)
    syscalls.fsconfig_create(fs)
    mount = syscalls.fsmount(fs, _HOSTS | syscalls.MOUNT_ATTR_NOEXEC)
    os.close(fs)
    return mount


def _null_device() -> int:
    null = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(null)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != NULL_DEVICE:
        raise HostUnfit(
            "cannot mask paths: the host's /dev/null is no null device (1:3)",
            hint="repair /dev/null: rm -f /dev/null; mknod -m 666 /dev/null c 1 3",
        )
    tree = syscalls.open_tree(null, "", syscalls.AT_EMPTY_PATH | syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID)
    os.close(null)
    return tree
