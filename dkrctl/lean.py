"""The client's entry: `from dkrctl.lean import entry; entry()`.

`dkrctl run`, `exec` and `attach` (and `__complete`, which answers a shell) take the **lean path**: it may load what the
interpreter has loaded anyway, modules written in C (`posix`, `_socket`, `_signal`, `_json`, `gc`, `select`, `fcntl`, `errno`;
`termios` with a terminal), and our own lean modules, which say so at their top. `os json socket re enum
dataclasses argparse typing contextlib signal` and the like are loaded to print help or an error, never on the way
to a command: they cost 1 to 14 ms each. The bare interpreter (`python3 -IS`) takes 6.5 ms, all of ours 3 more, of
which reading our dozen files is two thirds: a new module costs some 0.15 ms, in an install a third less, where they
are read from one file (packed.py). tests/unit/test_client_lean.py holds the list.

So the classes here have `__slots__` and no decorator, and flags are numbers. See the cost: `/usr/bin/python3
-IS -X importtime`.
"""

import gc
import posix
import sys

from dkrctl.signals import Terminated, die_of, plain_interrupt

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from typing import NoReturn

# What is loaded at the start is no garbage, and looking through it for some took 4 % of an exec.
_GARBAGE = 50_000  # objects more than before, of which hardly any can be garbage: a collector's first look

_LEAN = ("run", "exec", "attach")


def _lean(verb: str, words: list[str], socket: str | None) -> int:
    """A verb of the lean path, each with modules of its own."""
    if verb == "run":
        from dkrctl.run import run

        return run(words, socket)
    if verb == "exec":
        from dkrctl.exec import execute

        return execute(words, socket)
    from dkrctl.attach import attach

    return attach(words, socket)


def main(words: list[str]) -> int:
    """`dkrctl WORDS...`; the exit status. Raises DkrError and Terminated."""
    if words and words[0] in _LEAN:
        return _lean(words[0], words[1:], None)
    if words[:1] == ["__complete"]:
        from dkrctl.complete import complete

        return complete(words[1:])
    from common.options import GLOBAL
    from dkrctl.parse import parse

    parsed = parse(GLOBAL, words, "dkrctl")
    if parsed.rest and parsed.rest[0] in _LEAN and not parsed.flag("help"):
        return _lean(parsed.rest[0], parsed.rest[1:], parsed.last("socket"))
    if not parsed.rest or parsed.flag("version") or parsed.flag("help"):
        from dkrctl import help as pages

        if parsed.flag("version"):
            return pages.print_version()
        return pages.print_overview() if parsed.flag("help") else pages.missing_command()
    from dkrctl.verbs import dispatch

    return dispatch(parsed.rest[0], parsed.rest[1:], parsed.last("socket"))


def entry() -> "NoReturn":
    """Run the command line and end the process at once: taking the interpreter apart would cost 2 ms."""
    plain_interrupt()
    gc.set_threshold(_GARBAGE)
    # After the signal: until here ctrl-C would show a traceback.
    from common.errors import EXIT_ENGINE, DkrError, exit_code

    try:
        status = main(sys.argv[1:])
    except DkrError as error:
        from dkrctl.report import report

        report(error)
        status = exit_code(error.code)
    except Terminated as ended:
        status = die_of(ended.number)
    except Exception:
        # A defect: show where, and end as an engine that failed, not with a status that the command might
        # have had.
        sys.excepthook(*sys.exc_info())
        if sys.stderr is not None:
            sys.stderr.flush()
        status = EXIT_ENGINE
    posix._exit(status)
