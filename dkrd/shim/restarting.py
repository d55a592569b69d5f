"""The restart policy of a container that stands: changed, and no longer followed where a user stops what waits to be restarted.

A container that waits has no guardian: what is said of it here are jobs of the launcher's, which holds the restart back meanwhile and
looks at the state again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from common import frames, restarts
from common.errors import Conflict, LimitReached
from dkrd.shim import begun, cleanup, ended, kept, updating
from dkrd.shim import config as configs
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.ids import Pool
    from dkrd.policy import Credentials
    from dkrd.settings import Settings
    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called
    from dkrd.shim.config import Config
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

    Json = dict[str, object]


class Updating:
    """Of a container that runs: `update` with a policy, with bounds (`bounds`), or both; all of it or nothing."""

    def __init__(
        self,
        task: ShimTask,
        directory: str,
        config: Config,
        state: State,
        name: Called,
        bounds: updating.Updating,
    ) -> None:
        self._task = task
        self._directory = directory
        self._config = config
        self._state = state
        self._name = name
        self._bounds = bounds

    def ask(self, ask: Ask) -> Json:
        """Answer `{"type": "update", …}`."""
        if "restart" not in ask.body:
            return self._bounds.ask(ask)
        policy = restarts.policy_of(ask.body["restart"])
        if policy is not None:
            _check(self._config, str(self._name))
        rest = {key: value for key, value in ask.body.items() if key != "restart"}
        with _written(self._directory, policy):
            if rest.keys() != {"type"}:
                self._bounds.ask(replace(ask, body=rest))
        values = restarts.changed(self._state.values, policy)
        self._state.values.clear()
        self._state.values.update(values)
        begun.record(self._task, self._state)
        word = restarts.word_of(policy)
        self._task.log.audit("updated", id=self._task.id, uid=ask.who.uid, restart=word)
        return {}


def update_kept(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    ask: Json,
    given: int,
) -> Json:
    """The same for one that does not run: a job of the launcher's. Raises as updating.update_kept."""
    rest = {key: value for key, value in ask.items() if key != "restart"}
    who = settings, pool, container, credentials, admin_gid
    if "restart" not in ask:
        return updating.update_kept(*who, rest, given)
    cleanup.check_owner(*who)
    policy = restarts.policy_of(ask["restart"])
    if cleanup.lives(cleanup.read_state(settings, container)):
        raise ended.unguarded(f"cannot update {container[:12]}")
    directory = f"{settings.state_dir}/containers/{container}"
    with contextlib.ExitStack() as undo:
        with _taken(settings, pool, container, "update"):
            config = configs.read(f"{directory}/config.json")
            if policy is not None:
                _check(config, config.name)
            undo.enter_context(_written(directory, policy))
            state = cleanup.document(f"{directory}/state.json")
            if state:
                _write(f"{directory}/state.json", restarts.changed(state, policy))
                undo.callback(_restore, f"{directory}/state.json", state)
        if rest.keys() != {"type"}:
            updating.update_kept(*who, rest, given)
        undo.pop_all()
    return {}


def stop_kept(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> Json:
    """`stop` without a guardian: one that waits to be restarted is not. Raises as ended.stop."""
    answer = ended.stop(settings, pool, container, credentials, admin_gid, *ask)
    state = cleanup.read_state(settings, container)
    if state.get("restart") is not None and not state.get("stopAsked") and state.get("status") != "created":
        # Also of one that has ended: a launcher that begins would start it.
        _halt(settings, pool, container, "stop")
    return answer


def kill_kept(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    ask: Json,
    given: int,
) -> Json:
    """`kill` without a guardian: a signal that would end one which waits to be restarted ends that. Raises as ended.kill."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    if _waits(settings, container):
        config = configs.read(f"{settings.state_dir}/containers/{container}/config.json")
        if ask.get("signal") in (signal.SIGKILL, config.stop_signal):
            _halt(settings, pool, container, "kill")
            return {}
    return ended.kill(settings, pool, container, credentials, admin_gid)


def _waits(settings: Settings, container: str) -> bool:
    return cleanup.read_state(settings, container).get("status") == "restarting"


def _halt(settings: Settings, pool: Pool, container: str, verb: str) -> None:
    with _taken(settings, pool, container, verb):
        path = f"{settings.state_dir}/containers/{container}/state.json"
        state = cleanup.document(path)
        if state.get("status") in ("restarting", "stopped"):
            _write(path, restarts.halted(state))


@contextlib.contextmanager
def _taken(settings: Settings, pool: Pool, container: str, verb: str) -> Iterator[None]:
    """Nobody else's for the block. Raises Conflict where it runs."""
    claim = cleanup.take_over(settings, pool, container, verb)
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
            f"cannot write down the restart policy: {err.strerror}",
            hint="make room on the disk",
            errno=err.errno,
        ) from err


def _restore(path: str, document: Json) -> None:
    with contextlib.suppress(OSError):
        write_file(path, frames.dumps(document))
