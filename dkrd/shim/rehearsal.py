"""What a guardian that was forked ahead does while it waits: it reads, judges and plans a container that nobody asked for, and
makes none. Memory that it writes to then is its own already when it is asked; a fork shares all of it, until the first write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common import frames
from common.bundle import bundle_of
from dkrd import policy
from dkrd.runtime import capabilities, cgroup_tree, cgroups, limits, mounts, seccomp_bpf
from dkrd.runtime.steps import Recorder
from dkrd.shim import bounds, roots
from dkrd.shim import config as configs
from dkrd.shim import container as containers

if TYPE_CHECKING:
    from dkrd.shim.task import ShimTask

_REQUEST: dict[str, object] = {"args": ["/bin/true"]}
_CALLER = policy.Caller(uid=65534, gid=65534, admin=False)


def rehearse(task: ShimTask) -> None:
    """A start up to where it would make something. `task` is no container's yet."""
    recorder = Recorder("shim")
    bundle = bundle_of(_REQUEST, "host", "rehearsal")
    config = configs.parse(frames.dumps(bundle))
    policy.judge(_CALLER, config.spec, config.document, _REQUEST, frozenset(), "host")
    config = bounds.judged(task, config, _CALLER)
    root = roots.of_the_daemon(task, config, volatile=False, recorder=recorder)
    mounts.plan(config.spec, root, task.pool.first)
    paths = cgroups.places(
        containers.layout(), task.settings.cgroup_parent, "0" * 64, cgroup_tree.group_of(0)
    )
    limits.plan(containers.layout(), paths, config.limits)
    seccomp_bpf.read_program(task.seccomp)
    capabilities.last_cap()
