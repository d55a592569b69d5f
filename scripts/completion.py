"""Completion for bash, zsh and fish: static scripts, made from the option table when dkr is installed.

What the table knows stands in the scripts; only the names of containers are asked for while somebody types, by `dkrctl
__complete` (dkrctl/complete.py), which answers in the time of a bare interpreter.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from common.exec_verbs import SUBCOMMANDS
from common.options import (
    CONTAINERS,
    DIRECTORIES,
    EXECS,
    FILES,
    FLAG,
    GLOBAL,
    PAUSED,
    REPEAT,
    RUN_WORDS,
    RUNNING,
    SIGNALS,
    STOPPED,
    VARIABLES,
    VERBS,
    Command,
    Option,
)
from common.verbs import COMMANDS, ROOTS
from dkrctl.help import brief

HEAD = "made from dkr's option table by scripts/generate.py when dkr was installed: changes here are lost"
TEMPLATES = Path(__file__).resolve().parent / "templates"
LIVE = (CONTAINERS, RUNNING, PAUSED, STOPPED)
EVERY = (
    *COMMANDS,
    *SUBCOMMANDS,
)  # also those of two words, the second of which stands right behind the first
SIGNAL_NAMES = tuple(sorted(name.name for name in signal.Signals if not name.name.startswith("SIGRT")))


def names(option: Option) -> list[str]:
    """All its names, with dashes, the letter first."""
    short = [f"-{option.short}"] if option.short else []
    return [*short, f"--{option.long}", *(f"--{alias}" for alias in option.aliases)]


def about(option: Option) -> str:
    """What it does, short enough for a list."""
    return re.split(r"; |: | \(", option.help)[0]


def kind_of(option: Option) -> str:
    """What its value is, for the scripts: a constant of common/options.py, `words`, or empty."""
    if option.choices or isinstance(option.complete, tuple):
        return "words"
    return option.complete


def words_of(option: Option) -> tuple[str, ...]:
    """The words that are offered for its value."""
    return option.choices or (option.complete if isinstance(option.complete, tuple) else ())


def second_words(name: str) -> list[str]:
    """What makes another command of the verb `name`, right behind it."""
    return [other.name.partition(" ")[2] for other in SUBCOMMANDS if other.name.startswith(f"{name} ")]


def takes_one(command: Command) -> bool:
    """Whether the first word alone is a container; those behind it are another program's."""
    return command.words in LIVE and not command.intermixed


def ends_in_command(command: Command) -> bool:
    """Whether what stands behind the container is a command."""
    return takes_one(command) and command.usage.endswith(" COMMAND [ARG...]")


def _filled(template: str, **more: str) -> str:
    """A file of scripts/templates/ with each `@NAME@` replaced."""
    values = {
        "HEAD": HEAD,
        "FILES": FILES,
        "DIRECTORIES": DIRECTORIES,
        "SIGNALS": SIGNALS,
        "VARIABLES": VARIABLES,
        "VERBS": VERBS,
        "RUN_WORDS": RUN_WORDS,
        "RUNNING": RUNNING,
        "EXECS": EXECS,
        "SIGNAL_NAMES": " ".join(SIGNAL_NAMES),
        **more,
    }
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)


# --- bash


def _bash_case(pattern: str, body: str) -> str:
    return f"        {pattern}) {body} ;;"


def _bash_options(name: str, options: tuple[Option, ...]) -> str:
    flags = " ".join(word for option in options if option.kind == FLAG for word in names(option))
    valued = " ".join(word for option in options if option.kind != FLAG for word in names(option))
    return _bash_case(f"'{name}'", f"flags='{flags}' valued='{valued}'")


def _bash_values(name: str, options: tuple[Option, ...]) -> list[str]:
    cases = []
    for option in options:
        kind = kind_of(option)
        if option.kind == FLAG or not kind:
            continue
        pattern = " | ".join(f"'{name} {word}'" for word in names(option))
        offer = f'_dkrctl_kind {kind} "$3"'
        if kind == "words":
            offer = f'_dkrctl_offer "$3" {" ".join(words_of(option))}'
        cases.append(_bash_case(pattern, offer))
    return cases


