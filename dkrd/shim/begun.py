"""What every start has: its run directory with the socket and the first state, and how it is told to its client."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common import frames
from common.clock import now
from dkrd.shim import bounds, cleanup, told, trace
from dkrd.shim.state import State, send, start_time

if TYPE_CHECKING:
    import contextlib

    from common.errors import DkrError
    from dkrd import policy
    from dkrd.runtime.build import Built
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.session import Session
    from dkrd.shim.task import ShimTask

SHIM_GONE = {"pid": 0, "pidStartTime": 0, "shimPid": 0, "shimStartTime": 0, "cgroup": []}


def first_state(task: ShimTask, config: Config, owner: int, slot: int | None) -> dict[str, object]:
    """The state of a container that was just made and does not run."""
    return {
        "version": 1,
        "id": task.id,
        "name": config.name,
        "uid": owner,
        "status": "created",
        **SHIM_GONE,
        "slot": slot,
        "rm": config.rm,
        "created": now(),
        "started": None,
        "finished": None,
        "exit": None,
        "limits": bounds.told(config.limits),
    }


def run_directory(task: ShimTask, recorder: Recorder, undo: contextlib.ExitStack) -> socket.socket:
    """Make the run directory; the socket that listens in it. Raises OSError."""
    directory = f"{task.settings.run_dir}/containers/{task.id}"
    recorder.begin("run directory", partial(told.run_directory, directory))
    os.mkdir(directory, 0o700)
    undo.callback(cleanup.remove_run_directory, directory)
    listener = listen(directory)
    undo.callback(listener.close)
    return listener


def listen(directory: str) -> socket.socket:
    """The socket at which a launcher finds us again; through /proc/self/fd, because a socket's path ends at
    107 bytes.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"/proc/self/fd/{fd}/shim.sock")
        os.chmod(f"{directory}/shim.sock", 0o600)
        listener.listen(8)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(fd)
    return listener


def creating(
    task: ShimTask,
    container: Container,
    values: dict[str, object],
    recorder: Recorder,
    *,
    again: bool = False,
) -> State:
    """The first word on a container that is being built. `values`: its state before; `again`: somebody wants it restarted."""
    directory = f"{task.settings.run_dir}/containers/{task.id}"
    recorder.begin("state", partial(told.state, directory))
    state = State(directory, socket.socket(fileno=task.reports))
    state.values.update(values)
    state.update(
        status="creating",
        shimPid=os.getpid(),
        shimStartTime=start_time(os.getpid()),
        cgroup=list(container.cgroup.paths),
        started=None,
        finished=None,
        exit=None,
        again=again,
    )
    return state


def record(task: ShimTask, state: State, pidfd: int = -1, **changes: object) -> None:
    """Write down what has become of the container. On a full disk it runs on and ends all the same, and is
    told.
    """
    try:
        state.update(pidfd, **changes)
    except OSError as err:
        task.log.error("cannot write state.json", id=task.id, cause=err.strerror)
        state.report({"type": "state", "state": state.values}, pidfd)


def tell(task: ShimTask, message: dict[str, object]) -> None:
    """Tell the launcher, and by it the api, whom a client asks next: before the client hears of it."""
    reports = socket.socket(fileno=task.reports)
    send(reports, frames.dumps(message))
    reports.detach()


def count_failure(task: ShimTask, error: DkrError) -> None:
    """Report that a start came to nothing, for who counts them."""
    tell(task, {"type": "failed", "id": task.id, "code": error.code})


@dataclass(frozen=True, slots=True)
class Start:
    """A start, as its client is told of it.

    traced  it wants to be told the steps
    counts  it is more than a look at what a start would be
    """

    task: ShimTask
    config: Config
    session: Session
    recorder: Recorder
    traced: bool
    counts: bool = True

    def refuse(self, error: DkrError, uid: int) -> None:
        """It came to nothing."""
        if self.counts:
            count_failure(self.task, error)
        self.task.log.audit(
            "not started",
            id=self.task.id,
            uid=uid,
            code=error.code,
            rule=error.rule,
            step=error.step,
            cause=error.message,
        )
        self._send_trace(error)
        self.session.send({"type": "error", "error": error.to_wire()})
        self.session.close()

    def succeeded(self, who: policy.Caller, state: State, built: Built, *descriptors: int) -> None:
        """The command runs: that is written down and reported before the client hears of it. `descriptors`: what the client gets
        of it, the terminal's master or nothing.
        """
        task = self.task
        begun = start_time(built.pid)
        took = (time.monotonic_ns() - task.begun) / 1e9
        running: dict[str, object] = {
            "pid": built.pid,
            "pidStartTime": begun,
            "started": now(),
            "took": took,
        }
        if self.config.health is not None:
            running["health"] = {"status": "starting", "since": running["started"]}
        record(task, state, built.pidfd, status="running", **running)
        self.session.send({"type": "started", "id": task.id, "pid": built.pid}, *descriptors)
        self._send_trace(None)
        task.log.audit(
            "started",
            id=task.id,
            uid=who.uid,
            name=self.config.name,
            pid=built.pid,
            command=self.config.spec.process.args[0],
        )
        task.log.request = None  # that is done; what comes now nobody has asked for by it

    def _send_trace(self, error: DkrError | None) -> None:
        if not self.traced:
            return
        try:
            document = trace.trace_of(self.task, self.config, self.recorder, error)
        except (
            Exception
        ) as err:  # whatever a step's description does: what became of the start is told all the same
            self.task.log.error("cannot tell the steps of a start", id=self.task.id, cause=repr(err))
            return
        self.session.send({"type": "trace", "trace": document})
