"""What a start did, step by step: recorded where it happens, told by whoever asks.

A step costs one clock reading and one tuple; what was done is described when somebody wants to read it. A failed
step leaves its name behind, so that an error can say where it happened.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:

    class Describes(Protocol):
        """Anything that can say in strace's manner what it does."""

        def describe(self) -> str: ...


class Step(NamedTuple):
    """One step of a start.

    name     of the step
    what     in strace's manner, or what can describe itself so
    start    monotonic nanoseconds
    end      monotonic nanoseconds
    process  who did it: shim, helper, init
    """

    name: str
    what: str | Describes
    start: int
    end: int
    process: str

    def call(self) -> str:
        """What was done, as text."""
        return self.what if isinstance(self.what, str) else self.what.describe()


class Recorder:
    """The steps of one process. `current` is the name of the step under way, for the error's record."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.steps: list[Step] = []
        self.current = ""
        self._what: str | Describes = ""
        self._start = 0

    def begin(self, name: str, what: str | Describes = "") -> None:
        """End the step under way and begin `name`."""
        now = time.monotonic_ns()
        if self.current:
            self.steps.append(Step(self.current, self._what, self._start, now, self.process))
        self.current, self._what, self._start = name, what, now

    def finish(self) -> None:
        """End the last step."""
        self.begin("")
