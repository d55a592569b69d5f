"""`--help` and `help`, and near matches for what was mistyped: 80 columns, made from the option table.

Not on the lean path: loaded only to print these, so it may import what it likes.
"""

import difflib
import re
import textwrap

from common.errors import EXIT_ENGINE
from common.options import FLAG, GLOBAL, Command, Option
from common.verbs import COMMANDS
from common.version import VERSION
from dkrctl.output import emit
from dkrctl.report import say

WIDTH = 80
_INDENT = 30


def near(word: str, known: tuple[str, ...]) -> str | None:
    """The word of `known` that was probably meant."""
    found = difflib.get_close_matches(word, known, 1, 0.6)
    return found[0] if found else None


def _option(option: Option) -> str:
    names = [f"-{option.short}," if option.short else "   ", f"--{option.long}"]
    left = "  " + " ".join(names)
    if option.kind != FLAG:
        left += f" {option.metavar}"
    extra = [f"--{alias}" for alias in option.aliases]
    text = option.help
    if option.choices and option.choices[0] not in text:
        text += f" ({', '.join(option.choices)})"
    if extra:
        text += f"; also {', '.join(extra)}"
    if option.default:
        text += f" [{option.default}]"
    body = textwrap.wrap(text, WIDTH - _INDENT, break_on_hyphens=False)
    if len(left) > _INDENT - 2:
        return "\n".join([left, *(" " * _INDENT + line for line in body)])
    return "\n".join([left.ljust(_INDENT) + body[0], *(" " * _INDENT + line for line in body[1:])])


def command_text(command: Command) -> str:
    """The help of one command."""
    parts = [f"usage: {command.usage}", textwrap.fill(command.summary, WIDTH, break_on_hyphens=False)]
    groups: dict[str, list[Option]] = {}
    for option in command.options:
        groups.setdefault(option.group, []).append(option)
    for name, options in groups.items():
        parts.append("\n".join([f"{name}:", *map(_option, options)]))
    if command.status:
        parts.append(textwrap.fill(f"exit status: {command.status}.", WIDTH, break_on_hyphens=False))
    if command.examples:
        lines = ["examples:"]
        for line, what in command.examples:
            lines.append(f"  {line}")
            if what:
                lines.append(f"      {what}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def brief(command: Command) -> str:
    """What it does, in one line of a list."""
    return re.split(r"[:.,] ", command.summary)[0].rstrip(".")


def overview_text() -> str:
    """The help of `dkrctl` itself."""
    verbs = [f"  {command.name:<12}{brief(command)}" for command in COMMANDS]
    return (
        "\n\n".join(
            [
                "usage: dkrctl [OPTIONS] COMMAND ...",
                "Run commands in containers, through the daemon dkrd.",
                "\n".join(["commands:", *verbs]),
                "\n".join(["options:", *map(_option, GLOBAL)]),
                "examples:\n  dkrctl run /bin/sh\n  dkrctl run --rm busybox echo hello\n  dkrctl ps -a\n  dkrctl help run",
            ]
        )
        + "\n"
    )


def print_command(command: Command) -> int:
    """Help on one command, to stdout. Raises as output.emit."""
    emit(command_text(command))
    return 0


def print_overview() -> int:
    """Help on dkrctl, to stdout. Raises as output.emit."""
    emit(overview_text())
    return 0


def print_version() -> int:
    """The client's version, to stdout. Raises as output.emit."""
    emit(f"dkrctl {VERSION}\n")
    return 0


def missing_command() -> int:
    """`dkrctl` alone: the help, as an error."""
    say(2, overview_text())
    return EXIT_ENGINE
