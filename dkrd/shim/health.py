"""A container's health: its guardian probes it, one probe at a time, and tells what has changed.

    starting ── a probe is well ──────────────────► healthy
        │                                            │  ▲
        └── as many fail as `retries` ─► unhealthy ◄─┘  │  one is well
                                             └──────────┘

In the state (and so in lists, and as events) stands the status alone; the streak and the last results are told to who asks, and are kept
beside the files of a container that has ended. What one wakes for is the next probe: while it is paused or being stopped there is none.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from common import frames
from common.clock import now
from common.errors import BadRequest
from common.health import MAX_RESULTS
from dkrd.shim import cleanup
from dkrd.shim.begun import record
from dkrd.shim.probes import NOT_DONE, Probe, Result
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.loop import Timer
    from dkrd.shim.asks import Ask
    from dkrd.shim.health_check import Check
    from dkrd.shim.inside import Place
    from dkrd.shim.matter import Matter

FILE = "health.json"  # beside the files of a stopped container
MAX_BYTES = 60_000  # of it: a job of the launcher's hands on 64 KiB
# From one word on a new status to the next: all guardians share the launcher's queue, and probes may come ten times a second.
TELL_SECONDS = 0.5


class Health:
    """Of one container.

    on_change  called with a new status when it is told

    unwell    called with what is to be done when it has become unhealthy: `stop`, `kill` or `restart`
    stopping  whether it is being stopped
    """

    def __init__(
        self, place: Place, check: Check, unwell: Callable[[str], None], stopping: Callable[[], bool]
    ) -> None:
        self._place = place
        self._check = check
        self._unwell = unwell
        self._stopping = stopping
        self._status, self._since = "starting", ""
        self._told = self._status
        self._streak = 0
        self._results: deque[Result] = deque(maxlen=MAX_RESULTS)
        self._begun = time.monotonic()
        self._probe: Probe | None = None
        self._next: Timer | None = None
        self._quiet: Timer | None = None  # since it was told of
        self._held = False
        self.on_change: Callable[[str], None] = lambda status: None

    def begin(self) -> None:
        """It runs."""
        self._begun = time.monotonic()
        # Of a run before; were this guardian killed, it would pass for this one's.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._schedule()

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "health"}`: status, streak and last results. Raises BadRequest."""
        if set(ask.body) != {"type"}:
            raise BadRequest("cannot read the ask: health has no further keys")
        return self._document()

    def hold(self) -> None:
        """It is about to be paused: a probe under way would stand still, and is none."""
        self._held = True
        self._cancel()
        if self._probe is not None:
            self._probe.drop()

    def go_on(self) -> None:
        """It runs again, or still."""
        if self._held:
            self._held = False
            self._schedule()

    def end(self) -> None:
        """It has ended: nothing is probed any more, and what was found is kept. Its end is told after this."""
        self._cancel()
        if self._quiet is not None:
            self._quiet.cancel()
        if self._probe is not None:
            self._probe.end()
        if self._status != self._told:
            self._place.state.values["health"] = self._word()
        if not self._place.config.rm:
            try:
                write_file(self._path, _fitting(self._document()))
            except OSError as err:
                task = self._place.task
                task.log.error("cannot keep what its health was", id=task.id, cause=err.strerror)

    # --- probing

    def _schedule(self) -> None:
        check = self._check
        starting = self._status == "starting" and self._is_early(time.monotonic())
        self._next = self._place.loop.later(check.start_interval if starting else check.interval, self._due)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _is_early(self, moment: float) -> bool:
        """Whether failures do not count yet."""
        return moment - self._begun < self._check.start_period

    def _due(self) -> None:
        self._next = None
        if self._stopping():
            return
        if self._probe is not None and not self._probe.is_over:
            moment = now()
            text = "the probe before has not ended: it waits in the kernel, or somebody in the container traces it"
            self._found(Result(moment, moment, time.monotonic(), NOT_DONE, text))
            return
        self._probe = Probe(self._place, self._check, self._found)
        self._probe.begin()

    def _found(self, result: Result) -> None:
        self._results.append(result)
        if result.code == 0:
            self._streak = 0
            self._become("healthy")
        elif self._status != "starting" or not self._is_early(result.begun):
            self._streak += 1
            if self._streak >= self._check.retries:
                self._become("unhealthy")
        if not self._held:
            self._schedule()

    def _become(self, status: str) -> None:
        if status == self._status or self._stopping():
            return
        self._status, self._since = status, now()
        acts = status == "unhealthy" and self._check.on_failure != "none"
        # What is done about it is the last of its life, and has to be found by who ends it where this guardian cannot.
        if self._quiet is None or acts:
            self._tell()
        if acts:
            self._unwell(self._check.on_failure)

    # --- telling

    def _tell(self) -> None:
        """Write it down and report it; nothing more for a while."""
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = None
        if self._status == self._told:
            return
        task = self._place.task
        self._told = self._status
        task.log.audit("health", id=task.id, uid=self._place.state.values["uid"], status=self._status)
        record(task, self._place.state, health=self._word())
        self.on_change(self._status)
        self._quiet = self._place.loop.later(TELL_SECONDS, self._tell)

    def _word(self) -> dict[str, object]:
        return {"status": self._status, "since": self._since}

    def _document(self) -> dict[str, object]:
        return {
            "status": self._status,
            "failingStreak": self._streak,
            "log": [
                {"start": one.start, "end": one.end, "exitCode": one.code, "output": one.output}
                for one in self._results
            ],
        }

    @property
    def _path(self) -> str:
        return f"{self._place.container.directory}/{FILE}"


def _fitting(document: dict[str, object]) -> bytes:
    """It as JSON, with shorter outputs where it would be too long: of what is no text each byte may take six."""
    data = frames.dumps(document)
    longest = 1024
    while len(data) > MAX_BYTES and longest:
        for one in document["log"]:  # type: ignore[attr-defined]  # as made above
            one["output"] = one["output"][:longest]
        data = frames.dumps(document)
        longest //= 2
    return data


def read_kept(matter: Matter, *ask: object) -> dict[str, object]:
    """What was found of a container that no guardian stands for (any more); empty where that is not known. A job of the launcher's.

    Raises NotFound for another's container.
    """
    matter.check_owner()
    return cleanup.document(f"{matter.directory}/{FILE}")
