"""What verbs write to stdout: whole or with an error, and fit for a terminal where there is one."""

import posix
import select

from common.errors import HostUnfit
from dkrctl.cells import cut, plain
from dkrctl.signals import Terminated

_SIGPIPE = 13
RED, GREEN, YELLOW = 31, 32, 33  # ECMA-48, SGR


def emit(text: str) -> None:
    """Write all of `text` to stdout, now. A reader that has gone ends the client as SIGPIPE would.

    Raises HostUnfit where the output takes no more (a full disk).
    """
    write(1, text.encode("utf-8", "backslashreplace"))


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data` to stdout (1) or stderr (2), now; as `emit`."""
    while data:
        try:
            data = data[posix.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [])  # somebody who shares it has made it so
        except BrokenPipeError:
            raise Terminated(_SIGPIPE) from None
        except OSError as err:
            cause = (err.strerror or str(err)).lower()
            raise HostUnfit(f"cannot write the output: {cause}", errno=err.errno) from err


def is_terminal() -> bool:
    """Whether stdout is a terminal, so that people look at it."""
    return posix.isatty(1)


def width() -> int | None:
    """Columns of the terminal on stdout; None where there is none or it does not know."""
    try:
        return posix.get_terminal_size(1).columns or None
    except OSError:
        return None


def is_coloured() -> bool:
    """Whether colours are wanted: on a terminal that knows them, unless NO_COLOR is set."""
    return (
        is_terminal()
        and not posix.environ.get(b"NO_COLOR")
        and posix.environ.get(b"TERM", b"dumb") != b"dumb"
    )


def coloured(text: str, colour: int, *, wanted: bool) -> str:
    """`text` in `colour`, if `wanted`."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted else text


def shown(line: str) -> str:
    """`line` fit for a terminal: nothing in it steers; cut to the width where there is one."""
    limit = width()
    text = plain(line)
    return text if limit is None else cut(text, limit)
