"""Pausing a container: its cgroup is frozen, and what it is sent waits.

    running ── pause ─► freezing ── all are ─► paused
       ▲                   │ too late, unpause,   │ unpause, a stop
       └───────────────────┴── or a stop ─────────┘

Signals other than SIGKILL are held back here and given when it goes on: the kernel would hold them too, but what an action by
default does is ours to do (adr/0002), and that is SIGKILL, which nothing holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

from common.errors import BadRequest, Conflict, HostUnfit, Unavailable
from dkrd.runtime import freezer
from dkrd.shim.asks import Later
from dkrd.shim.begun import record
from dkrd.shim.called import Called

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.errors import DkrError
    from dkrd.loop import Loop, Timer
    from dkrd.shim.asks import Ask
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

SECONDS = 5.0  # until it is given up: a process waits in the kernel, as for a disk that does not answer
_LOOK_SECONDS = 0.01  # v1 tells of no change


class Pausing:
    """Of one container.

    paths    of its cgroup
    deliver  gives its command a signal
    """

    def __init__(
        self,
        loop: Loop,
        task: ShimTask,
        state: State,
        paths: tuple[str, ...],
        deliver: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._task = task
        self._name = Called(state)
        self._state = state
        self._paths = paths
        self._deliver = deliver
        self._freezer: freezer.Freezer | None = None  # where it is frozen, or about to be
        self._freezing: Later | None = None  # who waits for that
        self._events = -1
        self._timer: Timer | None = None
        self._held: list[int] = []
        self._request: str | None = None  # of who wants it paused
        # Who does something in it from time to time: called before it is frozen, and when it goes on.
        self.on_hold: Callable[[], None] = lambda: None
        self.on_go: Callable[[], None] = lambda: None

    def pause(self, ask: Ask) -> Later:
        """Answer `{"type": "pause"}` when every process is frozen."""
        _check(ask)
        if self._freezer is not None:
            raise Conflict(
                f"cannot pause {self._name}: it is paused", rule="paused", hint="dkrctl unpause lets it go on"
            )
        found = freezer.find(self._paths)
        if found is None:
            raise HostUnfit(
                f"cannot pause {self._name}: it has no cgroup that freezes",
                hint="mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer, restart dkrd, and start the container anew",
            )
        self._events = found.open()
        self._request = ask.request
        self._freezer, self._freezing = found, Later()
        later = self._freezing
        self.on_hold()
        try:
            found.freeze()
            self._timer = self._loop.later(SECONDS, self._late)
            self._look()
            if found.v2 and self._freezing is not None:
                self._loop.watch(self._events, select.EPOLLPRI, lambda _events: self._look())
        except OSError:
            self.resume()
            raise
        return later

    def unpause(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "unpause"}`: it goes on."""
        _check(ask)
        if self._freezer is None:
            raise Conflict(f"cannot unpause {self._name}: it is not paused", rule="not-paused")
        self.resume()
        return {}

    def holds(self, number: int) -> bool:
        """Whether the signal is kept until the container goes on."""
        if self._freezer is None or number == signal.SIGKILL:
            return False
        if number not in self._held:  # as the kernel: one that waits is not counted
            self._held.append(number)
        return True

    def resume(self, error: DkrError | None = None) -> None:
        """Let it go on, if it is paused or about to be; `error` for who waits for that. Then it gets what was held back."""
        if self._freezer is None:
            return
        frozen, freezing = self._freezer, self._freezing
        self._settled()
        # Where its processes have ended meanwhile there is no cgroup any more.
        with contextlib.suppress(OSError):
            frozen.thaw()
        self._freezer = None
        if freezing is None:
            record(self._task, self._state, status="running")
            self._state.note("unpause")
        else:
            freezing.fail(
                error or Conflict(f"cannot pause {self._name}: it was told to go on", rule="not-paused")
            )
        self.on_go()
        held, self._held = self._held, []
        for number in held:
            self._deliver(number)

    def killed(self) -> None:
        """SIGKILL was sent: v1 lets it through with the thaw."""
        if self._freezer is not None and not self._freezer.v2:
            with contextlib.suppress(OSError):
                self._freezer.thaw()

    def _look(self) -> None:
        if self._freezer is None or self._freezing is None:
            return
        if not self._freezer.is_frozen(self._events):
            if not self._freezer.v2:
                self._loop.later(_LOOK_SECONDS, self._look)
            return
        later = self._freezing
        self._settled()
        record(self._task, self._state, status="paused")
        self._state.note("pause")
        self._task.log.audit("paused", id=self._task.id, request=self._request, uid=self._state.values["uid"])
        later.answer({})

    def _late(self) -> None:
        self.resume(
            Unavailable(
                f"cannot pause {self._name}: not all of its processes were frozen within {SECONDS:g} s",
                hint="one waits in the kernel, as for a filesystem that does not answer; it goes on",
            )
        )

    def _settled(self) -> None:
        """Nobody waits any more for every process to be frozen."""
        self._freezing = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._events >= 0:
            self._loop.forget(self._events)
            os.close(self._events)
            self._events = -1


def _check(ask: Ask) -> None:
    if set(ask.body) != {"type"}:
        raise BadRequest(f"cannot read the ask: {ask.body['type']} has no further keys")
