"""The build of one container, in the order that makes its walls hold; called by its guardian, which stays its parent.

    guardian (host root)                                        init (container's root)
    unshare(NEWNS): M
    clone3(NEWUSER|NEWPID) ───────────────────────────────────► v1 cgroups; waits
    id maps, "maps" ──────────────────────────────────────────► becomes root inside
    mounts in M                                                 unshare(NEWNET|NEWIPC|NEWUTS|NEWCGROUP); loopback up
    setns(net, ipc) ◄───────────────────────────────── "ready" ─┤
    mqueue, sysfs, masks; pivot_root; setns back to the host    │
    "root" ───────────────────────────────────────────────────► unshare(NEWNS): locked; … execve

M is owned by the host's user namespace: what is mounted there by host root, masks and read-only paths above all, the container's root
can neither unmount nor remount once init has unshared it (mount_namespaces(7), "locked mounts"). Before Linux 6.18 a forked
helper does the mounting (mounting.py).
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import select
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common.errors import DkrError, Internal, StartFailed
from dkrd.runtime import (
    cgroups,
    errands,
    failure,
    init,
    init_steps,
    mounting,
    signals,
    strace,
    syscalls,
    trees,
)
from dkrd.runtime.operations import Operation, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.runtime.spec import Spec
    from dkrd.runtime.steps import Log, Recorder

IDS = 65536  # ids a container

_UNSHARE = 'unshare(CLONE_NEWNS); mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, {propagation=MS_PRIVATE})'
_CLONE_FLAGS = {"user": syscalls.CLONE_NEWUSER, "pid": syscalls.CLONE_NEWPID}


@dataclass(frozen=True, slots=True)
class Task:
    """A container to be built.

    directory  the container's own on the host; holds upper/, work/, l/ and m/
    plan       from mounts.plan()
    base       host id of the container's id 0; 0 with the host's user namespace
    deadline   on the monotonic clock, seconds
    tree       the directory that `plan` has for the root, where it has one
    notify     a socket is made inside for what the command tells its client's service manager
    rests      no command is executed: init holds what was made until the first of `preserved` says the end of file
    """

    spec: Spec
    plan: tuple[Operation, ...]
    directory: str
    base: int
    cgroup: cgroups.Cgroup
    deadline: float
    user: str | None
    reaper: bool
    stdio: dict[int, int]
    tty: tuple[int, ...]
    preserved: tuple[int, ...]
    program: bytes
    last_cap: int
    tree: trees.Source | None = None
    notify: bool = False
    rests: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A running container, and the descriptors by which it is held.

    pid     of its init, as the host counts
    pidfd   of its init
    mounts  its mount namespace; -1 where it has ended already
    master  of its pty, or -1
    notify  the socket for that, or -1
    """

    pid: int
    pidfd: int
    mounts: int
    master: int
    notify: int = -1


