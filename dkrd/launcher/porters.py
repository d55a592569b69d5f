"""Porters: who holds a container open for copies that does not run (shim/porter.py). One for each, of which the copies are no jobs,
since a client that reads nothing may make them last.

    an ask for a copy ─► no guardian ─► a job says that it may be ─► a porter is forked, or there ─► it is asked
    a start, a removal ─► what is copied gets a moment to be done ─► SIGTERM ─► the porter has ended ─► it goes on

A porter ends with the launcher. What one has left that was killed a job removes before the container is anybody's again.
"""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass, field
from functools import partial

from common.errors import Conflict, DkrError, LimitReached
from dkrd.launcher import shims
from dkrd.launcher.containers import is_id
from dkrd.launcher.runner import open_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dkrd.launcher.containers import Containers
    from dkrd.launcher.leaves import Leaves
    from dkrd.launcher.loop import Loop
    from dkrd.launcher.runner import Runner
    from dkrd.launcher.turns import Call
    from dkrd.log import Log
    from dkrd.settings import Settings
    from dkrd.shim.task import ShimTask

    Open = Callable[[ShimTask, int], None]
    Clear = Callable[[Settings, str], None]

MAX = 64  # at a time
MAX_OF_ONE = 16  # of one user; root has no bound of its own
GRACE = 1.0  # seconds that copies have to be done in, once somebody wants the container for themselves
END_SECONDS = 5.0  # from SIGTERM to SIGKILL
_PATIENCE = 2.0  # seconds for the guardian of before to finish its work


@dataclass(slots=True, eq=False)
class _Porter:
    """One of them. `pidfd`: -1 where only what it has left is to be removed. `waiting`: called when it has ended."""

    id: str
    owner: int
    pidfd: int = -1
    leaving: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Porters:
    """By container id.

    open      what a porter does: its task, the launcher's pid
    clear     removes what one has left that was killed
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        runner: Runner,
        containers: Containers,
        leaves: Leaves,
        limits: shims.OpenFiles,
        work: tuple[Open, Clear],
    ) -> None:
        self._loop = loop
        self._log = log
        self._runner = runner
        self._containers = containers
        self._leaves = leaves
        self._limits = limits
        self._open, self._clear = work
        self._table: dict[str, _Porter] = {}

    def stands(self, container_id: str) -> bool:
        """Whether one is there, or what it has left."""
        return container_id in self._table

    def begin(self, settings: Settings) -> None:
        """Remove what those have left that were killed together with an earlier launcher. One that it had ends by itself."""
        try:
            names = os.listdir(f"{settings.run_dir}/copies")
        except OSError:
            return
        for name in filter(is_id, names):
            porter = self._table[name] = _Porter(name, -1)
            self._remains(porter, settings)

    def bring(self, task: ShimTask, owner: int, removing: Collection[str], call: Call) -> None:
        """Have one for the container `task.id`, which is `owner`'s; `call(None)` when there is one, or none can be because
        somebody else has it by now, else with the DkrError.
        """
        porter = self._table.get(task.id)
        if porter is None:
            self._containers.when_free(task.id, _PATIENCE, partial(self._bring, task, owner, removing, call))
        elif porter.leaving:
            porter.waiting.append(partial(call, None))
        else:
            call(None)

    def _bring(
        self, task: ShimTask, owner: int, removing: Collection[str], call: Call, error: DkrError | None
    ) -> None:
        if error is not None and error.rule == "running":
            call(None)
            return
        if error is not None:
            # Said of a start, as who else waits for that.
            error.message = error.message.replace("cannot start", "cannot copy from or to", 1)
        if error is None and task.id in removing:
            error = Conflict(f"cannot copy from or to {task.id[:12]}: it is being removed")
        if error is None and task.id not in self._table:
            error = self._fork(task, owner)
        call(error)

    def _fork(self, task: ShimTask, owner: int) -> DkrError | None:
        what = f"cannot copy from or to {task.id[:12]}"
        count = sum(1 for porter in self._table.values() if porter.owner == owner)
        if len(self._table) >= MAX or (owner != 0 and count >= MAX_OF_ONE):
            return LimitReached(f"{what}: too many containers are open for copies", hint="try again")
        leaf = -1
        try:
            leaf = self._leaves.make(owner, task.id)
            launcher = os.getpid()
            run = self._open
            pid = shims.start(self._loop, task, lambda task: run(task, launcher), self._limits, leaf)
            pidfd = open_child(pid)
        except DkrError as err:
            return err
        except OSError as err:
            self._leaves.remove(owner, task.id)
            return LimitReached(f"{what}: {err.strerror}", hint="try again", step="fork", errno=err.errno)
        finally:
            if leaf >= 0:
                os.close(leaf)
        porter = self._table[task.id] = _Porter(task.id, owner, pidfd)
        self._loop.watch(pidfd, select.EPOLLIN, lambda _events: self._ended(porter, task.settings))
        return None

    # --- its end

    def when_alone(self, container_id: str, seconds: float, call: Call) -> None:
        """As `Containers.when_free`, and nobody copies from or to it: what does gets GRACE to be done, and is ended then."""

        def free(error: DkrError | None) -> None:
            if error is None and self.stands(container_id):
                self.end(container_id, partial(self.when_alone, container_id, seconds, call))
            else:
                call(error)

        self._containers.when_free(container_id, seconds, free)

    def end(self, container_id: str, call: Callable[[], None]) -> None:
        """Call `call()` when there is none, at once or when that has ended, which is told to."""
        porter = self._table.get(container_id)
        if porter is None:
            call()
            return
        porter.waiting.append(call)
        if not porter.leaving:
            porter.leaving = True
            self._loop.later(GRACE, partial(self._signal, porter, signal.SIGTERM))

    def end_all(self, call: Callable[[], None]) -> None:
        """Call `call()` when there is none at all: the launcher ends."""
        if not self._table:
            call()
            return
        porter = next(iter(self._table.values()))
        porter.waiting.append(partial(self.end_all, call))
        for each in list(self._table.values()):
            each.leaving = True
            self._signal(each, signal.SIGTERM)

    def _signal(self, porter: _Porter, number: int) -> None:
        if porter.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(porter.pidfd, number)
        except ProcessLookupError:
            return
        if number == signal.SIGTERM:
            self._loop.later(END_SECONDS, partial(self._signal, porter, signal.SIGKILL))

    def _ended(self, porter: _Porter, settings: Settings) -> None:
        self._loop.forget(porter.pidfd)
        status = os.waitid(os.P_PIDFD, porter.pidfd, os.WEXITED)
        os.close(porter.pidfd)
        porter.pidfd = -1
        if status is not None and (status.si_code, status.si_status) == (os.CLD_EXITED, 0):
            self._gone(porter)
        else:
            self._log.error("a porter died before its work was done", id=porter.id)
            self._remains(porter, settings)

    def _remains(self, porter: _Porter, settings: Settings) -> None:
        porter.leaving = True
        try:
            work = partial(self._clear, settings, porter.id)
            self._runner.submit("close", work, lambda _value, error: self._cleared(porter, error))
        except DkrError as err:
            self._cleared(porter, err)

    def _cleared(self, porter: _Porter, error: DkrError | None) -> None:
        if error is not None:
            self._log.error(f"cannot remove what a porter has left: {error.message}", id=porter.id)
        self._gone(porter)

    def _gone(self, porter: _Porter) -> None:
        del self._table[porter.id]
        self._leaves.remove(porter.owner, porter.id)
        for call in porter.waiting:
            call()
