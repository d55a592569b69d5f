"""A shim's life: prove who asks, judge, build, watch, clean up. Forked by the launcher, one for each
container.

Imports nothing after the fork: the launcher has loaded this module. It outlives the launcher and the api,
which are not needed for anything here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, NotPermitted
from dkrd import policy
from dkrd.runtime import failure
from dkrd.runtime.steps import Recorder, Step
from dkrd.shim import callers, cleanup, roots, told, trace
from dkrd.shim import config as configs
from dkrd.shim import container as containers
from dkrd.shim import plan as plans
from dkrd.shim import session as sessions
from dkrd.shim.guard import Exit, Guard
from dkrd.shim.state import State, now, send, start_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.runtime import mounts
    from dkrd.runtime.build import Built
    from dkrd.shim.asks import Handler
    from dkrd.shim.task import ShimTask


def run(task: ShimTask) -> None:
    """Be the guardian of one container from its request to its end; returns when nothing of it is left to
    do.
    """
    connection = socket.socket(fileno=task.connection)
    recorder = Recorder("shim")
    recorder.follow(Step("fork", told.fork, str(os.getpid()), task.begun, time.monotonic_ns(), "launcher"))
    try:
        recorder.begin("bundle", partial(told.bundle, len(task.bundle)))
        config = configs.parse(task.bundle)
        recorder.begin("evidence", told.evidence)
        asking = callers.prove(task, connection, task.listener)
        recorder.note(told.who(asking))
        given = task.session >= 0
        recorder.begin("session", told.PLAIN if given else told.SESSION)
        session = sessions.Session(
            socket.socket(fileno=task.session) if given else sessions.offer(connection, task.id)
        )
    except (DkrError, OSError) as err:
        _turn_away(task, connection, failure.describe(err, recorder.current))
        return
    finally:
        connection.close()
    first: sessions.First | None = None
    try:
        recorder.begin("request", told.request)
        first = session.first()
        recorder.note(told.came(first))
        recorder.begin("judge", partial(told.judge, config.spec, first.asks))
        who = _judge(task, config, asking, first)
        recorder.note(told.rights(who))
        root = roots.root_of(task, config, who, asking, first, recorder)
        if "plan" in first.want:
            _show_plan(task, config, who, first, root, session)
            return
        container, state, listener = _prepare(task, config, who, first, recorder)
    except (DkrError, OSError) as err:
        error = failure.describe(err, recorder.current)
        _tell_gone(task)
        _Start(task, config, session, recorder, first).refuse(error, asking.uid)
        return
    start = _Start(task, config, session, recorder, first)
    claims = _Ending(task, config, container, state, recorder)
    try:
        built = containers.start(task, config, root, container, first, recorder)
    except (DkrError, OSError) as err:
        error = failure.describe(err, recorder.current)
        claims.failed(lambda: start.refuse(error, who.uid))
        return
    finally:
        container.cgroup.close()
        for fd in (*first.stdio.values(), *first.preserved, *root.descriptors):
            os.close(fd)
    container.mounts = built.mounts
    start.succeeded(who, state, built)
    handlers: dict[str, Handler] = {"explain": lambda _ask: trace.trace_of(task, config, recorder)}
    typed = 0 in first.tty
    guard = Guard(task, config, container, built, session, state, listener, typed, handlers)
    claims.ended(guard.watch(), guard)


def _turn_away(task: ShimTask, connection: socket.socket, error: DkrError) -> None:
    """There is not even a session."""
    task.log.audit("refused", id=task.id, code=error.code, rule=error.rule, cause=error.message)
    if task.session < 0:
        sessions.refuse(connection, error)
    else:
        sessions.Session(socket.socket(fileno=task.session)).send({"type": "error", "error": error.to_wire()})


def _tell_gone(task: ShimTask) -> None:
    """Before the client hears that there is no container, the launcher does, and by it the api: whom it asks next."""
    send(socket.socket(fileno=task.reports), frames.dumps({"type": "gone", "id": task.id}))


def _judge(
    task: ShimTask, config: configs.Config, asking: policy.Credentials, first: sessions.First
) -> policy.Caller:
    # Over plain HTTP the first frame is the api's: only the connection tells who asks, and nothing binds the spec to what was asked.
    who = callers.weigh(task, asking, first.credentials if task.session < 0 else asking)
    if task.session >= 0:
        policy.judge_http(who, config.spec, http_lifts=task.settings.http_lifts)
    policy.judge(who, config.spec, config.document, first.request, first.asks, task.settings.default_root)
    if bool(first.tty) != config.spec.process.terminal:
        raise NotPermitted(
            "cannot start the container: its first frame and its request differ on a terminal",
            rule="terminal",
        )
    return who


def _show_plan(
    task: ShimTask,
    config: configs.Config,
    who: policy.Caller,
    first: sessions.First,
    root: mounts.Root,
    session: sessions.Session,
) -> None:
    """A dry run: judged like a real one, and told what would be done. Nothing was made for it."""
    for fd in (*first.stdio.values(), *first.preserved, *root.descriptors):
        os.close(fd)
    plan = plans.plan_of(task, config, who, first, root)
    _tell_gone(task)
    session.send({"type": "plan", "plan": plan})
    session.close()
    task.log.audit("planned", id=task.id, uid=who.uid, command=config.spec.process.args[0])


@dataclass(frozen=True, slots=True)
class _Start:
    """A start, as its client is told of it. `first` is None where not even its first frame came."""

    task: ShimTask
    config: configs.Config
    session: sessions.Session
    recorder: Recorder
    first: sessions.First | None

    def refuse(self, error: DkrError, uid: int) -> None:
        """It came to nothing."""
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

    def succeeded(self, who: policy.Caller, state: State, built: Built) -> None:
        """The command runs."""
        task = self.task
        self.session.send({"type": "started", "id": task.id, "pid": built.pid}, built.master)
        begun = start_time(built.pid)
        _record(task, state, built.pidfd, status="running", pid=built.pid, pidStartTime=begun, started=now())
        self._send_trace(None)
        task.log.audit(
            "started",
            id=task.id,
            uid=who.uid,
            name=self.config.name,
            pid=built.pid,
            command=self.config.spec.process.args[0],
        )

    def _send_trace(self, error: DkrError | None) -> None:
        if self.first is not None and "trace" in self.first.want:
            document = trace.trace_of(self.task, self.config, self.recorder, error)
            self.session.send({"type": "trace", "trace": document})


def _prepare(
    task: ShimTask, config: configs.Config, who: policy.Caller, first: sessions.First, recorder: Recorder
) -> tuple[containers.Container, State, socket.socket]:
    """The run directory with its socket and first state, then the container's own things."""
    directory = f"{task.settings.run_dir}/containers/{task.id}"
    recorder.begin("run directory", partial(told.run_directory, directory))
    os.mkdir(directory, 0o700)
    with contextlib.ExitStack() as undo:
        undo.callback(cleanup.remove_run_directory, directory)
        listener = _listen(directory)
        undo.callback(listener.close)
        container = containers.make(task, config, who.uid, first.asks, recorder)
        paths = container.cgroup.paths
        undo.callback(cleanup.remove_all, task.settings, task.pool, task.id, container.claim, paths)
        recorder.begin("state", partial(told.state, directory))
        state = State(directory, socket.socket(fileno=task.reports))
        state.update(
            version=1,
            id=task.id,
            name=config.name,
            uid=who.uid,
            status="creating",
            pid=0,
            pidStartTime=0,
            shimPid=os.getpid(),
            shimStartTime=start_time(os.getpid()),
            slot=container.claim.slot if container.claim else None,
            cgroup=list(paths),
            rm=config.rm,
            created=now(),
            started=None,
            finished=None,
            exit=None,
        )
        undo.pop_all()
    return container, state, listener


