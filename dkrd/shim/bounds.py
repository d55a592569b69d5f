"""What bounds a container beyond what was asked for: how many processes a tenant's may have, and swap as Docker gives it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from common.errors import DkrError, StartFailed
from dkrd import policy
from dkrd.runtime import cgroups, limits

if TYPE_CHECKING:
    from dkrd.runtime.limits import Resources
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.task import ShimTask


def judged(task: ShimTask, config: Config, who: policy.Caller) -> Config:
    """`config` with all that bounds a container that `who` asks for. Raises NotPermitted."""
    proven = task.session < 0 or task.settings.http_lifts
    asked = config.spec.resources.pids
    return _with(config, policy.bound_pids(who, asked, task.settings.pids_per_container, proven=proven))


def granted(task: ShimTask, config: Config, grant: dict[str, object]) -> Config:
    """The same for one that stands: who starts it has no say in it."""
    # A grant of an older release says nothing.
    pids = grant.get("pids", task.settings.pids_per_container)
    return _with(config, pids if isinstance(pids, int) else None)


def _with(config: Config, pids: int | None) -> Config:
    return replace(config, limits=whole(config.spec.resources, pids))


def whole(asked: Resources, pids: int | None) -> Resources:
    """All that bounds a container of which this was asked, and which was given so many processes."""
    unasked = frozenset() if pids == asked.pids else frozenset(("pidsLimit",))
    swap = asked.swap
    if asked.memory is not None and swap is None:
        swap, unasked = 2 * asked.memory, unasked | {"swap"}
    return replace(asked, pids=pids, swap=swap, unasked=unasked)


def request_of(resources: Resources) -> dict[str, object]:
    """The keys of a request that mean these resources."""
    found: dict[str, object] = {}
    if resources.memory is not None:
        found["memory"] = resources.memory
        if resources.swap is not None:
            unbounded = resources.swap == limits.UNLIMITED
            found["swap"] = resources.swap if unbounded else resources.swap - resources.memory
    if resources.quota is not None and resources.period is not None:
        found["cpus"] = resources.quota / resources.period
    if resources.pids is not None:
        found["pidsLimit"] = resources.pids
    return found


def told(resources: Resources) -> dict[str, object]:
    """What bounds a container, as its state tells it: a bound that is not there is none."""
    return {key: value for key, value in request_of(resources).items() if value != limits.UNLIMITED}


def cause_of(err: DkrError, container: Container) -> DkrError:
    """Why a build failed: what `err` says, unless init was killed for want of memory and could not say it."""
    if not cgroups.oom_kills(container.cgroup.paths):
        return err
    return StartFailed(
        "cannot start the container: its first process was killed for want of memory before it was the command",
        step=err.step,
        hint="give it more (--memory); or a cgroup above it, or the machine, has no more",
    )
