"""A container that stands and does not run, as root's own files tell it: what it is, whose, and what it was allowed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common import log_drivers
from common.clock import now
from common.errors import Conflict, DkrError, NotFound, NotPermitted
from dkrd import ids, policy
from dkrd.shim import bounds, callers, cleanup, roots
from dkrd.shim import config as configs

if TYPE_CHECKING:
    from dkrd.runtime import mounts
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.task import ShimTask


@dataclass(frozen=True, slots=True)
class Kept:
    """One of them.

    owner  uid whose it is
    state  as it was written when it was made, or ended
    claim  its id range, locked by us, or None
    """

    config: configs.Config
    owner: int
    state: dict[str, object]
    claim: ids.Claim | None

    def let_go(self) -> None:
        """Leave it as it is."""
        if self.claim is not None:
            os.close(self.claim.fd)


def take(task: ShimTask, who: policy.Caller) -> Kept:
    """The container `task.id` for `who`, as nobody else's until it is let go. Raises NotFound for another's, Conflict for one
    that runs or cannot be started again.
    """
    directory = f"{task.settings.state_dir}/containers/{task.id}"
    grant = cleanup.document(f"{directory}/grant.json")
    owner, asks = grant.get("uid"), grant.get("asks")
    if not isinstance(owner, int) or not isinstance(asks, list):
        raise NotFound(f"cannot find {task.id[:12]}: there is no such container")
    callers.check_owner(who, owner, task.id)
    if os.path.lexists(f"{task.settings.run_dir}/containers/{task.id}"):
        raise running(task.id[:12])
    config = configs.read(f"{directory}/config.json")
    state = cleanup.document(f"{directory}/state.json") or _after_a_power_cut(task)
    if state.get("status") not in ("created", "stopped"):
        raise Conflict(f"cannot start {config.name}: its end is still being written down", hint="try again")
    if state.get("name") != config.name and isinstance(state.get("name"), str):
        # A rename was cut off between the two files.
        config = replace(config, name=str(state["name"]))
    check_descriptors(config)
    unasked = sorted(policy.needs(config.spec) - set(asks))
    if unasked:
        raise NotPermitted(
            f"cannot start {config.name}: it would have {unasked[0]}, which its grant does not hold",
            rule="grant",
            hint="make it anew",
        )
    slot = grant.get("slot")
    try:
        claim = ids.adopt(task.pool, slot) if isinstance(slot, int) else None
    except DkrError as err:
        raise Conflict(
            f"cannot start {config.name}: its id range cannot be had: {err.message}", hint="try again"
        ) from err
    return Kept(bounds.granted(task, config, grant), owner, state, claim)


def _after_a_power_cut(task: ShimTask) -> dict[str, object]:
    """The state of a container that ran when the machine's memory was lost; empty where that is not so."""
    found = cleanup.cut_off(task.settings, task.id)
    lost = {"code": None, "signal": None, "cause": "shim-lost"}
    return {**found, "status": "stopped", "finished": now(), "exit": lost} if found else {}


def check_descriptors(config: configs.Config) -> None:
    """Raise Conflict where it cannot be started again, because it had descriptors."""
    if config.root_kind == "rootfs" or config.preserve_fds or config.log.driver == log_drivers.PASSTHROUGH:
        raise Conflict(
            f"cannot start {config.name} again: it had descriptors of its caller's, which nobody keeps",
            rule="descriptors",
            hint="run another one like it",
        )


def running(name: str) -> Conflict:
    """Why a container cannot be started."""
    return Conflict(f"cannot start {name}: it is running", rule="running", hint="attach to it instead")


def root_of(task: ShimTask, config: configs.Config, recorder: Recorder) -> mounts.Root:
    """Its root. Raises as roots.root_of; a root that a descriptor named was refused before."""
    # Not even with `rm`: a volatile overlay is mounted once, and a start that fails may be tried again.
    return roots.of_the_daemon(task, config, volatile=False, recorder=recorder)
