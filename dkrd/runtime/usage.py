"""What a cgroup uses of the machine, on v1 and v2, as far as it is counted there; cgroups(7).

Only files of the cgroup filesystem are read, none of which waits for a process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_NO_BOUND = 1 << 62  # of v1: the largest number of pages, in bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """None where nothing counts it, or nothing bounds it.

    cpu         nanoseconds of processor time
    memory      bytes, without what the kernel could let go of at once: files that were not read lately
    read, written  bytes of block devices
    """

    cpu: int | None
    memory: int | None
    memory_limit: int | None
    pids: int | None
    pids_limit: int | None
    read: int | None
    written: int | None


def measure(paths: tuple[str, ...]) -> Usage:
    """The usage of the cgroup whose directories these are."""
    memory, limit = _memory(paths)
    read, written = _io(paths)
    return Usage(
        cpu=_cpu(paths),
        memory=memory,
        memory_limit=limit,
        pids=_first(paths, "pids.current", int),
        pids_limit=_first(paths, "pids.max", _bound),
        read=read,
        written=written,
    )


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; proc(5), /proc/meminfo."""
    kilobytes = _first(("/proc",), "meminfo", lambda text: _of(text, "MemTotal:"))
    return None if kilobytes is None else kilobytes * 1024


def _first(paths: tuple[str, ...], name: str, take: Callable[[str], T | None]) -> T | None:
    """What `take` reads in the first file of this name that says it."""
    for path in paths:
        try:
            fd = os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = take(os.read(fd, 65536).decode("ascii", "replace"))
        except (OSError, ValueError):
            found = None
        finally:
            os.close(fd)
        if found is not None:
            return found
    return None


def _of(text: str, key: str) -> int | None:
    """The number behind `key` at the beginning of a line."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == key:
            return int(words[1])
    return None


def _bound(text: str) -> int | None:
    word = text.strip()
    return None if word == "max" or int(word) >= _NO_BOUND else int(word)


def _cpu(paths: tuple[str, ...]) -> int | None:
    # v2 has it in every cgroup, with or without the controller: of a hybrid it is the v2 leaf that tells.
    microseconds = _first(paths, "cpu.stat", lambda text: _of(text, "usage_usec"))
    return _first(paths, "cpuacct.usage", int) if microseconds is None else microseconds * 1000


def _memory(paths: tuple[str, ...]) -> tuple[int | None, int | None]:
    for usage, limit, idle in (
        ("memory.current", "memory.max", "inactive_file"),
        ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
    ):
        used = _first(paths, usage, int)
        if used is not None:
            unused = _first(paths, "memory.stat", lambda text, idle=idle: _of(text, idle)) or 0  # type: ignore[misc]
            return max(0, used - unused), _first(paths, limit, _bound)
    return None, None


def _io(paths: tuple[str, ...]) -> tuple[int | None, int | None]:
    for name, keys in (
        ("io.stat", ("rbytes=", "wbytes=")),
        ("blkio.throttle.io_service_bytes", ("Read ", "Write ")),
    ):
        found = _first(paths, name, lambda text, keys=keys: tuple(_sum(text, key) for key in keys))  # type: ignore[misc]
        if found is not None:
            return found[0], found[1]
    return None, None


def _sum(text: str, key: str) -> int:
    """The numbers behind `key`, of all devices."""
    return sum(
        int(piece.split(maxsplit=1)[0]) for line in text.splitlines() for piece in line.split(key)[1:2]
    )
