"""The first frame of a session that starts a container, or makes one: docs/protocol.md, section 3."""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import BadRequest, ProtocolError
from dkrd.runtime import syscalls
from dkrd.shim.descriptors import close_all
from dkrd.shim.session import VERSION

if TYPE_CHECKING:
    from dkrd.policy import Credentials
    from dkrd.shim.session import Session

_WANTS: tuple[list[str], ...] = (
    [],
    ["trace"],
    ["plan"],
    ["health"],
    ["trace", "health"],
    ["notify"],
    ["trace", "notify"],
)
_ROOT: tuple[list[str], ...] = ([], ["rootfs"], ["rootfs", "mntns"])
_CHOICES: tuple[list[int], ...] = ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])
_CREATE = {"type", "version", "request", "asks"}


@dataclass(frozen=True, slots=True)
class First:
    """The client's first frame: what it asks, as whom, with which descriptors.

    create     whether nothing is to be started
    stdio      {0..2: descriptor}
    want       of "trace", "plan", "health" and "notify", what the client wants to be told besides
    tty        those of 0..2 that get the container's own terminal; what is in neither stays closed
    preserved  descriptors for 3, 4, ...
    root       the directory that is to be the root, and the client's mount namespace; none, the first, or both
    """

    create: bool
    request: dict[str, object]
    asks: frozenset[str]
    want: frozenset[str]
    stdio: dict[int, int]
    tty: tuple[int, ...]
    preserved: tuple[int, ...]
    root: tuple[int, ...]
    credentials: Credentials


def read(session: Session) -> First:
    """The first frame. Raises ProtocolError, BadRequest; on an error no descriptor of it stays open."""
    session.await_first()
    message, descriptors, credentials = session.hello()
    try:
        if message.get("type") == "create":
            return _create(message, descriptors, credentials)
        return _start(message, descriptors, credentials)
    except BaseException:
        close_all(descriptors)
        raise


def _create(message: dict[str, object], descriptors: list[int], credentials: Credentials) -> First:
    if set(message) - {"want"} != _CREATE or message["version"] != VERSION:
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} create",
            hint="use a dkrctl of the daemon's release",
        )
    if descriptors:
        raise ProtocolError("cannot read the first frame: a create brings no descriptors")
    want = message.get("want", [])
    if want not in ([], ["plan"]):
        raise ProtocolError(f"cannot read the first frame: of a create want is no {ascii(want)[:80]}")
    request, asks = _request_of(message)
    return First(True, request, asks, frozenset(map(str, want)), {}, (), (), (), credentials)


def _request_of(message: dict[str, object]) -> tuple[dict[str, object], frozenset[str]]:
    request, asks = message["request"], message["asks"]
    if not isinstance(request, dict) or not isinstance(asks, list):
        raise ProtocolError("cannot read the first frame: request or asks is of another type")
    if not all(isinstance(a, str) for a in asks):
        raise ProtocolError("cannot read the first frame: asks are strings")
    return request, frozenset(asks)


def _start(message: dict[str, object], descriptors: list[int], credentials: Credentials) -> First:
    known = {"type", "version", "request", "asks", "stdio", "tty", "root", "want"}
    if set(message) != known or message["type"] != "start" or message["version"] != VERSION:
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} start",
            hint="use a dkrctl of the daemon's release",
        )
    request, asks = _request_of(message)
    want, root = message["want"], message["root"]
    if want not in _WANTS:
        raise ProtocolError("cannot read the first frame: want is none of the possible values")
    if root not in _ROOT or not isinstance(root, list):
        raise ProtocolError("cannot read the first frame: root is nothing, rootfs, or rootfs and mntns")
    stdio, tty, rest = passed(message, descriptors, preserved(request) + len(root))
    assert isinstance(want, list)
    end = len(rest) - len(root)
    return First(False, request, asks, frozenset(want), stdio, tty, rest[:end], rest[end:], credentials)


def preserved(request: dict[str, object]) -> int:
    """How many descriptors from 3 on the request has come along."""
    count = request.get("preserveFds", 0)
    return count if type(count) is int and count > 0 else 0


def passed(
    message: dict[str, object], descriptors: list[int], others: int
) -> tuple[dict[int, int], tuple[int, ...], tuple[int, ...]]:
    """What the descriptors of a first frame are: those of 0..2 by their number, which of 0..2 are the terminal, and `others` more.
    Raises ProtocolError, BadRequest.
    """
    stdio, tty = _numbers(message, "stdio"), _numbers(message, "tty")
    if set(stdio) & set(tty):
        raise ProtocolError("cannot read the first frame: a number is in stdio and in tty")
    wanted = len(stdio) + others
    if len(descriptors) != wanted:
        raise ProtocolError(
            f"cannot read the first frame: {wanted} descriptors were promised, {len(descriptors)} came"
        )
    named = dict(zip(stdio, descriptors, strict=False))
    for number, fd in named.items():
        _check_stdio(number, fd)
    return named, tty, tuple(descriptors[len(stdio) :])


def _numbers(message: dict[str, object], key: str) -> tuple[int, ...]:
    numbers = message[key]
    if not isinstance(numbers, list) or any(type(n) is not int for n in numbers) or numbers not in _CHOICES:
        raise ProtocolError(f"cannot read the first frame: {key} is a sorted choice of 0, 1, 2")
    return tuple(numbers)


def _check_stdio(number: int, fd: int) -> None:
    """A directory, or a descriptor that only names a file, would be a way out of the root (escapes by
    passed descriptors).
    """
    # Not by fstat(2), for whose answer a caller's own filesystem may let us wait.
    if stat.S_ISDIR(syscalls.statx(fd).mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        raise BadRequest(
            f"cannot use descriptor {number} as stdio: it is a directory or was opened with O_PATH",
            fields=({"path": "stdio", "message": f"descriptor {number} is no stream"},),
        )
