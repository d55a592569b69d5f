"""What a container writes, on its way into its log: cut into lines, and kept for as long as the log takes nothing.

    relay ─ bytes ─► put ─ lines ─► queue ─► _take: a file, the journal

The log may take nothing: its disk is full, the journal is behind or away. Then either the command waits (`blocking`: the relay does
not read while `full`), or what does not fit into the buffer is dropped and counted, and the count is a line of the log.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from common.clock import timestamp
from dkrd.shim.log_lines import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.log_drivers import Logging
    from dkrd.loop import Loop, Timer

HELD = 64 * 1024  # bytes that wait before the command does
COST = 256  # bytes that an entry takes beside its data
# Bytes of what a command that waits has written, which is read at its end: pipes that it has widened, as lines of one byte.
_LAST_WORDS = 32 * 1024 * 1024
_AGAIN = 0.25  # seconds until a log that took nothing is tried again
# Bytes that are made entries of together, where lines cannot be taken as they are: an entry of a short line takes many times as much.
_SOME = 4096


# A line of a log, or a part of one: its stream, its bytes, its time, and how many others are missing here if that is what it tells.
# A plain tuple: there are many.
Entry = tuple[str, bytes, str, int]


class LogQueue(ABC):
    """One container's log, whatever it is written to.

    wanted    of the request
    complain  told once that nothing can be written, and why, until something can again; and of what was lost at the end

    blocking  whether the command waits for a log that takes nothing
    on_room   called when the command need not wait any more
    """

    def __init__(self, wanted: Logging, complain: Callable[[str], None]) -> None:
        self.blocking = wanted.blocking
        self._limit = _LAST_WORDS if wanted.blocking else wanted.buffer
        self._complain = complain
        self._failing = False
        self._rest: dict[str, bytes] = {}
        self._queue: deque[Entry] = deque()
        self._waiting = 0  # bytes of the queue
        self._dropped = 0
        self._last = 0  # nanoseconds: the time of the last entry
        self._second, self._prefix = -1, ""  # and that of its second, as text
        self._loop: Loop | None = None
        self._again: Timer | None = None
        self.on_room: Callable[[], None] = lambda: None

    def begin(self, loop: Loop) -> None:
        """Try again by this loop what could not be written."""
        self._loop = loop

    @property
    def full(self) -> bool:
        """Whether the command has to wait."""
        return self.blocking and self._waiting >= HELD

    def put(self, stream: str, data: bytes) -> None:
        """Bytes of `stream` ("stdout", "stderr"). What is no whole line yet waits for its end, or for `end`."""
        data = self._rest.pop(stream, b"") + data
        while True:
            if not self._waits:
                data = data[self._at_once(stream, data) :]
            end = data.find(b"\n", _SOME) + 1 or data.rfind(b"\n") + 1
            if not end:
                break
            lines = data[:end].split(b"\n")[:-1]
            self._enter(stream, [part for line in lines for part in parts_of(line + b"\n")])
            data = data[end:]
        if len(data) > MAX_LINE:
            *full, data = parts_of(data)
            self._enter(stream, full)
        if data:
            self._rest[stream] = data

    def end(self, stream: str) -> None:
        """Nothing more comes of `stream`: what waits is its last line."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._enter(stream, parts_of(rest))

    def close(self) -> None:
        """Write what waits, and let go of the log. What it does not take now is lost, and told."""
        for stream in list(self._rest):
            self.end(stream)
        self._flush()
        self._finish()
        if self._again is not None:
            self._again.cancel()
        lost = len(self._queue) + self._dropped
        if lost:
            self._complain(f"{lost} lines are lost at its end")

    @property
    def _waits(self) -> bool:
        """Whether something does that comes before whatever is put."""
        return bool(self._queue or self._dropped or self._again)

    def _at_once(self, stream: str, data: bytes) -> int:
        """Write whole lines at the beginning of `data` where nothing waits: how many bytes of it were taken."""
        try:
            taken = self._take_lines(stream, data)
        except OSError:
            return 0  # it is tried again, line by line, and told
        self._failing = self._failing and not taken
        return taken

    # --- of what it is written to

    def _take_lines(self, stream: str, data: bytes) -> int:
        """Write whole lines at the beginning of `data` together, without a look at each: how many bytes of it were taken. 0 where
        the first does not go so. Raises OSError where none was taken.
        """
        return 0

    @abstractmethod
    def _take(self, entries: list[Entry]) -> int:
        """Write `entries` without waiting; how many were taken, from the first on. Raises OSError for a log that cannot be written
        to; what was taken by then is told by `_took`.
        """

    @abstractmethod
    def _finish(self) -> None:
        """The last try, which may take some time, and the end."""

    # --- the queue

    def _enter(self, stream: str, parts: list[bytes]) -> None:
        if not parts:
            return
        if self._waits:
            for part in parts:
                self._append(stream, part)
            if self._again is None:
                self._flush()
            return
        entries = self._entries(stream, parts)
        rest = entries[self._try(entries) :]
        for entry in rest:
            if self._dropped or not self._has_room(entry[1]):
                self._dropped += 1
            else:
                self._keep(entry)
        if rest:
            self._flush()

    def _append(self, stream: str, part: bytes) -> None:
        if not self._has_room(part):
            if self._again is None:
                self._flush()  # it is only much at once
            if self._queue:
                self._dropped += 1
                return
        if self._dropped:
            self._mark()
        self._keep(*self._entries(stream, [part]))

    def _has_room(self, part: bytes) -> bool:
        return not self._queue or self._waiting + len(part) + COST <= self._limit

    def _mark(self) -> None:
        """A line that says how many are missing here."""
        number, self._dropped = self._dropped, 0
        text = (
            f"[dkr: {number} line{'s' if number > 1 else ''} dropped here: the log took nothing]\n".encode()
        )
        self._keep(*self._entries("stderr", [text], number))

    def _entries(self, stream: str, parts: list[bytes], dropped: int = 0) -> list[Entry]:
        """Entries of now, each with a time of its own."""
        last, now = self._last, time.time_ns()
        entries = []
        for part in parts:
            last = max(last + 1, now)
            second, rest = divmod(last, 1_000_000_000)
            if second != self._second:
                self._second, self._prefix = second, timestamp(second * 1_000_000_000)[:20]
            entries.append((stream, part, f"{self._prefix}{rest:09}Z", dropped))
        self._last = last
        return entries

    def _keep(self, entry: Entry) -> None:
        self._queue.append(entry)
        self._waiting += len(entry[1]) + COST

    def _try(self, entries: list[Entry]) -> int:
        """How many of `entries` the log takes. One that cannot be written to is told, once."""
        try:
            taken = self._take(entries)
        except OSError as err:
            if not self._failing:
                self._failing = True
                self._complain(err.strerror or str(err))
            return 0
        self._failing = self._failing and not taken
        return taken

    def _flush(self) -> None:
        """Write what waits, as far as the log takes it."""
        while self._queue or self._dropped:
            if not self._queue:
                self._mark()
            taken = self._try(list(self._queue))
            self._took(taken)
            if not taken:
                self._try_later()
                return
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _took(self, number: int) -> None:
        was_full = self.full
        for _ in range(number):
            self._waiting -= len(self._queue.popleft()[1]) + COST
        if was_full and not self.full:
            self.on_room()

    def _try_later(self) -> None:
        if self._again is None and self._loop is not None:
            self._again = self._loop.later(_AGAIN, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        self._flush()


def parts_of(line: bytes) -> list[bytes]:
    """`line` in pieces of at most MAX_LINE bytes, cut between characters where it is text."""
    parts = []
    begin = 0
    while len(line) - begin > MAX_LINE:
        end = begin + MAX_LINE
        while end > begin + MAX_LINE - 4 and line[end] & 0xC0 == 0x80:  # inside of a character; utf-8(7)
            end -= 1
        parts.append(line[begin:end])
        begin = end
    return [*parts, line[begin:]]
