"""The line discipline of one of the caller's terminals: put out of the way, and as it was before afterwards.

On the lean path where there is a terminal (see lean.py): imports termios (0.3 ms) and built-in modules.
"""

import posix
import termios

from dkrctl.keeper import Keeper
from dkrctl.signals import Hushed

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.keeper import Mode

# What is put out of the way. All three together are cfmakeraw(3).
KEYS = 1  # lines, echo, what changes characters: what is typed comes byte by byte
SIGNALS = 2  # ctrl-C, ctrl-Z and the like as signals: with KEYS they are bytes as all others
OUTPUT = 4  # line ends: for who makes them himself


class Line:
    """`take` and `restore` may be called in any order, and again."""

    __slots__ = ("_before", "_descriptor", "_end", "_keeper", "_taken", "_what")

    def __init__(self, descriptor: int, what: int, end: bytes = b"") -> None:
        """descriptor  of the terminal
        what           of the constants above, added
        end            a character that sends a line off as return does, itself included
        """
        self._descriptor = descriptor
        self._what = what
        self._end = end
        self._before: Mode | None = None
        self._taken: Mode | None = None  # what we have set and nobody has restored yet
        self._keeper: Keeper | None = None

    def take(self) -> bool:
        """Put it out of the way. In the background nothing is set; False then."""
        if not self._in_front():
            self.restore()  # stopped by SIGSTOP, we could not: now it is another's
            return False
        try:
            now = termios.tcgetattr(self._descriptor)
            if now == self._taken:
                return True
            if self._taken is None or now[3] & termios.ICANON:
                # Else a shell has not set it while we were stopped, and what is there is still of our making.
                self._before = now
            self._set(_without(now, self._what, self._end))
        except termios.error:
            return True  # it hung up: who reads and writes it finds the end
        return True

    def restore(self) -> None:
        """Give it back as it was."""
        if self._taken is None:
            return
        taken, self._taken = self._taken, None
        try:
            # In the background only what is still our own doing: another job may have set it for itself.
            if self._in_front() or termios.tcgetattr(self._descriptor) == taken:
                with Hushed():
                    termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)  # type: ignore[arg-type]
        except termios.error:
            pass  # it hung up: there is nothing to restore
        self._let_go()

    def _set(self, wanted: "Mode") -> None:
        # Before the call: whatever ends us in between must not leave it so.
        self._taken = wanted
        self._keep(wanted)
        termios.tcsetattr(self._descriptor, termios.TCSANOW, wanted)
        got = termios.tcgetattr(self._descriptor)
        if got != wanted:
            # A driver that has a will of its own: what it made of it is what the child must know.
            self._taken = got
            self._keep(got)

    def _keep(self, taken: "Mode") -> None:
        self._let_go()
        try:
            self._keeper = Keeper(self._descriptor, self._before, taken)  # type: ignore[arg-type]
        except OSError:
            return  # no process to be had (RLIMIT_NPROC): then only we ourselves restore

    def _let_go(self) -> None:
        if self._keeper is not None:
            self._keeper.release()
            self._keeper = None

    def _in_front(self) -> bool:
        group = group_in_front(self._descriptor)
        return group < 0 or group == posix.getpgrp()


def group_in_front(descriptor: int) -> int:
    """The process group in front at a terminal, or -1: not our controlling terminal, so there is no job control on it for us."""
    try:
        return posix.tcgetpgrp(descriptor)
    except OSError:
        return -1


def _without(mode: "Mode", what: int, end: bytes) -> "Mode":
    iflag, oflag, cflag, lflag = (int(flags) for flags in mode[:4])  # type: ignore[arg-type]
    characters = list(mode[6])  # type: ignore[arg-type]
    if what & KEYS:
        iflag &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    if end:
        # Without IXON ctrl-Q and ctrl-S are characters as all others.
        iflag &= ~termios.IXON
        characters[termios.VEOL] = end
    if what & SIGNALS:
        lflag &= ~termios.ISIG
    if what & OUTPUT:
        oflag &= ~termios.OPOST
    return [iflag, oflag, cflag, lflag, mode[4], mode[5], characters]
