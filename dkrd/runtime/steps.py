"""What a start did, step by step: recorded where it happens, told by whoever asks.

A step costs a clock reading and a tuple; what was done is put into words when somebody wants to read it. A forked child
writes its steps into memory that it shares with its parent (`Log`): there is no message that could get lost or be waited
for, execve needs no word of farewell, and what a child did before it was killed can be read as well.
"""

from __future__ import annotations

import mmap
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    # What was done, in strace's manner: a text, or what makes one of the step's note.
    What = str | Callable[[str], str]
    # The same for a child's step: from its place among the child's, its name, its note.
    Tell = Callable[[int, str, str], str]

_USED = struct.Struct("<I")  # bytes of the log that are filled, this number included
_HEAD = struct.Struct(
    "<QBB"
)  # of an entry: start, bytes of the name, bytes of the note; name and note follow
_NOTE_MAX = 255


class Step(NamedTuple):
    """One step of a start.

    name     of the step
    what     was done
    note     what only turned out meanwhile: a pid, that a path was missing
    start    monotonic nanoseconds
    end      monotonic nanoseconds
    process  who did it: launcher, shim, helper, init
    """

    name: str
    what: What
    note: str
    start: int
    end: int
    process: str

    def call(self) -> str:
        """What was done, as text in strace's manner."""
        return self.what if isinstance(self.what, str) else self.what(self.note)


class Steps(Protocol):
    """Where a process notes what it does.

    current  the name of the step under way, for the error's record
    """

    current: str

    def begin(self, name: str, what: What = "") -> None:
        """End the step under way and begin `name`."""

    def note(self, text: str) -> None:
        """Add to the step under way what turned out."""


class Recorder:
    """The steps of this process, and of the children that were given a log."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.current = ""
        # What monotonic nanoseconds lack to those since the epoch.
        self.epoch = time.time_ns() - time.monotonic_ns()
        self._steps: list[tuple[str, What, int]] = []
        self._notes: dict[int, str] = {}
        self._before: list[Step] = []
        self._logs: list[Log] = []
        self._end = 0

    def follow(self, step: Step) -> None:
        """Note what another process did before this one was there."""
        self._before.append(step)

    def begin(self, name: str, what: What = "") -> None:
        """End the step under way and begin `name`; `what` is asked for its text only when somebody reads it."""
        self.current = name
        self._steps.append((name, what, time.monotonic_ns()))

    def note(self, text: str) -> None:
        """Add to the step under way what turned out."""
        self._notes[len(self._steps) - 1] = text

    def finish(self) -> None:
        """End the last step, of this process and of its children; the first time counts. `current` stays."""
        self._end = self._end or time.monotonic_ns()

    def child(self, process: str, tell: Tell, size: int = mmap.PAGESIZE) -> Log:
        """A log for a child that is forked hereafter.

        tell  puts a step of the child's into words
        size  bytes; what does not fit is not recorded
        """
        log = Log(process, tell, size)
        self._logs.append(log)
        return log

    def steps(self) -> list[Step]:
        """All steps, in the order in which they began."""
        end = self._end or time.monotonic_ns()
        ends = [start for _, _, start in self._steps[1:]] + [end]
        found = self._before + [
            Step(name, what, self._notes.get(i, ""), start, ends[i], self.process)
            for i, (name, what, start) in enumerate(self._steps)
        ]
        for log in self._logs:
            found += log.steps(end)
        return sorted(found, key=lambda step: step.start)


class Log:
    """The steps of a forked child: begun there, read by its parent.

    The parent believes nothing of it: whatever stands there becomes steps, and no more of them than there is room.
    """

    def __init__(self, process: str, tell: Tell, size: int) -> None:
        self.process = process
        self.current = ""
        self._tell = tell
        self._memory = mmap.mmap(-1, size)
        self._size = size
        self._last = 0
        self._used = _USED.size

    def begin(self, name: str, what: What = "") -> None:
        """End the step under way and begin `name`. In the child."""
        self.current = name
        data = name.encode()
        self._last = at = self._used
        end = at + _HEAD.size + len(data)
        if end > self._size:
            return
        _HEAD.pack_into(self._memory, at, time.monotonic_ns(), len(data), 0)
        self._memory[at + _HEAD.size : end] = data
        self._used = end
        _USED.pack_into(self._memory, 0, end)

    def note(self, text: str) -> None:
        """Add to the step under way what turned out; more than 255 bytes are cut off, with an ellipsis. In the child."""
        data = text.encode("utf-8", "replace")
        if len(data) > _NOTE_MAX:
            data = data[: _NOTE_MAX - 3] + b"..."
        end = self._used + len(data)
        if self._used == self._last or end > self._size:
            return
        self._memory[self._last + _HEAD.size - 1] = len(data)
        self._memory[self._used : end] = data
        self._used = end
        _USED.pack_into(self._memory, 0, end)

    def close(self) -> None:
        """Let go of the memory, in a child that goes on without becoming another program."""
        self._memory.close()

    def steps(self, end: int) -> list[Step]:
        """The steps so far; the last ends at `end`, monotonic nanoseconds. In the parent."""
        data = self._memory[:]
        used = min(_USED.unpack_from(data)[0], self._size)
        entries: list[tuple[str, str, int]] = []
        at = _USED.size
        while at + _HEAD.size <= used:
            start, name, note = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            words = data[at : at + name].decode("utf-8", "replace"), data[at + name : at + name + note]
            entries.append((words[0], words[1].decode("utf-8", "replace"), start))
            at += name + note
        ends = [start for _, _, start in entries[1:]] + [end]
        return [
            Step(name, partial(self._tell, i, name), note, start, ends[i], self.process)
            for i, (name, note, start) in enumerate(entries)
        ]
