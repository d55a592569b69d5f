"""Errands: processes that do for a guardian the one thing that it must not do itself, and that can be left behind.

    guardian ── fork ─► errand: closes what it does not need, does its work, sends a descriptor or an error's record
        ▲                  │                                       then waits until the guardian lets it go
        └── socket pair ───┘

What must not be done by the guardian: to enter somebody else's mount namespace, and to touch a filesystem whose server may
not answer. A process that waits for such a server may not even die of SIGKILL (a FUSE request that was read and is never
answered: Documentation/filesystems/fuse.rst, "Interrupting filesystem operations"); then it is left to itself, holding
nothing of the caller's, until the kernel lets it go.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from common.errors import Internal, StartFailed
from dkrd.runtime import failure, signals, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 2.0  # seconds that a process has to end in, and again once it was killed, before it counts as stuck in the kernel


class Errand(NamedTuple):
    """An errand that has done its work and waits; `descriptor` is what it sent, the caller's now, or -1."""

    pid: int
    descriptor: int


@contextlib.contextmanager
def run(work: Callable[[], int], keep: tuple[int, ...], deadline: float) -> Iterator[Errand]:
    """Fork a process that calls `work` and sends the descriptor that it returns (-1: none); it lives for the block.

    keep      the descriptors that `work` needs; all others are closed first
    deadline  on the monotonic clock, seconds

    Raises the DkrError that `work` raised, or what describes its OSError; StartFailed with the step `deadline` where it is
    not done in time.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with signals.blocked():
            pid = os.fork()
            if pid == 0:
                _do(work, keep, theirs)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    pidfd = os.pidfd_open(pid)
    done = False
    try:
        descriptor = _answer(ours, deadline)
        done = True
        yield Errand(pid, descriptor)
    finally:
        ours.close()
        end(pid, pidfd, kill=not done)
        os.close(pidfd)


def end(pid: int, pidfd: int, *, kill: bool) -> int | None:
    """Reap a child that is about to end (or is to be killed at once): its wait status. One that does not end is killed;
    None where even that has not ended it: it is stuck in the kernel, and left behind.
    """
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if kill or not ended.poll(PATIENCE * 1000):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not ended.poll(PATIENCE * 1000):
            return None
    return os.waitpid(pid, 0)[1]


def late() -> StartFailed:
    """What is said at a build's deadline."""
    return StartFailed(
        "cannot start the container: its build did not end in time",
        step="deadline",
        hint="the setting limits.start_seconds",
    )


def _do(work: Callable[[], int], keep: tuple[int, ...], sock: socket.socket) -> NoReturn:
    """In the child. It opens nothing that `work` does not open, and never returns into the guardian's code."""
    try:
        keep_only((*keep, sock.fileno()))
        syscalls.set_name("dkr-errand")
        signals.unblock_all()
        try:
            descriptor = work()
            rights = array.array("i", [descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptor >= 0 else []
            sock.sendmsg([b"+"], ancillary, socket.MSG_NOSIGNAL)
        except Exception as err:
            failure.send(sock.fileno(), err, "root")
        sock.recv(1)  # the end of file: the guardian needs us no more
    finally:
        os._exit(0)


def keep_only(descriptors: tuple[int, ...]) -> None:
    """Close every descriptor but 0, 1, 2, which are the daemon's, and `descriptors`: a process that is stuck must hold
    nothing of the caller's.
    """
    first = 3
    for kept in sorted({fd for fd in descriptors if fd >= 3}):
        if kept > first:
            syscalls.close_range(first, kept - 1)
        first = kept + 1
    syscalls.close_range(first)


def _answer(sock: socket.socket, deadline: float) -> int:
    if not select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise late()
    room = socket.CMSG_SPACE(4)
    data, ancillary, _, _ = sock.recvmsg(failure.MAX_RECORD, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return int(array.array("i", payload)[0])
    if data == b"+":
        return -1
    raise failure.decode(data) if data else Internal("cannot start the container: an errand died")
