"""What a start did, step by step: recorded where it happens, told by whoever asks.

A step costs one clock reading and one tuple. A failed one leaves its name behind, so that an error can say
where it happened.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """name: the step; call: what was done, in strace's manner; start, end: monotonic nanoseconds; process:
    who did it.
    """

    name: str
    call: str
    start: int
    end: int
    process: str


@dataclass(slots=True)
class Recorder:
    """The steps of one process. `current` is the step under way, for the error record."""

    process: str
    steps: list[Step] = field(default_factory=list)
    current: str = ""
    _call: str = ""
    _start: int = 0

    def begin(self, name: str, call: str = "") -> None:
        """End the step under way and begin `name`."""
        now = time.monotonic_ns()
        if self.current:
            self.steps.append(Step(self.current, self._call, self._start, now, self.process))
        self.current, self._call, self._start = name, call, now

    def finish(self) -> None:
        """End the last step."""
        self.begin("")
