"""A container that stands and does not run, as root's own files tell it: what it is, whose, and what it was allowed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common import frames, log_drivers, restarts
from common.clock import now
from common.errors import Conflict, DkrError, NotFound, NotPermitted
from dkrd import ids, policy
from dkrd.shim import bounds, callers, cleanup, roots
from dkrd.shim import config as configs
from dkrd.shim.state import write_file

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
    alone  what locks its files, until it has a run directory
    """

    config: configs.Config
    owner: int
    state: dict[str, object]
    claim: ids.Claim | None
    alone: int

    def let_go(self) -> None:
        """Leave it as it is."""
        self.entered()
        if self.claim is not None:
            os.close(self.claim.fd)

    def entered(self) -> None:
        """That it is ours, its run directory says from here on."""
        os.close(self.alone)


def take(task: ShimTask, who: policy.Caller) -> Kept:
    """The container `task.id` for `who`, as nobody else's until it is let go. Raises NotFound for another's, Conflict for one
    that runs or cannot be started again.
    """
    directory = f"{task.settings.state_dir}/containers/{task.id}"
    grant = cleanup.document(f"{directory}/grant.json")
    owner = grant.get("uid")
    if not isinstance(owner, int) or not isinstance(grant.get("asks"), list):
        raise NotFound(f"cannot find {task.id[:12]}: there is no such container")
    callers.check_owner(who, owner, task.id)
    alone = cleanup.take_alone(task.settings, task.id, "start")
    if os.path.lexists(f"{task.settings.run_dir}/containers/{task.id}"):
        raise running(task.id[:12])
    config = configs.read(f"{directory}/config.json")
    state = cleanup.document(f"{directory}/state.json") or _after_a_power_cut(task)
    if state.get("status") not in ("created", "restarting", "stopped"):
        raise Conflict(f"cannot start {config.name}: its end is still being written down", hint="try again")
    if state.get("name") != config.name and isinstance(state.get("name"), str):
        # A rename was cut off between the two files.
        config = replace(config, name=str(state["name"]))
    check_descriptors(config)
    check_grant(config, grant, f"cannot start {config.name}")
    slot = grant.get("slot")
    try:
        claim = ids.adopt(task.pool, slot) if isinstance(slot, int) else None
    except DkrError as err:
        raise Conflict(
            f"cannot start {config.name}: its id range cannot be had: {err.message}", hint="try again"
        ) from err
    return Kept(bounds.granted(task, config, grant), owner, state, claim, alone)


def take_unasked(task: ShimTask) -> Kept:
    """The same for its restart policy, in the name of whose it is."""
    grant = cleanup.document(f"{task.settings.state_dir}/containers/{task.id}/grant.json")
    owner = grant.get("uid")
    if not isinstance(owner, int):
        raise NotFound(f"cannot find {task.id[:12]}: there is no such container")
    return take(task, policy.Caller(owner, owner, admin=False))


def judge_unasked(task: ShimTask, found: Kept) -> policy.Caller:
    """Who it is restarted for. Raises NotPermitted where they may not have it any more, Conflict where it is not to be."""
    if not restarts.is_due(found.state, boot=task.unasked == "boot"):
        # It was stopped, or started and ended, before this came to its turn.
        raise Conflict(f"cannot restart {found.config.name}: nothing wants it any more", rule="not-due")
    who = callers.of_grant(task, found.owner)
    policy.judge_unasked(who, found.config.spec)
    return who


def put_off(task: ShimTask, error: DkrError, state: dict[str, object]) -> dict[str, object]:
    """Write down, while the container is ours, that a restart has come to nothing: `state` as it is then."""
    if error.rule == "not-due":
        return state
    settings = task.settings
    after = restarts.failed(state, error.code, settings.restart_first_seconds, settings.restart_max_seconds)
    try:
        write_file(f"{settings.state_dir}/containers/{task.id}/state.json", frames.dumps(after))
    except OSError as err:
        task.log.error("cannot write state.json", id=task.id, cause=err.strerror)
    return after


def put_off_untaken(task: ShimTask, error: DkrError) -> dict[str, object] | None:
    """The same where it could not be had. None where somebody else has it, who knows better."""
    settings = task.settings
    directory = f"{settings.state_dir}/containers/{task.id}"
    slot = cleanup.document(f"{directory}/grant.json").get("slot")
    try:
        claim = ids.adopt(task.pool, slot) if isinstance(slot, int) else None
    except DkrError:
        return None
    try:
        state = cleanup.document(f"{directory}/state.json")
        if not state or os.path.lexists(f"{settings.run_dir}/containers/{task.id}"):
            return None
        return put_off(task, error, state)
    finally:
        if claim is not None:
            os.close(claim.fd)


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


def check_grant(config: configs.Config, grant: dict[str, object], what: str) -> None:
    """Raise NotPermitted where it would be built with more than was granted when it was made. `what` cannot be done then."""
    asks = grant.get("asks")
    unasked = sorted(policy.needs(config.spec) - set(asks if isinstance(asks, list) else ()))
    if unasked:
        raise NotPermitted(
            f"{what}: it would have {unasked[0]}, which its grant does not hold",
            rule="grant",
            hint="make it anew",
        )


def running(name: str) -> Conflict:
    """Why a container cannot be started."""
    return Conflict(f"cannot start {name}: it is running", rule="running", hint="attach to it instead")


def root_of(task: ShimTask, config: configs.Config, recorder: Recorder) -> mounts.Root:
    """Its root. Raises as roots.root_of; a root that a descriptor named was refused before."""
    # Not even with `rm`: a volatile overlay is mounted once, and a start that fails may be tried again.
    return roots.of_the_daemon(task, config, volatile=False, recorder=recorder)
