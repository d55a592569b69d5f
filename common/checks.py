"""What a field of a request may hold, beyond its type: the functions that common/models.py hangs on its
fields.

Each returns the value that is kept, or refuses with a path below its field. Maps and lists of strings are
checked here alone, and only to the first fault: pydantic would collect an error for each of the half
million entries that fit into a request.
"""

from __future__ import annotations

import binascii
import contextlib
import math
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from pydantic_core import PydanticCustomError

from common.bundle import MAX_SECONDS, signal_number
from common.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_STRING = 131071  # bytes; MAX_ARG_STRLEN less its NUL, execve(2)
MAX_STRINGS = 65000  # entries; a bundle's list holds 65536, and the api adds some
# bytes of args and env, as execve(2) counts them under the default stack limit
MAX_ARGUMENTS = 2 * 1024 * 1024
MAX_PATH = 4095  # bytes; PATH_MAX less its NUL
MAX_LINES = 2**31 - 1  # of a log, that may be asked for
MAX_FILTERS = 64  # of a query
MAX_FILTER = 16384  # bytes of one: key and value of a label
MAX_ID = 65535  # the highest id in a container: ranges have 65536 ids

Namespace = Literal["pid", "ipc", "uts", "cgroup", "network", "user", "time"]
NAMESPACES: tuple[Namespace, ...] = ("pid", "ipc", "uts", "cgroup", "network", "user", "time")


def fault(path: str, message: str) -> NoReturn:
    """Refuse what lies at `path` (below the field that is being checked, or from the top where it begins
    with a key).
    """
    raise PydanticCustomError("dkr", "{message}", {"path": path, "message": message})


def size_of(value: object, path: str, limit: int, what: str = "a string") -> int:
    """The size of a string in UTF-8; refuses other types, NUL, lone surrogates and what is longer than
    `limit` bytes.
    """
    if not isinstance(value, str):
        fault(path, "a string is wanted")
    if "\0" in value:
        fault(path, "holds a NUL, which no argument, name or path can")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        fault(path, "is not valid Unicode: it holds a lone surrogate")
    if size > limit:
        fault(path, f"is {size} bytes long; {what} has at most {limit}")
    return size


def texts(value: object, *, entry: int = MAX_STRING) -> tuple[str, ...]:
    """A list of strings, possibly empty."""
    if not isinstance(value, list | tuple):
        fault("", "a list of strings is wanted")
    if len(value) > MAX_STRINGS:
        fault("", f"holds {len(value)} strings; at most {MAX_STRINGS} are possible")
    for i, text in enumerate(value):
        size_of(text, f"[{i}]", entry)
    return tuple(value)


def command(value: object) -> tuple[str, ...]:
    """A list of strings that is not empty."""
    words = texts(value)
    if not words:
        fault("", "is empty: a command is wanted")
    return words


def fits(words: tuple[str, ...], variables: dict[str, str]) -> None:
    """Refuse a command whose words and variables no execve(2) takes."""
    if len(words) > MAX_STRINGS:
        fault(
            "args",
            f"with the entrypoint there are {len(words)} strings; at most {MAX_STRINGS} are possible",
        )
    # as execve(2) counts: each string with its NUL, and a pointer to it
    size = sum(len(text.encode()) + 9 for text in words)
    size += sum(len(name.encode()) + len(text.encode()) + 10 for name, text in variables.items())
    if size > MAX_ARGUMENTS:
        fault(
            "args",
            f"argument list too long: args and env take {size} bytes, {MAX_ARGUMENTS} are possible",
        )


def _pairs(
    value: object, key: Callable[[str], str | None], limit: int, entries: int = MAX_STRINGS
) -> dict[str, str]:
    """The map of strings `value`; `key` says what is wrong with a key, `limit` bounds key and value
    together.
    """
    if not isinstance(value, dict):
        fault("", "an object of strings is wanted")
    if len(value) > entries:
        fault("", f"has {len(value)} entries; at most {entries} are possible")
    for name, text in value.items():
        if not isinstance(name, str):
            fault("", "a key is no string")
        path = f".{name}"
        size = size_of(name, path, limit)
        complaint = key(name)
        if complaint:
            fault(path, complaint)
        size_of(text, path, limit - size)
    return dict(value)


def _variable(name: str) -> str | None:
    if not name:
        return "a name is empty"
    return "a name cannot hold =" if "=" in name else None


def _label(name: str) -> str | None:
    return None if name else "a label's name is empty"


def env(value: object) -> dict[str, str]:
    """Variables: names without `=`, each with its value short enough for execve(2)."""
    return _pairs(value, _variable, MAX_STRING - 1)


