"""How a running container is stopped: by the first who asks, for its cause, and by the earliest of all deadlines.

    stop signal ─► the command ends by itself
         └── the time is over ─► SIGKILL, also for what it has left in the cgroup
                                     └── it does not end ─► who waits is told so

Who waits for the end has a socket here, which closes with it. One that closes while the container runs has lost its guardian. What waits in
the kernel for something that never answers cannot be killed, and the container ends no sooner than it: whoever waits is told after a while.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from common import frames
from common.bundle import MAX_SECONDS
from common.errors import BadRequest, Conflict, LimitReached, Unavailable
from dkrd.shim import kept
from dkrd.shim.clients import is_integer
from dkrd.shim.session import forbid_descriptors
from dkrd.shim.state import send

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import TypeGuard

    from dkrd.loop import Loop, Timer
    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called
    from dkrd.shim.config import Config
    from dkrd.shim.task import ShimTask

NEVER = -1  # of seconds: no SIGKILL
MAX_WAITING = 64
KILLED_SECONDS = 10.0  # from SIGKILL until who waits is told that it has not ended; Docker's


class Stopping:
    """Of one container.

    cause    why it is being stopped; None while nobody has asked
    deliver  gives the command a signal
    kill     SIGKILL for all
    resume   lets it go on, if it is paused
    halt     notes that a user wants its end: it is not restarted behind that
    """

    def __init__(
        self,
        loop: Loop,
        task: ShimTask,
        config: Config,
        name: Called,
        deliver: Callable[[int], None],
        kill: Callable[[], None],
        resume: Callable[[], None],
        halt: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._task = task
        self._config = config
        self._name = name
        self._deliver = deliver
        self._kill = kill
        self._resume = resume
        self._halt = halt
        self.cause: str | None = None
        self._timer: Timer | None = None
        self._ends = float("inf")  # when SIGKILL comes, monotonic
        self._killed = False
        self._patience: Timer | None = None  # of who waits for what was killed
        self._waiting: dict[int, socket.socket] = {}

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "stop", "signal": …, "timeout": …, "again": …}`: it has begun. The socket that came along, if any, is
        closed with the end. With `again` it is to be started anew then: refused where that cannot be.
        """
        number, seconds, again = (ask.body.get(key) for key in ("signal", "timeout", "again"))
        known = set(ask.body) <= {"type", "signal", "timeout", "again"} and again in (None, True)
        if not known or not (number is None or is_integer(number, 1, 64)):
            raise BadRequest("cannot read the ask: stop has a signal's number, seconds, and no further keys")
        if seconds is not None and seconds != NEVER and not _is_seconds(seconds):
            raise BadRequest("cannot read the ask: its timeout is no number of seconds")
        if again:
            self._check_again()
        waiting = ask.take_socket()
        if waiting is not None:
            self._wait(waiting)
        task = self._task
        task.log.audit("stop", id=task.id, uid=ask.who.uid, signal=number, timeout=seconds)
        self._halt()
        self.begin("stopped", number, seconds)
        if self._killed and self._patience is None:
            self._be_patient()
        return {}

    def _check_again(self) -> None:
        kept.check_descriptors(self._config)
        if self._config.rm:
            raise Conflict(
                f"cannot restart {self._name}: it is removed when it ends",
                rule="rm",
                hint="stop it, and run another one like it",
            )

    def begin(self, cause: str, number: int | None = None, seconds: float | None = None) -> None:
        """Stop it. Where it is being stopped already the cause stays, and a signal comes only if it is named.

        number   the signal; None: the container's own
        seconds  until SIGKILL, 0: at once, NEVER; None: the container's own
        """
        seconds = self._config.stop_timeout if seconds is None else seconds
        first, self.cause = self.cause is None, self.cause or cause
        if seconds == 0:
            if self._timer is not None:
                self._timer.cancel()  # it is done now, and once
            self._ends = 0.0
            self._end_it()
            return
        self._bound(seconds)
        if first or number is not None:
            self._deliver(self._config.stop_signal if number is None else number)
        # Behind the signal, which is the first that it meets.
        self._resume()

    def end(self) -> None:
        """It has ended: tell those who wait."""
        for descriptor in list(self._waiting):
            self._leave(descriptor)

    def _bound(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        if seconds == NEVER or ends >= self._ends:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._ends = ends
        self._timer = self._loop.later(seconds, self._end_it)

    def _end_it(self) -> None:
        self._killed = True
        self._kill()
        self._be_patient()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.later(KILLED_SECONDS, self._tell_stuck)

    def _tell_stuck(self) -> None:
        """It was killed and is there still: nobody knows for how long."""
        self._patience = None
        self._task.log.warning("it does not end, though it was killed", id=self._task.id)
        error = Unavailable(
            f"cannot stop {self._name}: it has not ended {KILLED_SECONDS:g} s after SIGKILL",
            rule="stuck",
            hint="a process of it waits in the kernel, as for a filesystem that does not answer (dkrctl top tells which): it ends then",
        )
        data = frames.dumps({"type": "error", "error": error.to_wire()})
        for descriptor, sock in list(self._waiting.items()):
            send(sock, data)
            self._leave(descriptor)

    def _wait(self, sock: socket.socket) -> None:
        if len(self._waiting) >= MAX_WAITING:
            sock.close()
            raise LimitReached(
                f"cannot stop {self._name}: {MAX_WAITING} wait for its end already",
                hint="it is being stopped",
            )
        self._waiting[sock.fileno()] = sock
        forbid_descriptors(sock)
        # Nothing is said over it: whatever comes is its end.
        self._loop.watch(sock.fileno(), select.EPOLLIN, lambda _events: self._leave(sock.fileno()))

    def _leave(self, descriptor: int) -> None:
        self._loop.forget(descriptor)
        self._waiting.pop(descriptor).close()


def _is_seconds(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value < MAX_SECONDS  # type: ignore[operator]  # a number by now