def _bash_kind(command: Command) -> str:
    return f"'={' '.join(command.parts)}'" if command.parts else command.words or "''"


def bash() -> str:
    """The script for bash."""
    tables = [("", GLOBAL), *((command.name, command.options) for command in EVERY)]
    verb_words = [
        _bash_case(
            f"'{command.name}'",
            f"kind={_bash_kind(command)} mixed={1 if command.intermixed else chr(39) * 2}"
            f" seconds='{' '.join(second_words(command.name))}'",
        )
        for command in EVERY
    ]
    return _filled(
        "dkrctl.bash",
        OPTIONS="\n".join(_bash_options(name, options) for name, options in tables),
        VALUES="\n".join(case for name, options in tables for case in _bash_values(name, options)),
        VERB_WORDS="\n".join(verb_words),
        LIVE=" | ".join(LIVE),
        ROOTS=" ".join(ROOTS),
        COMMANDS=" ".join(command.name for command in COMMANDS),
        COMMANDED=" | ".join(command.name for command in EVERY if ends_in_command(command)),
    )


# --- zsh


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_text(text: str) -> str:
    """`text` for a description: what _arguments would read for itself is escaped."""
    return re.sub(r"([\\:\[\]])", r"\\\1", text)


def _zsh_action(option: Option) -> str:
    """What completes the value; one that begins with a blank gets no arguments of _arguments' own."""
    kind = kind_of(option)
    if kind == "words":
        return f" _dkrctl_offer {' '.join(words_of(option))}"
    return {
        FILES: "_files",
        DIRECTORIES: "_files -/",
        SIGNALS: f"({' '.join(SIGNAL_NAMES)})",
        VARIABLES: '_parameters -g "*export*"',
        **{live: f" _dkrctl_names {live}" for live in LIVE},
    }.get(kind, " ")


def _zsh_specs(options: tuple[Option, ...]) -> list[str]:
    specs = []
    for option in options:
        mine = names(option)
        for name in mine:
            before = "*" if option.kind == REPEAT else f"({' '.join(mine)})"
            if option.long == "help":
                before = "(- *)"
            sign = "" if option.kind == FLAG else "=" if name.startswith("--") else "+"
            value = "" if option.kind == FLAG else f":{_zsh_text(option.metavar)}:{_zsh_action(option)}"
            specs.append(_quoted(f"{before}{name}{sign}[{_zsh_text(about(option))}]{value}"))
    return specs


def _zsh_function(command: Command) -> str:
    specs = _zsh_specs(command.options)
    head = "_arguments -s -S" + ("" if command.intermixed else " -A '-*'")
    if command.words == RUN_WORDS:
        specs += ["'1:root or command: _dkrctl_first'", "'*:argument:_files'"]
    elif command.words == VERBS:
        specs.append("'1:command: _dkrctl_commands'")
    elif command.parts:
        specs.append(f"'1:part:({' '.join(command.parts)})'")
    elif seconds := second_words(command.name):
        specs.append(f"'1:container: _dkrctl_seconds {command.words} {' '.join(seconds)}'")
    elif command.words == EXECS:
        specs += [f"'1:container: _dkrctl_names {RUNNING}'", f"'*:exec: _dkrctl_names {EXECS}'"]
    elif command.words:
        number = "1" if takes_one(command) else "*"
        specs.append(f"'{number}:container: _dkrctl_names {command.words}'")
    if ends_in_command(command):
        specs.append("'*:argument:_files'")
    body = " \\\n        ".join([head, *specs])
    return f"_dkrctl_verb_{command.name.replace(' ', '_')}() {{\n    {body}\n}}"


def zsh() -> str:
    """The script for zsh, to be found as `_dkrctl` in a directory of its fpath."""
    return _filled(
        "_dkrctl",
        COMMANDS="\n".join(
            f"        {_quoted(command.name + ':' + _zsh_text(brief(command)))}" for command in COMMANDS
        ),
        FUNCTIONS="\n\n".join(map(_zsh_function, EVERY)),
        GLOBAL="\n".join(f"        {spec} \\" for spec in _zsh_specs(GLOBAL)),
        ROOTS=" ".join(ROOTS),
    )


