"""One probe of a container's health: forked, bounded in time and in what is kept of its output, and forgotten.

    args        a further command in the container, as what clients execute there (inside.py)
    http, tcp   a look from inside its network (dkrd/runtime/looking.py)

What it is told by is its exit code. One that is not done in time is killed, and has failed in that moment, also where the kernel does not
let it end: nothing waits for it. Of a command its process group ends with it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from common.clock import now
from common.errors import DkrError, LimitReached, exit_code
from common.health import MAX_OUTPUT
from dkrd.policy import NOBODY
from dkrd.runtime import cgroups, failure, looking, processes
from dkrd.shim import exec_request, inside, pipes
from dkrd.shim.child import Child
from dkrd.shim.container import Passed
from dkrd.shim.inside import Entry

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dkrd.loop import Loop, Timer
    from dkrd.shim.health_check import Check
    from dkrd.shim.inside import Place

NOT_DONE = -1  # exit code of a probe that was not done, or not in time
_CHUNK = 65536  # bytes read at once
_PAUSE = 0.05  # seconds between two reads of what nobody wants


@dataclass(frozen=True, slots=True)
class Result:
    """What a probe found: `start` and `end` in RFC 3339, `begun` monotonic."""

    start: str
    end: str
    begun: float
    code: int
    output: str


class Probe:
    """One of them. `done` is called once, later, with its result, unless it is dropped before."""

    def __init__(self, place: Place, check: Check, done: Callable[[Result], None]) -> None:
        self._place = place
        self._check = check
        self._done: Callable[[Result], None] | None = done
        self._start, self._begun = now(), time.monotonic()
        self._child: Child | None = None
        self._entry: Entry | None = None
        self._error: DkrError | None = None
        self._output: _Output | None = None
        self._timer: Timer | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left: what it has started may not be killed either, and each further one would be as stuck."""
        if self._child is None:
            return True
        return self._child.is_over and not (self._child.has_left and self._lingers(self._child.pid))

    def _lingers(self, group: int) -> bool:
        # Whoever is nobody's child in the container may stay a zombie there for ever, and does no harm.
        for path in self._place.container.cgroup.paths[:1]:
            try:
                return any(processes.is_of_group(pid, group) for pid in processes.pids(path))
            except OSError:
                return False
        return False

    def begin(self) -> None:
        """Fork it. One that cannot be forked has failed: that is told a moment later, as everything."""
        loop = self._place.loop
        try:
            self._fork()
        except (DkrError, OSError) as err:
            error = failure.describe(err, "clone", "probe the container's health")
            self._timer = loop.later(0, lambda: self._finish(NOT_DONE, error.message))
        else:
            self._timer = loop.later(self._check.timeout, self._late)

    def drop(self) -> None:
        """End it; nobody wants its result any more."""
        self._done = None
        self._settle()
        if self._child is not None:
            self._child.send_all(signal.SIGKILL)

    def end(self) -> None:
        """The container has ended: so has this. Waits for nothing."""
        self.drop()
        if self._child is not None and not self._child.is_over:
            self._child.end(0)

    def _fork(self) -> None:
        """Raises DkrError, OSError."""
        place = self._place
        reading, writing = pipes.pipe(place.container.base)
        sync: socket.socket | None = None
        try:
            if self._check.args:
                pid, sync = self._fork_inside(writing)
            else:
                pid = self._fork_look(writing)
            self._child = Child(place.loop, pid, self._over, alone=True)
        except BaseException:
            os.close(reading)
            if sync is not None:
                sync.close()
            raise
        finally:
            os.close(writing)
        self._output = _Output(place.loop, reading)
        if sync is not None:
            self._entry = Entry(place, sync, self._joined, terminal=False)

    def _fork_inside(self, writing: int) -> tuple[int, socket.socket]:
        place = self._place
        if cgroups.is_full(place.container.cgroup.paths):
            raise LimitReached("cannot probe the container's health: it has as many processes as it may have")
        own = place.config.spec.process
        env = exec_request.environment(own.env, {}, terminal=False)
        process = replace(own, args=self._check.args, env=env, terminal=False, rows=0, columns=0)
        nothing, nobody = pipes.pipe(place.container.base)
        os.close(nobody)
        try:
            passed = Passed({0: nothing, 1: writing, 2: writing})
            return inside.fork(place, process, place.config.user, passed)
        finally:
            os.close(nothing)

    def _fork_look(self, writing: int) -> int:
        place, check = self._place, self._check
        if check.http is not None:
            look = partial(looking.get, *check.http, check.timeout)
        else:
            look = partial(looking.take_connection, check.tcp, check.timeout)
        namespaces, process, base = (
            place.config.spec.namespaces,
            place.config.spec.process,
            place.container.base,
        )
        # Without ids of its own the container's user is one of the host's: then who looks is nobody.
        own = "user" in namespaces
        return looking.fork(
            looking.Task(
                pidfd=place.built.pidfd,
                network="network" in namespaces,
                uid=base + process.uid if own else NOBODY,
                gid=base + process.gid if own else NOBODY,
                output=writing,
                look=look,
            )
        )

    def _joined(self, error: DkrError | None) -> None:
        self._error = error

    def _late(self) -> None:
        text = self._settle()
        if self._child is not None:
            self._child.send_all(signal.SIGKILL)
        said = f": {text}" if text else ""
        self._finish(NOT_DONE, f"the probe was not done within {self._check.timeout:g} s{said}")

    def _over(self, code: int) -> None:
        if self._entry is not None:
            self._entry.hear()
        text = self._settle()
        if self._error is not None:
            self._finish(exit_code(self._error.code), self._error.message)
        else:
            self._finish(code if code >= 0 else 128 - code, text)

    def _settle(self) -> str:
        """Nothing more is read of it, or awaited; what it has written."""
        if self._timer is not None:
            self._timer.cancel()
        if self._output is None:
            return ""
        text = self._output.end()
        self._output = None
        return text

    def _finish(self, code: int, text: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(Result(self._start, now(), self._begun, code, text))


class _Output:
    """What a probe writes: the beginning is kept, the rest is read and dropped, a little at a time, so that it does not wait."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._kept = b""
        self._timer: Timer | None = None
        os.set_blocking(fd, False)
        self._watch()

    def end(self) -> str:
        """What was kept, with what waits to be read; nothing more is."""
        while self._fd >= 0 and len(self._kept) < MAX_OUTPUT and self._read():
            pass
        self._close()
        return self._kept[:MAX_OUTPUT].decode("utf-8", "replace")

    def _watch(self) -> None:
        self._loop.watch(self._fd, select.EPOLLIN, lambda _events: self._hear())

    def _hear(self) -> None:
        if not self._read():
            return
        if len(self._kept) >= MAX_OUTPUT:
            # What writes without end must not keep us busy: nothing bounds our processor time as the container's is.
            self._loop.forget(self._fd)
            self._timer = self._loop.later(_PAUSE, self._watch)

    def _read(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close()
        self._kept += data[: MAX_OUTPUT - len(self._kept)]
        return bool(data)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
