"""What copies from and to containers have in common: Docker's rules for where they go, what is left out, how errors are told."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from common.errors import BadRequest, Conflict, DkrError, LimitReached, NotFound, NotPermitted, Unavailable
from common.tar import shown

CHUNK = 256 * 1024  # bytes
MAX_DEPTH = 256  # directories in directories: each is held by a descriptor
TOP = b"."  # the name of what is copied by its contents
# What is not copied, and is told: key on the wire -> words.
LEFT_OUT = {
    "devices": "devices, which nobody may make in a container",
    "sockets": "sockets, which nobody would listen at",
    "kernel": "directories of the kernel's own filesystems, by their contents",
    "capabilities": "capabilities of files",
    "attributes": "extended attributes of files",
    "changed": "files that were replaced meanwhile",
}


@dataclass(slots=True)
class Notes:
    """What was left out: how often, and where first, by the keys of LEFT_OUT."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, bytes] = field(default_factory=dict)

    def add(self, key: str, name: bytes) -> None:
        """Once more."""
        self.counts[key] = self.counts.get(key, 0) + 1
        self.first.setdefault(key, name)

    def to_wire(self) -> dict[str, object]:
        """As JSON has it."""
        return {key: {"count": count, "first": shown(self.first[key])} for key, count in self.counts.items()}


def told(wire: object) -> list[str]:
    """A line for each kind of what was left out, for people."""
    lines = []
    for key, words in LEFT_OUT.items():
        one = wire.get(key) if isinstance(wire, dict) else None
        if isinstance(one, dict):
            lines.append(f"left out {one.get('count')} of {words}: {one.get('first')}, first")
    return lines


def merged(*several: object) -> dict[str, object]:
    """The notes of both ends."""
    found: dict[str, object] = {}
    for wire in several:
        found |= wire if isinstance(wire, dict) else {}
    return found


@dataclass(frozen=True, slots=True)
class Source:
    """What comes: a directory or something else, by this name. `name` is TOP where its contents are meant."""

    name: bytes
    directory: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """What is there, where it shall go. `wants_directory`: it was named as one, with a / at its end."""

    shown: str
    base: bytes
    exists: bool
    directory: bool
    wants_directory: bool


def name_at(source: Source, destination: Destination) -> bytes | None:
    """By which name `source` is laid beside `destination`; None: by its own, within it. Docker's rules (docker cp, Description).

    Raises BadRequest for what does not fit, NotFound where there is no directory that was asked for.
    """
    where = destination.shown
    if destination.exists and destination.directory:
        return None
    if destination.exists and source.directory:
        raise BadRequest(f"cannot copy a directory to {where}: that is a file")
    if destination.exists and destination.wants_directory:
        raise BadRequest(f"cannot copy to {where}: that is no directory", errno=errno.ENOTDIR)
    if destination.wants_directory and not source.directory:
        raise NotFound(f"cannot copy to {where}: there is no such directory", hint="make it first")
    return destination.base


def is_contents(path: str) -> bool:
    """Whether the contents of a directory are meant: `SRC/.`, or the root."""
    return path.endswith("/.") or path == "." or not path.strip("/")


def top_of(path: str) -> bytes:
    """What `path` is called in its archive: by its last name; TOP where its contents are meant, or it has no name."""
    name = split(path)[1]
    return TOP if is_contents(path) or name in (".", "..") else os.fsencode(name)


def split(path: str) -> tuple[str, str]:
    """A path's directory and the last name in it, "." for a path that has none."""
    head, _, tail = path.rstrip("/").rpartition("/")
    return (head or ("/" if path.startswith("/") else ".")), tail or "."


def failed(what: str, name: bytes, err: OSError) -> DkrError:
    """The error for a call that failed at `name`; `what` could not be done."""
    number = err.errno or 0
    message = f"cannot {what} {shown(name) or '.'}: {os.strerror(number).lower()}"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message, errno=number)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EMLINK):
        return LimitReached(message, errno=number)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted(message, errno=number)
    if number in (errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG, errno.EISDIR, errno.EXDEV):
        return BadRequest(message, errno=number)
    if number in (errno.EBUSY, errno.EEXIST, errno.ENOTEMPTY, errno.ETXTBSY):
        return Conflict(message, errno=number)
    return Unavailable(message, errno=number)
