"""What is changed of a container that stands: its bounds (updating.py), and its restart policy, which is not followed any longer
where a user stops what waits to be restarted.

A container that waits has no guardian: what is said of it here are jobs of the launcher's, which holds the restart back meanwhile and
looks at the state again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from common import frames, restarts
from common.clock import now
from common.errors import Conflict, LimitReached
from dkrd.shim import begun, cleanup, ended, kept, lost, updating
from dkrd.shim import config as configs
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd import policy as policies
    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called
    from dkrd.shim.config import Config
    from dkrd.shim.matter import Matter
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

    Json = dict[str, object]


class Updating:
    """Of a container that runs: `update` with a policy, with bounds (`bounding`), or both; all of it or nothing."""

    def __init__(
        self,
        task: ShimTask,
        directory: str,
        config: Config,
        state: State,
        name: Called,
        bounding: updating.Bounding,
    ) -> None:
        self._task = task
        self._directory = directory
        self._config = config
        self._state = state
        self._name = name
        self._bounding = bounding

    def ask(self, ask: Ask) -> Json:
        """Answer `{"type": "update", …}`."""
        bounds, wanted = _parts(ask.body)
        state = self._state.values
        if wanted is None:
            state["limits"] = self._bounding.take(bounds, ask.who)
        else:
            self._follow(restarts.policy_of(wanted), bounds, ask.who)
        begun.record(self._task, self._state, updated=now())
        return {}

    def _follow(self, policy: Json | None, bounds: Json, who: policies.Caller) -> None:
        if policy is not None:
            _check(self._config, str(self._name))
        state = self._state.values
        with _written(self._directory, policy):
            if bounds:
                state["limits"] = self._bounding.take(bounds, who)
        after = restarts.changed(state, policy)
        state.clear()
        state.update(after)
        self._task.log.audit("updated", id=self._task.id, uid=who.uid, restart=restarts.word_of(policy))


def update_kept(matter: Matter, ask: Json, given: int) -> Json:
    """The same for one that does not run: a job of the launcher's. Raises NotFound for another's, Conflict for one that runs on
    without its guardian, or is about to be started.
    """
    matter.check_owner()
    bounds, wanted = _parts(ask)
    policy = restarts.policy_of(wanted)
    if cleanup.lives(matter.state()):
        raise ended.unguarded(f"cannot update {matter.short}")
    directory = matter.directory
    with _taken(matter, "update"), contextlib.ExitStack() as held:
        state = after = cleanup.document(f"{directory}/state.json")
        if wanted is not None:
            config = configs.read(f"{directory}/config.json")
            if policy is not None:
                _check(config, config.name)
            held.enter_context(_written(directory, policy))
            after = restarts.changed(state, policy) if state else state
        if bounds or wanted is None:
            limits = held.enter_context(updating.bounded_kept(matter, bounds))
            after = {**after, "limits": limits} if state else state
        if state:
            # Last: by it the update is told.
            _write(f"{directory}/state.json", {**after, "updated": now()})
    return {}


def _parts(ask: Json) -> tuple[Json, object]:
    """The bounds that an update names, and the policy as it stands there."""
    return {key: value for key, value in ask.items() if key not in ("type", "restart")}, ask.get("restart")


def stop_kept(matter: Matter, *ask: object) -> Json:
    """`stop` without a guardian: one that waits to be restarted is not. Raises as ended.stop."""
    answer = ended.stop(matter, *ask)
    state = matter.state()
    if restarts.may_follow(state) and not state.get("stopAsked") and state.get("status") != "created":
        # Also of one that has ended: a launcher that begins would start it.
        _halt(matter, "stop")
    return answer


def kill_kept(matter: Matter, ask: Json, given: int) -> Json:
    """`kill` without a guardian: a signal that would end one which waits to be restarted ends that, and SIGKILL one that runs on
    (`{"unguarded": true}`). Raises as ended.kill.
    """
    matter.check_owner()
    state = matter.state()
    if ask.get("signal") == signal.SIGKILL and cleanup.lives(state):
        lost.end(matter.settings, matter.id, state)
        return {"unguarded": True}
    if state.get("status") == "restarting":
        config = configs.read(f"{matter.directory}/config.json")
        if ask.get("signal") in (signal.SIGKILL, config.stop_signal):
            _halt(matter, "kill")
            return {}
    return ended.kill(matter)


def _halt(matter: Matter, verb: str) -> None:
    with _taken(matter, verb):
        path = f"{matter.directory}/state.json"
        state = cleanup.document(path)
        if state.get("status") in ("restarting", "stopped"):
            _write(path, restarts.halted(state))


@contextlib.contextmanager
def _taken(matter: Matter, verb: str) -> Iterator[None]:
    """Nobody else's for the block. Raises Conflict where it runs."""
    claim = cleanup.take_over(matter.settings, matter.pool, matter.id, verb)
    try:
        yield
    finally:
        if claim is not None:
            os.close(claim.fd)


def _check(config: Config, name: str) -> None:
    """Raise Conflict where what has such a config could not be restarted."""
    kept.check_descriptors(config)
    if config.rm:
        raise Conflict(
            f"cannot have {name} restarted: it is removed when it ends",
            rule="rm",
            hint="run another one like it, without rm",
        )


@contextlib.contextmanager
def _written(directory: str, policy: Json | None) -> Iterator[None]:
    """The policy written down for the next start; if the block fails, all is as it was."""
    path = f"{directory}/config.json"
    before = cleanup.document(path)
    dkr = before.get("dkr")
    if not isinstance(dkr, dict):
        yield  # of a run with `rm`, which has none
        return
    bare = {key: value for key, value in dkr.items() if key != "restart"}
    _write(path, {**before, "dkr": bare if policy is None else {**bare, "restart": policy}})
    try:
        yield
    except BaseException:
        _restore(path, before)
        raise


def _write(path: str, document: Json) -> None:
    try:
        write_file(path, frames.dumps(document))
    except OSError as err:
        raise LimitReached(
            f"cannot write down what is changed: {err.strerror}",
            hint="make room on the disk",
            errno=err.errno,
        ) from err


def _restore(path: str, document: Json) -> None:
    with contextlib.suppress(OSError):
        write_file(path, frames.dumps(document))
