"""One further command in a container: from its fork to its end. Its guardian waits for nothing: all comes as an event.

forked ─ "master", "execve", end of file ─► started ─ it ends ─► told, and gone
   └───── an error, or its death before ──► refused, and gone once it is reaped
"""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from common.clock import now
from common.errors import DkrError, StartFailed
from dkrd.runtime import errands
from dkrd.shim import inside
from dkrd.shim.called import Called
from dkrd.shim.child import Child
from dkrd.shim.clients import Clients, Deeds
from dkrd.shim.exec_stdio import Stdio
from dkrd.shim.exits import Exit
from dkrd.shim.inside import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Timer
    from dkrd.shim.exec_request import Wanted
    from dkrd.shim.inside import Place
    from dkrd.shim.session import Session

MAX_COMMAND = 256  # characters of it in an event


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
        self._begun = now()
        self._place = place
        self._session = session
        self._wanted = wanted
        self._stdio = Stdio(wanted)
        self._gone = gone
        self._entry: Entry | None = None
        self._child: Child | None = None
        self._clients: Clients | None = None  # once it is started
        self._timer: Timer | None = None
        self._cause: str | None = None
        self._killed = False
        self._refused = False
        self._is_event = False  # that it has started was reported, and so will be its end
        self._ooms = place.oom_kills()
        self._request = place.task.log.request  # of which it is made

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

    @property
    def pid(self) -> int:
        """Its number on the host."""
        assert self._child is not None
        return self._child.pid

    @property
    def _master(self) -> int:
        return -1 if self._entry is None else self._entry.master

    def begin(self) -> None:
        """Fork it. Raises OSError; what was made is undone then. The caller's descriptors are closed here, whatever happens."""
        place, wanted = self._place, self._wanted
        with contextlib.ExitStack() as undo:
            undo.callback(self._stdio.close)
            try:
                pid, sync = inside.fork(
                    place, wanted.process, wanted.user, self._stdio.make(place.container.base)
                )
            finally:
                self._stdio.let_go()
            undo.callback(sync.close)
            self._child = Child(place.loop, pid, self._over)
            undo.pop_all()
        self._entry = Entry(place, sync, self._joined, terminal=wanted.process.terminal)
        self._timer = place.loop.later(place.task.settings.start_seconds, self._late)

    def _joined(self, error: DkrError | None) -> None:
        """It is the command, or never will be."""
        if self._timer is not None:
            self._timer.cancel()
        if self._refused:
            return
        if error is None:
            self._started()
        else:
            self._refuse(error)

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
            request=self._request,
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
        outs = self._stdio.outlets(place.loop, self._master)
        resized = partial(self.signal, signal.SIGWINCH)
        # Who attaches to the container is told as an event; who executes something in it does not attach.
        deeds = Deeds(self.signal, resized, self._client_gone, lambda _action: None)
        self._clients = Clients(place.loop, (task.id, Called(place.state)), outs, deeds)
        started = {"type": "started", "id": task.id, "exec": self.id, "pid": self.pid}
        task.log.audit(
            "executed",
            id=task.id,
            request=self._request,
            uid=self.uid,
            exec=self.id,
            pid=self.pid,
            command=self._wanted.process.args[0],
        )
        if self._wanted.streams:
            self._clients.relay_from_the_beginning()
            self._clients.attach(
                self._session, self._wanted.on_disconnect, types=True, size=(0, 0), first=True
            )
            self._session.send(started)
            self._clients.notice()
        else:
            self._session.send(started, *((self._master,) if self._master >= 0 else ()))
            self._clients.begin(self._session, self._wanted.on_disconnect)
        # Behind the word to the client, who waits for that and not for this.
        self._is_event = place.state.execs.take()
        if self._is_event:
            command = " ".join(self._wanted.process.args)[:MAX_COMMAND]
            place.state.tell("exec_start", execID=self.id, command=command)

    # --- while it runs

    def signal(self, number: int) -> None:
        """Send a signal to the command, as anybody could outside a container: it is not process 1."""
        self._send(number)

    def _send(self, number: int) -> None:
        self._killed = self._killed or number == signal.SIGKILL
        if self._child is not None:
            self._child.send(number)

    def _send_all(self, number: int) -> None:
        self._killed = self._killed or number == signal.SIGKILL
        if self._child is not None:
            self._child.send_all(number)

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
        self._killed = True
        if self._child is not None:
            self._child.end(errands.PATIENCE)

    def _over(self, code: int) -> None:
        assert self._entry is not None
        self._entry.hear()  # what it said last comes first
        if self._timer is not None:
            self._timer.cancel()
        if self._clients is not None:
            exit_status = self._exit(code)
            self._clients.end({"type": "exited", "exit": exit_status.to_wire()})
            task = self._place.task
            task.log.audit("exec ended", id=task.id, exec=self.id, **exit_status.to_wire())
            if self._is_event:
                self._place.state.tell("exec_die", execID=self.id, exit=exit_status.to_wire())
        self._stdio.close()
        if self._master >= 0:
            os.close(self._master)
            self._entry.master = -1
        self._gone(self)

    def _exit(self, code: int) -> Exit:
        if code >= 0:
            return Exit(code, None, self._cause or "exited")
        starved = code == -signal.SIGKILL and not self._killed
        if starved and self._place.oom_kills() > self._ooms:
            return Exit(None, -code, self._cause or "oom")
        return Exit(None, -code, self._cause or "signalled")
