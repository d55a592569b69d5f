"""The settings of dkrd: the one module that reads `/etc/dkr/dkrd.toml`.

The launcher reads the file and sends the values to the api in `hello`; no other process opens it. Every key
is known, typed and bounded; what does not fit is refused with file and line, because a setting that is
silently ignored is a trap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from common import frames
from common.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_FILE = "/etc/dkr/dkrd.toml"
SUN_PATH_MAX = 107  # bytes; unix(7): sun_path has 108 and we keep the terminating NUL
SLOT_IDS = 65536  # ids of one container's range
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
_FILE_MAX = 64 * 1024  # bytes
_ID_MAX = 2**32 - 2  # (uid_t)-1 means "no change" to the kernel
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings.

    state_dir            what survives a reboot: containers, layers, the api's index
    run_dir              what does not: sockets, state of live containers
    socket               path of the listening socket
    socket_group         group that may connect
    socket_mode          permission bits of the socket
    log_level            debug, info, warning or error
    log_format           text or json
    http_lifts           whether an admin may ask over plain HTTP for more than a tenant's defaults
    default_root         root filesystem of a run that names none: a built-in one, or the path of a directory
    api_user             user that the api runs as
    admin_group          group whose members may do anything
    ids_first, ids_last  the pool of ids, both ends included, in whole ranges of 65536
    ids_directory        where ranges are claimed; the same for all daemons of the host
    containers_per_user  live containers a user may have; uid 0 has no bound
    kept_per_user        containers that do not run a user may have, made or ended; uid 0 has no bound
    start_seconds        deadline of a container's build
    pids_per_container   processes and threads a container may have, unless it is an admin's
    log_max_size         bytes of one file of a container's log
    log_max_files        how many files such a log has at most
    restart_first_seconds  seconds that the first restart of a container is put off; each further one twice as long
    restart_max_seconds  seconds that a restart is put off at most
    cgroup_parent        cgroup above all containers: the name of one of our own, or the path of one that somebody else
                         makes, such as /system.slice/dkr-containers.service
    """

    state_dir: str = "/var/lib/dkr"
    run_dir: str = "/run/dkr"
    socket: str = "/run/dkr/dkr.sock"
    socket_group: str = "dkr"
    socket_mode: int = 0o660
    log_level: str = "info"
    log_format: str = "text"
    http_lifts: bool = False
    default_root: str = "host"
    api_user: str = "dkr-api"
    admin_group: str = "dkr-admin"
    ids_first: int = 1879048192
    ids_last: int = 2147352575
    ids_directory: str = "/var/lib/dkr/ids"
    containers_per_user: int = 256
    kept_per_user: int = 1024
    start_seconds: int = 30
    pids_per_container: int = 4096
    log_max_size: int = 10 * 1024 * 1024
    log_max_files: int = 3
    restart_first_seconds: float = 0.1
    restart_max_seconds: float = 60.0
    cgroup_parent: str = "dkr"

    def to_wire(self) -> dict[str, object]:
        """The settings as the JSON object of `hello`, keys in camelCase."""
        return {_camel(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Settings:
        """The settings out of `hello`; raises BadRequest where a key is unknown, missing or of a wrong
        type.
        """
        values: dict[str, object] = {}
        for field in fields(cls):
            key = _camel(field.name)
            value = wire.get(key)
            if type(value) is not type(field.default):
                raise BadRequest(f"cannot read settings: {key} is missing or of a wrong type")
            values[field.name] = value
        unknown = sorted(set(wire) - {_camel(name) for name in values})
        if unknown:
            raise BadRequest(f"cannot read settings: unknown key {unknown[0]}")
        return cls(**values)  # type: ignore[arg-type]

    def to_toml(self) -> str:
        """The settings as a file that `load` reads back to the same values."""
        lines: list[str] = []
        section = ""
        for key, (name, _) in _KEYS.items():
            head, _, last = key.rpartition(".")
            if head != section:
                lines += ["", f"[{head}]"]
                section = head
            value = getattr(self, name)
            if name == "socket_mode":
                value = f"{value:04o}"
            # JSON's strings are TOML basic strings, its integers are TOML integers.
            lines.append(f"{last} = {frames.dumps(value).decode()}")
        return "\n".join(lines) + "\n"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


# A check takes the value as the file or the command line has it and gives the value kept; ValueError says
# what is expected.


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string, an absolute path")
    if not value.startswith("/") or any(ord(char) < 32 for char in value):
        raise ValueError(f'an absolute path, not "{value}"')
    return "/" + os.path.normpath(value).lstrip("/")


def _socket(value: object) -> str:
    path = _path(value)
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise ValueError(f"a path of at most {SUN_PATH_MAX} bytes (a socket's limit), this one has {length}")
    return path


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or not set(value) <= _NAME or value[0] in ".-":
        raise ValueError("a string, a name of letters, digits, _, . and -")
    return value


def _root(value: object) -> str:
    if isinstance(value, str) and value.startswith("/"):
        return _path(value)
    try:
        return _name(value)
    except ValueError:
        raise ValueError(
            "a string, the name of a built-in root or the absolute path of a directory"
        ) from None


def _cgroup(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        return _name(value)
    parts = value[1:].split("/")
    # The names of units: systemd.unit(5).
    if not all(part and set(part) <= _NAME | set("@:\\") and part not in (".", "..") for part in parts):
        raise ValueError(f'a name, or a path such as /system.slice/dkr-containers.service, not "{value}"')
    return value


def _mode(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('a string of octal digits such as "0660"')
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 3 <= len(value) <= 4 or not 0 <= mode <= 0o777:
        raise ValueError(f'octal permission bits such as "0660", not "{value}"')
    return mode


def _one_of(*words: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"a string, one of {', '.join(words)}")
        return value

    return check


def _integer(first: int, last: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        # bool is a subclass of int, and `true` is no number.
        if type(value) is not int:
            raise ValueError("an integer")
        if not first <= value <= last:
            raise ValueError(f"an integer from {first} to {last}, not {value}")
        return value

    return check


def _seconds(first: float, last: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if type(value) not in (int, float):
            raise ValueError("a number of seconds")
        seconds = float(value)  # type: ignore[arg-type]  # a number by now
        if not first <= seconds <= last:
            raise ValueError(f"a number of seconds from {first:g} to {last:g}, not {value}")
        return seconds

    return check


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _pool_first(value: object) -> int:
    first = _integer(SLOT_IDS, _ID_MAX)(value)
    if first % SLOT_IDS:
        raise ValueError(f"a multiple of {SLOT_IDS}, not {first}")
    return first


def _pool_last(value: object) -> int:
    last = _integer(2 * SLOT_IDS - 1, _ID_MAX)(value)
    if (last + 1) % SLOT_IDS:
        raise ValueError(f"one less than a multiple of {SLOT_IDS}, not {last}")
    return last


# Key of the file -> (field, check); the order is that of --print-config, a section's keys stand together.
_KEYS: dict[str, tuple[str, Callable[[object], object]]] = {
    "state_dir": ("state_dir", _path),
    "run_dir": ("run_dir", _path),
    "socket": ("socket", _socket),
    "socket_group": ("socket_group", _name),
    "socket_mode": ("socket_mode", _mode),
    "log_level": ("log_level", _one_of(*LOG_LEVELS)),
    "log_format": ("log_format", _one_of(*LOG_FORMATS)),
    "http_lifts": ("http_lifts", _boolean),
    "default_root": ("default_root", _root),
    "api_user": ("api_user", _name),
    "admin_group": ("admin_group", _name),
    "ids.first": ("ids_first", _pool_first),
    "ids.last": ("ids_last", _pool_last),
    "ids.directory": ("ids_directory", _path),
    "limits.containers_per_user": ("containers_per_user", _integer(1, 65536)),
    "limits.kept_per_user": ("kept_per_user", _integer(1, 65536)),
    "limits.start_seconds": ("start_seconds", _integer(1, 3600)),
    "limits.pids_per_container": ("pids_per_container", _integer(1, 4194304)),
    "limits.log_max_size": ("log_max_size", _integer(4096, 2**40)),
    "limits.log_max_files": ("log_max_files", _integer(1, 100)),
    "restart.first_seconds": ("restart_first_seconds", _seconds(0.01, 3600)),
    "restart.max_seconds": ("restart_max_seconds", _seconds(0.01, 86400)),
    "cgroup.parent": ("cgroup_parent", _cgroup),
}
_SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in _KEYS if "." in key))


def load(file: str | None = None, options: Mapping[str, object] | None = None) -> Settings:
    """The settings of `file` (None: the default file, which may be missing), with `options` of the command
    line on top.

    options  field of Settings -> value as the file would have it; None means "not given"

    Raises BadRequest, whose message begins with FILE:LINE or names the option.
    """
    values = _read(file or DEFAULT_FILE, must_exist=file is not None)
    for key, (name, check) in _KEYS.items():
        given = (options or {}).get(name)
        if given is None:
            continue
        try:
            values[name] = check(given)
        except ValueError as err:
            raise BadRequest(
                f"cannot use option --{key.replace('_', '-').replace('.', '-')}: expected {err}"
            ) from None
    if "run_dir" in values and "socket" not in values:
        try:
            values["socket"] = _socket(f"{values['run_dir']}/dkr.sock")
        except ValueError as err:
            raise BadRequest(
                f"cannot use run_dir: its dkr.sock must be {err}", hint="give --socket"
            ) from None
    settings = Settings(**values)  # type: ignore[arg-type]
    if settings.ids_first > settings.ids_last:
        raise BadRequest("cannot use [ids]: first lies behind last")
    return settings


def _read(file: str, *, must_exist: bool) -> dict[str, object]:
    """The checked values of `file`, by field."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(_FILE_MAX + 1)
    except FileNotFoundError:
        if not must_exist:
            return {}
        raise BadRequest(f"cannot read {file}: no such file") from None
    except OSError as err:
        raise BadRequest(f"cannot read {file}: {err.strerror}") from err
    if len(data) > _FILE_MAX:
        raise BadRequest(f"cannot read {file}: more than {_FILE_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise BadRequest(f"{file}:{line}: not UTF-8") from None
    try:
        table = _toml(text)
    except ValueError as err:
        raise BadRequest(_syntax_message(file, text, str(err))) from None
    return _checked(file, text, table)


def _toml(text: str) -> dict[str, object]:
    """The table of `text`; ValueError where it is none."""
    import tomllib  # late: the api has the settings from the launcher, and the launcher from its first life (main.py)

    return tomllib.loads(text)


def _checked(file: str, text: str, table: dict[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in _flat(file, text, table):
        known = _KEYS.get(key)
        if known is None:
            raise BadRequest(f"{file}:{_line_of(text, key)}: unknown key {key}{_near(key)}")
        name, check = known
        try:
            values[name] = check(value)
        except ValueError as err:
            raise BadRequest(f"{file}:{_line_of(text, key)}: {key} must be {err}") from None
    return values


def _flat(file: str, text: str, table: dict[str, object]) -> list[tuple[str, object]]:
    """(dotted key, value) of every known section's keys and every other top-level key."""
    flat: list[tuple[str, object]] = []
    for key, value in table.items():
        if key not in _SECTIONS:
            flat.append((key, value))
        elif isinstance(value, dict):
            flat += [(f"{key}.{inner}", entry) for inner, entry in value.items()]
        else:
            raise BadRequest(f"{file}:{_line_of(text, key)}: {key} must be a section, [{key}]")
    return flat


def _near(key: str) -> str:
    """A remark about the key that was likely meant, or nothing."""
    # Somebody who leaves the section away, or puts a key into a wrong one, finds it by its last word.
    last = key.rpartition(".")[2]
    import difflib  # late: only who has mistyped something pays

    same = [known for known in _KEYS if known.rpartition(".")[2] == last]
    close = same or difflib.get_close_matches(key, [*_KEYS, *_SECTIONS], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _line_of(text: str, key: str) -> int:
    """The line on which the statement that sets `key` begins.

    tomllib tells no lines. But the key is set by the first line with which the text up to there has it;
    lines whose prefix does not parse are the inside of a longer statement. Runs only on the way to an
    error, on a file of at most 64 KiB.
    """
    lines = text.splitlines(keepends=True)
    begin = 1
    prefix = ""
    for number, line in enumerate(lines, 1):
        prefix += line
        try:
            value: object = _toml(prefix)
        except ValueError:
            continue
        for word in key.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        if value is not None:
            return begin
        begin = number + 1
    return len(lines)


def _syntax_message(file: str, text: str, message: str) -> str:
    """`FILE:LINE: cause` out of tomllib's "cause (at line 3, column 5)" or "cause (at end of document)"."""
    cause, _, place = message.rpartition(" (at ")
    words = place.replace(",", "").rstrip(")").split()
    line = words[1] if len(words) > 1 and words[0] == "line" else str(max(1, len(text.splitlines())))
    return f"{file}:{line}: {cause[:1].lower()}{cause[1:]}"
