"""A shim's life: prove who asks, judge, build, watch, clean up. Forked by the launcher, one for each
container.

Imports nothing after the fork: the launcher has loaded this module. It outlives the launcher and the api,
which are not needed for anything here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from common.errors import BadRequest, DkrError, NotPermitted
from dkrd import policy
from dkrd.loop import Loop
from dkrd.runtime import failure
from dkrd.runtime.steps import Recorder, Step
from dkrd.shim import (
    begun,
    bounds,
    callers,
    cleanup,
    creating,
    launching,
    log_drivers,
    logs,
    outlets,
    roots,
    told,
    trace,
)
from dkrd.shim import config as configs
from dkrd.shim import container as containers
from dkrd.shim import first as firsts
from dkrd.shim import plan as plans
from dkrd.shim import session as sessions
from dkrd.shim.called import Called
from dkrd.shim.descriptors import close_soon
from dkrd.shim.ending import STEPS_SECONDS, Ending
from dkrd.shim.guard import Guard

if TYPE_CHECKING:
    from dkrd.runtime import mounts
    from dkrd.shim.asks import Handler
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


def run(task: ShimTask) -> None:
    """Be the guardian of one container from its request to its end; returns when nothing of it is left to
    do.
    """
    task.log.request = task.request or None
    recorder = Recorder("shim")
    how = told.ahead if task.ahead else told.fork
    recorder.follow(Step("fork", how, str(os.getpid()), task.begun, time.monotonic_ns(), "launcher"))
    if task.unasked:
        launching.relaunch(task, recorder)
        return
    connection = socket.socket(fileno=task.connection)
    config: configs.Config | None = None
    try:
        if task.bundle is not None:
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
    if config is None:
        launching.launch(task, asking, session, recorder)
    else:
        _start(task, config, asking, session, recorder)


def _turn_away(task: ShimTask, connection: socket.socket, error: DkrError) -> None:
    """There is not even a session."""
    task.log.audit("refused", id=task.id, code=error.code, rule=error.rule, cause=error.message)
    begun.count_failure(task, error)
    if task.session < 0:
        sessions.refuse(connection, error)
    else:
        sessions.Session(socket.socket(fileno=task.session)).send({"type": "error", "error": error.to_wire()})


def _start(
    task: ShimTask,
    config: configs.Config,
    asking: policy.Credentials,
    session: sessions.Session,
    recorder: Recorder,
) -> None:
    first: firsts.First | None = None
    try:
        recorder.begin("request", told.request)
        first = firsts.read(session)
        recorder.note(told.came(first))
        recorder.begin("judge", partial(told.judge, config.spec, first.asks))
        who = _judge(task, config, asking, first)
        if not first.create:
            _check_once(config)
        config = bounds.judged(task, config, who)
        log_drivers.judge(task, config, who, create=first.create)
        recorder.note(told.rights(who))
        root = roots.root_of(task, config, who, asking, first, recorder)
        if "plan" in first.want:
            _show_plan(task, config, who, first, root, session)
            return
        if first.create:
            creating.create(task, config, who, first, root, session, recorder)
            return
        container, state, listener = _prepare(task, config, who, first, recorder)
    except (DkrError, OSError) as err:
        error = failure.describe(err, recorder.current)
        begun.tell(task, {"type": "gone", "id": task.id})
        traced = first is not None and "trace" in first.want
        counts = first is None or not (first.create or "plan" in first.want)
        begun.Start(task, config, session, recorder, traced, counts).refuse(error, asking.uid)
        return
    _live(task, config, who, first, root, session, recorder, (container, state, listener))


def _live(
    task: ShimTask,
    config: configs.Config,
    who: policy.Caller,
    first: firsts.First,
    root: mounts.Root,
    session: sessions.Session,
    recorder: Recorder,
    made: tuple[containers.Container, State, socket.socket],
) -> None:
    container, state, listener = made
    start = begun.Start(task, config, session, recorder, "trace" in first.want)
    ending = Ending(task, config, container, state, recorder)
    passed = containers.Passed(first.stdio, first.tty, first.preserved, "notify" in first.want)
    try:
        built = containers.start(task, config, root, container, passed, recorder)
    except (DkrError, OSError) as err:
        error = failure.describe(err, recorder.current)
        ending.failed(lambda: start.refuse(error, who.uid))
        return
    finally:
        container.cgroup.close()
        close_soon((*first.stdio.values(), *first.preserved, *root.descriptors))
    container.mounts = built.mounts
    start.succeeded(who, state, built, *(fd for fd in (built.master, built.notify) if fd >= 0))
    if built.notify >= 0:
        close_soon(
            (built.notify,)
        )  # the client's; where that has gone already, with what the container has sent
    handlers: dict[str, Handler] = {
        "explain": lambda _ask: trace.trace_of(task, config, recorder),
        "logs": lambda _ask: logs.refuse(Called(state)),
    }
    loop = Loop()
    outs = outlets.of_terminal(loop, built.master, typed=0 in first.tty)
    guard = Guard(loop, task, config, container, built, state, listener, outs, handlers)
    guard.clients.begin(session, config.on_disconnect)
    if "health" in first.want:
        guard.tell_health(session)
    loop.later(STEPS_SECONDS, ending.tell_steps)
    ending.ended(guard.watch(), guard)


def _judge(
    task: ShimTask, config: configs.Config, asking: policy.Credentials, first: firsts.First
) -> policy.Caller:
    # Over plain HTTP the first frame is the api's: only the connection tells who asks, and nothing binds the spec to what was asked.
    who = callers.weigh(task, asking, first.credentials if task.session < 0 else asking)
    if task.session >= 0:
        policy.judge_http(who, config.spec, http_lifts=task.settings.http_lifts)
    policy.judge(who, config.spec, config.document, first.request, first.asks, task.settings.default_root)
    if not first.create and bool(first.tty) != config.spec.process.terminal:
        raise NotPermitted(
            "cannot start the container: its first frame and its request differ on a terminal",
            rule="terminal",
        )
    return who


def _show_plan(
    task: ShimTask,
    config: configs.Config,
    who: policy.Caller,
    first: firsts.First,
    root: mounts.Root,
    session: sessions.Session,
) -> None:
    """A dry run: judged like a real one, and told what would be done. Nothing was made for it."""
    close_soon((*first.stdio.values(), *first.preserved, *root.descriptors))
    if first.create:
        creating.check_kept(config)
    plan = plans.plan_of(task, config, who, first, root)
    begun.tell(task, {"type": "gone", "id": task.id})
    session.send({"type": "plan", "plan": plan})
    session.close()
    task.log.audit("planned", id=task.id, uid=who.uid, command=config.spec.process.args[0])


def _check_once(config: configs.Config) -> None:
    """Raise BadRequest where what has its caller's descriptors is to be started again."""
    for path, wanted in (
        ("restart", config.restart is not None),
        ("health.onFailure", config.restarts_unwell),
    ):
        if wanted:
            raise BadRequest(
                "cannot restart what has its caller's own input and output: they are there for one run alone",
                hint=f"leave {path} out, or make the container first and start it then",
                fields=({"path": path, "message": "has a meaning for what is made before it is started"},),
            )


def _prepare(
    task: ShimTask, config: configs.Config, who: policy.Caller, first: firsts.First, recorder: Recorder
) -> tuple[containers.Container, State, socket.socket]:
    """The run directory with its socket and first state, then the container's own things."""
    with contextlib.ExitStack() as undo:
        listener = begun.run_directory(task, recorder, undo)
        container = containers.make(task, config, who.uid, first.asks, recorder)
        undo.callback(
            cleanup.remove_all, task.settings, task.pool, task.id, container.claim, container.cgroup.paths
        )
        slot = container.claim.slot if container.claim else None
        state = begun.creating(task, container, begun.first_state(task, config, who.uid, slot), recorder)
        undo.pop_all()
    return container, state, listener
