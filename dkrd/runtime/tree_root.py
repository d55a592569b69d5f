"""The lower layer of a root that is somebody's directory: attached, mapped, and looked at before an overlay stands on it.

Runs in the build helper (mounting.py), which can be killed: here a filesystem is asked for the first time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkrd.runtime import mountinfo, strace, syscalls, trees

if TYPE_CHECKING:
    from common.errors import DkrError
    from dkrd.runtime.operations import Stage

IDS = 65536  # ids a container
# What the mount of the tree forbids, the overlay on it must: it has flags of its own. (nodev it always has.)
_KEPT = {
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "nosymfollow": syscalls.MOUNT_ATTR_NOSYMFOLLOW,
}


def make_place(name: str) -> None:
    """The directory of the container's in which something is attached for a moment. One that has run before has it."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700)


@dataclass(frozen=True, slots=True)
class AttachTree:
    """The clone of a directory that somebody named, read-only and idmapped, where overlay finds it by a relative name.

    name     of the directory, for people
    mapping  which ids of it are whose, for people
    place    where it is attached, in the container's directory
    """

    name: str
    mapping: str
    place: str
    step = "attach root"

    def describe(self, stage: Stage, note: str = "") -> str:
        mapped = stage.userns >= 0 or stage.tree.mapping >= 0
        attributes = syscalls.MOUNT_ATTR_RDONLY | (syscalls.MOUNT_ATTR_IDMAP if mapped else 0)
        maps = (f"userns_fd={self.mapping}",) if mapped else ()
        return strace.calls(
            strace.set_attributes("tree", attributes, more=("propagation=MS_PRIVATE", *maps)),
            f'mkdir("{self.place}", 0700)',
            strace.attach("tree", self.place),
            'open("/proc/self/mountinfo", O_RDONLY)',
            f'newfstatat(AT_FDCWD, "{self.place}/."); newfstatat({self.place}, "etc", AT_SYMLINK_NOFOLLOW)',
            'chown("upper/etc", as there); chmod("upper/etc", as there)',
        )

    def execute(self, stage: Stage) -> None:
        tree = stage.tree
        userns = stage.userns if tree.mapping < 0 else tree.mapping
        own = os.fstat(tree.mount)
        map_ids(self.name, tree.mount, userns)
        if tree.mapping >= 0:
            self._check_mapping(own, os.fstat(tree.mount), stage)
            # Overlay opens files as whoever mounts it, and root's rights end where an owner is nobody: what the caller's
            # group may do with files of others is all that is left of them.
            os.setgroups([stage.base])
        self._attach(tree.mount)
        stage.flags |= self._flags(tree.mount)
        self._check_search()
        self._etc(stage.base)

    def _check_mapping(self, own: os.stat_result, mapped: os.stat_result, stage: Stage) -> None:
        """A filesystem that was mounted in a user namespace counts ids as that one does: the caller's would be nobody's."""
        if own.st_uid == stage.tree.owner and mapped.st_uid != stage.base:
            raise trees.refusal(
                self.name,
                "its filesystem was mounted in a user namespace and counts ids by it",
                "put the tree on a filesystem of the host's, and bind that to where it is wanted (mount --bind)",
            )

    def _attach(self, mount: int) -> None:
        make_place(self.place)
        try:
            syscalls.move_mount(mount, syscalls.AT_FDCWD, self.place)
        except FileNotFoundError as err:
            raise trees.refusal(self.name, "the directory was deleted", number=err.errno) from err

    def _flags(self, mount: int) -> int:
        """The attributes that the overlay takes over. Raises where the clone has brought mounts: it was made with all that
        is mounted below it, in one step, so nothing that was covered then is bare in it.
        """
        number = syscalls.statx(mount).mount
        options: tuple[str, ...] = ()
        for mounted in mountinfo.read("self"):
            if mounted.parent == number:
                _, _, below = mounted.point.rpartition(f"/{self.place}/")
                raise trees.covered(self.name, f"{self.name.rstrip('/')}/{below}")
            if mounted.id == number:
                options = mounted.options
        return sum(attribute for option, attribute in _KEPT.items() if option in options)

    def _check_search(self) -> None:
        """Where the directory lets nobody but its owner in, and that is not the caller, the container would find nothing."""
        try:
            os.stat(f"{self.place}/.")
        except PermissionError as err:
            raise trees.refusal(
                self.name,
                "its owner lets nobody else in",
                "what all users may do decides, unless the directory is the caller's own",
                number=err.errno,
            ) from err

    def _etc(self, base: int) -> None:
        """/etc must be a directory or nothing: over it lies one with files of our own (hosts, …), which takes over its
        owner and mode.
        """
        directory = os.open(self.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.stat("etc", dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        finally:
            os.close(directory)
        if not stat.S_ISDIR(status.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
            raise trees.refusal(
                self.name, f"/etc in it is {what}", "the root must have a plain directory there, or nothing"
            )
        uid, gid = (
            number if base <= number < base + IDS else base for number in (status.st_uid, status.st_gid)
        )
        os.chown("upper/etc", uid, gid)
        os.chmod("upper/etc", stat.S_IMODE(status.st_mode))


def map_ids(name: str, mount: int, userns: int) -> None:
    """Make the detached `mount` of the directory `name` read-only, and map its ids by `userns` (-1: they stay).

    Raises StartFailed by name.
    """
    attributes = syscalls.MOUNT_ATTR_RDONLY | (syscalls.MOUNT_ATTR_IDMAP if userns >= 0 else 0)
    try:
        syscalls.mount_setattr(
            mount, attr_set=attributes, propagation=syscalls.MS_PRIVATE, userns_fd=max(userns, 0)
        )
    except OSError as err:
        raise _unmapped(name, err) from err


def _unmapped(name: str, err: OSError) -> DkrError:
    if err.errno == errno.EINVAL:
        return trees.refusal(
            name,
            "its filesystem cannot map ids",
            f"{trees.LOCAL_HINT}; administrators can also give --userns host",
            number=err.errno,
        )
    if err.errno == errno.EPERM:
        return trees.refusal(
            name,
            "its mount maps ids already",
            "name the directory that is mounted there, by its own path",
            number=err.errno,
        )
    return trees.refusal(name, os.strerror(err.errno or 0).lower(), number=err.errno)


def refused_by_overlay(name: str, err: OSError, context: int) -> DkrError:
    """The error for a tree that overlay does not take. `context`: from fsopen(2); it tells what the kernel thinks of it."""
    cause = os.strerror(err.errno or 0).lower()
    with contextlib.suppress(OSError):  # ENODATA: it has told its log only
        # One message a read: "e overlay: the cause".
        cause = os.read(context, 4096).decode("utf-8", "replace")[2:].strip() or cause
    hint = f"{trees.LOCAL_HINT}; dmesg(1) tells what overlay has against it"
    return trees.refusal(name, f"no overlay can stand on it: {cause}", hint, number=err.errno)
