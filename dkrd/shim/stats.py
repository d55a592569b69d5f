"""What containers use of the machine: one job of the launcher's for many of them, by the files of their cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.clock import now
from common.errors import BadRequest
from dkrd.runtime import usage
from dkrd.shim import cleanup

if TYPE_CHECKING:
    from dkrd.shim.matter import Matter

MAX_IDS = 256  # in one question


def look(matter: Matter, ask: dict[str, object], given: int) -> dict[str, object]:
    """Of those of `ids` that run and are theirs: id -> what they use, now. What is absent nothing counts, or bounds.

    The container that it is about, the first of them, is as the others.
    """
    wanted = ask.get("ids")
    if set(ask) != {"type", "ids"} or not isinstance(wanted, list) or not 1 <= len(wanted) <= MAX_IDS:
        raise BadRequest(f"cannot read the ask: stats has up to {MAX_IDS} ids, and no further keys")
    asker = matter.asker()
    machine = usage.machine_memory()
    found: dict[str, object] = {}
    for one in wanted:
        state = cleanup.read_state(matter.settings, cleanup.check_id(str(one)))
        paths = state.get("cgroup")
        if (
            not state
            or not asker.may_touch(state.get("uid"))
            or not isinstance(paths, list)
            or not cleanup.lives(state)
        ):
            continue
        found[str(one)] = _told(usage.measure(tuple(map(str, paths))), machine)
    return found


def _told(used: usage.Usage, machine: int | None) -> dict[str, object]:
    # No container has more than the machine has, whatever its bound says.
    limit = min((n for n in (used.memory_limit, machine) if n is not None), default=None)
    values = {
        "cpuUsage": used.cpu,
        "memoryUsage": used.memory,
        "memoryLimit": limit,
        "pids": used.pids,
        "pidsLimit": used.pids_limit,
        "blockRead": used.read,
        "blockWrite": used.written,
    }
    return {"read": now(), **{key: n for key, n in values.items() if n is not None}}
