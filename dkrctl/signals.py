"""What the client does with signals.

On the lean path (see lean.py): imports built-in modules only; `signal` would cost 4.4 ms for its enums.

Until the first frame is on its way nothing runs, so a signal that ends a program ends the client
(`Terminated`, raised out of whatever it waits in). From then on every signal is noted in a pipe, in order,
and becomes a frame: as if the command had received it. One noted in between is not lost.

Not forwarded: KILL and STOP cannot be caught; CHLD and PIPE would speak of the client's own doings; SEGV,
BUS, FPE and ILL are faults of the client itself, and a handler in Python would meet them for ever; TSTP,
TTIN, TTOU and CONT keep their job-control meaning: ctrl-Z stops the client (and what goes through it), the
command runs on. What the caller ignores (nohup, a background job of a shell without job control) stays
ignored, as it would be for the command.
"""

import _signal  # type: ignore[import-not-found]
import posix

SIGHUP = 1
SIGINT = 2
SIGQUIT = 3
SIGKILL = 9
SIGPIPE = 13
SIGTERM = 15
SIGCONT = 18
SIGTSTP = 20
SIGTTIN = 21
SIGTTOU = 22
SIGXFSZ = 25
SIGWINCH = 28

_STAY = frozenset(
    (4, 7, 8, 9, 11, 13, 17, 18, 19, 20, 21, 22)
)  # ILL BUS FPE KILL SEGV PIPE CHLD CONT STOP TSTP TTIN TTOU
_HARMLESS = frozenset((23, 28))  # URG, WINCH: ignored by default, signal(7)
_RESERVED = frozenset((32, 33))  # the C library's, nptl(7)
FORWARDED = tuple(n for n in range(1, 65) if n not in _STAY and n not in _RESERVED)

_DEFAULT = 0  # SIG_DFL, SIG_IGN as _signal tells them
_IGNORED = 1


class Terminated(BaseException):
    """A signal ended the client before anything was started; `number` is the signal.

    No Exception: nothing on the way may take it for a failure of its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def plain_interrupt() -> None:
    """Let ctrl-C end the client as it ends any program, not with Python's KeyboardInterrupt."""
    if _signal.getsignal(SIGINT) is _signal.default_int_handler:
        _signal.signal(SIGINT, _DEFAULT)


def die_of(number: int) -> int:
    """End by the signal `number` as a program without a handler would; a status if that did not do it."""
    _signal.signal(number, _DEFAULT)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
    posix.kill(posix.getpid(), number)
    return 128 + number


def stop_self() -> None:
    """Stop by SIGTSTP as a program without a handler would; returns when continued."""
    handler = _signal.signal(SIGTSTP, _DEFAULT)
    posix.kill(posix.getpid(), SIGTSTP)
    _signal.signal(SIGTSTP, handler)


class Hushed:
    """While it stands, SIGTTOU is ignored: a job in the background may set the terminal."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _signal.signal(SIGTTOU, _IGNORED)

    def __exit__(self, *_: object) -> None:
        # None: the handler was set by no Python code; that is the default one here.
        _signal.signal(SIGTTOU, _DEFAULT if self._before is None else self._before)


class Signals:
    """Catches signals from its making on; see the top of the module."""

    __slots__ = ("_reader", "_recording", "_writer")

    def __init__(self) -> None:
        self._recording = False
        self._reader, self._writer = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in FORWARDED:
            # Python itself ignores XFSZ at its start, so what the caller wished cannot be told.
            if number == SIGXFSZ or _signal.getsignal(number) != _IGNORED:
                _signal.signal(number, self._caught)

    def fileno(self) -> int:
        """Readable when a signal was noted."""
        return self._reader

    def record(self) -> None:
        """From now on no signal ends the client; all are noted for `take`."""
        self._recording = True

    def keep_job_control(self) -> None:
        """Note TSTP and CONT as well: for who has changed the terminal."""
        for number in (SIGTSTP, SIGCONT):
            if _signal.getsignal(number) != _IGNORED:
                _signal.signal(number, self._caught)

    def take(self) -> bytes:
        """The numbers of the signals noted since the last time, a byte each."""
        try:
            return posix.read(self._reader, 4096)
        except BlockingIOError:
            return b""

    def _caught(self, number: int, _frame: object) -> None:
        if not self._recording and number not in _HARMLESS and number != SIGCONT:
            raise Terminated(number)