def build(task: Task, recorder: Recorder) -> Built:
    """Build and start the container of `task`; returns when execve has succeeded.

    Raises DkrError; then nothing of the build is left but what the caller made.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise Internal("cannot start the container: its guardian has a second thread")
    with contextlib.ExitStack() as stack:
        try:
            return _build(task, recorder, stack)
        except DkrError:
            raise
        except OSError as err:
            raise failure.describe(err, recorder.current) from err
        finally:
            recorder.finish()  # what the stack undoes is no part of the start


def _build(task: Task, recorder: Recorder, stack: contextlib.ExitStack) -> Built:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stack.callback(ours.close)
    read, write = os.pipe2(os.O_CLOEXEC)
    stack.callback(os.close, read)
    log = recorder.child("init", partial(init_steps.describe, task))
    tree = trees.Tree()
    if task.tree is not None:
        recorder.begin("clone root", partial(trees.describe, task.tree, task.base))
        tree = stack.enter_context(trees.taken(task.tree, task.base, task.deadline))
        recorder.note(tree.note)
    with _mount_namespace(recorder), _time_namespace(task.spec, recorder):
        flags = 0
        for name, flag in _CLONE_FLAGS.items():
            flags |= flag if name in task.spec.namespaces else 0
        recorder.begin("clone", partial(_describe_clone, flags, task.cgroup.leaf >= 0))
        try:
            with signals.blocked():
                pid = syscalls.clone3(flags, task.cgroup.leaf)
                if pid == 0:
                    ours.close()
                    init.run(_init_task(task, theirs, write, log))
        finally:
            os.close(write)
            theirs.close()
        recorder.note(str(pid))
        pidfd = os.pidfd_open(pid)
        kill = stack.enter_context(_killed_on_failure(pid, pidfd))
        end_protection(pid)
        userns = _map_ids(pid, task, recorder, stack)
        ours.send(init.MAPS)
        work = mounting.Work(
            plan=task.plan,
            directory=task.directory,
            namespaces=task.spec.namespaces,
            pidfd=pidfd,
            stage=Stage(base=task.base, userns=userns, tree=tree),
            ready=lambda: _await_ready(ours, read, task.deadline),
            keep=(ours.fileno(), read),
        )
        helper = _fill(work, pid, recorder)
        recorder.begin("return", partial(_describe_return, task.spec))
    if helper is not None:
        recorder.begin("await helper", f"read(errors, {failure.MAX_RECORD}) = 0; wait4({helper.pid})")
        helper.join(lambda fd: _read_of_helper(fd, task))
    recorder.begin("root", 'sendto(sync, "root")')
    ours.send(init.ROOT)
    master, notify = _of_init(task, ours, read, recorder, stack)
    recorder.begin("await execve", f"read(errors, {failure.MAX_RECORD}) = 0")
    _raise_if_any(_read_to_end(read, task.deadline))
    recorder.finish()
    kill.pop_all()
    mounts = -1
    with contextlib.suppress(OSError):
        mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    return Built(pid, pidfd, mounts, master, notify)


def _fill(work: mounting.Work, pid: int, recorder: Recorder) -> mounting.Helper | None:
    """Mount the root: here where the kernel allows it and nothing can hang, else by a helper that is to be waited for."""
    own = work.stage.tree.mount < 0
    if own and ("pid" not in work.namespaces or mounting.proc_names_namespace()):
        if "pid" in work.namespaces:
            work.stage.pidns = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            mounting.fill_here(work, recorder)
        finally:
            if work.stage.pidns >= 0:
                os.close(work.stage.pidns)
        return None
    recorder.begin("helper", "setns(pidfd, CLONE_NEWPID); fork(); setns(own pid namespace, CLONE_NEWPID)")
    size = 4096 + 256 * len(work.plan)
    with signals.blocked():
        return mounting.fill_by_helper(work, recorder.child("helper", partial(mounting.describe, work), size))


def _read_of_helper(fd: int, task: Task) -> bytes:
    """What the helper has to say, up to its end."""
    try:
        return _read_to_end(fd, task.deadline)
    except StartFailed as err:
        raise (err if task.tree is None else trees.unanswered(task.tree.name)) from None


def _await_ready(sync: socket.socket, errors: int, deadline: float) -> None:
    """Wait until init has its namespaces and needs the host's tree no more; its error, where that came instead."""
    ready, _, _ = select.select([sync], [], [], max(0.0, deadline - time.monotonic()))
    if ready and sync.recv(16) == init.READY:
        return
    _raise_if_any(_read_to_end(errors, deadline))
    raise Internal("cannot start the container: init ended while it was built")


def _describe_clone(flags: int, into_cgroup: bool, note: str) -> str:
    names = strace.flags(flags | (syscalls.CLONE_INTO_CGROUP if into_cgroup else 0), "CLONE_")
    cgroup = ", cgroup=its leaf" if into_cgroup else ""
    return f"clone3({{flags={names}, exit_signal=SIGCHLD{cgroup}}})" + (f" = {note}" if note else "")


def _describe_return(spec: Spec, note: str) -> str:
    time = "setns(the host's, CLONE_NEWTIME); " if "time" in spec.namespaces else ""
    return f"{time}setns(the host's, CLONE_NEWNS)"


def _init_task(task: Task, sync: socket.socket, error: int, log: Log) -> init.InitTask:
    return init.InitTask(
        spec=task.spec,
        user=task.user,
        reaper=task.reaper,
        stdio=task.stdio,
        tty=task.tty,
        preserved=task.preserved,
        program=task.program,
        last_cap=task.last_cap,
        tasks=task.cgroup.tasks,
        notify=task.notify,
        rests=task.rests,
        sync=sync,
        error=error,
        log=log,
    )


