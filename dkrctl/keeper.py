"""A small child of the client that gives the terminal back where the client cannot: after SIGKILL, or a crash.

On the lean path where there is a terminal (see lean.py): imports built-in modules only.

It waits for the end of a pipe whose other end the client alone has. Its process group is its own, so that neither a signal of
the terminal's nor `kill -9 -GROUP` of the client's job meets it.
"""

import _signal  # type: ignore[import-not-found]
import posix
import termios

from dkrctl.signals import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from typing import NoReturn

    Mode = list[int | list[bytes | int]]

_IGNORED = 1  # SIG_IGN as _signal tells it
_DONE = b"\n"


class Keeper:
    """The client's side of it. `release` on every way out: then the child has nothing to do."""

    __slots__ = ("_pid", "_writer")

    def __init__(self, terminal: int, before: "Mode", raw: "Mode") -> None:
        """Fork. `before` is set on `terminal` when we are gone and it still stands as `raw` says. Raises OSError."""
        reader, self._writer = posix.pipe2(posix.O_CLOEXEC)
        try:
            self._pid = posix.fork()
            if self._pid == 0:
                _keep(reader, terminal, before, raw)
        except OSError:
            posix.close(self._writer)
            raise
        finally:
            posix.close(reader)
        _leave_group(self._pid)  # here too: the child may be slow, and what follows must find it there

    def release(self) -> None:
        """The terminal is as it was; the child ends. May be called again."""
        if self._writer < 0:
            return
        try:  # noqa: SIM105 - contextlib would cost 3.5 ms
            posix.write(self._writer, _DONE)
        except OSError:
            pass  # somebody killed it: nothing is left to be told
        posix.close(self._writer)
        self._writer = -1
        try:
            posix.waitpid(self._pid, 0)
        except ChildProcessError:
            return  # our caller ignores SIGCHLD: the kernel has reaped it


def _leave_group(pid: int) -> None:
    """A process group of its own for the child `pid`, or for ourselves (0)."""
    try:  # noqa: SIM105 - contextlib would cost 3.5 ms
        posix.setpgid(pid, pid)
    except OSError:
        pass  # it has ended


def _rename() -> None:
    """Not another `dkrctl` to ps(1) and pkill(1)."""
    try:
        comm = posix.open("/proc/self/comm", posix.O_WRONLY)
        posix.write(comm, b"dkrctl-keeper")
        posix.close(comm)
    except OSError:
        return  # no /proc


def _keep(reader: int, terminal: int, before: "Mode", raw: "Mode") -> "NoReturn":
    """The child's whole life."""
    try:
        _signal.set_wakeup_fd(-1)
        _leave_group(0)
        _rename()
        for number in (SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU):
            _signal.signal(number, _IGNORED)
        # Nothing of the caller's stays open here: an end of file must not wait for us.
        posix.dup2(terminal, 0)
        posix.dup2(reader, 1)
        posix.closerange(2, 1 << 20)
        # A shell that has taken the terminal over has set it as it likes; only our own doing is undone.
        if posix.read(1, 1) != _DONE and termios.tcgetattr(0) == raw:
            termios.tcsetattr(0, termios.TCSANOW, before)
    finally:
        posix._exit(0)