# --- fish


def _fish_action(option: Option) -> str:
    """How the value of an option is completed: arguments of complete(1) of fish."""
    kind = kind_of(option)
    if option.kind == FLAG:
        return ""
    if kind == "words":
        return f" -x -a {_quoted(' '.join(words_of(option)))}"
    return {
        FILES: " -r -F",
        DIRECTORIES: " -x -a '(__fish_complete_directories)'",
        SIGNALS: f" -x -a '{' '.join(SIGNAL_NAMES)}'",
        VARIABLES: " -x -a '(set -nx)'",
        **{live: f" -x -a '(__dkrctl_names {live})'" for live in LIVE},
    }.get(kind, " -x")


def _fish_options(condition: str, options: tuple[Option, ...]) -> list[str]:
    lines = []
    for option in options:
        short = f" -s {option.short}" if option.short else ""
        longs = "".join(f" -l {name}" for name in (option.long, *option.aliases))
        lines.append(
            f"complete -c dkrctl -n {_quoted(condition)}{short}{longs}{_fish_action(option)} -d {_quoted(about(option))}"
        )
    return lines


def _fish_words(command: Command) -> list[str]:
    name = command.name
    if command.words == RUN_WORDS:
        return [
            f"complete -c dkrctl -n '__dkrctl_words {name} 0; and not __dkrctl_rooted' "
            f"-a '{' '.join(ROOTS)}' -d 'built-in root'",
            f"complete -c dkrctl -n '__dkrctl_words {name}' -F",
        ]
    if command.words == VERBS:
        verbs = " ".join(other.name for other in COMMANDS)
        return [f"complete -c dkrctl -n '__dkrctl_words {name} 0' -a '{verbs}'"]
    if command.parts:
        return [f"complete -c dkrctl -n '__dkrctl_words {name} 0' -a '{' '.join(command.parts)}'"]
    if command.words == EXECS:
        return [
            f"complete -c dkrctl -n '__dkrctl_words \"{name}\" 0' -a '(__dkrctl_names {RUNNING})'",
            f'complete -c dkrctl -n \'__dkrctl_words "{name}"; and not __dkrctl_words "{name}" 0\' '
            f"-a '(__dkrctl_names {EXECS})'",
        ]
    lines = []
    if seconds := second_words(name):
        lines.append(f"complete -c dkrctl -n '__dkrctl_behind {name}' -a '{' '.join(seconds)}'")
    if command.words:
        first = " 0" if takes_one(command) else ""
        lines.append(
            f"complete -c dkrctl -n '__dkrctl_words \"{name}\"{first}' -a '(__dkrctl_names {command.words})'"
        )
    if ends_in_command(command):
        lines.append(f"complete -c dkrctl -n '__dkrctl_words {name}; and not __dkrctl_words {name} 0' -F")
    return lines


def fish() -> str:
    """The script for fish."""

    def valued(options: tuple[Option, ...]) -> str:
        return " ".join(word for option in options if option.kind != FLAG for word in names(option))

    lines = _fish_options("__dkrctl_no_verb", GLOBAL)
    for command in COMMANDS:
        about_it = _quoted(brief(command))
        lines.append(f"complete -c dkrctl -n '__dkrctl_no_verb' -a {command.name} -d {about_it}")
    for command in EVERY:
        lines += _fish_options(f'__dkrctl_options "{command.name}"', command.options)
        lines += _fish_words(command)
    cases = [
        f"        case '{command.name}'\n            printf '%s\\n' {valued(command.options)}"
        for command in EVERY
        if valued(command.options)
    ]
    return _filled(
        "dkrctl.fish",
        GLOBAL_VALUED=valued(GLOBAL),
        VALUED="\n".join(cases),
        TWO=" ".join(f"'{command.name}'" for command in SUBCOMMANDS),
        UNMIXED=" ".join(f"'{command.name}'" for command in EVERY if not command.intermixed),
        LINES="\n".join(lines),
    )
