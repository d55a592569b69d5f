"""A guardian forked ahead: it waits for the container that it is to guard, so that a start need not wait for a fork.

  launcher ── fork ─► spare: rehearses, waits ── the start's descriptors and bundle ─► guardian

What a fork costs is paid between two starts: the copy of the page tables, and then, page by page, of the memory that a
guardian's first steps write to. On cgroup v2 there is none: there a guardian is born in its container's cgroup, and to be moved
into it would cost more than what is won.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from dataclasses import dataclass, replace
from functools import partial

from common import frames
from common.errors import DkrError, ProtocolError
from dkrd.launcher import runner, wire
from dkrd.runtime.syscalls import set_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.loop import Loop
    from dkrd.launcher.requests import Host
    from dkrd.launcher.shims import OpenFiles
    from dkrd.shim.task import ShimTask

_MOST = 64 * 1024  # bytes of a bundle; one that is longer takes a fork
_ROOM = _MOST + 1024  # for what stands before it


@dataclass(frozen=True, slots=True)
class _Waiting:
    host: Host
    sock: socket.socket
    pid: int
    pidfd: int


class Spare:
    """At most one that waits. `run` is what a guardian does, `rehearse` what it may do before it knows of whom it is one."""

    def __init__(
        self,
        loop: Loop,
        limits: OpenFiles,
        run: Callable[[ShimTask], None],
        rehearse: Callable[[ShimTask], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._run = run
        self._rehearse = rehearse
        self._waiting: _Waiting | None = None

    def prepare(self, host: Host, blank: ShimTask) -> None:
        """Fork one for `host`, if none waits; `blank` is what is known of the task. Where there is no room for it there is none."""
        if self._waiting is not None and self._waiting.host is host:
            return
        self.drop()
        try:
            ours, theirs = wire.pair()
        except OSError:
            return
        with theirs:
            try:
                pid = runner.fork(self._loop, partial(self._wait, theirs, blank))
                self._waiting = _Waiting(host, ours, pid, runner.open_child(pid))
            except OSError:
                ours.close()
                return
        self._loop.watch(self._waiting.pidfd, select.EPOLLIN, partial(self._ended, self._waiting))

    def take(self, host: Host, task: ShimTask) -> int | None:
        """Hand `task` over: the pid of its guardian, a child of ours; None where no spare waits that was forked for `host`."""
        spare = self._waiting
        if spare is None or spare.host is not host or len(task.bundle or b"") > _MOST:
            return None
        given = [task.connection, *([task.session] if task.session >= 0 else [])]
        head = {
            "id": task.id,
            "request": task.request,
            "slotHint": task.slot_hint,
            "begun": task.begun,
            "made": task.bundle is None,
        }
        try:
            spare.sock.sendmsg(
                [frames.dumps(head), b"\n", task.bundle or b""],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))],
                socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
            )
        except OSError:
            return None  # it died this moment
        self._waiting = None
        self._loop.forget(spare.pidfd)
        os.close(spare.pidfd)
        spare.sock.close()
        return spare.pid

    def drop(self) -> None:
        """Let go of the one that waits, if any: it ends, and is reaped then."""
        if self._waiting is not None:
            self._waiting.sock.close()
            self._waiting = None

    def _ended(self, spare: _Waiting, events: int) -> None:
        self._loop.forget(spare.pidfd)
        os.waitid(os.P_PIDFD, spare.pidfd, os.WEXITED)
        os.close(spare.pidfd)
        spare.sock.close()
        if self._waiting is spare:
            self._waiting = None

    # --- in the child

    def _wait(self, sock: socket.socket, blank: ShimTask) -> None:
        os.setsid()
        runner.keep_only((sock.fileno(), blank.reports))
        self._limits.restore()
        set_name("dkr-spare")
        with contextlib.suppress(DkrError, OSError):  # what is wrong is told when it is done for somebody
            self._rehearse(blank)
        data, ancillary, flags, _ = sock.recvmsg(_ROOM, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        set_name("dkr-shim")
        sock.close()
        self._run(_task_of(blank, data, ancillary, flags))


def _task_of(blank: ShimTask, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> ShimTask:
    given = array.array("i")
    for _, _, payload in ancillary:
        given.frombytes(payload)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not given:
        raise ProtocolError("cannot take a start: it came without its descriptors")
    head, _, bundle = data.partition(b"\n")
    said = frames.loads_object(head)
    return replace(
        blank,
        id=str(said["id"]),
        request=str(said["request"]),
        connection=given[0],
        session=given[1] if len(given) > 1 else -1,
        bundle=None if said["made"] else bundle,
        slot_hint=int(str(said["slotHint"])),
        begun=int(str(said["begun"])),
        ahead=True,
    )
