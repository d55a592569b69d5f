"""Reading untrusted JSON with a closed schema, by the standard library alone.

A `Reader` hands out the keys of one object, each once, with its type checked; what nobody asked for is an
error. So the code that reads a document is its schema. Errors are BadRequest and name the path of the field
("spec.process.args[2]").
"""

from __future__ import annotations

from typing import NoReturn

from common.errors import BadRequest

MAX_LIST = 65536  # entries of one list or object


def refuse(path: str, message: str) -> NoReturn:
    """Raise BadRequest for the field at `path`."""
    raise BadRequest(
        f"cannot read the bundle: {path}: {message}", fields=({"path": path, "message": message},)
    )


class Reader:
    """One JSON object of a document."""

    __slots__ = ("_left", "path")

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            refuse(path, "an object is wanted")
        if len(value) > MAX_LIST:
            refuse(path, "too many keys")
        self._left = dict(value)
        self.path = path

    def where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str) -> object:
        """The value of `key`, of whatever type; refused where it is missing."""
        if key not in self._left:
            refuse(self.where(key), "is missing")
        return self._left.pop(key)

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self._left:
            return default
        return as_text(self.take(key), self.where(key))

    def optional_text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        return None if value is None else as_text(value, self.where(key))

    def flag(self, key: str, default: bool) -> bool:
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            refuse(self.where(key), "true or false is wanted")
        return value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.take(key) if default is None else self._left.pop(key, default)
        return as_integer(value, self.where(key), low, high)

    def seconds(self, key: str) -> float:
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            refuse(self.where(key), "a number of seconds is wanted")
        return float(value)

    def optional_seconds(self, key: str) -> float | None:
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return None
        return self.seconds(key)

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in words:
            refuse(self.where(key), "one of " + ", ".join(words) + " is wanted")
        return value

    def items(self, key: str, default: bool = False) -> list[object]:
        """The list at `key`; an absent one is empty where `default` is set."""
        if default and key not in self._left:
            return []
        value = self.take(key)
        if not isinstance(value, list):
            refuse(self.where(key), "a list is wanted")
        if len(value) > MAX_LIST:
            refuse(self.where(key), "too many entries")
        return value

    def texts(self, key: str, default: bool = False) -> tuple[str, ...]:
        where = self.where(key)
        return tuple(as_text(v, f"{where}[{i}]") for i, v in enumerate(self.items(key, default)))

    def pairs(self, key: str) -> dict[str, str]:
        """The object of strings at `key`; empty where absent."""
        where = self.where(key)
        reader = Reader(self._left.pop(key, {}), where)
        return {as_text(k, where): as_text(v, f"{where}.{k}") for k, v in reader._left.items()}

    def child(self, key: str) -> Reader:
        return Reader(self.take(key), self.where(key))

    def done(self) -> None:
        """Refuse what is left over."""
        for key in self._left:
            refuse(self.where(str(key)), "unknown key")


def as_text(value: object, path: str) -> str:
    if not isinstance(value, str):
        refuse(path, "a string is wanted")
    if "\0" in value:
        refuse(path, "holds a NUL")
    return value


def as_integer(value: object, path: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(path, "an integer is wanted")
    if not low <= value <= high:
        refuse(path, f"is not within {low} and {high}")
    return value
