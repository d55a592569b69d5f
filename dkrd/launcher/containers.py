"""The containers that live: who owns them, their shims and inits by pidfd, and how each one's end is found
out.

A shim tells by its reports what becomes of its container. When a shim dies first:

  shim's pidfd ─► drain reports ─┬─ gone, or stopped ──────────────► forget
                                 ├─ init's pidfd known ─► init ends ─► read its exit (PIDFD_GET_INFO) ─┐
                                 └─ no init ────────────────────────► shim-lost ────────────────────── ┴►
                                 collect
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass
from functools import partial

from common import clock, frames, restarts
from common.errors import DkrError, ProtocolError
from dkrd.launcher import pidfd, wire
from dkrd.launcher.kept import RESTING, Kept
from dkrd.launcher.runner import open_child
from dkrd.launcher.turns import Turns
from dkrd.shim import state as shim_state
from dkrd.shim.kept import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dkrd.launcher.loop import Loop
    from dkrd.launcher.restarts import Restarts
    from dkrd.launcher.runner import Runner
    from dkrd.launcher.turns import Call
    from dkrd.log import Log

    Collect = Callable[[str, dict[str, object]], object]
    Tell = Callable[[dict[str, object]], None]
    LetGo = Callable[[int, str], None]

_BATCH = 64  # reports read in one go, so that nothing else waits long
_REAP_SECONDS = 10.0  # how long a dead init may stay a zombie before its exit counts as lost
_HEX = frozenset("0123456789abcdef")
_LOOK_AGAIN_SECONDS = 1.0  # for an init, where there was no descriptor for it
SHIM_LOST: dict[str, object] = {"code": None, "signal": None, "cause": "shim-lost"}


def is_id(value: object) -> bool:
    """Whether `value` is a container's id: 64 lower-case hex digits. Only such a text becomes part of a path."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


@dataclass(slots=True)
class Container:
    """One container that lives, or is being built.

    uid    who counts as its owner
    shim   pidfd of the shim; -1 where it has ended
    child  the shim is our own child, and ours to reap
    init   pidfd of the container's init, or -1
    stood    it was there before its shim was forked
    state    the last state the shim told, or None
    link     the connection to an adopted shim's socket
    """

    id: str
    uid: int
    shim: int = -1
    child: bool = False
    stood: bool = False
    init: int = -1
    state: dict[str, object] | None = None
    link: socket.socket | None = None
    gone: bool = False

    @property
    def called(self) -> str:
        """For people: its name, where its shim has told that."""
        return str((self.state or {}).get("name") or self.id[:12])

    @property
    def rests(self) -> bool:
        """Whether it was told that nothing of it runs: it was made only, has ended, or is gone."""
        return self.gone or (self.state is not None and self.state.get("status") in RESTING)


