"""The caller's terminal while the command has one of its own: copying, size, job control, leaving.

On the lean path where there is one (see lean.py): imports built-in modules and our lean ones.

The client alone holds the master of the command's pty, until the container's guardian asks for it: then the bytes come and go over
a stream of the guardian's, because others want to see them too. What is typed goes to the command byte by byte, ctrl-C and ctrl-Z
included: the line discipline inside makes signals of them, for the processes inside.
"""

import fcntl
import posix
import termios

from common.errors import BadRequest
from dkrctl.keys import Matcher
from dkrctl.line import KEYS, OUTPUT, SIGNALS, Line, group_in_front
from dkrctl.pump import Pump, never_wait
from dkrctl.signals import SIGHUP, SIGPIPE, SIGTSTP, SIGWINCH, stop_self
from dkrctl.stdio import device_of, open_terminal

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.recording import Recording
    from dkrctl.session import Session

_ROWS_COLUMNS = 4  # bytes of struct winsize that count: ws_row, ws_col; ioctl_tty(2)


class Terminal:
    """The caller's side (keys at descriptor 0, shown on `shown`) and the command's, a master or a stream.

    `leave` must be called on every way out.
    """

    __slots__ = (
        "_edited",
        "_inward",
        "_keys",
        "_lines",
        "_master",
        "_matcher",
        "_outward",
        "_passes",
        "_recording",
        "_session",
        "_shown",
        "_stream",
        "typed",
        "waits",
    )

    def __init__(self, shown: int, *, typed: bool, passes: bool = True, keys: bytes = b"") -> None:
        """shown  where it is shown; a terminal or not
        typed     keys are read at descriptor 0, which must be a terminal
        passes    they go to the command; else they are read for those that leave, and dropped
        keys      what, typed, leaves the session; none where empty

        Raises BadRequest.
        """
        if typed and not posix.isatty(0):
            raise BadRequest(
                "cannot give the command a terminal: the input is not a terminal",
                hint="leave out -t; the command gets the input as it is",
            )
        self._shown = shown
        self.typed = typed
        self._passes = passes
        self._keys = keys
        self._matcher = Matcher(keys)
        self._edited = False  # what is typed comes in lines, made by the caller's terminal
        self._lines: list[Line] = []
        self._master = -1
        self._stream = -1
        self._recording: Recording | None = None
        self._session: Session | None = None
        self._inward: Pump | None = None
        self._outward: Pump | None = None
        self.waits = False  # in the background: to be looked at again by `look`

    @property
    def begun(self) -> bool:
        """The command's side is here."""
        return self._outward is not None

    @property
    def holds(self) -> bool:
        """That side is the master itself: nobody else tells the command of what happens here."""
        return self._master >= 0

    @property
    def lost(self) -> int:
        """The signal that tells of it where the caller's side has gone, and nothing is typed or shown there any more; else 0."""
        if self._inward is not None and self._inward.eof and not self._edited:  # else that was ctrl-D
            return SIGHUP
        if self._outward is not None and self._outward.broken:
            return SIGHUP if posix.isatty(self._shown) else SIGPIPE
        return 0

    @property
    def leaving(self) -> bool:
        """The keys that leave were typed."""
        return self._inward is not None and self._inward.left

    def record(self, path: str | None) -> None:
        """Record to the file `path` what the command's terminal shows; nothing where that is None. Raises BadRequest."""
        if path is not None:
            # Late: who does not record pays nothing.
            from dkrctl.recording import Recording

            self._recording = Recording(path)

    @property
    def records(self) -> bool:
        """Whether what is shown is to be recorded."""
        return self._recording is not None

    def settle(self) -> bool:
        """While leaving: nothing is read any more; whether all that was is where it belongs."""
        assert self._inward is not None
        assert self._outward is not None
        self._outward.held = True
        return not (self._inward.holding() or self._outward.holding())

    def size(self) -> tuple[int, int] | None:
        """Rows and columns of where it is shown, else of where it is typed; None where neither knows."""
        for descriptor in (self._shown, 0):
            try:
                data = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
            except OSError:
                continue  # no terminal
            rows, columns = memoryview(data)[:_ROWS_COLUMNS].cast("H")
            return (rows, columns) if rows and columns else None
        return None

    def begin(self, session: "Session", *, master: int = -1, stream: int = -1, whole: bool) -> list[Pump]:
        """The command runs, and one of the two is its side; what to copy from now on.

        whole  its terminal is its input too: there line ends are made, and keys mean something. Else one for output only
        """
        self._session, self._master, self._stream = session, master, stream
        self._passes = self._passes and whole
        side = master if master >= 0 else stream
        never_wait(side)
        # Opened again, a terminal can be made non-blocking without the shell noticing; else it is used as it is.
        again = open_terminal(self._shown, posix.O_WRONLY) if posix.isatty(self._shown) else -1
        self._outward = Pump(side, again if again >= 0 else self._shown, outward=True, master=master >= 0)
        if self._recording is not None:
            self._outward.watch = self._recording.begin(self.size(), whole=whole)
        pumps = [self._outward]
        if self.typed:
            pumps.append(self._read_keys(side))
        self._lines = self._involved(whole)
        self.look()
        self.resize()
        return pumps

    def begin_lines(self, stream: int, outward: Pump, *, passes: bool) -> Pump:
        """The command has no terminal, and this one is typed at: it shows, edits and ends (ctrl-D) the lines that go over `stream`,
        and makes signals of ctrl-C and the like, as for a command without a container. What to copy from now on.

        outward  what copies the command's output
        passes   they go to the command; else they are read for the keys that leave, and dropped
        """
        self._edited, self._passes, self._outward = True, passes, outward
        inward = self._read_keys(stream)
        # The last of the keys that leave must not wait for return.
        self._lines = [Line(0, 0, self._keys[-1:])]
        self.look()
        return inward

    def _read_keys(self, target: int) -> Pump:
        again = open_terminal(0, posix.O_RDONLY)
        self._inward = Pump(again if again >= 0 else 0, target, outward=False)
        self._inward.watch = self._matcher.feed if self._passes else self._drop
        return self._inward

    def _involved(self, whole: bool) -> list[Line]:
        """The caller's terminals that are to be put out of the way: one, where keys and output have the same.

        Another one that is not ours alone, as one of another window, keeps its mode; it shows line ends with a second carriage
        return then, which changes nothing of what is seen.
        """
        elsewhere = posix.isatty(self._shown) and not (self.typed and device_of(0) == device_of(self._shown))
        lines = []
        if self.typed:
            here = OUTPUT if whole and not elsewhere else 0
            lines.append(Line(0, KEYS | here | (SIGNALS if self._passes else 0)))
        if elsewhere and whole and group_in_front(self._shown) >= 0:
            lines.append(Line(self._shown, OUTPUT))
        return lines

    def _drop(self, data: bytes) -> tuple[bytes, bool]:
        """Of keys that are not for the command only those that leave matter."""
        return b"", self._matcher.feed(data)[1]

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
        """WINCH: the size follows. TSTP: stop, with the terminal as it was. CONT: as before that."""
        if number == SIGTSTP:
            self._restore()
            stop_self()
        if self.begun:
            if number != SIGWINCH:
                self.look()
            self.resize()

    def look(self) -> None:
        """Take the terminals, where we are in front. A job in the background reads and sets nothing, and runs on as any other;
        not every shell tells by a signal when it is put in front.
        """
        self.waits = not all(line.take() for line in self._lines)
        if self._inward is not None:
            self._inward.held = self.waits or self._inward.left

    def resize(self) -> None:
        """Give the command's terminal the caller's size; the kernel tells the command (SIGWINCH)."""
        size = self.size()
        if size is None or self._session is None:
            return
        rows, columns = size
        if self._recording is not None:
            self._recording.resized(size)
        if self._stream >= 0:
            self._session.post({"type": "resize", "height": rows, "width": columns})
            return
        packed = memoryview(bytearray(8)).cast("H")
        packed[0], packed[1] = rows, columns
        try:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, packed.tobytes())
        except OSError:
            return  # EIO: the command's side has just ended; its exit comes

    def leave(self) -> None:
        """The end: the caller's terminals as they were. May be called at any time, and again."""
        self._restore()
        if self._recording is not None:
            failure = self._recording.close()
            if failure:
                # Late: a recording that is whole says nothing.
                from dkrctl.report import note

                note(failure)

    def _restore(self) -> None:
        for line in self._lines:
            line.restore()
