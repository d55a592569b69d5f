"""The small parser of the command line, driven by the table in common/options.py.

On the lean path (see lean.py): imports the table and the errors only. argparse would cost 8 ms.

The rules are those of Docker's command line: options end at the first positional or at `--`, or, for verbs
whose words are not another command's, at `--` alone; `--long=value` and `--long value`; letters combine
(`-it`), and what follows a letter that takes a value is its value (`-eA=b`, `-e=A=b`).
"""

from common.errors import BadRequest
from common.options import CHOICE, FLAG, Option

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class Parsed:
    """What was given: `rest` are the positionals; values are asked for by an option's long name."""

    __slots__ = ("_seen", "rest")

    def __init__(self) -> None:
        self._seen: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def add(self, option: Option, value: str) -> None:
        """Note one occurrence."""
        self._seen.setdefault(option.long, []).append(value)

    def last(self, long: str) -> str | None:
        """The value that counts for an option that is given once, or None."""
        given = self._seen.get(long)
        return given[-1] if given else None

    def every(self, long: str) -> list[str]:
        """All values of an option that repeats, in their order."""
        return self._seen.get(long, [])

    def named(self, beginning: str) -> str:
        """The first option that was given whose name begins so, or nothing."""
        for long in self._seen:
            if long.startswith(beginning):
                return long
        return ""

    def flag(self, long: str) -> bool | None:
        """True, False (`--long=false`) or None where the flag was not given."""
        given = self.last(long)
        return None if given is None else given == "true"


def _unknown(word: str, command: str, known: "dict[str, Option]") -> BadRequest:
    # Late: only an error pays for difflib.
    from dkrctl.help import near

    close = near(word, tuple(known))
    question = f"did you mean {close}?\n" if close else ""
    return BadRequest(
        f"cannot take option {word}: there is no such option", hint=f"{question}see `{command} --help`"
    )


def _checked(option: Option, value: str) -> str:
    if option.kind == FLAG:
        if value in _TRUE:
            return "true"
        if value in _FALSE:
            return "false"
        raise BadRequest(f"cannot take --{option.long}={value}: it takes true or false")
    if option.kind == CHOICE and value not in option.choices:
        words = " or ".join(option.choices)
        raise BadRequest(f"cannot take --{option.long} {value}: it takes {words}")
    return value


class _Scanner:
    """Goes over the words once."""

    __slots__ = ("at", "command", "known", "parsed", "words")

    def __init__(self, table: tuple[Option, ...], words: list[str], command: str) -> None:
        self.words = words
        self.command = command
        self.at = 0
        self.parsed = Parsed()
        self.known: dict[str, Option] = {}
        for option in table:
            self.known["--" + option.long] = option
            for alias in option.aliases:
                self.known["--" + alias] = option
            if option.short:
                self.known["-" + option.short] = option

    def _following(self, name: str) -> str:
        if self.at >= len(self.words):
            raise BadRequest(f"cannot take {name}: its value is missing", hint=f"see `{self.command} --help`")
        self.at += 1
        return self.words[self.at - 1]

    def long(self, word: str) -> None:
        name, equals, value = word.partition("=")
        option = self.known.get(name)
        if option is None:
            raise _unknown(name, self.command, self.known)
        if not equals:
            value = "true" if option.kind == FLAG else self._following(name)
        self.parsed.add(option, _checked(option, value))

    def letters(self, word: str) -> None:
        place = 1
        while place < len(word):
            name = "-" + word[place]
            option = self.known.get(name)
            if option is None:
                raise _unknown(name if len(word) == 2 else word, self.command, self.known)
            place += 1
            tail = word[place:]
            if option.kind == FLAG and not tail.startswith("="):
                self.parsed.add(option, "true")
                continue
            value = tail[1:] if tail.startswith("=") and len(tail) > 1 else tail
            self.parsed.add(option, _checked(option, value or self._following(name)))
            return

    def run(self, intermixed: bool) -> Parsed:
        before: list[str] = []
        while self.at < len(self.words):
            word = self.words[self.at]
            if len(word) < 2 or word[0] != "-":
                if not intermixed:
                    break
                before.append(word)
                self.at += 1
                continue
            self.at += 1
            if word == "--":
                break
            if word.startswith("--"):
                self.long(word)
            else:
                self.letters(word)
            if self.parsed.flag("help"):
                break  # whatever else stands there need not be right
        self.parsed.rest = before + self.words[self.at :]
        return self.parsed


