"""A further command in a container that runs: from its guardian to execve, by one fork.

    guardian (host root)                                        child
    setns(init, CLONE_NEWPID); clone3; setns back ────────────► in the container's pid namespace and v2 cgroup; all that is not
                                                                its own closed; v1 cgroups
                                                                setns(init, all other namespaces); becomes root inside
       ◄──────────────────────────── "master", where wanted ─── user, terminal, filter, descriptors, capabilities, directory
       ◄──────────────────────────────────────────── "execve" ─┤
       ◄──────────────────────────────────────── end of file ───┘ or the error's record

From its birth the child is seen by the processes inside (CVE-2016-9962, CVE-2019-5736): its program is not theirs to reach, it is
not dumpable, and it closes what is the guardian's before it is root of their user namespace, whose rights over it they could have. Its
memory belongs to the host's user namespace until execve, so no capability of theirs counts for it (ptrace(2), "Ptrace access mode
checking"). Nothing is imported here.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol

from common.errors import CommandNotFound
from dkrd.runtime import becoming, build, cgroups, errands, failure, signals, syscalls, users

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dkrd.runtime.spec import Process
    from dkrd.runtime.steps import What

EXECVE = b"execve"
WHAT = "execute the command"
_FLAGS = {
    "user": syscalls.CLONE_NEWUSER,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "network": syscalls.CLONE_NEWNET,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A command to be executed in a container that runs.

    process     what, as whom, where, with which rights
    user        "NAME[:GROUP]" to look up inside, or None for the process's numbers
    namespaces  those that the container has of its own
    pidfd       of its init
    cgroup      its cgroup, with descriptors
    stdio       {0..2: descriptor}
    tty         those of 0..2 that get a terminal
    preserved   descriptors that become 3, 4, ... in this order
    program     the compiled seccomp filter
    last_cap    the kernel's highest capability
    sync        SEQPACKET to the guardian; its end closes with execve
    """

    process: Process
    user: str | None
    namespaces: frozenset[str]
    pidfd: int
    cgroup: cgroups.Cgroup
    stdio: dict[int, int]
    tty: tuple[int, ...]
    preserved: tuple[int, ...]
    program: bytes
    last_cap: int
    sync: socket.socket


class Joins(Protocol):
    """Of a task, what it takes to be where a container is. Fields as in Task."""

    @property
    def process(self) -> Process: ...
    @property
    def namespaces(self) -> frozenset[str]: ...
    @property
    def pidfd(self) -> int: ...
    @property
    def cgroup(self) -> cgroups.Cgroup: ...
    @property
    def last_cap(self) -> int: ...


class Steps:
    """Which step is under way, for the error's record."""

    def __init__(self) -> None:
        self.current = ""

    def begin(self, name: str, what: What = "") -> None:
        self.current = name

    def note(self, text: str) -> None:
        """Nobody asks."""


def fork(task: Task) -> int:
    """Fork the child; its pid as the host counts. What becomes of it comes over the other end of `task.sync`. Raises OSError."""
    own = -1
    try:
        if "pid" in task.namespaces:
            own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(task.pidfd, syscalls.CLONE_NEWPID)
        return born(task.cgroup.leaf, partial(_run, task))
    finally:
        if own >= 0:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
            os.close(own)


def born(leaf: int, run: Callable[[bool], NoReturn]) -> int:
    """Fork a child that is `run`, told whether it was born in the v2 cgroup `leaf` (-1: there is none); its pid. Raises OSError."""
    # Beside a thread of the guardian's (descriptors.py) only the C library's own fork leaves a child that the library works
    # in: after a bare clone3 it would wait for that thread, in setgroups(2) for one.
    alone = len(os.listdir("/proc/self/task")) == 1
    with signals.blocked():
        pid = syscalls.clone3(0, leaf) if alone else os.fork()
        if pid == 0:
            run(alone)
    return pid


def _run(task: Task, born: bool) -> NoReturn:
    """The child's whole life. `born`: in the v2 leaf, where there is one."""
    steps = Steps()
    error = task.sync.fileno()
    try:
        # Inherited as well: said here because all depends on it.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        steps.begin("descriptors")
        ways = (*task.cgroup.tasks, task.cgroup.leaf)
        errands.keep_only((error, task.pidfd, *ways, *task.stdio.values(), *task.preserved))
        for number in range(3):
            os.dup2(error, number)  # the daemon's log, among others, was there
        # High, so that no preserved descriptor lands on it.
        error = fcntl.fcntl(error, fcntl.F_DUPFD_CLOEXEC, 3 + len(task.preserved) + 3)
        join(task, steps, born=born)
        _become(task, error, steps)
    except BaseException as err:
        failure.send(error, _of_exec(err), steps.current or "exec", WHAT)
    os._exit(125)


def _of_exec(err: BaseException) -> BaseException:
    if isinstance(err, CommandNotFound):
        err.hint = None  # that of `run`, which may have taken the command for an image
    return err


def join(task: Joins, steps: Steps, *, born: bool) -> None:
    """Be where the container is: its cgroup, its namespaces, root of its users."""
    steps.begin("enter cgroup")
    # While still uid 0 of the host, whose files these are.
    task.cgroup.enter(born=born)
    task.cgroup.close()
    build.end_protection("self")
    steps.begin("namespaces")
    flags = syscalls.CLONE_NEWNS
    for name, flag in _FLAGS.items():
        flags |= flag if name in task.namespaces else 0
    # All at once: of another user namespace the kernel gives the rights first, by which the others are joined.
    syscalls.setns(task.pidfd, flags)
    if "user" in task.namespaces:
        steps.begin("identity")
        becoming.be_root()
    becoming.begin_anew(task.process, task.last_cap, steps)


def _become(task: Task, error: int, steps: Steps) -> NoReturn:
    process = task.process
    steps.begin("user")
    user = users.resolve(task.user, process.uid, process.gid, process.additional_gids)
    stdio = dict(task.stdio)
    if task.tty:
        steps.begin("terminal")
        master, peer = becoming.terminal(process.rows, process.columns, task.tty, user.uid)
        becoming.send_master(task.sync, master)
        stdio |= dict.fromkeys(task.tty, peer)
    steps.begin("filter")
    syscalls.seccomp_filter(task.program)
    steps.begin("descriptors")
    becoming.descriptors(stdio, task.preserved, error)
    becoming.become(
        process,
        user,
        steps,
        controlling=0 in task.tty,
        last=lambda: _announce(error),
    )


def _announce(error: int) -> None:
    """The command is next: an end of file without this is a death before it."""
    os.write(error, EXECVE)
