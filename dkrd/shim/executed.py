"""One further command in a container: from its fork to its end. Its guardian waits for nothing: all comes as an event.

forked ─ "master", "execve", end of file ─► started ─ it ends ─► told, and gone
   └───── an error, or its death before ──► refused, and gone once it is reaped
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common.clock import now
from common.errors import DkrError, Internal, StartFailed
from dkrd.runtime import becoming, capabilities, cgroups, errands, failure, joining
from dkrd.shim import outlets
from dkrd.shim.called import Called
from dkrd.shim.clients import Clients, Deeds
from dkrd.shim.descriptors import close_soon
from dkrd.shim.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Loop, Timer
    from dkrd.runtime.build import Built
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.exec_request import Wanted
    from dkrd.shim.session import Session
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


_AGAIN = 0.05  # seconds until it is tried again to reap one that somebody traces


@dataclass(frozen=True, slots=True)
class Place:
    """The container, as all that is executed in it has it in common."""

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


class Executed:
    """The command.

    id    64 hex digits
    uid   who wanted it
    gone  called once it has ended and was reaped
    """

    def __init__(
        self,
        place: Place,
        session: Session,
        wanted: Wanted,
        uid: int,
        gone: Callable[[Executed], None],
    ) -> None:
        self.id = os.urandom(32).hex()
        self.uid = uid
        self.pid = 0
        self._begun = now()
        self._place = place
        self._session = session
        self._wanted = wanted
        self._gone = gone
        self._sync: socket.socket | None = None
        self._pidfd = -1
        self._master = -1
        self._announced = False
        self._error: DkrError | None = None
        self._clients: Clients | None = None  # once it is started
        self._timer: Timer | None = None
        self._retry: Timer | None = None
        self._cause: str | None = None
        self._killed = False
        self._refused = False
        self._ooms = cgroups.oom_kills(place.container.cgroup.paths)

    def describe(self) -> dict[str, object]:
        """For a list."""
        return {
            "id": self.id,
            "pid": self.pid,
            "uid": self.uid,
            "args": list(self._wanted.process.args),
            "terminal": self._wanted.process.terminal,
            "started": self._begun,
        }

    # --- up to execve

    def begin(self) -> None:
        """Fork it. Raises OSError; what was made is undone then. The caller's descriptors are closed here, whatever happens."""
        place, wanted = self._place, self._wanted
        paths = place.container.cgroup.paths
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            theirs.callback(close_soon, (*wanted.stdio.values(), *wanted.preserved))
            cgroup = cgroups.reopen(paths)
            theirs.callback(cgroup.close)
            self._sync, sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._sync.close)
            theirs.callback(sync.close)
            self._sync.setblocking(False)
            self.pid = joining.fork(
                joining.Task(
                    process=wanted.process,
                    user=wanted.user,
                    namespaces=place.config.spec.namespaces,
                    pidfd=place.built.pidfd,
                    cgroup=cgroup,
                    stdio=wanted.stdio,
                    tty=wanted.tty,
                    preserved=wanted.preserved,
                    program=place.container.program,
                    last_cap=capabilities.last_cap(),
                    sync=sync,
                )
            )
            undo.callback(self._abandon)
            self._pidfd = os.pidfd_open(self.pid)
            undo.pop_all()
        place.loop.watch(self._sync.fileno(), select.EPOLLIN, lambda _events: self._hear())
        place.loop.watch(self._pidfd, select.EPOLLIN, lambda _events: self._reap())
        self._timer = place.loop.later(place.task.settings.start_seconds, self._late)

    def _abandon(self) -> None:
        """Where there is no descriptor to hold it by: nobody could guard it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _hear(self) -> None:
        """What the child says before it is the command."""
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
                    self._master = array.array("i", payload)[0]
            if not data:
                self._joined()
            elif data == joining.EXECVE:
                self._announced = True
            elif data != becoming.MASTER:
                self._error = failure.decode(data)

    def _joined(self) -> None:
        """It is the command, or never will be."""
        assert self._sync is not None
        self._place.loop.forget(self._sync.fileno())
        self._sync.close()
        self._sync = None
        if self._timer is not None:
            self._timer.cancel()
        if self._refused:
            return
        terminal = self._wanted.process.terminal
        error = self._error
        if error is None and not self._announced:
            error = self._died()
        if error is None and terminal != (self._master >= 0):
            error = Internal("cannot execute the command: its process sent no terminal")
        if error is None:
            self._started()
        else:
            self._refuse(error)

    def _died(self) -> StartFailed:
        starved = cgroups.oom_kills(self._place.container.cgroup.paths) > self._ooms
        cause = "was killed for want of memory" if starved else "ended"
        return StartFailed(
            f"cannot execute in {self._place.name}: its process {cause} before it was the command",
            hint="the container's --memory is for all that runs in it" if starved else None,
        )

    def _late(self) -> None:
        self._refuse(
            StartFailed(
                f"cannot execute in {self._place.name}: its process did not become the command in time",
                step="deadline",
                hint="the setting limits.start_seconds",
            )
        )

    def _refuse(self, error: DkrError) -> None:
        """It will not be the command; and the process that was to be it ends."""
        self._refused = True
        task = self._place.task
        task.log.audit(
            "not executed",
            id=task.id,
            uid=self.uid,
            exec=self.id,
            code=error.code,
            rule=error.rule,
            step=error.step,
            cause=error.message,
        )
        self._session.send({"type": "error", "error": error.to_wire()})
        self._session.close()
        self._send(signal.SIGKILL)

    def _started(self) -> None:
        place, task = self._place, self._place.task
        outs = outlets.of_terminal(place.loop, self._master, typed=0 in self._wanted.tty)
        resized = partial(self.signal, signal.SIGWINCH)
        # Who attaches to the container is told as an event; who executes something in it does not attach.
        deeds = Deeds(self.signal, resized, self._client_gone, lambda _action: None)
        self._clients = Clients(place.loop, (task.id, Called(place.state)), outs, deeds)
        master = [self._master] if self._master >= 0 else []
        self._session.send({"type": "started", "id": task.id, "exec": self.id, "pid": self.pid}, *master)
        task.log.audit(
            "executed",
            id=task.id,
            uid=self.uid,
            exec=self.id,
            pid=self.pid,
            command=self._wanted.process.args[0],
        )
        self._clients.begin(self._session, self._wanted.on_disconnect)

    # --- while it runs

    def signal(self, number: int) -> None:
        """Send a signal to the command, as anybody could outside a container: it is not process 1."""
        self._send(number)

    def _send(self, number: int) -> None:
        self._killed = self._killed or number == signal.SIGKILL
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _send_all(self, number: int) -> None:
        """To its process group as well: what it has started and waits for."""
        self._send(number)
        # Until it is reaped its number is no other group's.
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _client_gone(self, wish: str) -> None:
        if wish == "keep":
            return
        self._cause = self._cause or "client-gone"
        if wish == "stop":
            self._send_all(signal.SIGTERM)
            seconds = self._place.config.stop_timeout
            self._timer = self._place.loop.later(seconds, partial(self._send_all, signal.SIGKILL))
        else:
            self._send_all(signal.SIGKILL)

    # --- the end

    def end(self) -> None:
        """The container has ended: so does all that is executed in it. Waits until it has, which may take 2 s."""
        self._send_all(signal.SIGKILL)
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        ended.poll(errands.PATIENCE * 1000)
        self._reap()
        if self._pidfd >= 0:
            self._over(-signal.SIGKILL)  # whatever it still waits for

    def _reap(self) -> None:
        """It has ended: reap it, now or as soon as it can be."""
        self._hear()  # what it said last comes first
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            # Somebody inside traces it, and has to hear of it before us (ptrace(2)). Nothing tells when that is done.
            self._place.loop.forget(self._pidfd)
            self._retry = self._place.loop.later(_AGAIN, self._reap)
            return
        self._over(os.waitstatus_to_exitcode(status))

    def _over(self, code: int) -> None:
        self._place.loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        if self._clients is not None:
            exit_status = self._exit(code)
            self._clients.end({"type": "exited", "exit": exit_status.to_wire()})
            task = self._place.task
            task.log.audit("exec ended", id=task.id, exec=self.id, **exit_status.to_wire())
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        self._gone(self)

    def _exit(self, code: int) -> Exit:
        if code >= 0:
            return Exit(code, None, self._cause or "exited")
        starved = code == -signal.SIGKILL and not self._killed
        if starved and cgroups.oom_kills(self._place.container.cgroup.paths) > self._ooms:
            return Exit(None, -code, self._cause or "oom")
        return Exit(None, -code, self._cause or "signalled")
