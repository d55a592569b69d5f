"""A container that does not run, held open for copies by a porter: its root as at its start, and one process in it that does nothing.

    launcher ── fork ─► porter   locks the container's files; listens in run_dir/copies/<id>
                          │      builds as a start does (runtime/build.py), but init rests: nothing is executed
                          │      copies (copies.py), as of a container that runs, one process for each
                          ▼
                        when nobody copies any more, or SIGTERM, or the launcher's end: init ends, and with it the mounts;
                        cgroup and directory go

The files of a container must not be mounted twice: the lock (cleanup.take_alone) is held until the mounts are gone. A porter that is
killed is followed by the processes that copy, and by init; what it leaves besides is removed by whoever has the container next, or by
the launcher.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from common import errors
from common.errors import Conflict, DkrError, NotFound
from dkrd import ids
from dkrd.loop import Loop
from dkrd.runtime import errands, failure, signals, syscalls
from dkrd.runtime.limits import UNLIMITED
from dkrd.runtime.steps import Recorder
from dkrd.shim import begun, bounds, cleanup, kept
from dkrd.shim import config as configs
from dkrd.shim import container as containers
from dkrd.shim.asks import Ask, Asks
from dkrd.shim.copies import Copies
from dkrd.shim.descriptors import close_soon
from dkrd.shim.guard import told_to_end
from dkrd.shim.inside import Place
from dkrd.shim.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrd.runtime.build import Built
    from dkrd.settings import Settings
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.task import ShimTask

PATIENCE = 10.0  # seconds for which one is there that nobody asks
_TELL_SECONDS = 2.0  # for which one is there that could not open the container, to say why
_STARTS = "cannot start the container: "


def run(task: ShimTask, launcher: int) -> None:
    """Hold `task.id` open for whoever may copy from or to it, until nobody does. `launcher`: the pid of who has forked us."""
    syscalls.set_name("dkr-porter")
    told = told_to_end()
    signals.when_parent_ends(launcher, signal.SIGTERM)
    directory = f"{task.settings.run_dir}/copies/{task.id}"
    try:
        # Held until this process has ended: nothing is mounted then.
        cleanup.take_alone(task.settings, task.id, "copy from or to")
    except DkrError as err:
        task.log.warning("a container cannot be opened for copies", id=task.id, cause=err.message)
        return
    if os.path.lexists(f"{task.settings.run_dir}/containers/{task.id}"):
        return  # its guardian answers
    grant = cleanup.document(f"{task.settings.state_dir}/containers/{task.id}/grant.json")
    state = cleanup.document(f"{task.settings.state_dir}/containers/{task.id}/state.json")
    owner = grant.get("uid")
    if not isinstance(owner, int) or not state:
        return  # it is going
    try:
        os.mkdir(directory, 0o700)
        listener = begun.listen(directory)
    except OSError as err:
        task.log.error("a container cannot be opened for copies", id=task.id, cause=err.strerror)
        cleanup.remove_run_directory(directory)
        return
    loop = Loop()
    holder = State(directory, socket.socket(fileno=task.reports), dict(state))
    try:
        with _opened(task, grant, holder, owner) as (config, container, built):
            place = Place(loop, task, config, container, built, holder)
            _Porter(place, listener, owner).serve(told)
    except (DkrError, OSError) as err:
        _tell(task, loop, listener, holder, _described(err, str(state.get("name"))))
    finally:
        cleanup.close_door(task.settings, task.id, "close")


def _described(err: DkrError | OSError, name: str) -> DkrError:
    error = failure.describe(err, "open", "open the container")
    what = f"cannot copy from or to {name}: "
    error.message = what + error.message.removeprefix(_STARTS).removeprefix(what)
    return error


@contextlib.contextmanager
def _opened(
    task: ShimTask, grant: dict[str, object], state: State, owner: int
) -> Iterator[tuple[Config, Container, Built]]:
    """The container for the block, without its command. Raises DkrError, OSError."""
    config = _config(task, grant, str(state.values.get("name")))
    recorder = Recorder("porter")
    slot = grant.get("slot")
    # Its lock is that of who starts or removes the container, for whom this must not be in the way of an update.
    claim = ids.Claim(slot, slot * ids.SLOT_IDS, -1) if isinstance(slot, int) else None
    with contextlib.ExitStack() as undo:
        container = containers.enter(task, config, owner, claim, recorder)
        undo.callback(cleanup.remove_cgroups, container.cgroup.paths)
        undo.callback(container.cgroup.close)
        root = kept.root_of(task, config, recorder)
        life, alive = os.pipe2(os.O_CLOEXEC)
        undo.callback(os.close, alive)
        try:
            passed = containers.Passed({}, preserved=(life,), rests=True)
            built = containers.start(task, config, root, container, passed, recorder)
        finally:
            os.close(life)
            close_soon(root.descriptors)
        undo.callback(os.close, built.pidfd)
        undo.callback(errands.end, built.pid, built.pidfd, kill=True)
        container.mounts = built.mounts
        undo.callback(container.let_mounts_go)
        yield config, container, built


def _config(task: ShimTask, grant: dict[str, object], name: str) -> Config:
    """What it is, as a start would have it, but without a terminal. Raises Conflict where its root cannot be had any more."""
    config = configs.read(f"{task.settings.state_dir}/containers/{task.id}/config.json")
    if config.root_kind == "rootfs":
        raise Conflict(
            f"cannot copy from or to {name}: its root was a directory of its caller's, which nobody keeps",
            rule="descriptors",
            hint="copy while it runs",
        )
    kept.check_grant(config, grant, f"cannot copy from or to {name}")
    config = bounds.granted(task, config, grant)
    pids = config.limits.pids
    if pids is not None and pids != UNLIMITED:
        # The process that rests is none of those that were allowed.
        config = replace(config, limits=replace(config.limits, pids=pids + 1))
    process = replace(config.spec.process, terminal=False)
    return replace(config, spec=replace(config.spec, process=process))


class _Porter:
    """At the door of a container that is open."""

    def __init__(self, place: Place, listener: socket.socket, owner: int) -> None:
        self._place = place
        self._copies = Copies(place, owner)
        self._asked = False
        self._over: DkrError | None = None
        handlers = {"copy": self._ask}
        self._asks = Asks(place.loop, listener, place.task, place.state, place.built.pidfd, handlers)

    def _ask(self, ask: Ask) -> dict[str, object]:
        self._asked = True
        return self._copies.ask(ask)

    def serve(self, told: int) -> None:
        """Until nobody copies any more, or `told` is readable: somebody wants the container for themselves."""
        loop, name = self._place.loop, self._place.name
        asked_for = Conflict(
            f"cannot copy from or to {name}: it is being started or removed, or the daemon ends",
            rule="taken",
            hint="try again",
        )
        died = errors.StartFailed(f"cannot copy from or to {name}: what held it open was killed")
        loop.watch(told, select.EPOLLIN, lambda _events: self._end(asked_for))
        loop.watch(self._place.built.pidfd, select.EPOLLIN, lambda _events: self._end(died))
        loop.later(PATIENCE, self._unasked)
        self._asks.serve()
        while self._over is None:
            loop.turn(None)
            if self._is_idle():
                loop.turn(0.0)  # who has come in this moment
                if self._is_idle():
                    return
        self._copies.end(self._over)

    def _is_idle(self) -> bool:
        return self._asked and not self._copies.are_wanted

    def _unasked(self) -> None:
        self._asked = True

    def _end(self, error: DkrError) -> None:
        self._over = self._over or error


def _tell(task: ShimTask, loop: Loop, listener: socket.socket, state: State, error: DkrError) -> None:
    """Say to who asks that the container could not be opened."""
    told: list[bool] = []

    def refuse(ask: Ask) -> dict[str, object]:
        told.append(True)
        raise error

    Asks(loop, listener, task, state, -1, {"copy": refuse}).serve()
    loop.later(_TELL_SECONDS, lambda: told.append(False))
    while not told:
        loop.turn(None)
    loop.turn(0.0)


def clear(settings: Settings, container: str) -> None:
    """Remove what a porter has left that was killed: a job of the launcher's. Raises DkrError, OSError."""
    with contextlib.suppress(NotFound):
        os.close(cleanup.take_alone(settings, container, "close"))
    directory = f"{settings.run_dir}/copies/{container}"
    if os.path.lexists(directory):  # of one that is gone
        cleanup.close_door(settings, container, "close")