class Containers:
    """The table of what lives. `tell` passes a message on to the api, `collect` cleans up after a dead shim."""

    def __init__(self, loop: Loop, log: Log, runner: Runner, run_dir: str) -> None:
        self._loop = loop
        self._log = log
        self._runner = runner
        self._run_dir = run_dir
        self._table: dict[str, Container] = {}
        self.kept = Kept()
        self._turns = Turns(loop)
        self._collect: Collect = lambda container_id, how: None
        self._tell: Tell = lambda message: None
        self._let_go: LetGo = lambda uid, container_id: None
        self._look: Callable[[], object] = lambda: None
        self._exits_are_told = pidfd.tells_exits()
        self._reports, self.reports_end = wire.pair()
        self._loop.watch(self._reports.fileno(), select.EPOLLIN, self._on_reports)

    def connect(
        self, collect: Collect, tell: Tell, let_go: LetGo, look: Callable[[], object], again: Restarts
    ) -> None:
        """Set what cleans up after a dead shim (in a job; None: nothing is left), what speaks to the api, what
        removes the cgroup that a shim was in, by uid and id, what adopts containers that are not known here, and what
        restarts those that are to be.
        """
        self._restarts = again
        self._collect = collect
        self._tell = tell
        self._let_go = let_go
        self._look = look

    def __contains__(self, container_id: object) -> bool:
        return container_id in self._table

    def is_guarded(self, container_id: str) -> bool:
        """Whether it has a shim and has not stopped."""
        container = self._table.get(container_id)
        return container is not None and container.shim >= 0 and not container.rests

    def is_leaving(self, container_id: str) -> bool:
        """Whether it has ended, and its guardian has not."""
        container = self._table.get(container_id)
        return container is not None and container.rests

    def may_be_restarted(self, container_id: str) -> bool:
        """Whether it may be started again unasked, as far as is known here: of what no guardian stands for nothing is."""
        container = self._table.get(container_id)
        return container is None or restarts.may_follow(container.state or {})

    def is_being_built(self, container_id: str) -> bool:
        """Whether a shim was forked for it that has not yet said whether it runs."""
        container = self._table.get(container_id)
        if container is None or container.shim < 0:
            return False
        return container.state is None or container.state.get("status") == "creating"

    def when_free(self, container_id: str, seconds: float, call: Call) -> None:
        """Call `call(None)` when no shim stands for the container, at once or within so many seconds; else with a Conflict,
        as soon as it is known that it runs. Of several that wait one is called; the others wait for what comes of it.
        """
        self._when_free(container_id, time.monotonic() + seconds, call)

    def _when_free(self, container_id: str, ends: float, call: Call) -> None:
        container = self._table.get(container_id)
        if container is None:
            call(None)
        elif container.rests or self.is_being_built(container_id):
            self._turns.wait(container_id, ends, call)
        else:
            call(running(container.called))

    def live_of(self, uid: int) -> int:
        """How many live containers count for `uid`."""
        return sum(1 for container in self._table.values() if container.uid == uid and not container.rests)

    def states(self) -> list[dict[str, object]]:
        """The last state of each container that is there; a shim may still be about to end when it is gone."""
        standing = (container for container in self._table.values() if not container.gone)
        return [container.state for container in standing if container.state is not None]

    # --- becoming

    def add_child(self, container_id: str, uid: int, pid: int, *, stood: bool = False) -> None:
        """Guard over a shim just forked; OSError where there is no room for one more descriptor. `stood`: for a container
        that was there before.

        The pid cannot be reused before its pidfd is open: nobody but us reaps it.
        """
        container = Container(container_id, uid, open_child(pid), child=True, stood=stood)
        self._table[container_id] = container
        self._watch_shim(container)

    def adopt(self, container: Container) -> None:
        """Guard over a container of an earlier launcher; one without a shim is waited for and collected."""
        self._table[container.id] = container
        if container.state is not None:
            self._restarts.note(container.state)
        if container.link is not None:
            fd = container.link.fileno()
            self._loop.watch(fd, select.EPOLLIN, partial(self._on_link, container))
        if container.shim >= 0:
            self._watch_shim(container)
        else:
            self._orphaned(container)

    def collect_remains(self, container_id: str) -> None:
        """Clean up what is left of a container that no process stands for any more."""
        container = Container(container_id, -1)
        self._table[container_id] = container
        self._finish(container, SHIM_LOST)

    # --- reports

    def has_reports(self) -> bool:
        """Whether there are reports of shims of ours that are not read yet."""
        return self._readable(self._reports)

    def _on_reports(self, events: int) -> None:
        self._drain(self._reports, None)

    def _on_link(self, container: Container, events: int) -> None:
        if container.link is not None and not self._drain(container.link, container.id):
            self._close_link(container)  # its pidfd tells the end

    def _drain(self, sock: socket.socket, only: str | None) -> bool:
        """Take the reports that wait; False at the end of the connection. `only`: whom this shim may speak
        of.
        """
        for _ in range(_BATCH):
            try:
                received = wire.receive(sock)
            except BlockingIOError:
                return True
            except ProtocolError as err:
                self._log.error(err.message)
                continue
            except OSError:
                return False
            if received is None:
                return False
            data, descriptors = received
            try:
                self._report(frames.loads_object(data), descriptors, only)
            except (ValueError, ProtocolError) as err:
                self._log.error(f"cannot take a shim's report: {err}")
            finally:
                wire.close_all(descriptors)
        return True

    def _report(self, message: dict[str, object], descriptors: list[int], only: str | None) -> None:
        """One report; descriptors that are kept are taken out of the list."""
        kind = message.get("type")
        told = message.get("state")
        told_id = told.get("id") if isinstance(told, dict) else message.get("id")
        if not isinstance(told_id, str) or not is_id(told_id) or (only is not None and told_id != only):
            raise ProtocolError("it names no container, or another one's")
        container = self._table.get(told_id)
        if container is None:
            raise ProtocolError(f"nobody knows container {told_id}")
        if kind == "gone":
            container.gone = True
            self._gone(told_id)
        elif kind == "state" and isinstance(told, dict):
            container.state = told
            self._take_init(container, descriptors)
            self.tell_state(told)
            if told.get("status") == "running":
                self._turns.refuse(container.id, running(container.called))
        elif kind in ("event", "failed", "steps"):
            self._tell(message)
        else:
            raise ProtocolError(f"its type is none of a report: {kind!r}")

    def _take_init(self, container: Container, descriptors: list[int]) -> None:
        if not descriptors:
            return
        old, container.init = container.init, descriptors.pop(0)
        if old >= 0:
            os.close(old)

    # --- ending

    def _watch_shim(self, container: Container) -> None:
        self._loop.watch(container.shim, select.EPOLLIN, partial(self._on_shim_end, container))

    def _on_shim_end(self, container: Container, events: int) -> None:
        self._loop.forget(container.shim)
        in_order = False
        if container.child:
            status = os.waitid(os.P_PIDFD, container.shim, os.WEXITED)
            in_order = status is not None and (status.si_code, status.si_status) == (os.CLD_EXITED, 0)
        os.close(container.shim)
        container.shim = -1
        self._let_go(container.uid, container.id)
        # What it told before its end counts, and stands in the socket's queue by now.
        while self._readable(self._reports):
            self._drain(self._reports, None)
        if container.link is not None:
            self._drain(container.link, container.id)
            self._close_link(container)
        stands = os.path.lexists(f"{self._run_dir}/containers/{container.id}")
        if container.gone or (container.rests and not stands):
            known = container.state or {}
            if known.get("status") == "stopped" and known.get("rm") and not container.gone:
                self._gone(container.id)  # it died before it could say so
            self._forget(container)
        elif in_order and container.state is None and not stands:
            # It refused before there was anything: the client knows, the api has to be told.
            if not container.stood:
                self._gone(container.id)
            self._forget(container)
        elif in_order and container.stood and (container.state is None or container.rests):
            # It did nothing, or has cleaned up: what stands may be another's, who was forked by the launcher before.
            self._forget(container)
            self._look()
        else:
            self._log.error("a shim died before its work was done", id=container.id)
            self._orphaned(container)

    @staticmethod
    def _readable(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def _close_link(self, container: Container) -> None:
        if container.link is not None:
            self._loop.forget(container.link.fileno())
            container.link.close()
            container.link = None

    def _orphaned(self, container: Container) -> None:
        """The shim is dead: wait for init where there is one, else the container has ended unseen."""
        known = container.state
        if container.rests and known is not None:
            told = known.get("exit")
            self._finish(container, told if isinstance(told, dict) else SHIM_LOST)
            return
        if container.init < 0 and known is not None:
            try:
                container.init = pidfd.open_verified(known.get("pid"), known.get("pidStartTime"))
            except OSError as err:
                # Whether it runs cannot be told for want of a descriptor: to collect it would be to end it.
                self._log.error(f"cannot look for its init: {err.strerror}", id=container.id)
                self._loop.later(_LOOK_AGAIN_SECONDS, partial(self._orphaned, container))
                return
        if container.init < 0:
            self._finish(container, SHIM_LOST)
            return
        self._loop.watch(container.init, select.EPOLLIN, partial(self._on_init_end, container))

    def _on_init_end(self, container: Container, events: int) -> None:
        if self._exits_are_told and not events & select.EPOLLHUP:
            # A zombie. Its exit can be read once PID 1 has reaped it, which is when POLLHUP comes.
            self._loop.watch(container.init, 0, partial(self._on_init_reaped, container))
            self._loop.later(_REAP_SECONDS, partial(self._on_init_reaped, container, 0))
        else:
            self._on_init_reaped(container, events)

    def _on_init_reaped(self, container: Container, events: int) -> None:
        if container.init < 0:
            return  # done already: this is the timer
        self._loop.forget(container.init)
        how = pidfd.exit_of(container.init) or SHIM_LOST
        os.close(container.init)
        container.init = -1
        self._finish(container, how)

    def _finish(self, container: Container, how: dict[str, object]) -> None:
        """Write down and tell the end that no shim could, then clean up in a job."""
        if container.state is not None and not container.rests:
            container.state = ended = self._restarts.ended(container.state, how)
            # The file is the shim's, but the shim is dead. A directory that is gone needs no file, and a full
            # disk must not end the launcher.
            with contextlib.suppress(OSError):
                path = f"{self._run_dir}/containers/{container.id}/state.json"
                shim_state.write_file(path, frames.dumps(ended))
            self.tell_state(ended)
        self._log.audit("collected", id=container.id, cause=how.get("cause"), code=how.get("code"))
        work = partial(self._collect, container.id, how)
        try:
            self._runner.submit("collect", work, partial(self._on_collected, container))
        except DkrError as err:
            self._on_collected(container, None, err)

    def _on_collected(self, container: Container, value: object, error: DkrError | None) -> None:
        if error is not None:
            self._log.error(f"cannot collect container {container.id}: {error.message}", errorCode=error.code)
        elif value is None and not container.gone:
            container.gone = True
            self._gone(container.id)
        elif isinstance(value, dict) and (
            container.state is None or container.state.get("status") != value.get("status")
        ):
            self.tell_state(value)  # cut off by a power cut, and kept; or never begun
        self._forget(container)

    def removed(self, container_id: str) -> None:
        """Tell that nothing is left of a container that a client had removed."""
        self._gone(container_id)

    def tell_state(self, state: dict[str, object]) -> None:
        """Tell how it is with a container."""
        self.kept.note(state)
        self._restarts.note(state)
        self._tell({"type": "state", "state": state})

    def _gone(self, container_id: str) -> None:
        self.kept.forget(container_id)
        self._restarts.forget(container_id)
        self._tell({"type": "gone", "id": container_id, "time": clock.now()})

    def _forget(self, container: Container) -> None:
        if self._table.get(container.id) is container:
            del self._table[container.id]
        if container.init >= 0:
            self._loop.forget(container.init)
            os.close(container.init)
            container.init = -1
        self._close_link(container)
        if container.state is None:
            self._restarts.quiet(container.id)
        self._turns.pass_on(container.id, self._when_free)
