"""The guardian's watch over a running container: its exit, its client, its time limit, its launcher.

One thread, one poll. Nothing here is on the way of the container's bytes: those go through the caller's own
descriptors.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, ProtocolError
from dkrd.runtime import cgroups
from dkrd.shim import masks
from dkrd.shim.state import State, send

if TYPE_CHECKING:
    import socket

    from dkrd.runtime.build import Built
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.session import Session

# What a signal does by default; signal(7). The rest ends the process.
_IGNORED = frozenset((signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))
_STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


@dataclass(frozen=True, slots=True)
class Exit:
    """How it ended: `code`, or the `signal` that ended it (then code is None), and the cause of
    docs/protocol.md (3).
    """

    code: int | None
    signal: int | None
    cause: str

    def to_wire(self) -> dict[str, object]:
        return {"code": self.code, "signal": self.signal, "cause": self.cause}


class Guard:
    """Watches one container until it has ended."""

    def __init__(
        self,
        config: Config,
        container: Container,
        built: Built,
        session: Session,
        state: State,
        listener: socket.socket,
    ) -> None:
        self._config = config
        self._container = container
        self._built = built
        self._session = session
        self._state = state
        self._listener = listener
        self._poll = select.poll()
        self._limit = time.monotonic() + config.timeout if config.timeout is not None else None
        self._kill_at: float | None = None
        self._cause: str | None = None
        self._as_if: int | None = None

    def watch(self) -> Exit:
        """Serve until init has ended; reap it; say how."""
        self._poll.register(self._built.pidfd, select.POLLIN)
        self._poll.register(self._listener, select.POLLIN)
        if self._session.open:
            self._poll.register(self._session, select.POLLIN)
        else:
            self._client_gone()  # it vanished while its container was built
        while True:
            ready = [fd for fd, _ in self._poll.poll(self._patience())]
            if self._built.pidfd in ready:
                return self._reap()
            if self._listener.fileno() in ready:
                self._accept()
            for follower in [f for f in self._state.followers if f.fileno() in ready]:
                self._poll.unregister(follower)
                self._state.followers.remove(follower)
                follower.close()
            if self._session.open and self._session.fileno() in ready:
                self._serve()
            if self._built.master in ready:
                self._drain()
            self._check_clock()

    def _patience(self) -> int | None:
        """Milliseconds until the next deadline; None waits for an event, without any wake-up."""
        deadlines = [d for d in (self._limit, self._kill_at) if d is not None]
        if not deadlines:
            return None
        return max(0, int((min(deadlines) - time.monotonic()) * 1000) + 1)

    def _check_clock(self) -> None:
        now = time.monotonic()
        if self._limit is not None and now >= self._limit:
            self._limit = None
            self._stop("timeout")
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._kill()

    def _accept(self) -> None:
        """A launcher that adopts us: it gets the state now and every report from now on."""
        with contextlib.suppress(OSError):
            follower, _ = self._listener.accept()
            data = frames.dumps({"type": "state", "state": self._state.values})
            if send(follower, data, self._built.pidfd):
                self._state.followers.append(follower)
                # It never speaks: readable means gone.
                self._poll.register(follower, select.POLLIN)
            else:
                follower.close()

    def _serve(self) -> None:
        """One frame of the client's, or its end. One that breaks the protocol is no client any more."""
        fd = self._session.fileno()
        detached = False
        try:
            detached = self._obey(self._session.next())
        except DkrError as err:
            self._session.send({"type": "error", "error": err.to_wire()})
            self._session.close()
        if not self._session.open:
            self._poll.unregister(fd)
            if not detached:
                self._client_gone()

    def _obey(self, frame: dict[str, object] | None) -> bool:
        """Do what a frame asks (None: the client is gone); whether it was `detach`. Raises ProtocolError."""
        if frame is None:
            return False
        kind, number = frame.get("type"), frame.get("signal")
        if kind == "signal" and type(number) is int and 1 <= number <= 64:
            self._deliver(number)
            return False
        if kind != "detach":
            raise ProtocolError(f"cannot act on a frame of type {kind!r}")
        self._session.close()
        self._nobody_reads()
        return True

    def _nobody_reads(self) -> None:
        """The terminal has lost its reader: what the command writes is read here, or it would soon be held up."""
        if self._built.master >= 0:
            os.set_blocking(self._built.master, False)
            self._poll.register(self._built.master, select.POLLIN)

    def _drain(self) -> None:
        try:
            os.read(self._built.master, 65536)
        except BlockingIOError:
            return
        except OSError:
            # EIO: no process has the terminal open any more.
            self._poll.unregister(self._built.master)

    def _client_gone(self) -> None:
        self._nobody_reads()
        wish = self._config.on_disconnect
        if wish == "stop":
            self._stop("client-gone")
        elif wish == "kill":
            self._cause = self._cause or "client-gone"
            self._kill()

    def _stop(self, cause: str) -> None:
        """The stop signal now, SIGKILL for all after the stop timeout."""
        if self._cause is None:
            self._cause = cause
            self._kill_at = time.monotonic() + self._config.stop_timeout
            self._deliver(self._config.stop_signal)

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        # Without a pid namespace of its own, init's end is not the end of its children.
        if "pid" not in self._config.spec.namespaces:
            cgroups.kill(self._container.cgroup.paths)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._built.pidfd, number)

    def _deliver(self, number: int) -> None:
        """Send a signal so that it does what it would do to the same command outside a container.

        The kernel drops a signal to PID 1 of a pid namespace whose action is the default one
        (SIGNAL_UNKILLABLE, pid_namespaces(7)): `sleep 100` could not be interrupted. So where the command
        neither catches, ignores, blocks nor awaits it, the default is done for it, and the exit says the signal
        that was sent.
        """
        if (
            "pid" not in self._config.spec.namespaces
            or number in (signal.SIGKILL, signal.SIGSTOP)
            or number in _IGNORED
            or self._config.init  # which forwards all
            or masks.answers(self._built.pid, number)
        ):
            self._send(number)
        elif number in _STOPPING:
            self._send(signal.SIGSTOP)
        else:
            self._as_if = self._as_if or number
            self._send(signal.SIGKILL)

    def _reap(self) -> Exit:
        _, status = os.waitpid(self._built.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return Exit(code, None, self._cause or "exited")
        number = self._as_if if self._as_if is not None and code == -signal.SIGKILL else -code
        return Exit(None, number, self._cause or "signalled")
