"""The caller's terminal while the command has one of its own: raw mode, copying, size, job control, leaving.

Loaded only then; imports termios (0.3 ms) and built-in modules.

The client alone holds the master of the command's pty, until the container's guardian asks for it: then the bytes come and go over
a stream of the guardian's, because others want to see them too. What is typed goes to the command byte by byte, ctrl-C and ctrl-Z
included: the line discipline inside makes signals of them, for the processes inside.
"""

import fcntl
import posix
import termios

from common.errors import BadRequest
from dkrctl.keeper import Keeper
from dkrctl.keys import Matcher
from dkrctl.pump import Pump, never_wait
from dkrctl.signals import SIGCONT, SIGTSTP, SIGWINCH, Hushed, stop_self
from dkrctl.stdio import open_terminal

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.keeper import Mode
    from dkrctl.session import Session

_ROWS_COLUMNS = 4  # bytes of struct winsize that count: ws_row, ws_col; ioctl_tty(2)


class Terminal:
    """The caller's side (typed at descriptor 0, shown on `shown`) and the command's, a master or a stream.

    `leave` must be called on every way out.
    """

    __slots__ = (
        "_before",
        "_inward",
        "_keeper",
        "_master",
        "_outward",
        "_raw",
        "_session",
        "_shown",
        "_stream",
        "_watch",
        "typed",
        "waits",
    )

    def __init__(self, shown: int, *, typed: bool, keys: bytes = b"") -> None:
        """typed  what is typed goes to the command, and descriptor 0 must be a terminal; else output only
        keys   what, typed, leaves the session; none where empty

        Raises BadRequest.
        """
        if typed and not posix.isatty(0):
            raise BadRequest(
                "cannot give the command a terminal: the input is not a terminal",
                hint="leave out -t; the command gets the input as it is",
            )
        self._shown = shown
        self.typed = typed
        self._watch = Matcher(keys).feed if keys else None
        self._before: Mode | None = None
        self._keeper: Keeper | None = None
        self._raw = False
        self._master = -1
        self._stream = -1
        self._session: Session | None = None
        self._inward: Pump | None = None
        self._outward: Pump | None = None
        self.waits = False  # in the background: to be looked at again by `look`

    @property
    def begun(self) -> bool:
        """The command's side is here."""
        return self._master >= 0 or self._stream >= 0

    @property
    def lost(self) -> bool:
        """The caller's side has gone: nothing is typed there and nothing shown any more."""
        return bool(
            (self._inward is not None and self._inward.eof)
            or (self._outward is not None and self._outward.broken)
        )

    @property
    def leaving(self) -> bool:
        """The keys that leave were typed."""
        return self._inward is not None and self._inward.left

    def size(self) -> tuple[int, int] | None:
        """Rows and columns of the caller's terminal, or None where it does not know."""
        try:
            data = fcntl.ioctl(0 if self.typed else self._shown, termios.TIOCGWINSZ, bytes(8))
        except OSError:
            return None
        rows, columns = memoryview(data)[:_ROWS_COLUMNS].cast("H")
        return (rows, columns) if rows and columns else None

    def begin(self, session: "Session", *, master: int = -1, stream: int = -1) -> list[Pump]:
        """The command runs, and one of the two is its side: raw mode; what to copy from now on."""
        self._session, self._master, self._stream = session, master, stream
        side = master if master >= 0 else stream
        never_wait(side)
        # Opened again, a terminal can be made non-blocking without the shell noticing; else it is used as it is.
        again = open_terminal(self._shown, posix.O_WRONLY) if posix.isatty(self._shown) else -1
        self._outward = Pump(side, again if again >= 0 else self._shown, outward=True, master=master >= 0)
        pumps = [self._outward]
        if self.typed:
            again = open_terminal(0, posix.O_RDONLY)
            self._inward = Pump(again if again >= 0 else 0, side, outward=False)
            self._inward.watch = self._watch
            pumps.append(self._inward)
            self._enter()
        self.resize()
        return pumps

    def relay(self, stream: int) -> None:
        """The guardian wants the master: let it go, and go on over `stream`. What was read or typed before keeps its place."""
        never_wait(stream)
        assert self._outward is not None
        # Not read since poll(2) last said so: the guardian reads from here on, and only when it has heard that we do not.
        self._outward.redirect(source=stream)
        if self._inward is not None:
            self._inward.redirect(target=stream)
        posix.close(self._master)
        self._master, self._stream = -1, stream

    def signalled(self, number: int) -> None:
        """WINCH: the size follows. TSTP: stop, with the terminal as it was. CONT: raw again."""
        if number == SIGTSTP:
            self.restore()
            stop_self()
        if number in (SIGTSTP, SIGCONT) and self.begun and self.typed:
            self._enter()
        if number in (SIGWINCH, SIGTSTP, SIGCONT):
            self.resize()

    def look(self) -> None:
        """Whether the shell has put us in front, of which not every shell tells by a signal."""
        if self.waits and self._foreground():
            self._enter()

    def resize(self) -> None:
        """Give the command's terminal the caller's size; the kernel tells the command (SIGWINCH)."""
        size = self.size()
        if size is None or not self.begun or self._session is None:
            return
        rows, columns = size
        if self._stream >= 0:
            self._session.post({"type": "resize", "height": rows, "width": columns})
            return
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

    def leave(self) -> None:
        """The end: restore, and let the child go that would have done it for us."""
        self.restore()
        if self._keeper is not None:
            self._keeper.release()

    def _enter(self) -> None:
        """Raw mode as in cfmakeraw(3). In the background nothing is read and set: a job there may run on, as any other."""
        assert self._inward is not None
        self.waits = not self._foreground()
        self._inward.held = self.waits or self._inward.left
        if self.waits:
            return
        try:
            if self._before is None:
                self._before = termios.tcgetattr(0)
            raw = _raw(termios.tcgetattr(0))
            if self._keeper is None:
                self._keeper = Keeper(0, self._before, raw)
            # Before the call: a signal in between must not leave it raw.
            self._raw = True
            termios.tcsetattr(0, termios.TCSANOW, raw)
            got = termios.tcgetattr(0)
            if (
                got != raw
            ):  # a driver that has a will of its own: what it made of it is what the child must know
                self._keeper.release()
                self._keeper = Keeper(0, self._before, got)
        except termios.error:
            return  # it hung up; the input pump finds the end

    def _foreground(self) -> bool:
        try:
            return posix.tcgetpgrp(0) == posix.getpgrp()
        except OSError:
            return True  # not our controlling terminal: no job control on it


def _raw(mode: "Mode") -> "Mode":
    iflag, oflag, cflag, lflag = (int(flags) for flags in mode[:4])  # type: ignore[arg-type]
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
    oflag &= ~termios.OPOST
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    characters = list(mode[6])  # type: ignore[arg-type]
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, mode[4], mode[5], characters]
