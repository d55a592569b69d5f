"""A directory that somebody names as the root: how root's side gets a mount of it that it can lay an overlay over.

Its descriptor is the proof that whoever opened it may reach it, and it is all that is believed: no path is. A mount can
only be cloned in the mount namespace that it is in. Where that is the client's, an errand (errands.py) goes there, clones,
and comes back; it opens nothing there by name.

Nothing here asks a filesystem: descriptors are looked at by statx without synchronisation, mounts by mountinfo. So a
server that does not answer (FUSE, NFS) holds up neither the guardian nor what it does for others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from common.errors import BadRequest, DkrError, Internal, NotPermitted, StartFailed
from dkrd.runtime import errands, mountinfo, strace, syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

# Filesystems that are views of the kernel's and no place for files.
KERNELS = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue nsfs proc "
    "pstore resctrl rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs".split()
)
# Filesystems behind which somebody else stands, who may answer late, never, or something else each time.
SERVED = frozenset(
    "9p afs ceph cifs coda fuse fuseblk gfs2 lustre ncpfs nfs nfs4 ocfs2 orangefs smb3 virtiofs".split()
)
LOCAL_HINT = "copy the tree to a directory on ext4, xfs, btrfs or tmpfs"
_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH


@dataclass(frozen=True, slots=True)
class Source:
    """What is to become the root.

    name       for people; nothing is opened by it
    directory  O_PATH descriptor of it
    namespace  descriptor of the mount namespace that it may be in besides ours; -1: none
    ids        the uid and gid that are the container's root on it, all others being nobody's; None: each id is the
               container's of the same number
    anywhere   it may be on a filesystem that waits for a server
    """

    name: str
    directory: int
    namespace: int = -1
    ids: tuple[int, int] | None = None
    anywhere: bool = False


class Tree(NamedTuple):
    """A detached clone of the mount of a Source.

    mount    its descriptor
    mapping  descriptor of the user namespace that maps its ids; -1: the container's own does
    owner    the uid that is mapped by it; -1: all are
    note     for `describe`
    """

    mount: int = -1
    mapping: int = -1
    owner: int = -1
    note: str = ""


def refusal(name: str, cause: str, hint: str | None = None, *, number: int | None = None) -> StartFailed:
    """The error for a directory that cannot be a root."""
    return StartFailed(f"cannot use {name} as the root: {cause}", hint=hint, errno=number)


def unanswered(name: str) -> StartFailed:
    """The error for a filesystem that holds up a start until its deadline."""
    return StartFailed(
        f"cannot use {name} as the root: its filesystem did not answer in time",
        hint=f"look at its server; or {LOCAL_HINT}. How long a start may take: the setting limits.start_seconds",
        step="deadline",
    )


@contextlib.contextmanager
def taken(source: Source, base: int, deadline: float) -> Iterator[Tree]:
    """A clone of the mount of `source`, with all that is mounted below it, for the block. Nothing is attached anywhere.

    base  host id of the container's id 0

    Called in the mount namespace of the host. Raises StartFailed, BadRequest and NotPermitted by name, OSError.
    """
    _check(source)
    with contextlib.ExitStack() as stack:
        mount, kind, note = _clone(source, deadline, stack)
        if kind in SERVED:
            _must_answer(source.name, mount, deadline)
            note += " asked"
        if source.ids is None:
            yield Tree(mount, note=note)
            return
        mapping = user_namespace(source.ids, base)
        stack.callback(os.close, mapping)
        yield Tree(mount, mapping, source.ids[0], note)


def describe(source: Source, base: int, note: str) -> str:
    """What `taken` does, in strace's manner. The note: `elsewhere` if the mount was found in the client's mount namespace,
    `asked` if the filesystem had to answer.
    """
    words = note.split()
    clone = strace.clone_tree(f"the descriptor of {source.name}", recursive=True)
    if "elsewhere" in words:
        clone = strace.calls(
            "fork()", "setns(mntns, CLONE_NEWNS)", clone, "sendmsg(guardian, SCM_RIGHTS [tree])"
        )
    calls = [clone, 'open("/proc/PID/mountinfo", O_RDONLY)']
    if "asked" in words:
        calls.append("fork(); fstatfs(tree)")
    if source.ids is not None:
        uid, gid = source.ids
        maps = f'write(uid_map, "{uid} {base} 1"); write(gid_map, "{gid} {base} 1")'
        calls += [f"clone3({{flags=CLONE_NEWUSER}}); {maps}"]
    return strace.calls(*calls)


def _check(source: Source) -> None:
    """The descriptors are what they must be: somebody else has opened them."""
    if not fcntl.fcntl(source.directory, fcntl.F_GETFL) & os.O_PATH:
        raise BadRequest(f"cannot use {source.name} as the root: it was not opened with O_PATH")
    status = syscalls.statx(source.directory)
    if not stat.S_ISDIR(status.mode):
        raise BadRequest(f"cannot use {source.name} as the root: it is not a directory", errno=errno.ENOTDIR)
    if not status.nlink:
        raise refusal(source.name, "the directory was deleted", number=errno.ENOENT)
    if source.namespace >= 0 and not _is_mount_namespace(source.namespace):
        raise BadRequest(f"cannot use {source.name} as the root: what came as mount namespace is none")


@functools.cache
def _nsfs() -> int:
    """st_dev of the one filesystem that namespaces are files of."""
    fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return syscalls.statx(fd).dev
    finally:
        os.close(fd)


def _is_mount_namespace(fd: int) -> bool:
    # The filesystem first: on any other file the same ioctl may mean anything.
    if syscalls.statx(fd).dev != _nsfs():
        return False
    try:
        return fcntl.ioctl(fd, syscalls.NS_GET_NSTYPE) == syscalls.CLONE_NEWNS
    except OSError:
        return False  # opened with O_PATH, or no namespace at all


def _clone(source: Source, deadline: float, stack: contextlib.ExitStack) -> tuple[int, str, str]:
    """The detached clone, the type of its filesystem, and the note."""
    try:
        mount = syscalls.open_tree(source.directory, "", _CLONE)
    except OSError as err:
        if err.errno != errno.EINVAL or source.namespace < 0:
            raise _uncloned(source, err) from err
    else:
        stack.callback(os.close, mount)
        return mount, _look(source, "self"), ""
    keep = (source.directory, source.namespace)
    try:
        with errands.run(lambda: _clone_there(source), keep, deadline) as errand:
            stack.callback(os.close, errand.descriptor)
            return errand.descriptor, _look(source, errand.pid), "elsewhere"
    except DkrError as err:
        if err.errno == errno.EINVAL:
            raise _uncloned(source, OSError(errno.EINVAL, "open_tree")) from err
        raise


def _clone_there(source: Source) -> int:
    """The whole of what root does in the client's mount namespace."""
    syscalls.setns(source.namespace, syscalls.CLONE_NEWNS)
    return syscalls.open_tree(source.directory, "", _CLONE)


