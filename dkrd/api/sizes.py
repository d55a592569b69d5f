"""What containers take of the disk, as root's side measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.errors import ProtocolError
from dkrd.api.asks import ask_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from dkrd.api.context import Context

AT_ONCE = 256
SECONDS = 60.0  # for one question: others may be answered before


class Size(NamedTuple):
    """Bytes of the upper layer of a container's root, and of its log; whether that is all of it."""

    upper: int
    log: int
    whole: bool

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.upper + self.log


async def sizes_of(context: Context, request: web.Request, containers: Sequence[str]) -> dict[str, Size]:
    """By id, of those that are the client's and could be measured in time. Raises DkrError."""
    found: dict[str, Size] = {}
    for place in range(0, len(containers), AT_ONCE):
        wanted = list(containers[place : place + AT_ONCE])
        measured = (await _measured(context, request, wanted)).get("containers")
        found |= {str(name): _size(entry) for name, entry in _object(measured).items()}
    return found


async def layers(context: Context, request: web.Request) -> dict[str, int]:
    """Bytes of each built-in layer. Raises DkrError."""
    measured = (await _measured(context, request, [])).get("layers")
    return {str(name): size for name, size in _object(measured).items() if isinstance(size, int)}


async def _measured(context: Context, request: web.Request, wanted: list[str]) -> dict[str, object]:
    message: dict[str, object] = {"type": "measure", "ids": wanted}
    answer = await ask_root(context, request, message, "measure", SECONDS)
    return _object(answer.get("value"))


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ProtocolError("cannot understand the launcher: what it has measured is no object")
    return value


def _size(entry: object) -> Size:
    if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(part, int) for part in entry):
        raise ProtocolError("cannot understand the launcher: a size has another form")
    return Size(entry[0], entry[1], bool(entry[2]))
