"""The types of a request's fields: the check that common/checks.py makes of each, and the same as JSON Schema.

A schema says all that JSON Schema can say of a check, and never more: what it refuses is refused. What it cannot say are
bounds in bytes (maxLength counts characters), lone surrogates, and what two entries of a map have to do with each other.
Patterns keep to what ECMA-262, Python and Rust read alike.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from common import checks, oci

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]

# Said outright: pydantic's own serializer for a plainly validated tuple complains of the list that it makes of it.
_AS_LIST = PlainSerializer(list, return_type=list)


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _text(longest: int, pattern: str = r"[^\x00]*", **more: object) -> Schema:
    return {"type": "string", "maxLength": longest, "pattern": _whole(pattern), **more}


def _map(keys: Schema, values: Schema, most: int = checks.MAX_STRINGS) -> Schema:
    return {"type": "object", "maxProperties": most, "propertyNames": keys, "additionalProperties": values}


def _any_case(word: str) -> str:
    return "".join(f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in word)


_STRINGS: Schema = {"type": "array", "maxItems": checks.MAX_STRINGS, "items": _text(checks.MAX_STRING)}
NOT_EMPTY: Schema = {"prefixItems": [{"minLength": 1}]}  # of the first word of a command

_ID = "[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"  # up to checks.MAX_ID
_WORD = r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}\$?"
_USER = f"(?:{_ID}|{_WORD})(?::(?:{_ID}|{_WORD}))?"

_LABEL = checks.HOST_LABEL.pattern
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL})*"


def _option(name: str) -> str:
    pattern = checks.TMPFS_OPTIONS[name]
    if pattern is None:
        return name
    return f"{name}=(?:{_ID if name in ('uid', 'gid') else pattern.pattern})"


_OPTION = "|".join(map(_option, checks.TMPFS_OPTIONS))
_OPTIONS = f"(?:(?:{_OPTION})(?:,(?:{_OPTION}))*)?"
_GAP = r"/+(?:\./+)*"  # between two names of a path: any number of slashes, and of places that are the same
_PART = r"(?:[^/.\x00][^/\x00]*|\.[^/.\x00][^/\x00]*|\.\.[^/\x00]+)"  # a name that is neither . nor ..
_END = r"(?:/+\.?)*"
_DESTINATION: Schema = _text(
    checks.MAX_PATH,
    rf"{_GAP}{_PART}(?:{_GAP}{_PART})*{_END}",
    anyOf=[
        {"not": {"pattern": rf"^{_GAP}(?:proc|sys|dev)(?:/|$)"}},
        {"pattern": _whole(rf"{_GAP}dev{_GAP}shm{_END}")},
    ],
)

_SIGNALS = "|".join(_any_case(name.removeprefix("SIG")) for name in signal.Signals.__members__)
_SIGNAL = f"0{{0,14}}(?:[1-9]|[1-5][0-9]|6[0-4])|(?:{_any_case('SIG')})?(?:{_SIGNALS})"

_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _given(check: Callable[[Any], object]) -> AfterValidator:
    """`check`, after null has been refused: it is not how a key is left out."""
    return AfterValidator(lambda value: check(checks.given(value)))


Command = Annotated[
    tuple[str, ...], PlainValidator(checks.command), _AS_LIST, WithJsonSchema({**_STRINGS, "minItems": 1})
]
Words = Annotated[tuple[str, ...], PlainValidator(checks.texts), _AS_LIST, WithJsonSchema(_STRINGS)]
Env = Annotated[
    dict[str, str],
    PlainValidator(checks.env),
    WithJsonSchema(_map(_text(checks.MAX_STRING, r"[^=\x00]+"), _text(checks.MAX_STRING))),
]
Labels = Annotated[
    dict[str, str],
    PlainValidator(checks.labels),
    WithJsonSchema(_map(_text(8192, r"[^\x00]+"), _text(8192), 256)),
]
Tmpfs = Annotated[
    dict[str, str],
    PlainValidator(checks.tmpfs),
    WithJsonSchema(_map(_DESTINATION, _text(checks.MAX_PATH, _OPTIONS), 256)),
]
Namespaces = Annotated[
    dict[str, str],
    PlainValidator(checks.namespaces),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {kind: {"enum": ["private", "host"]} for kind in checks.NAMESPACES},
            "additionalProperties": False,
        }
    ),
]
Cwd = Annotated[str, AfterValidator(checks.absolute), WithJsonSchema(_text(checks.MAX_PATH, r"/[^\x00]*"))]
Rootfs = Annotated[str | None, _given(checks.absolute), WithJsonSchema(_text(checks.MAX_PATH, r"/[^\x00]*"))]
OtherCwd = Rootfs  # absent: the container's
User = Annotated[str, AfterValidator(checks.user), WithJsonSchema(_text(131, _USER))]
OtherUser = Annotated[str | None, _given(checks.user), WithJsonSchema(_text(131, _USER))]
Signal = Annotated[int, PlainValidator(checks.signal), WithJsonSchema(_text(16, _SIGNAL))]
StopSignal = Annotated[int | None, PlainValidator(checks.signal), WithJsonSchema(_text(16, _SIGNAL))]
Image = Annotated[str | None, _given(checks.image), WithJsonSchema(_text(255, "[ -~]+"))]
Name = Annotated[str | None, _given(checks.name), WithJsonSchema(_text(128, checks.NAME.pattern))]
NewName = Annotated[str, AfterValidator(checks.name), WithJsonSchema(_text(128, checks.NAME.pattern))]
Hostname = Annotated[str | None, _given(checks.hostname), WithJsonSchema(_text(64, _HOSTNAME))]
StopSeconds = Annotated[
    float,
    AfterValidator(lambda value: checks.not_below_zero(checks.seconds(value))),
    WithJsonSchema({"type": "number", "minimum": 0, "exclusiveMaximum": checks.MAX_SECONDS}),
]
Patience = Annotated[
    float | None,
    _given(checks.patience),
    WithJsonSchema(
        {
            "type": "number",
            "anyOf": [{"const": -1}, {"minimum": 0, "exclusiveMaximum": checks.MAX_SECONDS}],
        }
    ),
]
TimeLimit = Annotated[
    float | None,
    _given(lambda value: checks.above_zero(checks.seconds(value))),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": checks.MAX_SECONDS}),
]
WHOLE = BeforeValidator(checks.whole)  # of an integer; behind its bounds, or they are not told


Memory = Annotated[
    int | None,
    _given(lambda value: value),
    Field(ge=oci.MIN_MEMORY, le=oci.MAX_MEMORY),
    WHOLE,
    WithJsonSchema({"type": "integer", "minimum": oci.MIN_MEMORY, "maximum": oci.MAX_MEMORY}),
]
Swap = Annotated[
    int | None,
    _given(checks.whole_or_unlimited(0, oci.MAX_MEMORY)),
    WHOLE,
    WithJsonSchema({"type": "integer", "minimum": -1, "maximum": oci.MAX_MEMORY}),
]
Cpus = Annotated[
    float | None,
    _given(lambda value: value),
    Field(ge=oci.MIN_CPUS, le=oci.MAX_CPUS),
    WithJsonSchema({"type": "number", "minimum": oci.MIN_CPUS, "maximum": oci.MAX_CPUS}),
]
Pids = Annotated[
    int | None,
    _given(checks.whole_or_unlimited(1, oci.MAX_PIDS)),
    WHOLE,
    WithJsonSchema({"type": "integer", "minimum": -1, "maximum": oci.MAX_PIDS, "not": {"const": 0}}),
]
Text = Annotated[str | None, AfterValidator(checks.given), WithJsonSchema({"type": "string"})]
Base64 = Annotated[
    str | None,
    _given(checks.base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _whole(_BASE64)}),
]

# Of a run as one request:

_SESSION = "over plain HTTP: use dkrctl, or a session"
NoTerminal = Annotated[
    bool, AfterValidator(checks.only(False, f"cannot be had {_SESSION}")), WithJsonSchema({"const": False})
]
NoRootfs = Annotated[str | None, _given(checks.only(None, f"cannot be passed {_SESSION}"))]
NoDescriptors = Annotated[
    int,
    AfterValidator(checks.only(0, f"cannot be passed {_SESSION}")),
    WHOLE,
    WithJsonSchema({"const": 0}),
]
Removed = Annotated[
    bool,
    AfterValidator(checks.only(True, "cannot be false here: nobody could find what is left")),
    WithJsonSchema({"const": True}),
]
Ends = Annotated[
    Literal["stop", "kill", "keep"] | None,
    _given(checks.ends),
    WithJsonSchema({"enum": ["stop", "kill"]}),
]

# Of a container that is made before it is started:

KeptRootfs = Annotated[
    str | None,
    _given(checks.only(None, "cannot be kept until the start: a descriptor is there for one run alone")),
]
KeptDescriptors = Annotated[
    int,
    AfterValidator(checks.only(0, "cannot be kept until the start: descriptors are there for one run alone")),
    WHOLE,
    WithJsonSchema({"const": 0}),
]
NoClient = Annotated[
    Literal["stop", "kill", "keep"] | None,
    _given(checks.only(None, "has no meaning here: whoever attaches says what happens when they vanish")),
]

# Of a query, where every value is text:

Seconds = Annotated[
    float | None,
    BeforeValidator(checks.number),
    _given(lambda value: checks.above_zero(checks.seconds(value))),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": checks.MAX_SECONDS}),
]
Flag = Annotated[bool, BeforeValidator(checks.flag), WithJsonSchema({"type": "boolean"})]
_NUMBER = BeforeValidator(lambda value: checks.whole(checks.number(value)))
Lines = Annotated[
    int | None,
    _given(lambda value: value),
    Field(ge=0, le=checks.MAX_LINES),
    _NUMBER,
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": checks.MAX_LINES}),
]


def filters(*patterns: str) -> Schema:
    """The schema of a list of KEY=VALUE, each of which is as one of these patterns."""
    one = _text(checks.MAX_FILTER, "|".join(patterns))
    return {"type": "array", "maxItems": checks.MAX_FILTERS, "items": one}


LABEL_FILTER = r"label=[^\x00]+"
Filters = Annotated[tuple[str, ...], PlainValidator(checks.filters), _AS_LIST]
Cells = Annotated[
    int,
    Field(ge=0, le=65535),
    _NUMBER,
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 65535}),
]
Moment = Annotated[
    str | None,
    _given(checks.moment),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _whole(checks.MOMENT.pattern)}),
]
