"""The caller's terminal while the command has one of its own: raw mode, copying, size, job control.

Loaded only then; imports termios (0.3 ms) and built-in modules.

The client alone holds the master of the command's pty. What is typed goes to it byte by byte, ctrl-C and
ctrl-Z included: the line discipline inside makes signals of them, for the processes inside.
"""

import fcntl
import posix
import termios

from common.errors import BadRequest
from dkrctl.pump import Pump, never_wait
from dkrctl.signals import SIGCONT, SIGTSTP, SIGWINCH, Hushed, stop_self
from dkrctl.stdio import open_terminal

_ROWS_COLUMNS = 4  # bytes of struct winsize that count: ws_row, ws_col; ioctl_tty(2)


class Terminal:
    """Both ends: the caller's terminal on descriptor 0 (and the output on 1), the command's master.

    `restore` must be called on every way out.
    """

    __slots__ = ("_before", "_in", "_inward", "_master", "_out", "_outward", "_raw")

    def __init__(self) -> None:
        """Raises BadRequest where descriptor 0 is no terminal."""
        if not posix.isatty(0):
            raise BadRequest(
                "cannot give the command a terminal: the input is not a terminal",
                hint="leave out -t; the command gets the input as it is",
            )
        self._before: list[int | list[bytes | int]] | None = None
        self._raw = False
        self._master = -1
        self._in = 0
        self._out = 1
        self._inward: Pump | None = None
        self._outward: Pump | None = None

    @property
    def begun(self) -> bool:
        """The master is here."""
        return self._master >= 0

    @property
    def lost(self) -> bool:
        """The caller's side has gone: nothing is typed there and nothing shown any more."""
        return bool(
            (self._inward is not None and self._inward.eof)
            or (self._outward is not None and self._outward.broken)
        )

    def size(self) -> tuple[int, int] | None:
        """Rows and columns of the caller's terminal, or None where it does not know."""
        try:
            data = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return None
        rows, columns = memoryview(data)[:_ROWS_COLUMNS].cast("H")
        return (rows, columns) if rows and columns else None

    def begin(self, master: int) -> list[Pump]:
        """The command runs, `master` is its pty's: raw mode; what to copy from now on."""
        self._master = master
        never_wait(master)
        # Opened again, they can be made non-blocking without the shell noticing; else they are used as they
        # are.
        again = open_terminal(0, posix.O_RDONLY, waits=False)
        self._in = again if again >= 0 else 0
        if posix.isatty(1):
            again = open_terminal(1, posix.O_WRONLY, waits=False)
            self._out = again if again >= 0 else 1
        self._enter()
        self.resize()
        self._inward = Pump(self._in, master, outward=False)
        self._outward = Pump(master, self._out, outward=True, master=True)
        return [self._inward, self._outward]

    def signalled(self, number: int) -> None:
        """WINCH: the size follows. TSTP: stop, with the terminal as it was. CONT: raw again."""
        if number == SIGTSTP:
            self.restore()
            stop_self()
        if number in (SIGTSTP, SIGCONT) and self.begun:
            self._enter()
        if number in (SIGWINCH, SIGTSTP, SIGCONT):
            self.resize()

    def resize(self) -> None:
        """Give the command's terminal the caller's size; the kernel tells the command (SIGWINCH)."""
        size = self.size()
        if size is None or not self.begun:
            return
        rows, columns = size
        packed = memoryview(bytearray(8)).cast("H")
        packed[0], packed[1] = rows, columns
        try:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, packed.tobytes())
        except OSError:
            return  # EIO: the command's side has just ended; its exit comes

    def restore(self) -> None:
        """Give the caller's terminal back as it was. May be called at any time, and again."""
        if not self._raw or self._before is None:
            return
        self._raw = False
        if not self._foreground():
            return  # the shell took it back and set it already; another job may use it now
        try:
            with Hushed():
                termios.tcsetattr(0, termios.TCSANOW, self._before)
        except termios.error:
            return  # it hung up: there is nothing to restore

    def _enter(self) -> None:
        """Raw mode as in cfmakeraw(3). In the background the kernel stops us here until we are in front."""
        try:
            if self._before is None:
                self._before = termios.tcgetattr(0)
            mode = termios.tcgetattr(0)
            mode[0] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            mode[1] &= ~termios.OPOST
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            # Before the call: a signal in between must not leave it raw.
            self._raw = True
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except termios.error:
            return  # it hung up; the input pump finds the end

    def _foreground(self) -> bool:
        try:
            return posix.tcgetpgrp(0) == posix.getpgrp()
        except OSError:
            return True  # not our controlling terminal: no job control on it