def _listen(directory: str) -> socket.socket:
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


def _record(task: ShimTask, state: State, pidfd: int = -1, **changes: object) -> None:
    """Write down what has become of the container. On a full disk it runs on and ends all the same, and is
    told.
    """
    try:
        state.update(pidfd, **changes)
    except OSError as err:
        task.log.error("cannot write state.json", id=task.id, cause=err.strerror)
        state.report({"type": "state", "state": state.values}, pidfd)


class _Ending:
    """What is to be done when the container has ended, or has not come to be."""

    def __init__(
        self,
        task: ShimTask,
        config: configs.Config,
        container: containers.Container,
        state: State,
        recorder: Recorder,
    ) -> None:
        self._task, self._config, self._container, self._state = task, config, container, state
        self._recorder = recorder

    def failed(self, tell: Callable[[], None]) -> None:
        """A start that failed leaves nothing, with or without --rm: there is nothing to look at. Then `tell` whom it concerns,
        also where something is left for the launcher.
        """
        try:
            self._remove()
        finally:
            tell()

    def ended(self, ending: Exit, guard: Guard) -> None:
        """Write the exit down, tell the clients, then clean up: they do not wait for that, nor it for them."""
        _record(self._task, self._state, status="stopped", finished=now(), exit=ending.to_wire(), pid=0)
        all_told = guard.end(ending)
        try:
            self._clean_up(ending)
        finally:
            if not all_told:
                guard.settle(ending)

    def _clean_up(self, ending: Exit) -> None:
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
