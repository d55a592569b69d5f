"""What is mounted where, by proc(5) /proc/PID/mountinfo: the one source that asks no filesystem and so never hangs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Mounted(NamedTuple):
    """One mount.

    id, parent  as the kernel counts mounts
    point       where it is, as seen from the root of the process whose mountinfo this is
    options     of the mount, not of its filesystem: ro, nosuid, nodev, …
    unbindable  a clone leaves it out; mount_namespaces(7)
    type        of its filesystem, with a subtype as in fuse.sshfs
    device      of its filesystem, as st_dev has it, but where that has one for each of its parts
    """

    id: int
    parent: int
    point: str
    options: tuple[str, ...]
    unbindable: bool
    type: str
    device: int


def read(pid: int | str) -> Iterator[Mounted]:
    """The mounts that process `pid` (or "self") sees, line by line: a namespace can hold a hundred thousand."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:  # newline: a carriage return in a name is not escaped and ends no line
            head, _, tail = line.partition(" - ")
            number, parent, device, _, point, options, *tags = head.split(" ")
            yield Mounted(
                int(number),
                int(parent),
                _plain(point),
                tuple(options.split(",")),
                "unbindable" in tags,
                _plain(tail.split(" ", 1)[0]),
                os.makedev(*map(int, device.split(":"))),
            )


def _plain(text: str) -> str:
    """`text` without the octal escapes of blanks and backslashes."""
    if "\\" not in text:
        return text
    head, *parts = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def covers(point: str, path: str) -> bool:
    """Whether a mount at `point` hides something of the directory `path`: it is mounted on it or below."""
    return point == path or point.startswith(path if path.endswith("/") else f"{path}/")
