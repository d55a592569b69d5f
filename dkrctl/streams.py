"""The input and output of a container without a terminal, which its guardian holds: two streams, copied to and from the caller's.

Loaded by who attaches to such a container (see lean.py): imports built-in modules and our lean ones.
"""

import _socket
import posix

from dkrctl.pump import Pump
from dkrctl.stdio import open_terminal

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrctl.terminal import Terminal


def copied(
    streams: list[int], typed_at: "Terminal | None", *, given: bool
) -> "tuple[Terminal | None, list[Pump]]":
    """The terminal that is attended, if any, and what to copy.

    streams   output, and over the same the input; error
    typed_at  the caller's terminal, where the input is one
    given     what comes in goes to the command
    """
    first, second = streams
    outward = Pump(first, _shown_on(1), outward=True)
    pumps = [outward, Pump(second, _shown_on(2), outward=True)]
    if typed_at is not None:
        inward = typed_at.begin_lines(first, outward, passes=given)
    elif given:
        inward = Pump(0, first, outward=False)
    else:
        return None, pumps
    if given:
        inward.over = _end_of(first)
    return typed_at, [*pumps, inward]


def _shown_on(number: int) -> int:
    """Where output for `number` is written: a terminal opened again, which can be made never to wait without the shell noticing."""
    again = open_terminal(number, posix.O_WRONLY) if posix.isatty(number) else -1
    return again if again >= 0 else number


def _end_of(stream: int) -> "Callable[[], None]":
    """What tells the command that its input is at the end; its output still comes."""

    def end() -> None:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, stream)
        try:  # noqa: SIM105 - contextlib would cost 3.5 ms
            sock.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # ENOTCONN: the command has ended, and the guardian hung up
        sock.detach()  # the descriptor is still read

    return end
