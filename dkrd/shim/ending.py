"""What is done when a container has ended, or has not come to be."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from common import restarts, start_steps
from common.errors import DkrError
from dkrd.shim import cleanup, trace
from dkrd.shim.begun import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.runtime.steps import Recorder
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.exits import Exit
    from dkrd.shim.guard import Guard
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


STEPS_SECONDS = 1.0  # after a start they are told, where it has not ended by then


class Ending:
    """The end of one start.

    before  the state of a container that stood before it, and stands after one that failed
    """

    def __init__(
        self,
        task: ShimTask,
        config: Config,
        container: Container,
        state: State,
        recorder: Recorder,
        before: dict[str, object] | None = None,
    ) -> None:
        self._task, self._config, self._container, self._state = task, config, container, state
        self._recorder = recorder
        self._steps_told = False
        self.before = before

    def failed(self, tell: Callable[[], None]) -> None:
        """A start that failed leaves nothing, with or without --rm, or what there was before. Then `tell` whom it concerns,
        also where something is left for the launcher.
        """
        try:
            if self.before is None:
                self._remove()
            else:
                self._step_back(self.before)
        finally:
            tell()

    def ended(self, ending: Exit, guard: Guard) -> None:
        """Write the exit down, tell the clients, then clean up: they do not wait for that, nor it for them."""
        settings = self._task.settings
        after = restarts.ended(
            self._state.values, ending.to_wire(), settings.restart_first_seconds, settings.restart_max_seconds
        )
        self._state.values.update(after)
        record(self._task, self._state)
        all_told = guard.end(ending)
        try:
            self._clean_up(ending)
        finally:
            if not all_told:
                guard.settle(ending)

    def tell_steps(self) -> None:
        """Report how long each step of the start took, for who counts it; the first time counts. For when nobody waits for anything."""
        if self._steps_told:
            return
        self._steps_told = True
        took: dict[str, int] = {}
        for step in self._recorder.steps():
            # Those of init and helper are read from memory that they could write.
            if step.name in start_steps.NAMES:
                took[step.name] = took.get(step.name, 0) + max(0, step.end - step.start)
        self._state.report({"type": "steps", "id": self._task.id, "steps": took})

    def _clean_up(self, ending: Exit) -> None:
        self.tell_steps()
        self._container.let_mounts_go()
        task = self._task
        task.log.audit(
            "ended",
            id=task.id,
            uid=self._state.values["uid"],
            code=ending.code,
            signal=ending.signal,
            cause=ending.cause,
        )
        if self._config.rm:
            self._remove()
        else:
            self._keep()

    def _keep(self) -> None:
        task, container = self._task, self._container
        try:
            trace.keep(container.directory, trace.trace_of(task, self._config, self._recorder))
        except OSError as err:
            task.log.error("cannot keep the record of the start", id=task.id, cause=str(err))
        try:
            cleanup.keep_stopped(task.settings, task.id, self._state.values, container.cgroup.paths)
        except OSError as err:
            # As below: the run directory still stands.
            task.log.error("cannot keep the stopped container", id=task.id, cause=str(err))
            sys.exit(1)
        if container.claim is not None:
            os.close(container.claim.fd)

    def _remove(self) -> None:
        task = self._task
        try:
            cleanup.remove_all(
                task.settings, task.pool, task.id, self._container.claim, self._container.cgroup.paths
            )
        except (DkrError, OSError) as err:
            # The run directory still stands: the launcher tries again, and the next one once more.
            task.log.error("cannot clean up", id=task.id, cause=str(err))
            sys.exit(1)
        self._state.report({"type": "gone", "id": task.id})

    def _step_back(self, before: dict[str, object]) -> None:
        cleanup.remove_cgroups(self._container.cgroup.paths)
        cleanup.remove_run_directory(f"{self._task.settings.run_dir}/containers/{self._task.id}")
        if self._container.claim is not None:
            os.close(self._container.claim.fd)
        self._state.report({"type": "state", "state": before})
