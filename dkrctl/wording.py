"""Errors of a request, told of the options that it was made of: people write those, and not its keys.

Loaded only where there was such an error.
"""

from collections.abc import Iterable

from common.errors import BadRequest, DkrError
from common.options import Option
from dkrctl.parse import Parsed

_LONGEST = 80  # characters of a value; the beginning of more tells which it is
_OF_IT = ("is ", "has ", "holds ", "names ")
_QUIET = ("env", "env-file", "label")  # of these the key is told, the value may be nobody's to see


def in_options(error: DkrError, parsed: Parsed, options: Iterable[Option]) -> DkrError:
    """`error`, which says of each key that was not right by which of `options` it was given; or as it is, where one is none's."""
    if not isinstance(error, BadRequest) or not error.fields:
        return error
    table = tuple(options)
    told = []
    for field in error.fields:
        path, what = str(field.get("path")), str(field.get("message"))
        given = _given(path, parsed, table)
        if given is None or what.startswith("cannot "):
            return error  # or it is a whole sentence already
        told.append({"path": given, "message": f"it {what}" if what.startswith(_OF_IT) else what})
    first = told[0]
    error.message = f"cannot take {first['path']}: {first['message']}"
    error.fields = tuple(told[1:])
    return error


def _given(path: str, parsed: Parsed, options: tuple[Option, ...]) -> str | None:
    """The option, as it was given, that the key at `path` comes of."""
    for option in options:
        key = option.key or option.long
        if (path == key or path.startswith(f"{key}.")) and parsed.every(option.long):
            return (
                f"--{option.long} {_value(path[len(key) + 1 :], parsed.every(option.long), option)}".rstrip()
            )
    return None


def _value(rest: str, given: list[str], option: Option) -> str:
    """That of an option that repeats is told by its own key, `rest`."""
    if option.long in _QUIET:
        return rest[:_LONGEST]
    word = next((one for one in given if rest and one.startswith((f"{rest}=", f"{rest}:"))), given[-1])
    return word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…"