def parse(table: tuple[Option, ...], words: list[str], command: str, *, intermixed: bool = False) -> Parsed:
    """The options of `table` at the front of `words`, and what follows them; `command` is named in errors.

    intermixed  options may follow positionals; else the first positional ends them

    Stops at `--` and at `--help` as well. Raises BadRequest.
    """
    return _Scanner(table, words, command).run(intermixed)


def utf8(word: str, what: str) -> str:
    """`word` of the command line as the text whose UTF-8 bytes the caller gave; `what` names it in errors.

    Python decoded it by the locale, with surrogates for what did not fit. Raises BadRequest where the bytes
    are not UTF-8: JSON cannot carry them, and passing other bytes in silence would be worse than refusing.
    """
    # Late and cheap: sys is always there.
    import sys

    try:
        return word.encode(sys.getfilesystemencoding(), "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise BadRequest(
            f"cannot pass {what} {word!a}: it is not UTF-8", hint="give it in UTF-8, or through a file"
        ) from None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS = "0123456789."
_ENDLESS = 1e18  # seconds: more than anything takes, and a number that JSON has, as it has no infinity


def seconds(text: str, name: str) -> float:
    """Seconds for `1.5`, `90s`, `2m`, `1h`, `1m30s`, `250ms`; `name` is the option's. Raises BadRequest."""
    total = 0.0
    place = 0
    while True:
        start = place
        while place < len(text) and text[place] in _DIGITS:
            place += 1
        number = text[start:place]
        start = place
        while place < len(text) and text[place] not in _DIGITS:
            place += 1
        unit = text[start:place]
        bare = start == len(number) and not unit  # a number alone is seconds
        if (unit not in _UNITS and not bare) or number.count(".") > 1 or not number.strip("."):
            raise BadRequest(
                f"cannot take --{name} {text}: it is no length of time", hint="as in 1.5, 90s, 2m, 1h, 1m30s"
            )
        total += float(number) * _UNITS.get(unit, 1.0)
        if place >= len(text):
            return min(total, _ENDLESS)


_SIZES = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def size(text: str, name: str) -> int:
    """Bytes for `1048576`, `64m`, `1.5g`, `64MiB`; letters are powers of 1024, as Docker's. Raises BadRequest."""
    number = text
    while number and number[-1] not in _DIGITS:
        number = number[:-1]
    unit = text[len(number) :].lower()
    if unit[1:] in ("b", "ib"):
        unit = unit[:1] if unit[:1] != "b" else "?"
    if unit not in _SIZES or not _is_number(number):
        raise BadRequest(f"cannot take --{name} {text}: it is no size", hint="as in 1048576, 64m, 1.5g")
    return int(float(number) * (1 << _SIZES[unit]))


def decimal(text: str, name: str) -> float:
    """A number such as `2` or `1.5`. Raises BadRequest."""
    if not _is_number(text):
        raise BadRequest(f"cannot take --{name} {text}: it is no number", hint="as in 2, 1.5")
    return float(text)


def _is_number(text: str) -> bool:
    return len(text) < 20 and text.strip(_DIGITS) == "" and text.count(".") < 2 and text.strip(".") != ""


def count(text: str, name: str, limit: int, way_out: str | None = None) -> int:
    """A whole number from 0 to `limit`. Raises BadRequest, with `way_out`."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > limit:
        raise BadRequest(
            f"cannot take --{name} {text}: it takes a whole number from 0 to {limit}", hint=way_out
        )
    return int(text)
