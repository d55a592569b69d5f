"""Containers that wait to be restarted, and what a reboot brings back: started without anybody who asks, by their grants.

    a state says `restarting` ─► a timer ─► its guardian of before is done ─► a guardian is forked, which judges the grant anew
    the launcher begins ───────►┘

What is waited for stands in each container's state on the disk, so the next launcher goes on where this one was killed. Nothing that the
api says gets here, but that a user's stop, kill or update of a waiting container holds it back until it is done.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial

from common import frames, restarts
from common.errors import DkrError
from dkrd.launcher import adoption
from dkrd.shim import state as shim_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.containers import Containers
    from dkrd.launcher.loop import Loop
    from dkrd.log import Log
    from dkrd.loop import Timer
    from dkrd.settings import Settings

    State = dict[str, object]
    Launch = Callable[[str, int, str], None]

HELD_BACK_BY = frozenset(("kill", "rename", "stop", "update"))
_PATIENCE = 10.0  # seconds for the guardian of before, which may have much to remove
_AGAIN = 5.0  # seconds until a start is tried again for which there was no room
_PACE = 0.02  # seconds between two starts of those that stood when the launcher began: a reboot is no flood
_BOOTED = "booted"


@dataclass(slots=True, eq=False)
class _Waiting:
    """One of them. `unasked` as in ShimTask; `mark` tells its state from others of the same container; `due`: its time has come while
    somebody held it back.
    """

    uid: int
    unasked: str
    mark: object = None
    timer: Timer | None = None
    due: bool = False


class Restarts:
    """By container id.

    settings  as they are now
    launch    forks the guardian: id, whose it is, why; raises DkrError
    when_free  calls when nobody else has the container
    """

    def __init__(
        self, loop: Loop, log: Log, containers: Containers, settings: Callable[[], Settings], launch: Launch
    ) -> None:
        self._loop = loop
        self._log = log
        self._containers = containers
        self._settings = settings
        self._launch = launch
        self._waiting: dict[str, _Waiting] = {}
        self._holding: dict[str, list[int]] = {}  # by whom each is held back
        self._tried: dict[str, object] = {}  # the marks of the states that were launched last
        self.when_free = containers.when_free

    @property
    def is_boot(self) -> bool:
        """Whether no launcher has begun its work since the machine did."""
        return not os.path.lexists(f"{self._settings().run_dir}/{_BOOTED}")

    def begin(self) -> None:
        """What stands when the launcher begins: go on with what waits; after a reboot start what is to be started then."""
        settings, boot, begun = self._settings(), self.is_boot, 0
        for state in adoption.kept_states(self._containers, settings.state_dir):
            if restarts.is_due(state, boot=boot):
                seconds = 0.0 if boot else restarts.seconds_left(state)
                self._arm(state, "boot" if boot else "restart", max(seconds, begun * _PACE))
                begun += 1
            elif state.get("status") == "restarting":
                _write(settings, {**state, "status": "stopped"})
        if boot:
            # Not before: a launcher that is killed while it starts them has them started by the next one.
            self._loop.later(begun * _PACE, partial(_mark, f"{settings.run_dir}/{_BOOTED}"))

    def note(self, state: State) -> None:
        """What has become of a container."""
        if state.get("status") == "restarting":
            self._arm(state, "restart", restarts.seconds_left(state))
        elif state.get("status") == "stopped":
            self.forget(str(state.get("id")))
        else:
            self._wait_no_more(str(state.get("id")))

    def forget(self, container_id: str) -> None:
        """It waits no more: it is stopped, or gone."""
        self._tried.pop(container_id, None)
        self._wait_no_more(container_id)

    def _wait_no_more(self, container_id: str) -> None:
        waiting = self._waiting.pop(container_id, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()

    def ended(self, state: State, how: State) -> State:
        """`state` of one whose guardian could not say what becomes of it, once it has ended."""
        settings = self._settings()
        with contextlib.suppress(OSError):
            there = adoption.live_state(settings.run_dir, str(state.get("id")))
            if there is not None and there.get("stopAsked"):
                state = {
                    **state,
                    "stopAsked": True,
                }  # whoever has it killed without its guardian writes it there alone (lost.py)
        return restarts.ended(state, how, settings.restart_first_seconds, settings.restart_max_seconds)

    def quiet(self, container_id: str) -> None:
        """Its guardian has ended without a word: the container could not even be taken. It is let be for a while."""
        state = self.look(container_id)
        if state is not None and container_id in self._waiting:
            seconds = max(_AGAIN, restarts.seconds_left(state))
            self._wait(container_id, self._waiting[container_id], seconds)

    def look(self, container_id: str) -> State | None:
        """Look at what is written down of one that no guardian stands for; its state, if it is kept."""
        state = None
        with contextlib.suppress(OSError):
            state = adoption.kept_state(self._settings().state_dir, container_id)
        if state is None or container_id in self._containers:
            return None
        self.note(state)
        return state

    def hold(self, container_id: str, uid: int) -> Callable[[], None]:
        """Hold it back while `uid`, an admin as 0, has something to say of it; call what is returned to let it go on.

        Also where it does not wait yet: who asks in the moment of its end may find its guardian at work and not listening any more,
        and has it said behind that, when the time until the restart may be over.
        """
        self._holding.setdefault(container_id, []).append(uid)
        return partial(self._let_go, container_id, uid)

    def _let_go(self, container_id: str, uid: int) -> None:
        self._holding[container_id].remove(uid)
        if not self._holding[container_id]:
            del self._holding[container_id]
        waiting = self._waiting.get(container_id)
        if waiting is not None and waiting.due and not self._is_held(container_id, waiting):
            self._now(container_id, waiting)

    def _is_held(self, container_id: str, waiting: _Waiting) -> bool:
        return any(uid in (0, waiting.uid) for uid in self._holding.get(container_id, ()))

    def _arm(self, state: State, unasked: str, seconds: float) -> None:
        container_id, uid = str(state["id"]), state.get("uid")
        self._wait_no_more(container_id)
        if isinstance(uid, int):
            mark = state.get("due")
            if mark is not None and self._tried.get(container_id) == mark:
                # What came of it could not be written down, as on a full disk: without end, and at once, it would be so again.
                seconds = max(seconds, _AGAIN)
            waiting = self._waiting[container_id] = _Waiting(uid, unasked, mark)
            self._wait(container_id, waiting, seconds)

    def _wait(self, container_id: str, waiting: _Waiting, seconds: float) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        waiting.timer = self._loop.later(seconds, partial(self._now, container_id, waiting))

    def _now(self, container_id: str, waiting: _Waiting) -> None:
        """Its time has come."""
        self.when_free(container_id, _PATIENCE, partial(self._free, container_id, waiting))

    def _free(self, container_id: str, waiting: _Waiting, error: DkrError | None) -> None:
        if self._waiting.get(container_id) is not waiting:
            return
        if self._is_held(container_id, waiting):
            waiting.due = True
            return
        if error is not None and error.rule == "running":
            self._wait_no_more(container_id)  # somebody was quicker
            return
        try:
            if error is not None:
                raise error
            self._launch(container_id, waiting.uid, waiting.unasked)
        except DkrError as err:
            self._log.error(f"cannot restart a container now: {err.message}", id=container_id)
            self._wait(container_id, waiting, _AGAIN)
        else:
            self._tried[container_id] = waiting.mark
            self._wait_no_more(container_id)


def _write(settings: Settings, state: State) -> None:
    with contextlib.suppress(OSError):
        path = f"{settings.state_dir}/containers/{state['id']}/state.json"
        shim_state.write_file(path, frames.dumps(state))


def _mark(marker: str) -> None:
    with contextlib.suppress(OSError):
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
