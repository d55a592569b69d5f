"""What crosses the HTTP border, as closed and bounded models: docs/protocol.md, section 1.

Only processes that have time load this file (pydantic: 60 ms, 5 MB): the api and the SDK, never the lean
client nor what runs as root. An unknown key, a value of another type ("1" for 1) and null for "absent" are
errors that name their path.

Maps and lists of strings are checked by functions that stop at the first fault: pydantic would collect an
error for each of the half million entries that fit into a request.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from common.bundle import signal_number
from common.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_STRING = 131071  # bytes; MAX_ARG_STRLEN less its NUL, execve(2)
MAX_STRINGS = 65000  # entries; a bundle's list holds 65536, and the api adds some
MAX_ARGUMENTS = (
    2 * 1024 * 1024
)  # bytes of args and env, as execve(2) counts them under the default stack limit
MAX_PATH = 4095  # bytes; PATH_MAX less its NUL
MAX_SECONDS = 1e9
MAX_ID = 65535  # the highest id in a container: ranges have 65536 ids

Namespace = Literal["pid", "ipc", "uts", "cgroup", "network", "user", "time"]
NAMESPACES: tuple[Namespace, ...] = ("pid", "ipc", "uts", "cgroup", "network", "user", "time")
Status = Literal["creating", "created", "running", "paused", "stopped"]
Cause = Literal[
    "exited", "signalled", "oom", "timeout", "stopped", "client-gone", "start-failed", "shim-lost"
]


def _fault(path: str, message: str) -> NoReturn:
    """Refuse what lies at `path` (below the field that is being checked, or from the top where it begins
    with a key).
    """
    raise PydanticCustomError("dkr", "{message}", {"path": path, "message": message})


def _bytes(value: object, path: str, limit: int, what: str = "a string") -> int:
    """The size of a string in UTF-8; refuses other types, NUL, lone surrogates and what is longer than
    `limit` bytes.
    """
    if not isinstance(value, str):
        _fault(path, "a string is wanted")
    if "\0" in value:
        _fault(path, "holds a NUL, which no argument, name or path can")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        _fault(path, "is not valid Unicode: it holds a lone surrogate")
    if size > limit:
        _fault(path, f"is {size} bytes long; {what} has at most {limit}")
    return size


def _texts(value: object, *, entry: int = MAX_STRING) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        _fault("", "a list of strings is wanted")
    if len(value) > MAX_STRINGS:
        _fault("", f"holds {len(value)} strings; at most {MAX_STRINGS} are possible")
    for i, text in enumerate(value):
        _bytes(text, f"[{i}]", entry)
    return tuple(value)


def _command(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    if not texts:
        _fault("", "is empty: a command is wanted")
    return texts


def _pairs(
    value: object, key: Callable[[str], str | None], limit: int, entries: int = MAX_STRINGS
) -> dict[str, str]:
    """The map of strings `value`; `key` says what is wrong with a key, `limit` bounds key and value
    together.
    """
    if not isinstance(value, dict):
        _fault("", "an object of strings is wanted")
    if len(value) > entries:
        _fault("", f"has {len(value)} entries; at most {entries} are possible")
    for name, text in value.items():
        if not isinstance(name, str):
            _fault("", "a key is no string")
        path = f".{name}"
        size = _bytes(name, path, limit)
        complaint = key(name)
        if complaint:
            _fault(path, complaint)
        _bytes(text, path, limit - size)
    return dict(value)


def _variable(name: str) -> str | None:
    if not name:
        return "a name is empty"
    return "a name cannot hold =" if "=" in name else None


def _label(name: str) -> str | None:
    return None if name else "a label's name is empty"


def _env(value: object) -> dict[str, str]:
    return _pairs(value, _variable, MAX_STRING - 1)


def _labels(value: object) -> dict[str, str]:
    return _pairs(value, _label, 8192, 256)


def _anything(name: str) -> str | None:
    return None


def _namespaces(value: object) -> dict[str, str]:
    pairs = _pairs(value, _anything, 64, len(NAMESPACES) + 8)
    for kind, word in pairs.items():
        if kind not in NAMESPACES:
            _fault(f".{kind}", "no namespace of this type can be chosen; known are " + ", ".join(NAMESPACES))
        if word not in ("private", "host"):
            _fault(f".{kind}", "private or host is wanted")
    return pairs


def _absolute(value: str) -> str:
    _bytes(value, "", MAX_PATH, "a path")
    if not value.startswith("/"):
        _fault("", "is not absolute: a path that begins with / is wanted")
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


def _tmpfs(value: object) -> dict[str, str]:
    pairs = _pairs(value, _destination, MAX_PATH + 1024, 256)
    seen: dict[tuple[str, ...], str] = {}
    for path, options in pairs.items():
        for option in options.split(",") if options else ():
            complaint = _option(option)
            if complaint:
                _fault(f".{path}", complaint)
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if parts in seen:
            _fault(f".{path}", f"is the same place as {seen[parts]}")
        seen[parts] = path
    return pairs


_USER = re.compile(
    r"(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?)(?::(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?))?"
)


def _user(value: str) -> str:
    if not _USER.fullmatch(value):
        _fault("", "UID[:GID] or NAME[:GROUP] is wanted")
    for part in value.split(":"):
        if part.isdigit() and int(part) > MAX_ID:
            _fault("", f"{part} is not within 0 and {MAX_ID}: a container has {MAX_ID + 1} ids")
    return value


_HOST_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def _hostname(value: str) -> str:
    _bytes(value, "", 64, "a host name")  # __NEW_UTS_LEN, sethostname(2)
    if not all(_HOST_LABEL.fullmatch(label) for label in value.split(".")):
        _fault("", "is no host name: letters, digits and - between dots are wanted (RFC 1123)")
    return value


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        _fault("", "is no name: 1 to 128 of letters, digits, _ . - are wanted, a letter or digit first")
    return value


def _image(value: str) -> str:
    if not value or _bytes(value, "", 255, "an image's name") != len(value) or not value.isprintable():
        _fault("", "is no name of an image: 1 to 255 printable ASCII characters are wanted")
    return value


def _signal(value: object) -> int:
    if not isinstance(value, str):
        _fault("", "a string is wanted: the name or the number of a signal")
    if len(value) <= 16 and value.isalnum():
        with contextlib.suppress(BadRequest):
            return signal_number(value)
    _fault("", f"no signal is named {value[:40]!r}")


def _seconds(value: float) -> float:
    if not math.isfinite(value) or value > MAX_SECONDS:
        _fault("", "is not a finite number of seconds")
    return float(value)


def _above_zero(value: float) -> float:
    if value <= 0:
        _fault("", "is not more than 0 seconds")
    return value


def _given(value: T | None) -> T:
    if value is None:
        _fault("", "null is no value: leave the key out")
    return value


# Said outright: pydantic's own serializer for a plainly validated tuple complains of the list that it makes of it.
_AS_LIST = PlainSerializer(list, return_type=list)


class Model(BaseModel):
    """A closed, unchangeable object with the keys of the wire (camelCase)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,  # for our own code; what comes over the wire is read by alias alone
        validate_by_alias=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """The object as JSON's types, with the keys of the wire and without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ConsoleSize(Model):
    """Rows and columns of a terminal."""

    height: Annotated[int, Field(ge=0, le=65535)]
    width: Annotated[int, Field(ge=0, le=65535)]


class RunRequest(Model):
    """What `POST /v1/run` takes. Its keys and their meaning: docs/protocol.md, section 1."""

    image: Annotated[str | None, AfterValidator(lambda v: _image(_given(v)))] = None
    args: Annotated[tuple[str, ...], PlainValidator(_command), _AS_LIST]
    entrypoint: Annotated[tuple[str, ...], PlainValidator(_texts), _AS_LIST] = ()
    env: Annotated[dict[str, str], PlainValidator(_env)] = {}
    cwd: Annotated[str, AfterValidator(_absolute)] = "/"
    user: Annotated[str, AfterValidator(_user)] = "0:0"
    name: Annotated[str | None, AfterValidator(lambda v: _name(_given(v)))] = None
    hostname: Annotated[str | None, AfterValidator(lambda v: _hostname(_given(v)))] = None
    labels: Annotated[dict[str, str], PlainValidator(_labels)] = {}
    readonly: bool = False
    tmpfs: Annotated[dict[str, str], PlainValidator(_tmpfs)] = {}
    terminal: bool = False
    console_size: Annotated[ConsoleSize | None, AfterValidator(_given)] = None
    namespaces: Annotated[dict[str, str], PlainValidator(_namespaces)] = {}
    preserve_fds: Annotated[int, Field(ge=0, le=250)] = 0
    init: bool = False
    rm: bool = False
    stop_signal: Annotated[int, PlainValidator(_signal)] = 15
    # 0 is docker's "do not wait": SIGKILL at once
    stop_timeout: Annotated[float, Field(ge=0), AfterValidator(_seconds)] = 10.0
    timeout: Annotated[float | None, AfterValidator(lambda v: _above_zero(_seconds(_given(v))))] = None
    on_disconnect: Annotated[Literal["stop", "kill", "keep"] | None, AfterValidator(_given)] = None

    def is_private(self, namespace: str) -> bool:
        """Whether the container gets a namespace of this type of its own (all but `time` by default)."""
        return self.namespaces.get(namespace, "host" if namespace == "time" else "private") == "private"

    @model_validator(mode="after")
    def _whole(self) -> RunRequest:
        command = (*self.entrypoint, *self.args)
        if not command[0]:
            _fault("entrypoint[0]" if self.entrypoint else "args[0]", "is empty: a command is wanted")
        if len(command) > MAX_STRINGS:
            _fault(
                "args",
                f"with the entrypoint there are {len(command)} strings; at most {MAX_STRINGS} are possible",
            )
        # as execve(2) counts: each string with its NUL, and a pointer to it
        size = sum(len(text.encode()) + 9 for text in command)
        size += sum(len(name.encode()) + len(text.encode()) + 10 for name, text in self.env.items())
        if size > MAX_ARGUMENTS:
            _fault(
                "args",
                f"argument list too long: args and env take {size} bytes, {MAX_ARGUMENTS} are possible",
            )
        if self.hostname is not None and not self.is_private("uts"):
            _fault("hostname", "cannot be set: the container has the UTS namespace of the host")
        if self.console_size is not None and not self.terminal:
            _fault("consoleSize", "has no meaning without terminal")
        return self


class ExitStatus(Model):
    """How a container ended. Exactly one of `code` and `signal` is there, unless nobody could learn it."""

    code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None
    cause: Cause

    @model_serializer
    def _with_nulls(self) -> dict[str, Any]:
        """A client reads `code` and `signal` together: null is told, unlike elsewhere."""
        return {"code": self.code, "signal": self.signal, "cause": self.cause}


class ContainerState(Model):
    """A shim's `state.json` (docs/protocol.md, section 6), as it comes over the channel."""

    version: Literal[1]
    id: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: Annotated[str, AfterValidator(_name)]
    uid: Annotated[int, Field(ge=0, lt=2**32)]
    status: Status
    pid: int | None = None
    pid_start_time: int | None = None
    shim_pid: int | None = None
    shim_start_time: int | None = None
    slot: int | None = None
    cgroup: Any = None
    rm: bool = False
    created: str
    started: str | None = None
    finished: str | None = None
    exit: ExitStatus | None = None


class Container(Model):
    """A container as `GET /v1/containers` tells it. Times are RFC 3339; `exit` is absent while nobody knows
    it.
    """

    id: str
    name: str
    uid: int
    image: str
    args: tuple[str, ...]
    labels: dict[str, str]
    rm: bool
    status: Status
    pid: int | None = None
    created: str
    started: str | None = None
    finished: str | None = None
    exit: ExitStatus | None = None


class VersionInfo(Model):
    """What `GET /v1/version` answers."""

    version: str
    api_version: str
    os: str
    arch: str
    kernel: str
    python: str


class Fault(Model):
    """One fault of a request."""

    path: str
    message: str


class Problem(Model):
    """An error over HTTP: RFC 9457, with our code, the way out and the faults of a request."""

    type: Literal["about:blank"] = "about:blank"
    code: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    step: str | None = None
    errno: int | None = None
    rule: str | None = None
    fields: tuple[Fault, ...] | None = None