@contextlib.contextmanager
def _mount_namespace(recorder: Recorder) -> Iterator[None]:
    """A private mount namespace M for the block; afterwards the host's again. M lives on in whoever was
    cloned meanwhile.
    """
    host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        recorder.begin("mount namespace", _UNSHARE)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        try:
            syscalls.mount_setattr(syscalls.AT_FDCWD, "/", propagation=syscalls.MS_PRIVATE, recursive=True)
            yield
        finally:
            syscalls.setns(host, syscalls.CLONE_NEWNS)
    finally:
        os.close(host)


@contextlib.contextmanager
def _time_namespace(spec: Spec, recorder: Recorder) -> Iterator[None]:
    """Children of the block are born in a time namespace of their own, where the spec wants one;
    time_namespaces(7).
    """
    if "time" not in spec.namespaces:
        yield
        return
    host = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    try:
        recorder.begin("time namespace", "unshare(CLONE_NEWTIME)")
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        try:
            yield
        finally:
            syscalls.setns(host, syscalls.CLONE_NEWTIME)
    finally:
        os.close(host)


@contextlib.contextmanager
def _killed_on_failure(pid: int, pidfd: int) -> Iterator[contextlib.ExitStack]:
    """Kill and reap init when the block's owner fails; `pop_all()` on the yielded stack calls that off."""

    def undo() -> None:
        errands.end(pid, pidfd, kill=True)
        os.close(pidfd)

    with contextlib.ExitStack() as stack:
        stack.callback(undo)
        yield stack


@functools.cache
def oom_score() -> int:
    """How this process is judged when memory runs out: oom_score_adj of proc(5), read once."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as stream:
        return int(stream.read())


def end_protection(pid: int | str) -> None:
    """A daemon that is spared when memory runs out (OOMScoreAdjust= of its unit) has containers that are not.

    Written from here, where the capability for it is: then the container cannot go back to the old value either.
    """
    if oom_score() < 0:
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def _map_ids(pid: int, task: Task, recorder: Recorder, stack: contextlib.ExitStack) -> int:
    """Write init's id maps; the descriptor of its user namespace, or -1 where that is the host's."""
    if "user" not in task.spec.namespaces:
        return -1
    recorder.begin("id maps", partial(_describe_maps, pid, task.base))
    line = f"0 {task.base} {IDS}\n".encode()
    for name in ("uid_map", "gid_map"):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, userns)
    return userns


def _describe_maps(pid: int, base: int, note: str) -> str:
    line = f'"0 {base} {IDS}"'
    return f'write("/proc/{pid}/uid_map", {line}); write("/proc/{pid}/gid_map", {line}); sendto(sync, "maps")'


def _read_to_end(fd: int, deadline: float) -> bytes:
    """Everything up to the end of file; StartFailed at the deadline."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise errands.late()
        chunk = os.read(fd, failure.MAX_RECORD)
        if not chunk:
            return data
        data += chunk


def _raise_if_any(data: bytes) -> None:
    if data:
        raise failure.decode(data)


def _of_init(
    task: Task, sync: socket.socket, errors: int, recorder: Recorder, stack: contextlib.ExitStack
) -> tuple[int, int]:
    """What init sends of its own: the pty's master, and the socket for a service manager; -1 where there is none."""
    master = notify = -1
    if task.spec.process.terminal:
        recorder.begin("master", 'recvmsg(sync, "master", SCM_RIGHTS [the terminal\'s master])')
        master = _receive(sync, errors, task.deadline, stack, "terminal")
    if task.notify:
        recorder.begin("notify socket", 'recvmsg(sync, "notify", SCM_RIGHTS [the socket])')
        notify = _receive(sync, errors, task.deadline, stack, "socket")
    return master, notify


def _receive(
    sync: socket.socket, errors: int, deadline: float, stack: contextlib.ExitStack, what: str
) -> int:
    """A descriptor from init; its error, where that came instead."""
    left = max(0.0, deadline - time.monotonic())
    ready, _, _ = select.select([sync], [], [], left)
    if ready:
        message, ancillary, _, _ = sync.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fd = array.array("i", data)[0]
                stack.enter_context(_closed_on_failure(fd))
                return int(fd)
        if message:
            raise Internal(f"cannot start the container: init sent no {what}")
    _raise_if_any(_read_to_end(errors, deadline))
    raise Internal(f"cannot start the container: init ended without a {what}")


@contextlib.contextmanager
def _closed_on_failure(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise
