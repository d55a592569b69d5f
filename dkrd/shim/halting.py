"""Whether a user has ended a container that would be started again: then it is not."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from common.restarts import may_follow
from dkrd.shim.begun import record

if TYPE_CHECKING:
    from dkrd.shim.config import Config
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


class Halting:
    """Of one container. It is written down at once: whoever restarts it may not have been its guardian."""

    def __init__(self, task: ShimTask, config: Config, state: State) -> None:
        self._task = task
        self._config = config
        self._state = state
        self._sent: set[int] = set()

    def halt(self) -> None:
        """A user wants its end."""
        values = self._state.values
        if may_follow(values) and not values.get("stopAsked"):
            record(self._task, self._state, stopAsked=True)

    def signalled(self, number: int) -> None:
        """A user has sent this signal. Most mean something to a command, as HUP does to many; these two that it is to end."""
        self._sent.add(number)
        if number in (signal.SIGKILL, self._config.stop_signal):
            self.halt()

    def ended_by(self, number: int | None) -> None:
        """This signal has ended it, which may be one that a user sent."""
        if number in self._sent and may_follow(self._state.values):
            self._state.values.update(stopAsked=True)
