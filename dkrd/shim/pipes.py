"""The pipes of a container whose stdio is nobody's: made by its guardian, which keeps the other ends.

guardian ── input ─► 0        only with openStdin; else 0 is a pipe that has ended, and no device of the host's
guardian ◄─────────── 1, 2
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from dkrd.shim import alarm

# Bytes of one read; a pipe holds 64 KiB, pipe(7). No more: what is made of them for a log would be given back to the kernel and asked
# for again each time (M_TRIM_THRESHOLD, mallopt(3)), which takes longer than the reads that are saved.
CHUNK = 32 * 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.shim.config import Config


def tty(config: Config) -> tuple[int, ...]:
    """Those of 0-2 that are the container's own terminal, where its stdio is nobody's."""
    if not config.spec.process.terminal:
        return ()
    return (0, 1, 2) if config.open_stdin else (1, 2)


class Pipe:
    """One way out of the command, and for the first of them the way in: what relay.py moves bytes through.

    reading  descriptor of the output's end
    writing  descriptor of the input's end, or -1
    chunk    bytes of one read
    """

    def __init__(self, reading: int, writing: int = -1) -> None:
        self.reading = reading
        self.writing = writing
        self.chunk = CHUNK

    def take(self) -> None:
        """Be the one that reads and writes from now on, without ever waiting."""
        for fd in (self.reading, self.writing):
            if fd >= 0:
                os.set_blocking(fd, False)
        alarm.prepare()

    def read(self) -> bytes:
        """What the command has written; nothing at the end. Raises BlockingIOError where there is nothing now."""
        return os.read(self.reading, self.chunk)

    def write(self, data: bytes | bytearray) -> int:
        """How many bytes were taken. Raises BlockingIOError, and BrokenPipeError where the command reads no more."""
        return os.write(self.writing, data)

    def end_input(self) -> None:
        """The command finds the end of its input."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1


@dataclass(slots=True)
class Theirs:
    """The command's ends."""

    stdio: dict[int, int]

    def close(self) -> None:
        """They are the command's alone from here on."""
        for fd in self.stdio.values():
            os.close(fd)
        self.stdio = {}


def make(numbers: tuple[int, ...], open_stdin: bool, base: int) -> tuple[Theirs, dict[int, Pipe]]:
    """Pipes for those of 0..2 in `numbers`: the command's ends, and ours by the number of the output. `base`: host id
    of the container's root, whose the pipes are, so that /dev/stdout can be opened inside. Raises OSError.
    """
    theirs = Theirs({})
    ours: dict[int, Pipe] = {}
    with contextlib.ExitStack() as undo:
        undo.callback(theirs.close)
        writing = -1
        if 0 in numbers:
            theirs.stdio[0], writing = pipe(base)
            if not open_stdin:
                os.close(writing)
                writing = -1
        for number in (1, 2):
            if number in numbers:
                reading, theirs.stdio[number] = pipe(base)
                ours[number] = Pipe(reading, writing if number == 1 else -1)
                undo.callback(os.close, reading)
        undo.pop_all()
    return theirs, ours


def pipe(base: int) -> tuple[int, int]:
    """Both ends of a pipe of the container's root, whose host id is `base`: the reading one, the writing one. Raises OSError."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.fchown(read, base, base)
    # Any user inside may open it again by /proc/self/fd, which is all that leads to it.
    os.fchmod(read, 0o666)
    return read, write


def close(ours: dict[int, Pipe]) -> None:
    """Close our ends."""
    for pipe in ours.values():
        pipe.end_input()
        os.close(pipe.reading)
