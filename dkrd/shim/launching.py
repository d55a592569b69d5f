"""The start of a container that stands already: made by create, or ended. Its stdio is its guardian's.

    kept ─ config.json, grant.json, state.json ─► judged by the grant ─► built, with pipes or a terminal ─► watched

Whoever starts it needs no more than that it is theirs: what the grant allows was judged when it was made. For a restart policy nobody
asks: then the grant says whose it is, and they are judged as the host knows them at that moment.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common import restarts
from common.errors import DkrError, ProtocolError
from dkrd.loop import Loop
from dkrd.runtime import failure
from dkrd.shim import attach, begun, bounds, callers, cleanup, kept, log_drivers, outlets, pipes, told, trace
from dkrd.shim import container as containers
from dkrd.shim.descriptors import close_all, close_soon
from dkrd.shim.ending import STEPS_SECONDS, Ending
from dkrd.shim.guard import Guard
from dkrd.shim.session import VERSION, unheard

if TYPE_CHECKING:
    import socket

    from dkrd import policy
    from dkrd.runtime import mounts
    from dkrd.runtime.build import Built
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.asks import Handler
    from dkrd.shim.log_queue import LogQueue
    from dkrd.shim.session import Session
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


@dataclass(frozen=True, slots=True)
class _Made:
    """What stands for the start, before it is built."""

    container: containers.Container
    state: State
    listener: socket.socket
    log: LogQueue | None
    theirs: pipes.Theirs
    ours: dict[int, pipes.Pipe]
    tty: tuple[int, ...]


def launch(task: ShimTask, asking: policy.Credentials, session: Session, recorder: Recorder) -> None:
    """Start the container `task.id` for whoever asks, and be its guardian until it has ended."""
    found: kept.Kept | None = None
    try:
        recorder.begin("request", told.request)
        frame, credentials = _first(session, task)
        recorder.begin("judge", told.granted)
        who = callers.weigh(task, asking, credentials if task.session < 0 else asking)
        found = _sized(kept.take(task, who), frame)
        root, made = _make(task, found, who, recorder, again="again" in frame)
    except (DkrError, OSError) as err:
        _refuse(task, failure.describe(err, recorder.current), asking.uid, session, found)
        return
    _start(task, found, root, made, who, frame, session, recorder)


def relaunch(task: ShimTask, recorder: Recorder) -> None:
    """Start the container `task.id` for its restart policy, and be its guardian until it has ended."""
    found: kept.Kept | None = None
    session = unheard()
    try:
        recorder.begin("judge", told.granted)
        found = kept.take_unasked(task)
        who = kept.judge_unasked(task, found)
        root, made = _make(task, found, who, recorder)
    except (DkrError, OSError) as err:
        _refuse(task, failure.describe(err, recorder.current), 0, session, found)
        return
    frame: dict[str, object] = {"type": "launch"}
    _start(task, found, root, made, who, frame, session, recorder)


def _make(
    task: ShimTask, found: kept.Kept, who: policy.Caller, recorder: Recorder, *, again: bool = False
) -> tuple[mounts.Root, _Made]:
    recorder.note(told.rights(who))
    root = kept.root_of(task, found.config, recorder)
    try:
        made = _prepare(task, found, recorder, again=again)
        found.entered()
        return root, made
    except BaseException:
        close_soon(root.descriptors)
        raise


def _start(
    task: ShimTask,
    found: kept.Kept,
    root: mounts.Root,
    made: _Made,
    who: policy.Caller,
    frame: dict[str, object],
    session: Session,
    recorder: Recorder,
) -> None:
    start = begun.Start(task, found.config, session, recorder, traced=False)
    ending = Ending(task, found.config, made.container, made.state, recorder, found.state)
    passed = containers.Passed(made.theirs.stdio, made.tty)
    try:
        built = containers.start(task, found.config, root, made.container, passed, recorder)
    except (DkrError, OSError) as err:
        error = failure.describe(err, recorder.current)
        if made.log is not None:
            made.log.close()
        pipes.close(made.ours)
        if task.unasked:
            ending.before = kept.put_off(task, error, found.state)
        ending.failed(lambda: start.refuse(error, who.uid))
        return
    finally:
        made.container.cgroup.close()
        made.theirs.close()
        close_soon(root.descriptors)
    made.container.mounts = built.mounts
    _watch(task, found, made, built, recorder, start, ending, who, frame)


def _watch(
    task: ShimTask,
    found: kept.Kept,
    made: _Made,
    built: Built,
    recorder: Recorder,
    start: begun.Start,
    ending: Ending,
    who: policy.Caller,
    frame: dict[str, object],
) -> None:
    config, loop = found.config, Loop()
    if built.master >= 0:
        outs = outlets.of_terminal(loop, built.master, config.open_stdin, made.log)
    else:
        outs = outlets.of_pipes(loop, made.ours, made.log)
    reading, readers = log_drivers.reading(loop, made.container, config, made.state, made.log)
    handlers: dict[str, Handler] = {
        "explain": lambda _ask: trace.trace_of(task, config, recorder),
        "logs": reading,
    }
    guard = Guard(loop, task, config, made.container, built, made.state, made.listener, outs, handlers)
    guard.on_told = (*((made.log.close,) if made.log is not None else ()), *(one.end for one in readers))
    guard.clients.relay_from_the_beginning()
    if frame["type"] == "attach":
        attach.admit(guard.clients, start.session, frame)
    start.succeeded(who, made.state, built)
    guard.clients.notice()
    if frame["type"] == "launch":
        start.session.close()
    # From here on the run directory's state counts, and none after a power cut.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{made.container.directory}/state.json")
    loop.later(STEPS_SECONDS, ending.tell_steps)
    ending.ended(guard.watch(), guard)


def _sized(found: kept.Kept, frame: dict[str, object]) -> kept.Kept:
    """With the window of the client that attaches, so that its size is right before the command looks."""
    if frame["type"] != "attach":
        return found
    rows, columns = attach.check(frame)
    if not rows or not columns:
        return found
    process = replace(found.config.spec.process, rows=rows, columns=columns)
    return replace(found, config=replace(found.config, spec=replace(found.config.spec, process=process)))


def _first(session: Session, task: ShimTask) -> tuple[dict[str, object], policy.Credentials]:
    """The first frame, a launch or an attach, and who sent it. Raises ProtocolError, NotPermitted."""
    session.await_first()
    frame, descriptors, credentials = session.hello()
    if descriptors:
        close_all(descriptors)
        raise ProtocolError("cannot read the first frame: a launch brings no descriptors")
    if frame.get("type") == "attach":
        attach.check(frame, task.id)
        return frame, credentials
    known = frame.keys() - {"again"} == {"type", "version", "container"} and frame.get("again", True) is True
    if not known or (frame["type"], frame["version"]) != ("launch", VERSION):
        raise ProtocolError(
            f"cannot read the first frame: it is not a version {VERSION} launch",
            hint="use a dkrctl of the daemon's release",
        )
    if frame["container"] != task.id:
        raise attach.other_container(task.id)
    return frame, credentials


def _refuse(task: ShimTask, error: DkrError, uid: int, session: Session, found: kept.Kept | None) -> None:
    """It came to nothing before anything was made."""
    begun.count_failure(task, error)
    task.log.audit("not started", id=task.id, uid=uid, code=error.code, rule=error.rule, cause=error.message)
    if found is not None:
        after = kept.put_off(task, error, found.state) if task.unasked else found.state
        found.let_go()
        # The launcher may have been told that it is being built.
        begun.tell(task, {"type": "state", "state": after})
    elif task.unasked:
        left = kept.put_off_untaken(task, error)
        if left is not None:
            begun.tell(task, {"type": "state", "state": left})
    session.send({"type": "error", "error": error.to_wire()})
    session.close()


def _prepare(task: ShimTask, found: kept.Kept, recorder: Recorder, *, again: bool) -> _Made:
    """The run directory, the cgroup, the log and the pipes. Raises OSError; then they are gone, and the claim is still held."""
    config, claim = found.config, found.claim
    with contextlib.ExitStack() as undo:
        listener = begun.run_directory(task, recorder, undo)
        container = containers.enter(task, config, found.owner, claim, recorder)
        undo.callback(cleanup.remove_cgroups, container.cgroup.paths)
        undo.callback(container.cgroup.close)
        log = log_drivers.make(task, config, container, found.owner, recorder)
        if log is not None:
            undo.callback(log.close)
        tty = pipes.tty(config)
        recorder.begin("pipes", told.pipes(tty))
        left = tuple(number for number in (0, 1, 2) if number not in tty)
        theirs, ours = pipes.make(left, config.open_stdin, container.base)
        undo.callback(theirs.close)
        undo.callback(pipes.close, ours)
        before = restarts.begun(
            found.state, config.restart, unwell=config.restarts_unwell, asked=not task.unasked
        )
        before["limits"] = bounds.told(config.limits)
        state = begun.creating(task, container, before, recorder, again=again)
        undo.pop_all()
    return _Made(container, state, listener, log, theirs, ours, tty)
