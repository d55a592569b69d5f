"""The trace of a start, and the plan of one that is only asked about: documents for people and tools (docs/protocol.md, 3).

Made when somebody asks, from what the recorder holds.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from common import frames
from common.errors import NotFound
from dkrd import policy
from dkrd.runtime import cgroup_tree, cgroups, mounts, seccomp_bpf
from dkrd.runtime.build import IDS
from dkrd.shim import cleanup
from dkrd.shim.container import layout
from dkrd.shim.state import timestamp, write_file

if TYPE_CHECKING:
    from common.errors import DkrError
    from dkrd import ids
    from dkrd.policy import Caller, Credentials
    from dkrd.runtime.steps import Recorder
    from dkrd.settings import Settings
    from dkrd.shim.config import Config
    from dkrd.shim.session import First
    from dkrd.shim.task import ShimTask

VERSION = 1
FILE = "trace.json"
_MAX = 48 * 1024  # bytes; what a job's record holds, with room around it


def trace_of(
    task: ShimTask, config: Config, recorder: Recorder, error: DkrError | None = None
) -> dict[str, object]:
    """The trace: each step with its call, its begin and duration in nanoseconds since the first, its process."""
    steps = recorder.everything()
    begun = steps[0].start if steps else time.monotonic_ns()
    document: dict[str, object] = {
        "version": VERSION,
        "id": task.id,
        "outcome": "failed" if error else "started",
        "command": list(config.spec.process.args),
        "begun": timestamp(time.time_ns() - (time.monotonic_ns() - begun)),
        "steps": [
            {
                "name": step.name,
                "call": step.call(),
                "start": step.start - begun,
                "duration": step.end - step.start,
                "process": step.process,
            }
            for step in steps
        ],
    }
    if error is not None:
        document["error"] = error.to_wire()
    return document


def keep(directory: str, document: dict[str, object]) -> None:
    """Write the trace of a container that is kept beside its files; one too long for its reader loses its command."""
    data = frames.dumps(document)
    if len(data) > _MAX:
        data = frames.dumps({**document, "command": ["…"]})
    write_file(f"{directory}/{FILE}", data)


def read_kept(
    settings: Settings, pool: ids.Pool, container: str, credentials: Credentials, admin_gid: int | None
) -> dict[str, object]:
    """The trace of a container that has ended and is kept, for its owner or an admin. Raises NotFound."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    directory = f"{settings.state_dir}/containers/{container}"
    try:
        with open(f"{directory}/{FILE}", "rb") as file:
            return {"trace": frames.loads_object(file.read(2 * _MAX))}
    except (FileNotFoundError, ValueError):
        raise NotFound(
            f"cannot explain {container[:12]}: its trace is lost",
            hint="the guardian keeps it, and this container's died before it could",
        ) from None


def plan_of(
    task: ShimTask, config: Config, who: Caller, first: First, root: mounts.Root
) -> dict[str, object]:
    """What would be done: nothing is made or claimed for it. The id range is an example, the first of the pool."""
    spec = config.spec
    process = spec.process
    own = "user" in spec.namespaces
    base = task.pool.first if own else 0
    return {
        "version": VERSION,
        "uid": who.uid,
        "rights": "admin" if who.admin else "tenant",
        "asks": sorted(first.asks),
        "namespaces": {name: name in spec.namespaces for name in (*policy.NAMESPACES, "mount", "time")},
        "idMap": {"inside": 0, "outside": base, "count": IDS} if own else None,
        "cgroups": list(
            cgroups.places(layout(), task.settings.cgroup_parent, task.id, cgroup_tree.group_of(who.uid))
        ),
        "mounts": [
            {"step": operation.step, "call": operation.describe()}
            for operation in mounts.plan(spec, root, base)
        ],
        "process": {
            "args": list(process.args),
            "cwd": process.cwd,
            "user": config.user or f"{process.uid}:{process.gid}",
            "environment": [entry.partition("=")[0] for entry in process.env],
            "terminal": list(first.tty),
            "descriptors": [*sorted(first.stdio), *range(3, 3 + len(first.preserved))],
            "capabilities": sorted(process.capabilities.effective),
            "noNewPrivileges": process.no_new_privileges,
            "init": config.init,
        },
        "filter": {
            "profile": "default",
            "instructions": len(seccomp_bpf.read_program(task.seccomp)) // 8,
            "file": os.path.basename(task.seccomp),
        },
        "timeout": config.timeout,
        "rm": config.rm,
    }
