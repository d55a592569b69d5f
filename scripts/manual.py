"""The man pages, made from what they describe: dkrctl(1) from the option table, dkrd(8) from its parser, dkrd.toml(5)
from the settings' own defaults and words.

Plain man(7) macros, which groff and mandoc both know.
"""

from __future__ import annotations

import argparse
import re
import textwrap
import tomllib

from common.errors import EXIT_ENGINE
from common.exec_verbs import SUBCOMMANDS
from common.options import FLAG, GLOBAL, HELP, SOCKET, VERB_HELP, Command, Option
from common.verbs import COMMANDS
from common.version import VERSION
from dkrctl.daemon import SECONDS, VARIABLE
from dkrctl.help import brief
from dkrd.launcher import options as daemon_options
from dkrd.settings import DEFAULT_FILE, LOG_FORMATS, LOG_LEVELS, Settings

_LITERAL = frozenset((*LOG_LEVELS, *LOG_FORMATS))
_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def escaped(text: str) -> str:
    """`text` as roff prints it: nothing in it is a request, quotes and dashes stay what can be copied."""
    text = "".join(_SPECIAL.get(character, character) for character in text)
    return f"\\&{text}" if text[:1] in (".", "") else text


def _bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR"


def _sentence(text: str) -> str:
    """A clause of the tables as a sentence; what begins with a literal word keeps it as it is typed."""
    first = text.split(" ")[0].strip(",;:")
    return f"{text if first in _LITERAL else text[:1].upper() + text[1:]}."


def _paragraph(text: str) -> list[str]:
    """Prose, filled by roff: broken into lines here so that the source can be read."""
    lines = textwrap.wrap(escaped(text), 78, break_on_hyphens=False, break_long_words=False)
    return [f"\\&{line}" if line.startswith(".") else line for line in lines]


def head(name: str, section: int, date: str, what: str) -> list[str]:
    """The first lines of a page."""
    return [
        '.\\" Made by scripts/generate.py from the program itself: changes here are lost.',
        f'.TH {name.upper()} {section} {date} "dkr {VERSION}"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(what)}",
    ]


# --- dkrctl(1)


def _option(option: Option) -> list[str]:
    names = [f"-{option.short}"] if option.short else []
    names += [f"--{name}" for name in (option.long, *option.aliases)]
    line = ", ".join(map(_bold, names))
    if option.kind != FLAG:
        line += f" {_italic(option.metavar)}"
    text = option.help
    if option.choices and option.choices[0] not in text:
        text += f" ({', '.join(option.choices)})"
    text = _sentence(text)
    if option.default:
        text += f" Default: {option.default}."
    if option.docker:
        text += f" Beside Docker: {option.docker}."
    return [".TP", line, *_paragraph(text)]


def _command(command: Command) -> list[str]:
    lines = [f".SS {escaped(command.usage.removeprefix('dkrctl '))}", *_paragraph(command.summary)]
    for option in command.options:
        if option not in (SOCKET, HELP, VERB_HELP):
            lines += _option(option)
    if command.status:
        lines += [".PP", *_paragraph(f"Exit status: {command.status}.")]
    if command.examples:
        lines += [".PP", "Examples:", ".PP", ".RS 4", ".EX"]
        for line, what in command.examples:
            lines += [escaped(line)] + ([f"    {escaped('# ' + what)}"] if what else [])
        lines += [".EE", ".RE"]
    return lines