def labels(value: object) -> dict[str, str]:
    """Labels: up to 256, up to 8 KiB each."""
    return _pairs(value, _label, 8192, 256)


def _anything(name: str) -> str | None:
    return None


def namespaces(value: object) -> dict[str, str]:
    """Types of namespaces and `private` or `host`."""
    pairs = _pairs(value, _anything, 64, len(NAMESPACES) + 8)
    for kind, word in pairs.items():
        if kind not in NAMESPACES:
            fault(f".{kind}", "no namespace of this type can be chosen; known are " + ", ".join(NAMESPACES))
        if word not in ("private", "host"):
            fault(f".{kind}", "private or host is wanted")
    return pairs


def absolute(value: str) -> str:
    """An absolute path of at most PATH_MAX bytes."""
    size_of(value, "", MAX_PATH, "a path")
    if not value.startswith("/"):
        fault("", "is not absolute: a path that begins with / is wanted")
    return value


# option of a tmpfs (tmpfs(5), mount(8)) -> what its value must look like; None: it has none
_SIZE = re.compile(r"[1-9][0-9]{0,17}[kKmMgG]?|[1-9][0-9]?%|100%")
_COUNT = re.compile(r"[1-9][0-9]{0,17}[kKmMgG]?")
TMPFS_OPTIONS: dict[str, re.Pattern[str] | None] = {
    "size": _SIZE,
    "nr_inodes": _COUNT,
    "mode": re.compile(r"[0-7]{1,4}"),
    "uid": re.compile(r"[0-9]{1,5}"),
    "gid": re.compile(r"[0-9]{1,5}"),
    **dict.fromkeys(("ro", "rw", "exec", "noexec", "suid", "nosuid", "nodev")),
}


def _option(option: str) -> str | None:
    """What is wrong with one option of a tmpfs."""
    key, equals, value = option.partition("=")
    if key not in TMPFS_OPTIONS:
        return f"no option {key[:40]!r} is known; known are " + ", ".join(TMPFS_OPTIONS)
    pattern = TMPFS_OPTIONS[key]
    if pattern is None:
        return f"{key} takes no value" if equals else None
    if not pattern.fullmatch(value):
        return f"{value[:40]!r} is no value for {key}"
    if key in ("uid", "gid") and int(value) > MAX_ID:
        return f"{key} is not within 0 and {MAX_ID}"
    return None


def _destination(path: str) -> str | None:
    if not path.startswith("/"):
        return "is not absolute: a path that begins with / is wanted"
    if len(path.encode()) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        return "holds .., which is not followed here"
    if not parts:
        return "the root itself cannot be mounted over"
    if parts[0] in ("proc", "sys") or (parts[0] == "dev" and parts[1:] != ["shm"]):
        return "nothing is mounted at or below /proc, /sys and /dev; /dev/shm alone may be"
    return None


def tmpfs(value: object) -> dict[str, str]:
    """Destinations outside /proc, /sys and /dev (but /dev/shm), each once, and known options."""
    pairs = _pairs(value, _destination, MAX_PATH + 1024, 256)
    seen: dict[tuple[str, ...], str] = {}
    for path, options in pairs.items():
        for option in options.split(",") if options else ():
            complaint = _option(option)
            if complaint:
                fault(f".{path}", complaint)
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if parts in seen:
            fault(f".{path}", f"is the same place as {seen[parts]}")
        seen[parts] = path
    return pairs


USER = re.compile(
    r"(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?)(?::(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?))?"
)


def user(value: str) -> str:
    """`UID[:GID]` or `NAME[:GROUP]`, ids within a container's range."""
    if not USER.fullmatch(value):
        fault("", "UID[:GID] or NAME[:GROUP] is wanted")
    for part in value.split(":"):
        if part.isdigit() and (len(part) > len(str(MAX_ID)) or int(part) > MAX_ID):
            fault("", f"{part} is not within 0 and {MAX_ID}: a container has {MAX_ID + 1} ids")
    return value


HOST_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def hostname(value: str) -> str:
    """A host name of RFC 1123, at most 64 bytes."""
    size_of(value, "", 64, "a host name")  # __NEW_UTS_LEN, sethostname(2)
    if not all(HOST_LABEL.fullmatch(label) for label in value.split(".")):
        fault("", "is no host name: letters, digits and - between dots are wanted (RFC 1123)")
    return value


NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def name(value: str) -> str:
    """A container's name."""
    if not NAME.fullmatch(value):
        fault("", "is no name: 1 to 128 of letters, digits, _ . - are wanted, a letter or digit first")
    return value


