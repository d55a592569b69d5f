"""A copy from or to a container: one process inside, from its fork to its end, and a pipe that the bytes go through.

    guardian (host root)                         child
    clone3 ────────────────────────────────────► in the container's cgroup; all that is not its own closed
                                                 setns(init, all namespaces but pid); becomes root inside
                                                 holds, of capabilities, what the container has and files need
       ◄──────────────────────────── "stat" ──── finds what is meant, by openat2(RESOLVE_IN_ROOT)
                                                 tree ─► tar ─► the caller's pipe, or the way back
       ◄──────────────────── "done" or "error" ─ and is gone

What the container does to its tree meanwhile (CVE-2018-15664) it does to what it could reach itself: there is no other root than its
own here, and no right but its root's. The child is not in its pid namespace, so nobody inside sees it; it executes nothing, loads
nothing (CVE-2019-14271: all is imported, no name of a user is looked up), and makes no device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from common import frames, tar
from common.copies import Destination, Source, failed, is_contents, name_at, split, top_of
from common.errors import BadRequest, Conflict, DkrError, NotFound
from common.packing import Packer
from common.unpacking import Rules, Unpacker
from dkrd.runtime import (
    capabilities,
    cgroups,
    errands,
    failure,
    joining,
    mountinfo,
    paths,
    signals,
    syscalls,
    trees,
)

if TYPE_CHECKING:
    import socket

    from dkrd.runtime.spec import Process

WHAT = "copy"
MAX_RECORD = 64 * 1024  # bytes; the target of a link may be a path of 4096, and is told in JSON
_MAX_LINKS = 40  # as the kernel follows, path_resolution(7)
# What of a container's capabilities has to do with files that are copied.
_WANTED = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be copied.

    outward   from the container
    path      inside
    follow    outward: what a link at its end points to
    keep_ids  inward: uids and gids of the archive, not root's
    source    inward: what the archive is of; None: of anything, for a directory that is there
    """

    outward: bool
    path: str
    follow: bool = False
    keep_ids: bool = False
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A copy, as its process has it. `data`: the pipe, -1: only what is there is to be told. The rest as in joining.Task; `pid` of init."""

    wanted: Wanted
    data: int
    process: Process
    namespaces: frozenset[str]
    pid: int
    pidfd: int
    cgroup: cgroups.Cgroup
    last_cap: int
    sync: socket.socket


def fork(task: Task) -> int:
    """Fork the process; its pid. What becomes of it comes over the other end of `task.sync`. Raises OSError."""
    return joining.born(task.cgroup.leaf, partial(_run, task, os.getpid()))


def _run(task: Task, guardian: int, born: bool) -> NoReturn:
    """The child's whole life. `born`: in the v2 leaf, where there is one."""
    steps = joining.Steps()
    error = task.sync.fileno()
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.set_name("dkr-copy")
        steps.begin("descriptors")
        ways = (*task.cgroup.tasks, task.cgroup.leaf)
        errands.keep_only((error, task.pidfd, task.data, *ways))
        for number in range(3):
            os.dup2(error, number)  # the daemon's log, among others, was there
        steps.begin("mounts")
        kernel = _of_the_kernel(task.pid)
        joining.join(task, steps, born=born)
        os.close(task.pidfd)
        steps.begin("capabilities")
        rights = capabilities.mask(
            tuple(name for name in _WANTED if name in task.process.capabilities.bounding)
        )
        capabilities.set_all(rights, rights, 0)
        # It may wait for its client, and sees by nothing else that there is nobody to guard it any more.
        signals.when_parent_ends(guardian, signal.SIGKILL)
        os.umask(0)  # every mode is said
        steps.begin("copy")
        _copy(task, error, kernel)
    except BaseException as err:
        _tell(error, {"type": "error", "error": failure.describe(err, steps.current, WHAT).to_wire()})
    os._exit(0)


def _tell(sync: int, record: dict[str, object]) -> None:
    data = frames.dumps(record)
    if len(data) <= MAX_RECORD:
        os.write(sync, data)


def _of_the_kernel(pid: int) -> frozenset[int]:
    """st_dev of the filesystems that are views of the kernel's. Raises Conflict where the container's first process has ended, though it
    may not be gone: it is the last to be, and what was started in it may wait for something that never answers.
    """
    try:
        return frozenset(mount.device for mount in mountinfo.read(pid) if mount.type in trees.KERNELS)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOENT, errno.ESRCH):
            raise
        raise Conflict("cannot copy: the container has ended", rule="ended") from err


