"""The processes of a cgroup, as proc(5) tells of them.

What a process is called is its own doing. And to read its arguments is to read its memory, which may take as long as whatever lies
behind that: who cannot wait has a process of its own do this.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

MAX_COMMAND = 1024  # bytes that are read of one
_PTS = range(136, 144)  # majors of the slaves of ptys, Documentation/admin-guide/devices.txt


@dataclass(frozen=True, slots=True)
class Process:
    """One of them.

    uid       the effective one, as this process sees it
    state     a letter, as proc(5) has it
    in_front  whether its group is in the foreground of its terminal
    begun     clock ticks since boot
    ticks     of processor time
    virtual   bytes of its address space
    resident  bytes of it that are in memory
    tty       `pts/N`, or `?`
    name      what it is called, 15 bytes
    command   arguments, blanks between; in brackets its name, where it has none
    """

    pid: int
    parent: int
    group: int
    session: int
    uid: int
    state: str
    in_front: bool
    begun: int
    ticks: int
    priority: int
    nice: int
    threads: int
    virtual: int
    resident: int
    tty: str
    name: str
    command: str


def pids(path: str) -> list[int]:
    """Those of the cgroup at `path`, in the order of their numbers. Raises OSError."""
    with open(f"{path}/cgroup.procs", encoding="ascii") as file:
        return sorted({int(line) for line in file} - {0})  # 0: of another pid namespace


def read(pid: int) -> Process | None:
    """What a process is; None where it has ended."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        stat = _read(f"/proc/{pid}/stat")
        # The name, field 2, may hold anything; it ends at the last parenthesis.
        name = stat[stat.index(b"(") + 1 : stat.rindex(b")")]
        fields = stat[stat.rindex(b")") + 2 :].split()
        command = (
            _read(f"/proc/{pid}/cmdline", MAX_COMMAND).rstrip(b"\0").replace(b"\0", b" ") or b"[%s]" % name
        )
        status = _status(pid)
        if fields[0] == b"Z":
            command += b" <defunct>"
        return Process(
            pid,
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            uid=int(status[b"Uid"][1]),
            state=fields[0].decode("ascii"),
            in_front=fields[5] == fields[2],
            begun=int(fields[19]),
            ticks=int(fields[11]) + int(fields[12]),
            priority=int(fields[15]),
            nice=int(fields[16]),
            threads=int(fields[17]),
            virtual=int(fields[20]),
            # Exact, which field 24 of stat is not.
            resident=1024 * int(status.get(b"VmRSS", (b"0",))[0]),
            tty=_tty(int(fields[4])),
            name=name.decode("utf-8", "replace"),
            command=command.decode("utf-8", "replace"),
        )
    return None


def is_of_group(pid: int, group: int) -> bool:
    """Whether it lives and is of this process group. Asks nothing that could wait for what it waits for."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = _read(f"/proc/{pid}/stat")
        state, _, found = stat[stat.rindex(b")") + 2 :].split()[:3]
        return int(found) == group and state not in (b"Z", b"X")
    return False


def uid_map(pid: int) -> tuple[tuple[int, int, int], ...]:
    """/proc/PID/uid_map: first id inside, first outside, how many. Raises OSError."""
    lines = _read(f"/proc/{pid}/uid_map").splitlines()
    return tuple(tuple(map(int, line.split())) for line in lines)  # type: ignore[misc]  # three in each line


def inside(uid: int, ids: tuple[tuple[int, int, int], ...]) -> int | None:
    """What `uid` is called inside; None where it has no name there."""
    return next((first + uid - out for first, out, count in ids if out <= uid < out + count), None)


def _tty(device: int) -> str:
    major, minor = os.major(device), os.minor(device)
    return f"pts/{(major - _PTS.start) * 256 + minor}" if major in _PTS else "?"


def _status(pid: int) -> dict[bytes, list[bytes]]:
    """/proc/PID/status: the words behind each key."""
    lines = (line.partition(b":") for line in _read(f"/proc/{pid}/status").splitlines())
    return {key: rest.split() for key, _, rest in lines}


def _read(path: str, size: int = 65536) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)
