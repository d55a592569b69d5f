"""The processes of a container as ps(1) shows them: a job of the launcher's, so that a process which holds up whoever looks at it
holds up nobody else (adr/0010).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames, ps_columns
from common.errors import BadRequest, Conflict, NotFound
from dkrd.runtime import processes
from dkrd.shim import cleanup
from dkrd.shim.ended import not_started, waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.runtime.processes import Process
    from dkrd.shim.matter import Matter

MAX_BYTES = 400 * 1024  # of the answer's JSON; what does not fit is counted
_NOBODY = 65534


def look(matter: Matter, ask: dict[str, object], given: int) -> dict[str, object]:
    """Titles, processes, and how many were left out. Raises NotFound for another's container, Conflict for one that does not run."""
    matter.check_owner()
    columns = _columns(ask)
    state = matter.state()
    if state.get("status") == "created":
        raise not_started(f"cannot look into {matter.short}")
    if state.get("status") == "restarting":
        raise waits(f"cannot look into {matter.short}")
    paths, init = state.get("cgroup"), state.get("pid")
    if not cleanup.lives(state) or not isinstance(paths, list) or not paths or not isinstance(init, int):
        raise _ended(matter)
    try:
        numbers, ids = processes.pids(str(paths[0])), processes.uid_map(init)
    except OSError:
        raise _ended(matter) from None
    return _table(numbers, ids, columns)


def _ended(matter: Matter) -> Conflict | NotFound:
    return Conflict(f"cannot look into {matter.short}: it has ended", rule="ended")


def _columns(ask: dict[str, object]) -> tuple[str, ...]:
    """Which are wanted. Raises BadRequest."""
    names = ask.get("columns", list(ps_columns.EF))
    if (
        not ask.keys() <= {"type", "columns"}
        or not isinstance(names, list)
        or not all(isinstance(n, str) for n in names)
    ):
        raise BadRequest("cannot read the ask: top has names of columns, and no further keys")
    return ps_columns.check(names)


def _table(
    numbers: list[int], ids: tuple[tuple[int, int, int], ...], columns: tuple[str, ...]
) -> dict[str, object]:
    host = _Host.now(ids)
    found: list[list[str]] = []
    size = omitted = 0
    for number in numbers:
        process = None if size > MAX_BYTES else processes.read(number)
        if process is None:
            omitted += size > MAX_BYTES
            continue
        line = [CELLS[column](process, host) for column in columns]
        size += len(frames.dumps(line)) + 1
        found.append(line)
    titles = [ps_columns.TITLES[column] for column in columns]
    return {"titles": titles, "processes": found, **({"omitted": omitted} if omitted else {})}


@dataclass(frozen=True, slots=True)
class _Host:
    """What the processes are seen by. `booted`: when the host was, seconds since the epoch; `ids`: the container's uid_map."""

    wall: float
    booted: float
    hertz: int
    memory: int
    ids: tuple[tuple[int, int, int], ...]

    @classmethod
    def now(cls, ids: tuple[tuple[int, int, int], ...]) -> _Host:
        wall = time.time()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # Both clocks count on while the machine sleeps.
        booted = wall - time.clock_gettime(time.CLOCK_BOOTTIME)
        return cls(wall, booted, os.sysconf("SC_CLK_TCK"), memory, ids)

    def begun(self, process: Process) -> float:
        return self.booted + process.begun / self.hertz

    def age(self, process: Process) -> float:
        return max(0.0, self.wall - self.begun(process))

    def share(self, process: Process) -> float:
        """Percent of one processor's time, over its life."""
        age = self.age(process)
        return 100 * process.ticks / self.hertz / age if age else 0.0


def _user(process: Process, host: _Host) -> str:
    uid = processes.inside(process.uid, host.ids)
    return str(_NOBODY if uid is None else uid)


def _stat(process: Process, host: _Host) -> str:
    """As ps(1), less what memory is locked."""
    nice = "<" if process.nice < 0 else "N" if process.nice > 0 else ""
    leads = "s" if process.session == process.pid else ""
    return (
        process.state
        + nice
        + leads
        + ("l" if process.threads > 1 else "")
        + ("+" if process.in_front else "")
    )


def _elapsed(process: Process, host: _Host) -> str:
    days, rest = divmod(int(host.age(process)), 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{rest // 60:02}:{rest % 60:02}"
    return f"{days}-{hours:02}:{clock}" if days else f"{hours:02}:{clock}" if hours else clock


def _spent(process: Process, host: _Host) -> str:
    return _time(process.ticks // host.hertz)


def _started(process: Process, host: _Host) -> str:
    return _begun(host.begun(process), host.wall)


CELLS: dict[str, Callable[[Process, _Host], str]] = {
    **dict.fromkeys(("user", "uid"), _user),
    "pid": lambda process, host: str(process.pid),
    "ppid": lambda process, host: str(process.parent),
    **dict.fromkeys(("pgid", "pgrp"), lambda process, host: str(process.group)),
    **dict.fromkeys(("sid", "sess"), lambda process, host: str(process.session)),
    "c": lambda process, host: str(min(int(host.share(process)), 99)),
    **dict.fromkeys(("pcpu", "%cpu"), lambda process, host: f"{host.share(process):.1f}"),
    **dict.fromkeys(("pmem", "%mem"), lambda process, host: f"{100 * process.resident / host.memory:.1f}"),
    "vsz": lambda process, host: str(process.virtual // 1024),
    "rss": lambda process, host: str(process.resident // 1024),
    **dict.fromkeys(("stime", "start_time"), _started),
    "etime": _elapsed,
    "etimes": lambda process, host: str(int(host.age(process))),
    **dict.fromkeys(("time", "cputime"), _spent),
    **dict.fromkeys(("tty", "tt", "tname"), lambda process, host: process.tty),
    "stat": _stat,
    **dict.fromkeys(("state", "s"), lambda process, host: process.state),
    **dict.fromkeys(("ni", "nice"), lambda process, host: str(process.nice)),
    "pri": lambda process, host: str(39 - process.priority),
    **dict.fromkeys(("nlwp", "thcount"), lambda process, host: str(process.threads)),
    "comm": lambda process, host: process.name,
    **dict.fromkeys(("args", "command", "cmd"), lambda process, host: process.command),
}


def _begun(moment: float, now: float) -> str:
    """As ps(1): the time of today, else the day, else the year."""
    then, today = time.localtime(moment), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then[0] == today[0] else "%Y", then)


def _time(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock
