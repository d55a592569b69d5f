"""Processes that a guardian puts into its container once that runs: what clients execute there (executed.py), and probes of its
health (probes.py). Each is forked by dkrd/runtime/joining.py; until it is the command it speaks over a socket.
"""

from __future__ import annotations

import array
import contextlib
import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import Internal, StartFailed
from dkrd.runtime import becoming, capabilities, cgroups, failure, joining

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.errors import DkrError
    from dkrd.loop import Loop
    from dkrd.runtime.build import Built
    from dkrd.runtime.spec import Process
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container, Passed
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


@dataclass(frozen=True, slots=True)
class Place:
    """The container, as all that is put into it has it in common."""

    loop: Loop
    task: ShimTask
    config: Config
    container: Container
    built: Built
    state: State

    @property
    def name(self) -> str:
        """The container's, as it is now."""
        return str(self.state.values["name"])

    def oom_kills(self) -> int:
        """How many of its processes were killed for want of memory."""
        return cgroups.oom_kills(self.container.cgroup.paths)


def fork(place: Place, process: Process, user: str | None, passed: Passed) -> tuple[int, socket.socket]:
    """Fork what is to be `process`, as `user` ("NAME[:GROUP]", or None: by its numbers): its pid, and the socket over which it
    speaks (Entry). The descriptors of `passed` stay the caller's. Raises OSError.
    """
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
        cgroup = cgroups.reopen(place.container.cgroup.paths)
        theirs.callback(cgroup.close)
        ours, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        theirs.callback(sync.close)
        ours.setblocking(False)
        pid = joining.fork(
            joining.Task(
                process=process,
                user=user,
                namespaces=place.config.spec.namespaces,
                pidfd=place.built.pidfd,
                cgroup=cgroup,
                stdio=passed.stdio,
                tty=passed.tty,
                preserved=passed.preserved,
                program=place.container.program,
                last_cap=capabilities.last_cap(),
                sync=sync,
            )
        )
        undo.pop_all()
    return pid, ours


class Entry:
    """What a process says until it is the command.

    on_end  called once, when it is that (None), or never will be: why not
    master  of its terminal, or -1
    """

    def __init__(
        self, place: Place, sync: socket.socket, on_end: Callable[[DkrError | None], None], *, terminal: bool
    ) -> None:
        self.master = -1
        self._place = place
        self._sync: socket.socket | None = sync
        self._on_end = on_end
        self._terminal = terminal
        self._announced = False
        self._error: DkrError | None = None
        self._ooms = place.oom_kills()
        place.loop.watch(sync.fileno(), select.EPOLLIN, lambda _events: self.hear())

    def hear(self) -> None:
        """Read what it has said by now."""
        while self._sync is not None:
            try:
                data, ancillary, _, _ = self._sync.recvmsg(
                    failure.MAX_RECORD, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self.master = array.array("i", payload)[0]
            if not data:
                self._end()
            elif data == joining.EXECVE:
                self._announced = True
            elif data != becoming.MASTER:
                self._error = failure.decode(data)

    def _end(self) -> None:
        assert self._sync is not None
        self._place.loop.forget(self._sync.fileno())
        self._sync.close()
        self._sync = None
        error = self._error
        if error is None and not self._announced:
            error = self._died()
        if error is None and self._terminal != (self.master >= 0):
            error = Internal("cannot execute the command: its process sent no terminal")
        self._on_end(error)

    def _died(self) -> StartFailed:
        starved = self._place.oom_kills() > self._ooms
        cause = "was killed for want of memory" if starved else "ended"
        return StartFailed(
            f"cannot execute in {self._place.name}: its process {cause} before it was the command",
            hint="the container's --memory is for all that runs in it" if starved else None,
        )
