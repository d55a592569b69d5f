"""The keys that leave a session, found in what is typed without holding anything back.

On the lean path where there is a terminal (see lean.py): imports built-in modules and errors.
"""

import posix

from common.errors import BadRequest

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from dkrctl.parse import Parsed

DEFAULT = "ctrl-p,ctrl-q"
VARIABLE = "DKR_DETACH_KEYS"
_SIGNS = "@[\\]^_"


def keys_of(parsed: "Parsed") -> bytes:
    """The keys that leave, by --detach-keys, the variable DKR_DETACH_KEYS, or the default. Raises BadRequest."""
    given = parsed.last("detach-keys")
    if given is not None:
        return parse(given, "--detach-keys")
    variable = posix.environ.get(VARIABLE.encode())
    return parse(DEFAULT if variable is None else variable.decode("utf-8", "replace"), VARIABLE)


def parse(text: str, where: str) -> bytes:
    """The bytes that the keys of `text` send: `ctrl-p,ctrl-q`, or single characters, with commas between.

    Docker's words: ctrl-a to ctrl-z and ctrl- with one of @ [ backslash ] ^ _. Empty: none. `where` names the option in the
    error. Raises BadRequest.
    """
    return b"".join(_key(word, text, where) for word in text.split(",")) if text else b""


def _key(word: str, text: str, where: str) -> bytes:
    if len(word) == 1 and word.isascii() and word.isprintable():
        return word.encode()
    sign = word[5:]
    if (
        word[:5].lower() == "ctrl-"
        and len(sign) == 1
        and (sign in _SIGNS or (sign.isascii() and sign.isalpha()))
    ):
        return bytes((ord(sign.upper()) & 0x1F,))
    raise BadRequest(
        f"cannot take {where} {ascii(text)[1:-1]}: {ascii(word)[1:-1] or 'nothing'} is no key",
        hint="single characters, or ctrl- and a letter or one of @ [ \\ ] ^ _, with commas between; empty switches them off",
    )


class Matcher:
    """Finds the sequence in a stream of bytes.

    Every byte but the one that completes the sequence goes on at once: a lone ctrl-P must not wait for what may follow.
    """

    __slots__ = ("_keys", "_tail")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._tail = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of `data` is to be passed on, and whether the sequence was completed; what follows it is dropped."""
        keys, tail = self._keys, self._tail
        if not keys:
            return data, False
        seen = tail + data
        at = seen.find(keys)
        if at < 0:
            self._tail = seen[len(seen) - len(keys) + 1 :] if len(seen) >= len(keys) else seen
            return data, False
        return seen[len(tail) : at + len(keys) - 1], True