def dkrctl(date: str) -> str:
    """dkrctl(1)."""
    lines = head("dkrctl", 1, date, "run commands in containers, through the daemon dkrd")
    lines += [
        ".SH SYNOPSIS",
        ".B dkrctl",
        f"[{_italic('OPTIONS')}]",
        f"{_italic('COMMAND')} ...",
        ".SH DESCRIPTION",
    ]
    lines += _paragraph(
        "dkrctl asks the daemon dkrd(8), over a Unix socket, to run commands in containers, and hands over its own input and "
        "output. It has no privilege of its own: what a user may do is judged by the daemon, by the kernel's word on who asks. "
        "Members of the group dkr have containers of their own; root and members of dkr-admin see and touch those of everybody."
    )
    for command in COMMANDS:
        lines += [".TP", _bold(command.name), escaped(brief(command)) + "."]
    lines += [".PP", *_paragraph("Each command takes --socket and --help as well.")]
    lines += [".SH OPTIONS"]
    for option in GLOBAL:
        lines += _option(option)
    lines += [".SH COMMANDS"]
    for command in COMMANDS:
        lines += _command(command)
        for other in SUBCOMMANDS:
            if other.name.startswith(f"{command.name} "):
                lines += _command(other)
    return "\n".join(lines + _templates() + _surroundings()) + "\n"


def _templates() -> list[str]:
    lines = [".SH TEMPLATES"]
    lines += _paragraph(
        "A template given to --format is text with actions in double braces, the part of Go's text/template that is in use with "
        "Docker. An action is a value: a field, a text in quotes, a number, or a function of values; parentheses group. There are "
        "no loops, conditions and variables: for these json gives the value to another program."
    )
    for what, told in (
        ("{{.Names}}", "a field; the case of its letters does not matter; one that is not known is an error"),
        ("{{.exit.code}}", "a field of a field; of one that is absent, nothing"),
        ('{{.Label "team"}}, {{index .labels "team"}}', "the label with this name, or nothing"),
        ("{{json .}}", "the value as JSON: here all of it"),
        ('{{join .args " "}}, {{len .args}}', "of a list"),
        ("{{upper .Names}}, {{lower .Names}}", "of a text"),
    ):
        lines += [".TP", _bold(what), *_paragraph(_sentence(told))]
    lines += [".PP"]
    lines += _paragraph(
        "\\t and \\n are a tab and a new line. ps takes the fields ID, Image, Command, CreatedAt, RunningFor, State, Status, Names, "
        "Labels, Uid, Pid, ExitCode and Cause; inspect, info and version take those that --format json shows. At a terminal what is "
        "not printable in a value is shown as an escape; elsewhere values are as they are."
    )
    return lines


def _surroundings() -> list[str]:
    lines = [".SH EXIT STATUS"]
    lines += _paragraph(
        f"Of run, that of the command; {EXIT_ENGINE} where dkr could not run it. Of other commands 0, or 1 where something could not "
        "be done; what and why is told on the standard error output, with a way out where there is one."
    )
    lines += [".SH ENVIRONMENT"]
    for name, what in (
        ("DKR_SOCKET", "the daemon's socket, where --socket is not given"),
        (
            VARIABLE,
            f"how many seconds commands other than run wait for the daemon's answer; {SECONDS:g} without it",
        ),
        ("NO_COLOR", "no colours, if it is set to anything; there are none without a terminal anyway"),
    ):
        lines += [".TP", _bold(name), *_paragraph(_sentence(what))]
    lines += [".SH FILES", ".TP", _italic("/run/dkr/dkr.sock"), "The socket."]
    lines += [".SH SEE ALSO", ".BR dkrd (8),", ".BR dkrd.toml (5)"]
    return lines


# --- dkrd(8)