def _copy(task: Task, sync: int, kernel: frozenset[int]) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if task.data >= 0:
        os.set_blocking(task.data, True)
    if task.wanted.outward:
        _outward(task, root, sync, kernel)
    else:
        _inward(task, root, sync)


def _outward(task: Task, root: int, sync: int, kernel: frozenset[int]) -> None:
    wanted = task.wanted
    place, name, found = _existing(root, wanted.path, follow=wanted.follow)
    top = top_of(wanted.path)
    link = os.readlink(name, dir_fd=place) if stat.S_ISLNK(found.st_mode) else ""
    told = {
        "name": _text(split(wanted.path)[1]),
        "size": found.st_size,
        "mode": found.st_mode,
        "mtime": found.st_mtime,
        "linkTarget": _text(link),
    }
    _tell(sync, {"type": "stat", "stat": told})
    if task.data < 0:
        _tell(sync, {"type": "done", "notes": {}})
        return
    packer = Packer(partial(_write, task.data), kernel)
    packer.pack(place, name, top)
    os.close(task.data)  # before it is told: who reads to the end needs not wait for us
    _tell(sync, {"type": "done", "notes": packer.notes.to_wire()})


def _inward(task: Task, root: int, sync: int) -> None:
    wanted = task.wanted
    place, name, rules = _where(root, wanted)
    _tell(sync, {"type": "stat", "stat": {"name": name}})
    unpacker = Unpacker(tar.Reader(partial(os.read, task.data)), place, rules)
    unpacker.unpack()
    _tell(sync, {"type": "done", "notes": unpacker.notes.to_wire()})


def _where(root: int, wanted: Wanted) -> tuple[int, str, Rules]:
    """The directory below which it is laid, what it is called there, how."""
    owner = None if wanted.keep_ids else (0, 0)
    if wanted.source is None:
        place, name, found = _existing(root, wanted.path, follow=True)
        if not stat.S_ISDIR(found.st_mode):
            raise BadRequest(f"cannot copy to {wanted.path}: that is no directory", errno=errno.ENOTDIR)
        return _directory(place, name, wanted.path), ".", Rules(owner, wanted.keep_ids)
    place, name = _find(root, wanted.path, follow=True)
    try:
        mode = os.stat(name, dir_fd=place, follow_symlinks=False).st_mode
    except FileNotFoundError:
        mode = 0
    directory = stat.S_ISDIR(mode)
    asserted = wanted.path.endswith("/") or is_contents(wanted.path)
    there = Destination(wanted.path, os.fsencode(name), bool(mode), directory, asserted)
    new = name_at(wanted.source, there)
    if new is None:
        place = _directory(place, name, wanted.path)
    rules = Rules(owner, wanted.keep_ids, top=wanted.source.name, name=new)
    return place, os.fsdecode(new or wanted.source.name), rules


def _directory(place: int, name: str, path: str) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    except OSError as err:
        raise failed("copy to", os.fsencode(path), err) from err


def _existing(root: int, path: str, *, follow: bool) -> tuple[int, str, os.stat_result]:
    """What a path names, as its directory and its name in that, "." for itself. Raises NotFound, BadRequest."""
    contents = is_contents(path) or path.endswith("/")
    place, name = _find(root, path, follow=follow or contents)
    try:
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
    except OSError as err:
        raise _missing(path, err) from err
    if contents and not stat.S_ISDIR(found.st_mode):
        raise BadRequest(f"cannot copy {path}: that is no directory", errno=errno.ENOTDIR)
    return place, name, found


def _find(root: int, path: str, *, follow: bool) -> tuple[int, str]:
    """The same of what need not be there. Links on the way, and at the end with `follow`, are those of the container."""
    wanted = path
    try:
        for _ in range(_MAX_LINKS):
            directory, name = split(path)
            if name in (".", "..") or not path.strip("/"):
                return paths.open_inside(root, path), "."
            place = paths.open_inside(root, directory)
            link = _link(place, name) if follow else None
            if link is None:
                return place, name
            os.close(place)
            path = link if link.startswith("/") else f"{directory}/{link}"
    except OSError as err:
        raise _missing(wanted, err) from err
    raise _missing(wanted, OSError(errno.ELOOP, "readlink"))


def _link(place: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=place)
    except OSError as err:
        if err.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _missing(path: str, err: OSError) -> DkrError:
    if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return NotFound(
            f"cannot find {path} in the container: {os.strerror(err.errno).lower()}", errno=err.errno
        )
    return failed("find", os.fsencode(path), err)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_pipe(fd: int) -> bool:
    """Whether it is one, by what the kernel knows: no filesystem is asked."""
    return stat.S_ISFIFO(syscalls.statx(fd).mode) and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
