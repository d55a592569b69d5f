"""The guardian's watch over a running container: its exit, its clients, its time limit, its launcher.

One thread, one loop. Nothing here is on the way of the container's bytes: those go through the caller's own
descriptors, until somebody attaches (relay.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from functools import partial
from typing import TYPE_CHECKING

from common.errors import BadRequest
from dkrd.runtime import cgroups, signals
from dkrd.shim import masks, restarting
from dkrd.shim.asks import Asks
from dkrd.shim.attach import Attaching
from dkrd.shim.called import Called, Renaming
from dkrd.shim.clients import Clients, Deeds, is_integer
from dkrd.shim.copies import Copies
from dkrd.shim.execs import Execs
from dkrd.shim.exits import Exit
from dkrd.shim.halting import Halting
from dkrd.shim.health import Health
from dkrd.shim.inside import Place
from dkrd.shim.pausing import Pausing
from dkrd.shim.stopping import Stopping
from dkrd.shim.updating import Bounding

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from dkrd.loop import Loop
    from dkrd.runtime.build import Built
    from dkrd.shim.asks import Ask, Handler
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.outlets import Outlets
    from dkrd.shim.session import Session
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

# When a signal that was blocked counts as dropped: after so many looks, 20 ms apart, that find it neither waiting nor wanted.
_LOOK_SECONDS = 0.02
_MISSES = 3
_MISSES_OF_BUSY = 25
_LOOKS = 100  # what waits for longer is held back on purpose

# What a signal does by default; signal(7). The rest ends the process.
_IGNORED = frozenset((signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))
_STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


def told_to_end() -> int:
    """From here on SIGTERM does not end this guardian but makes the descriptor returned readable: whoever shuts the host
    down (dkr-containers.service, or systemd at the very end) means the container.
    """
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signals.wake_by(signal.SIGTERM)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


class Guard:
    """Watches one container until it has ended.

    outlets   of the command's stdio
    clients   its sessions
    on_told   called when they have heard of the end, and all that the command wrote was read
    handlers  of what it can be asked for, besides what the guard itself knows
    """

    def __init__(
        self,
        loop: Loop,
        task: ShimTask,
        config: Config,
        container: Container,
        built: Built,
        state: State,
        listener: socket.socket,
        outlets: Outlets,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._config = config
        self._container = container
        self._state = state
        self._built = built
        self._loop = loop
        owner = state.values["uid"]
        assert isinstance(owner, int)
        name = Called(state)
        names = task.id, name
        resized = partial(self._deliver, signal.SIGWINCH)
        deeds = Deeds(self._signal, resized, self._client_gone, self._state.note)
        self.clients = Clients(loop, names, outlets, deeds)
        self.on_told: tuple[Callable[[], None], ...] = ()
        self._attaching = Attaching(loop, task, name, owner, self.clients)
        self._pausing = Pausing(loop, task, state, container.cgroup.paths, self._act)
        self._halting = Halting(task, config, state)
        # Who is to end has to run.
        self._stopping = Stopping(
            loop, task, config, name, self._ask_to_end, self._kill, self._pausing.resume, self._halting.halt
        )
        place = Place(loop, task, config, container, built, state)
        self._execs = Execs(place, owner)
        self._health: Health | None = None
        self._copies = Copies(place, owner)
        handlers = {**handlers, **self._own(task, name), **self._watched(place)}
        self._asks = Asks(loop, listener, task, state, built.pidfd, handlers)
        self._ended = False
        self._killed = False
        self._as_if: int | None = None

    def _own(self, task: ShimTask, name: Called) -> dict[str, Handler]:
        """What the guard itself knows to answer."""
        config, container, state = self._config, self._container, self._state
        bounds = Bounding(task, container.directory, config, container.cgroup.paths, name)
        return {
            "attach": self._attaching.ask,
            "copy": self._copies.ask,
            "exec": self._execs.ask,
            "execs": self._execs.list,
            "exec-kill": self._execs.kill,
            "kill": self._asked_to_kill,
            "rename": Renaming(task, container.directory, state).ask,
            "update": restarting.Updating(task, container.directory, config, state, name, bounds).ask,
            "pause": self._pausing.pause,
            "unpause": self._pausing.unpause,
            "stop": self._stopping.ask,
        }

    def _watched(self, place: Place) -> dict[str, Handler]:
        """Of one that has a health check."""
        check = self._config.health
        if check is None:
            return {}
        health = Health(place, check, self._unwell, lambda: self._stopping.cause is not None)
        self._health = health
        self._pausing.on_hold, self._pausing.on_go = health.hold, health.go_on
        return {"health": health.ask}

    def watch(self) -> Exit:
        """Serve until init has ended; reap it; say how."""
        self._loop.watch(self._built.pidfd, select.EPOLLIN, self._init_ended)
        self._asks.serve()
        if self._config.timeout is not None:
            self._loop.later(self._config.timeout, lambda: self._stopping.begin("timeout"))
        if self._health is not None:
            self._health.begin()
        told = told_to_end()
        self._loop.watch(told, select.EPOLLIN, lambda _events: self._told(told))
        while not self._ended:
            self._loop.turn(None)
        if self._health is not None:
            self._health.end()
        return self._reap()

    def tell_health(self, session: Session) -> None:
        """Have the client of `session` told when its health has changed."""
        if self._health is not None:
            self._health.on_change = lambda status: session.send({"type": "health", "status": status})

    def _unwell(self, wish: str) -> None:
        """It is unhealthy, and is not to go on so. Whoever starts it again by a policy knows this end by its cause."""
        self._stopping.begin("unhealthy", seconds=0 if wish == "kill" else None)

    def _asked_to_kill(self, ask: Ask) -> dict[str, object]:
        """A signal for the command, from whose container it is."""
        number = ask.body.get("signal")
        if set(ask.body) != {"type", "signal"} or not is_integer(number, 1, 64):
            raise BadRequest("cannot read the ask: kill has a signal's number, and no further keys")
        self._signal(number)
        return {}

    def _told(self, pipe: int) -> None:
        """SIGTERM: whoever stops the containers' unit means the container, in order. Other signals pass here too."""
        if signal.SIGTERM in os.read(pipe, 64):
            self._stopping.begin("stopped")

    def end(self, ending: Exit) -> bool:
        """Tell the clients, who get the rest of the output before; False where `settle` has to follow."""
        self._attaching.end()
        self._stopping.end()
        self._execs.end()
        self._copies.end()
        all_told = self.clients.end({"type": "exited", "exit": ending.to_wire()})
        for call in self.on_told:
            call()
        return all_told

    def settle(self, ending: Exit) -> None:
        """Tell the client that was about to give up the terminal when the command ended. May wait 2 s."""
        self.clients.settle({"type": "exited", "exit": ending.to_wire()})

    def _init_ended(self, events: int) -> None:
        self._ended = True

    def _client_gone(self, wish: str) -> None:
        """The last client vanished."""
        if self._is_over():
            return  # it ended in the same moment, by itself
        if wish != "keep":
            self._halting.halt()
        if wish == "stop":
            self._stopping.begin("client-gone")
        elif wish == "kill":
            self._stopping.begin("client-gone", seconds=0)

    def _is_over(self) -> bool:
        """Whether init has ended, told or not yet told by the loop."""
        return (
            self._ended
            or os.waitid(os.P_PIDFD, self._built.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )

    def _kill(self) -> None:
        self._state.note("kill", signal=int(signal.SIGKILL))
        self._send(signal.SIGKILL)
        # Without a pid namespace of its own, init's end is not the end of its children.
        if "pid" not in self._config.spec.namespaces:
            cgroups.kill(self._container.cgroup.paths)

    def _send(self, number: int) -> None:
        self._killed = self._killed or number == signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._built.pidfd, number)
        if number == signal.SIGKILL:
            self._pausing.killed()

    def _signal(self, number: int) -> None:
        """A signal that somebody wants the command to get."""
        if not self._ended:
            self._state.note("kill", signal=int(number))
        # Also of one that has ended in this moment by itself: who wants its end does not want it restarted.
        self._halting.signalled(number)
        if not self._ended:
            self._deliver(number)

    def _ask_to_end(self, number: int) -> None:
        self._state.note("kill", signal=int(number))
        self._act(number)

    def _deliver(self, number: int) -> None:
        """A signal for the command, from a client; one that is paused gets it when it goes on."""
        if not self._pausing.holds(number):
            self._act(number)

    def _act(self, number: int) -> None:
        """Send a signal so that it does what it would do to the same command outside a container.

        The kernel drops a signal to PID 1 of a pid namespace whose action is the default one
        (SIGNAL_UNKILLABLE, pid_namespaces(7)): `sleep 100` could not be interrupted. So where the command
        neither catches, ignores, blocks nor awaits it, the default is done for it, and the exit says the signal
        that was sent.
        """
        if self._ended:
            return
        if (
            "pid" not in self._config.spec.namespaces
            or number in (signal.SIGKILL, signal.SIGSTOP)
            or number in _IGNORED
            or self._config.init  # which forwards all
        ):
            self._send(number)
        elif masks.answers(self._built.pid, number):
            blocked = masks.blocks(self._built.pid, number)
            self._send(number)
            if blocked:
                self._look_after(number)
        elif number in _STOPPING:
            self._send(signal.SIGSTOP)
        else:
            self._as_if = self._as_if or number
            self._send(signal.SIGKILL)

    def _look_after(self, number: int, looks: int = 0, misses: int = 0) -> None:
        """See what becomes of a signal that was blocked. A shell blocks all while it starts a command (vfork(2)): what comes then
        waits, and is dropped when it is unblocked, if nobody has asked for it. Outside it would have ended the shell.

        Who takes it by sigwait(3) shows no mask for a moment: so only what is seen several times counts.
        """
        if looks < _LOOKS:
            self._loop.later(_LOOK_SECONDS, lambda: self._look_again(number, looks + 1, misses))

    def _look_again(self, number: int, looks: int, misses: int) -> None:
        pid = self._built.pid
        if self._ended or (not masks.holds(pid, number) and masks.answers(pid, number)):
            return
        misses = 0 if masks.holds(pid, number) else misses + 1
        if misses >= (_MISSES if masks.sleeps(pid) else _MISSES_OF_BUSY):
            self._deliver(number)
        else:
            self._look_after(number, looks, misses)

    def _reap(self) -> Exit:
        _, status = os.waitpid(self._built.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        cause = self._stopping.cause or ("oom" if self._starved(code) else None)
        self._halting.ended_by(self._as_if or (-code if code < 0 else None))
        if code >= 0:
            return Exit(code, None, cause or "exited")
        number = self._as_if if self._as_if is not None and code == -signal.SIGKILL else -code
        return Exit(None, number, cause or "signalled")

    def _starved(self, code: int) -> bool:
        """Whether the kernel killed init for want of memory; with --init the command, and init's code says it.

        The kernel counts what it kills, not whom: a SIGKILL of ours says who it was.
        """
        killed = code == -signal.SIGKILL or (self._config.init and code == 128 + signal.SIGKILL)
        return killed and not self._killed and cgroups.oom_kills(self._container.cgroup.paths) > 0
