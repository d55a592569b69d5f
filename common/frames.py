"""JSON and frames for the processes that must not import `json` (7 ms: it pulls in `re` and `enum`).

`_json` is the C half of the standard library's `json`: same results, no import cost. It is a private module
of CPython; a test compares both halves on every supported version.
"""

import _json

NOTIFY_PATH = (
    "/dev/dkr-notify"  # where a container finds the socket that its client made known by NOTIFY_SOCKET
)
MAX_FRAME = 4 * 1024 * 1024  # bytes; a frame of the session socket or the channel
MAX_DESCRIPTORS = 253  # SCM_MAX_FD, unix(7)


_MEMO: dict[str, str] = {}


class _Decoder:
    """What `_json.make_scanner` wants to know; the values are those of json.JSONDecoder()."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo = _MEMO

    @staticmethod
    def parse_constant(name: str) -> object:
        """Refuse NaN and the infinities: they are not JSON."""
        raise ValueError(f"{name} is not JSON")


_scan = _json.make_scanner(_Decoder)  # type: ignore[arg-type]


def _unencodable(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


# markers, default, encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
_encode = _json.make_encoder(
    None, _unencodable, _json.encode_basestring_ascii, None, ":", ",", False, False, False
)


def dumps(value: object) -> bytes:
    """`value` (dict, list, str, int, float, bool, None) as compact ASCII JSON.

    Raises TypeError for anything else and ValueError for NaN.
    """
    return "".join(_encode(value, 0)).encode("ascii")


_SPACE = " \t\r\n"


def loads(data: bytes | str) -> object:
    """The value of one JSON text.

    Raises ValueError where it is no JSON, is followed by more, or nests too deep.
    """
    text = data if isinstance(data, str) else str(data, "utf-8")
    text = text.strip(_SPACE)
    try:
        value, end = _scan(text, 0)
    except StopIteration as err:
        raise ValueError(f"not JSON at character {err.value}") from None
    except SystemError:
        # The C half looks up json.decoder for its exception; where nobody imported that, it fails so.
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if end != len(text):
        raise ValueError(f"more than one JSON value at character {end}")
    return value


def loads_object(data: bytes | str) -> dict[str, object]:
    """The object of one JSON text; ValueError where it is something else."""
    value = loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


# The same, but for text that stays what it is.
_encode_text = _json.make_encoder(
    None, _unencodable, _json.encode_basestring, None, ":", ",", False, False, False
)


def loads_foreign(data: bytes) -> dict[str, object]:
    """The same of what another sent: ValueError also where a text in it is none.

    JSON can name half of a pair of UTF-16 by its number (RFC 8259, 8.2). No path, name or message that holds one can be encoded: who
    tried would fail far from here.
    """
    value = loads_object(data)
    if b"\\u" in data:
        try:
            "".join(_encode_text(value, 0)).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a character is in it") from None
    return value


def loads_lines(lines: list[bytes]) -> list[object]:
    """The values of JSON texts, one a line; None for one that is no JSON. Read as one array, which takes a third of the time; then two
    that are broken in the middle of an array might pass for one.
    """
    try:
        values = loads(b"[%b]" % b",".join(lines))
    except ValueError:
        values = None
    if isinstance(values, list) and len(values) == len(lines):
        return values
    return [_value(line) for line in lines]


def _value(line: bytes) -> object:
    try:
        return loads(line)
    except ValueError:
        return None


def record(value: object) -> bytes:
    """`value` with its length in front, for a stream: 4 bytes big-endian, then JSON."""
    data = dumps(value)
    return len(data).to_bytes(4, "big") + data
