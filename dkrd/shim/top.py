"""The processes of a container as ps(1) shows them: a job of the launcher's, so that a process which holds up whoever looks at it
holds up nobody else (adr/0010).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import BadRequest, Conflict, NotFound
from dkrd.runtime import processes
from dkrd.shim import cleanup
from dkrd.shim.ended import not_started, waits

if TYPE_CHECKING:
    from dkrd.ids import Pool
    from dkrd.policy import Credentials
    from dkrd.runtime.processes import Process
    from dkrd.settings import Settings

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
MAX_BYTES = 400 * 1024  # of the answer's JSON; what does not fit is counted
_NOBODY = 65534


def look(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    ask: dict[str, object],
    given: int,
) -> dict[str, object]:
    """Titles, processes, and how many were left out. Raises NotFound for another's container, Conflict for one that does not run."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    if set(ask) != {"type"}:
        raise BadRequest("cannot read the ask: top has no further keys")
    state = cleanup.read_state(settings, container)
    if state.get("status") == "created":
        raise not_started(f"cannot look into {container[:12]}")
    if state.get("status") == "restarting":
        raise waits(f"cannot look into {container[:12]}")
    paths, init = state.get("cgroup"), state.get("pid")
    if not cleanup.lives(state) or not isinstance(paths, list) or not paths or not isinstance(init, int):
        raise _ended(container)
    try:
        numbers, ids = processes.pids(str(paths[0])), processes.uid_map(init)
    except OSError:
        raise _ended(container) from None
    return _table(numbers, ids)


def _ended(container: str) -> Conflict | NotFound:
    return Conflict(f"cannot look into {container[:12]}: it has ended", rule="ended")


def _table(numbers: list[int], ids: tuple[tuple[int, int, int], ...]) -> dict[str, object]:
    hertz = os.sysconf("SC_CLK_TCK")
    # Both clocks count on while the machine sleeps.
    now, booted = time.time(), time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found: list[list[str]] = []
    size = omitted = 0
    for number in numbers:
        process = None if size > MAX_BYTES else processes.read(number)
        if process is None:
            omitted += size > MAX_BYTES
            continue
        line = _line(process, ids, now, booted, hertz)
        size += len(frames.dumps(line)) + 1
        found.append(line)
    return {"titles": list(TITLES), "processes": found, **({"omitted": omitted} if omitted else {})}


def _line(
    process: Process, ids: tuple[tuple[int, int, int], ...], now: float, booted: float, hertz: int
) -> list[str]:
    uid = processes.inside(process.uid, ids)
    begun = booted + process.begun / hertz
    used = process.ticks / hertz
    share = int(100 * used / (now - begun)) if now > begun else 0
    return [
        str(_NOBODY if uid is None else uid),
        str(process.pid),
        str(process.parent),
        str(min(share, 99)),
        _begun(begun, now),
        process.tty,
        _time(int(used)),
        process.command,
    ]


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