def _uncloned(source: Source, err: OSError) -> DkrError:
    if err.errno == errno.EINVAL:
        return refusal(
            source.name,
            "its mount is unbindable, no longer mounted, or in a mount namespace that is not its caller's",
            "run dkrctl where the directory is mounted",
            number=err.errno,
        )
    return refusal(source.name, os.strerror(err.errno or 0).lower(), number=err.errno)


def _look(source: Source, pid: int | str) -> str:
    """The type of the filesystem, by the mounts that process `pid` sees. Raises for what is no root for this caller."""
    number = syscalls.statx(source.directory).mount
    path = os.readlink(f"/proc/self/fd/{source.directory}")
    own: mountinfo.Mounted | None = None
    for mounted in mountinfo.read(pid):
        if mounted.id == number:
            own = mounted
        elif mounted.parent == number and mountinfo.covers(mounted.point, path):
            raise covered(source.name, mounted.point)
    if own is None:
        raise refusal(source.name, "its mount is attached nowhere", "mount it where the caller sees it")
    kind = own.type.partition(".")[0]
    if kind in KERNELS:
        raise refusal(source.name, f"{own.type} is a view of the kernel's, not a filesystem for files")
    if kind in SERVED and not source.anywhere:
        raise NotPermitted(
            f"cannot use {source.name} as the root: it is on a filesystem of type {own.type}, which waits for a server",
            rule="rootfs-filesystem",
            hint=f"{LOCAL_HINT}; or ask an administrator",
        )
    return kind


def covered(name: str, point: str) -> StartFailed:
    """The error where something is mounted in the tree: a clone without that would show what it covers."""
    return refusal(
        name,
        f"{point} is mounted there, and what that covers must stay covered",
        "name a directory with nothing mounted below it; / itself always has something",
    )


def _must_answer(name: str, mount: int, deadline: float) -> None:
    """Raise where the filesystem is dead. Asked before anything of the container stands: what waits for it cannot always be
    killed, and an init that was to be reaped together with it neither.
    """

    def ask() -> int:
        os.fstatvfs(mount)
        return -1

    try:
        with errands.run(ask, (mount,), deadline):
            return
    except StartFailed as err:
        raise (unanswered(name) if err.step == "deadline" else err) from err


def user_namespace(ids: tuple[int, int], base: int) -> int:
    """A user namespace, made by root and empty, in which one uid and one gid are the container's root and no other id is
    anybody: its descriptor.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone3(syscalls.CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(write)
            os.read(read, 1)
        finally:
            os._exit(0)
    os.close(read)
    try:
        for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, f"{number} {base} 1\n".encode())
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Internal("cannot start the container: the process that holds its id map died") from None
    finally:
        os.close(write)
        os.waitpid(pid, 0)
