"""What a start did, step by step: recorded where it happens, told by whoever asks.

A step costs one clock reading and one tuple; what was done is described when somebody wants to read it. A failed
step leaves its name behind, so that an error can say where it happened. What a child records comes to its guardian over the
child's error pipe, just before execve or with the error.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from common import frames

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
    process  who did it: launcher, shim, helper, init
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
    """The steps of one process, and what its children have told of theirs.

    current  the name of the step under way, for the error's record
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self.steps: list[Step] = []
        self.current = ""
        self._what: str | Describes = ""
        self._start = 0
        self._told = 0
        self._heard: list[bytes] = []

    def begin(self, name: str, what: str | Describes = "") -> None:
        """End the step under way and begin `name`."""
        now = time.monotonic_ns()
        if self.current:
            self.steps.append(Step(self.current, self._what, self._start, now, self.process))
        self.current, self._what, self._start = name, what, now

    def finish(self) -> None:
        """End the last step."""
        self.begin("")

    def tell(self, fd: int) -> None:
        """In a child: write to its error pipe, as one line of JSON, what was not written yet, and the step under way as one
        without an end: it may be the execve, after which nothing can be told.
        """
        steps = self.steps[self._told :]
        self._told = len(self.steps)
        if self.current:
            steps.append(Step(self.current, self._what, self._start, 0, self.process))
        rows = [[s.name, s.call(), s.start, s.end, s.process] for s in steps]
        os.write(fd, frames.dumps(rows) + b"\n")

    def hear(self, data: bytes) -> bytes:
        """In the guardian: keep, unread, what a child told; the rest of `data` is the record of its error."""
        *lines, rest = data.split(b"\n")
        self._heard += lines
        return rest

    def everything(self) -> list[Step]:
        """All steps, the children's too, in the order of their beginnings."""
        steps = list(self.steps)
        if self.current:
            steps.append(Step(self.current, self._what, self._start, time.monotonic_ns(), self.process))
        last = max((step.end for step in steps), default=0)
        for line in self._heard:
            rows = frames.loads(line)
            assert isinstance(rows, list)
            steps += [Step(*row) for row in rows]
        # One that was told under way has its end in a later line, or ended when the guardian saw the pipe close.
        ended = {(step.process, step.start) for step in steps if step.end}
        steps = [step for step in steps if step.end or (step.process, step.start) not in ended]
        steps = [step if step.end else step._replace(end=max(last, step.start)) for step in steps]
        return sorted(steps, key=lambda step: step.start)
