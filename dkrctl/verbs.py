"""What is common to all verbs but those of the lean path: finding one, its options, its errors.

Each verb is a module of dkrctl/commands/ with a function `run(call)`, loaded for that verb only. They may import
the standard library freely; nothing else is in the client's path. What stands here, and what `ps` needs, is kept lean all the
same (see lean.py): scripts ask for lists again and again.
"""

from common.errors import BadRequest, DkrError
from common.options import Command
from common.verbs import COMMANDS, SYNONYMS, command_of
from dkrctl import stdio
from dkrctl.daemon import Daemon
from dkrctl.http import socket_path
from dkrctl.parse import Parsed, parse, utf8
from dkrctl.report import report

FAILED = 1  # a verb's exit status where something could not be done; 125 to 127 are those of `run`


class Call:
    """One call of a verb: `words` are its positionals, `found` those of descriptors 0-2 that the caller has."""

    __slots__ = ("command", "found", "parsed", "socket", "words")

    def __init__(self, command: Command, parsed: Parsed, socket: str, found: tuple[int, ...]) -> None:
        self.command = command
        self.found = found
        self.parsed = parsed
        self.socket = socket
        self.words = [utf8(word, f"argument {place}") for place, word in enumerate(parsed.rest, 1)]

    def daemon(self, seconds: float | None = None) -> Daemon:
        """The daemon that is meant; `seconds` as it takes them. What it says of the request it says of this call's options."""
        daemon = Daemon(self.socket, seconds)
        daemon.wording = self._worded
        return daemon

    def _worded(self, error: DkrError) -> DkrError:
        # Late: only an error needs it.
        from dkrctl.wording import in_options

        return in_options(error, self.parsed, self.command.options)

    def text(self, option: str) -> str | None:
        """The value of an option that is given once, or None."""
        value = self.parsed.last(option)
        return None if value is None else utf8(value, f"--{option}")

    def texts(self, option: str) -> list[str]:
        """All values of an option that repeats."""
        return [utf8(value, f"--{option}") for value in self.parsed.every(option)]

    def no_words(self) -> None:
        """Raises BadRequest where there are positionals."""
        if self.words:
            raise BadRequest(
                f"cannot take {self.words[0]!r}: {self.command.name} takes options only", hint=self._help()
            )

    def some_words(self) -> list[str]:
        """The positionals. Raises BadRequest where there are none."""
        if not self.words:
            raise BadRequest(f"cannot {self.command.name}: no container is named", hint=self._help())
        return self.words

    def _help(self) -> str:
        return f"{self.command.usage}\nsee `dkrctl {self.command.name} --help`"


def dispatch(name: str, words: list[str], socket: str | None) -> int:
    """`dkrctl NAME WORDS...`; `socket` is what was given before the verb. The exit status.

    Raises BadRequest where there is no such verb; other errors are told here.
    """
    # Before anything is opened: a connection that landed on 1 would get what is printed, a container's log among it.
    found = stdio.survey(prints=True)
    command = command_named(name)
    try:
        others = tuple(option for option, _, _ in command.refused)
        parsed = parse((*command.options, *others), words, f"dkrctl {name}", intermixed=command.intermixed)
        if parsed.flag("help"):
            from dkrctl.help import print_command

            return print_command(command)
        _refuse(command, parsed)
        # Not importlib's import_module, which would cost 0.4 ms.
        module = __import__(f"dkrctl.commands.{name.replace(' ', '_')}", fromlist=("run",))
        call = Call(command, parsed, socket_path(parsed.last("socket"), socket), found)
        status: int = module.run(call)
    except DkrError as error:
        report(error)
        return FAILED
    return status


def _refuse(command: Command, parsed: Parsed) -> None:
    """Raises BadRequest, with the reason, for an option that is another verb's."""
    for option, reason, way_out in command.refused:
        if parsed.last(option.long) is not None:
            raise BadRequest(f"cannot {command.name} with --{option.long}: {reason}", hint=way_out)


def command_named(name: str) -> Command:
    """The command `name` of the table. Raises BadRequest, with a near match, where there is none."""
    command = command_of(name)
    if command is not None:
        return command
    import difflib  # late: 5 ms, only for who has mistyped

    close = difflib.get_close_matches(name, [c.name for c in COMMANDS], 1, 0.6)
    meant = SYNONYMS.get(name) or (close[0] if close else None)
    question = f"did you mean `dkrctl {meant}`?\n" if meant else ""
    raise BadRequest(
        f"cannot run dkrctl {ascii(name)[1:-1]}: there is no such command",
        hint=f"{question}see `dkrctl --help`",
    )