def dkrd(date: str) -> str:
    """dkrd(8)."""
    parser = daemon_options.parser()
    lines = head("dkrd", 8, date, "the daemon that starts containers")
    lines += [".SH SYNOPSIS", ".B dkrd", f"[{_italic('OPTIONS')}]", ".SH DESCRIPTION"]
    lines += _paragraph(
        "dkrd serves the clients of a Unix socket, dkrctl(1) among them, and starts containers for them. It runs as root and stays in "
        "the foreground; its log is its standard error output. Containers go on when it ends, and are adopted at its next start. "
        "A process of its own without any privilege, the api, reads all that comes from clients."
    )
    lines += [".SH OPTIONS"]
    for action in parser._actions:
        lines += _action(action)
    lines += [".SH SIGNALS"]
    for name, what in (
        ("SIGHUP", "reads the settings again, and lays down a busybox that was installed meanwhile"),
        ("SIGTERM, SIGINT", "end the daemon in order; containers live on"),
    ):
        lines += [".TP", _bold(name), *_paragraph(_sentence(what))]
    lines += [".SH FILES"]
    for path, what in (
        (DEFAULT_FILE, "settings, see dkrd.toml(5); may be missing"),
        ("/run/dkr", "the socket, and the state of what runs"),
        ("/var/lib/dkr", "what survives a reboot: containers, layers, the ids that are given away, an index"),
    ):
        lines += [".TP", _italic(path), *_paragraph(_sentence(what))]
    lines += [".SH SEE ALSO", ".BR dkrctl (1),", ".BR dkrd.toml (5)"]
    return "\n".join(lines) + "\n"


def _action(action: argparse.Action) -> list[str]:
    line = ", ".join(map(_bold, action.option_strings))
    if action.nargs != 0:
        line += f" {_italic(str(action.metavar or action.dest.upper()))}"
    text = (action.help or "").replace("%(prog)s", "dkrd")
    text = "print the version and end" if isinstance(action, argparse._VersionAction) else text
    return [".TP", line, *_paragraph(_sentence(text))]


# --- dkrd.toml(5)


def described() -> dict[str, str]:
    """Field of Settings -> what its documentation says of it."""
    text = (Settings.__doc__ or "").partition("\n\n")[2]
    found: dict[str, str] = {}
    fields: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        match = re.fullmatch(r"((?:\w+, )*\w+) {2,}(\S.*)", line)
        if match and not line.startswith(" "):
            fields = match[1].split(", ")
            found.update(dict.fromkeys(fields, match[2].strip()))
        elif line.strip() and fields:
            for field in fields:
                found[field] += f" {line.strip()}"
    return found


def entries() -> list[tuple[str, str, str]]:
    """(key, default as the file has it, what it means), in the order of --print-config."""
    told = described()
    found = []
    section = ""
    for line in Settings().to_toml().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            name, _, value = line.partition(" = ")
            key = f"{section}.{name}" if section else name
            field = key.replace(".", "_") if key.replace(".", "_") in told else name
            found.append((key, value, told[field]))
    return found


def settings(date: str) -> str:
    """dkrd.toml(5)."""
    lines = head("dkrd.toml", 5, date, "settings of the daemon dkrd")
    lines += [".SH SYNOPSIS", f".I {escaped(DEFAULT_FILE)}", ".SH DESCRIPTION"]
    lines += _paragraph(
        "TOML. Every key is known, typed and bounded: one that is not, or a value that does not fit, is refused with its line, and dkrd "
        "does not start. A key that is missing has its default. Options of dkrd(8) win over the file; dkrd --print-config prints what is "
        "in force. SIGHUP makes dkrd read it again."
    )
    lines += [".SH KEYS"]
    section = ""
    for key, value, what in entries():
        if "." in key and key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += [f".SS {escaped(f'[{section}]')}"]
        name = key.rpartition(".")[2]
        lines += [".TP", f"{_bold(name)} = {escaped(value)}", *_paragraph(_sentence(what))]
    lines += [".SH EXAMPLES", ".EX"]
    lines += [escaped(line) for line in EXAMPLE.splitlines()]
    lines += [".EE", ".SH SEE ALSO", ".BR dkrd (8),", ".BR dkrctl (1)"]
    return "\n".join(lines) + "\n"


EXAMPLE = """\
# Everybody may have containers, at most 20 each, in busybox by default.
socket_mode = "0666"
default_root = "busybox"

[limits]
containers_per_user = 20
"""
assert tomllib.loads(EXAMPLE)