def image(value: str) -> str:
    """The name of an image or built-in root."""
    if not value or size_of(value, "", 255, "an image's name") != len(value) or not value.isprintable():
        fault("", "is no name of an image: 1 to 255 printable ASCII characters are wanted")
    return value


def signal(value: object) -> int:
    """The number of a signal given as `SIGTERM`, `term` or `15`."""
    if not isinstance(value, str):
        fault("", "a string is wanted: the name or the number of a signal")
    # In ASCII: other alphabets have digits, and letters whose capitals are ours.
    if len(value) <= 16 and value.isascii() and value.isalnum():
        with contextlib.suppress(BadRequest):
            return signal_number(value)
    fault("", f"no signal is named {value[:40]!r}")


def seconds(value: float) -> float:
    """A finite number of seconds below MAX_SECONDS."""
    if not math.isfinite(value) or value >= MAX_SECONDS:
        fault("", f"is not less than {MAX_SECONDS:g} seconds")
    return float(value)


def not_below_zero(value: float) -> float:
    """0 or more."""
    if value < 0:
        fault("", "is less than 0 seconds")
    return value


def patience(value: float) -> float:
    """Seconds, 0 or more, or -1: for ever."""
    if value != -1 and value < 0:
        fault("", "is less than 0 seconds; -1 is for ever")
    return seconds(value)


def above_zero(value: float) -> float:
    """More than 0."""
    if value <= 0:
        fault("", "is not more than 0 seconds")
    return value


def whole_or_unlimited(low: float, high: float) -> Callable[[float], float]:
    """A check that takes `low` to `high`, and -1: no bound."""

    def check(value: float) -> float:
        if value != -1 and not low <= value <= high:
            fault("", f"is not within {low} and {high}; -1 is no bound")
        return value

    return check


def base64(value: str) -> str:
    """Text that base64 can be read from: RFC 4648, section 4, with its padding, and nothing in between."""
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        fault("", "is not base64")
    return value


def whole(value: object) -> object:
    """A number without a fraction is an integer to JSON Schema however it is written; JSON itself knows numbers only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def only(value: T, otherwise: str) -> Callable[[T], T]:
    """A check that takes `value` alone, and says `otherwise` of others."""

    def check(got: T) -> T:
        if got != value:
            fault("", otherwise)
        return got

    return check


def ends(value: str) -> str:
    """What does not leave a container behind that nobody knows of."""
    if value == "keep":
        fault("", "cannot be keep here: nobody could find what is left")
    return value


def flag(value: object) -> bool:
    """`true` or `false`, as a query says it."""
    if value not in ("true", "false"):
        fault("", "true or false is wanted")
    return value == "true"


NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?(?:[eE][+-]?[0-9]{1,3})?")


def number(value: object) -> float:
    """A number as a query says it: as JSON writes one."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        fault("", "a number is wanted")
    return float(value)


# RFC 3339, section 5.6, in the years that Python knows
MOMENT = re.compile(
    r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)"
    r"(?:\.([0-9]{1,18}))?(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


def moment(value: str) -> str:
    """A time of RFC 3339, as a log's lines have it: in UTC, with nine digits behind the second, so that texts compare as times."""
    found = MOMENT.fullmatch(value)
    if not found:
        fault("", "a time of RFC 3339 is wanted, such as 2026-01-31T12:00:00Z (in a URL + is %2B)")
    *parts, fraction, sign, hours, minutes = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    nanoseconds = ((fraction or "") + "0" * 9)[:9]
    if second == 60:  # a leap second, which no clock here shows
        second, nanoseconds = 59, "9" * 9
    try:
        time = datetime(year, month, day, hour, minute, second)  # in UTC, once the offset is taken off
    except ValueError:
        fault("", "there is no such day")
    with contextlib.suppress(
        OverflowError
    ):  # nearer to the end of time than its offset: what is compared is the same
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        time = time + offset if sign == "-" else time - offset
    return f"{time.isoformat(timespec='seconds')}.{nanoseconds}Z"


def filters(value: object) -> tuple[str, ...]:
    """What is chosen by, KEY=VALUE each; which keys there are, who uses them knows."""
    found = texts(value, entry=MAX_FILTER)
    if len(found) > MAX_FILTERS:
        fault("", f"holds {len(found)} filters; at most {MAX_FILTERS} are possible")
    return found


def given(value: T | None) -> T:
    """Anything but null, which is not how a key is left out."""
    if value is None:
        fault("", "null is no value: leave the key out")
    return value
