"""The sessions of one container: the client that started it, and those that attached.

Who holds the terminal's master, and what moves it on:

    started with a terminal ─► HOLDING ─ somebody attaches: `yield` ─► YIELDING ─ `relay` ─► RELAYED
                                  └────────── it detaches or vanishes ──────┴───────────────► (nobody)
    attaches ─► WAITING ─ the guardian has the master ─► RELAYED
                   └───── not within YIELD_SECONDS: refused, busy

As long as a client holds the master the guardian never reads it: two readers would tear what is written
apart. From then on the guardian relays, to nobody too, until the end.
"""

from __future__ import annotations

import select
import signal
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from common.errors import Conflict, DkrError, LimitReached, ProtocolError
from dkrd.shim.relay import STUCK_SECONDS, Relay, Stream
from dkrd.shim.terminal import Terminal, Window

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    from dkrd.loop import Loop, Timer
    from dkrd.shim.session import Session

YIELD_SECONDS = 2.0
MAX_CLIENTS = 32
MAX_SIZE = 65535  # rows or columns; struct winsize, ioctl_tty(2)


class Role(StrEnum):
    """What a client has of the terminal."""

    PLAIN = "plain"  # there is none
    HOLDING = "holding"
    YIELDING = "yielding"
    WAITING = "waiting"
    RELAYED = "relayed"


@dataclass(slots=True, eq=False)
class Client:
    """One session.

    wish  what is done when it vanishes as the last one: stop, kill or keep
    size  rows and columns of its own window; 0 where it does not know
    """

    session: Session
    wish: str
    role: Role
    stream: Stream
    size: tuple[int, int] = (0, 0)
    timer: Timer | None = field(default=None)


class Clients:
    """All sessions.

    names    the container's id and name
    master   descriptor of the terminal's master, or -1
    typed    whether the terminal is the command's input too, and not its output alone
    deliver  sends a signal to the command
    gone     called with the wish of the last client, when it vanished
    """

    def __init__(
        self,
        loop: Loop,
        names: tuple[str, str],
        master: int,
        typed: bool,
        deliver: Callable[[int], None],
        gone: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._id, self._name = names
        self._typed = typed
        self._deliver = deliver
        self._gone = gone
        self._clients: list[Client] = []
        self._has_terminal = master >= 0
        self._terminal = Terminal(master)
        self._relay = Relay(loop, self._terminal, self._drop)
        self._window = Window(loop, self._terminal, self._resized)
        self._relaying = False
        self._yielded = 0.0  # when the holder was asked

    def begin(self, session: Session, wish: str) -> None:
        """The client that started the container; it may have vanished while that was built."""
        role = Role.HOLDING if self._has_terminal else Role.PLAIN
        client = Client(session, wish, role, Stream(types=self._typed))
        self._enter(client)
        if not session.open:
            self._vanish(client)

    def check_attach(self) -> None:
        """Raise Conflict where there is nothing to attach to, LimitReached where there are too many."""
        if not self._has_terminal:
            raise Conflict(
                f"cannot attach to {self._name}: its input and output are its caller's own descriptors",
                rule="no-terminal",
                hint="run it with -t to attach to it later",
            )
        if len(self._clients) >= MAX_CLIENTS:
            raise LimitReached(
                f"cannot attach to {self._name}: {MAX_CLIENTS} clients have", hint="detach some"
            )

    def attach(self, session: Session, wish: str, types: bool, size: tuple[int, int]) -> None:
        """A client that may attach. Raises as `check_attach`."""
        self.check_attach()
        client = Client(session, wish, Role.WAITING, Stream(types=types and self._typed), size)
        self._enter(client)
        if self._relaying:
            self._admit()
            return
        client.timer = self._loop.later(YIELD_SECONDS, partial(self._refuse_busy, client))
        for holder in [c for c in self._clients if c.role is Role.HOLDING]:
            self._ask_to_yield(holder)

    # --- frames

    def _enter(self, client: Client) -> None:
        session = client.session
        self._clients.append(client)
        if session.open:
            fd = session.fileno()
            session.on_close = lambda: self._loop.forget(fd)
            self._loop.watch(fd, select.EPOLLIN, partial(self._serve, client))

    def _serve(self, client: Client, events: int) -> None:
        """One frame of a client's, or its end. One that breaks the protocol is no client any more."""
        try:
            frame = client.session.next()
            if frame is None:
                self._vanish(client)
            else:
                self._obey(client, frame)
        except BlockingIOError:
            return
        except DkrError as err:
            client.session.send({"type": "error", "error": err.to_wire()})
            self._vanish(client)

    def _obey(self, client: Client, frame: dict[str, object]) -> None:
        kind, keys = frame.get("type"), set(frame)
        number, rows, columns = frame.get("signal"), frame.get("height"), frame.get("width")
        if kind == "signal" and keys == {"type", "signal"} and is_integer(number, 1, 64):
            self._deliver(number)
        elif kind == "detach" and keys == {"type"}:
            self._leave(client)
        elif kind == "relay" and keys == {"type"} and client.role is Role.YIELDING:
            self._take_over(client)
        elif kind == "resize" and keys == {"type", "height", "width"} and self._may_resize(client):
            if not is_integer(rows, 0, MAX_SIZE) or not is_integer(columns, 0, MAX_SIZE):
                raise ProtocolError("cannot resize: height and width are no numbers of rows and columns")
            client.size = (rows, columns)
            if client.role is Role.RELAYED:
                self._window.know(client, *client.size)
        else:
            raise ProtocolError(f"cannot act on a frame of type {str(kind)[:80]!r} now")

    @staticmethod
    def _may_resize(client: Client) -> bool:
        """Who holds the master resizes it without us."""
        return client.role in (Role.WAITING, Role.RELAYED)

    def _send(self, client: Client, frame: dict[str, object], descriptor: int = -1) -> bool:
        """Send; False where the client has gone instead."""
        client.session.send(frame, descriptor)
        if not client.session.open:
            self._vanish(client)
        return client.session.open

    # --- the master moves on

    def _ask_to_yield(self, holder: Client) -> None:
        holder.role = Role.YIELDING
        self._yielded = time.monotonic()
        with holder.stream.open() as theirs:
            self._send(holder, {"type": "yield"}, theirs.fileno())

    def _take_over(self, holder: Client | None) -> None:
        """The master is ours now: from a holder that goes on as a client like others, or from one that has
        gone (None).
        """
        self._relaying = True
        self._relay.begin()
        if holder is not None:
            holder.role = Role.RELAYED
            self._relay.add(holder.stream)
            holder.size = self._terminal.size()  # it was the holder's
            self._window.know(holder, *holder.size)
        self._admit()

    def _admit(self) -> None:
        """Those who wait see the terminal from now on, and have it drawn anew."""
        resized, admitted = False, False
        for client in [c for c in self._clients if c.role is Role.WAITING]:
            if client.timer is not None:
                client.timer.cancel()
            with client.stream.open() as theirs:
                attached = {"type": "attached", "id": self._id, "name": self._name, "input": self._typed}
                client.role = Role.RELAYED
                if not self._send(client, attached, theirs.fileno()):
                    continue
            self._relay.add(client.stream)
            resized = self._window.know(client, *client.size) or resized
            admitted = True
        if admitted and not resized:
            self._window.redraw()

    def _refuse_busy(self, client: Client) -> None:
        error = Conflict(
            f"cannot attach to {self._name}: the client that has its terminal does not give it up",
            rule="busy",
            hint="it may be stopped (Ctrl-Z, fg); try again when it goes on, or end it",
        )
        client.session.send({"type": "error", "error": error.to_wire()})
        self._leave(client)

    def _resized(self) -> None:
        """The kernel tells who has the terminal as the controlling one; of a terminal for output nobody has."""
        if not self._typed:
            self._deliver(signal.SIGWINCH)

    # --- going

    def _leave(self, client: Client) -> None:
        """A client less, for whatever reason; nothing follows from it for the command."""
        if client not in self._clients:
            return
        self._clients.remove(client)
        client.session.close()
        if client.timer is not None:
            client.timer.cancel()
        if client.role in (Role.HOLDING, Role.YIELDING):
            self._take_over(None)
        if client.stream.sock is not None:
            self._relay.leave(client.stream)
        if client.role is Role.RELAYED:
            self._window.forget(client)

    def _vanish(self, client: Client) -> None:
        """It has gone without `detach`: its wish counts where it was the last one."""
        if client not in self._clients:
            return
        self._leave(client)
        if not self._clients:
            self._gone(client.wish)

    def _drop(self, stream: Stream) -> None:
        """It took nothing while others waited for it."""
        for client in [c for c in self._clients if c.stream is stream]:
            error = LimitReached(
                f"cannot go on with {self._name}: what it wrote was not read for {STUCK_SECONDS:g} s, and "
                "others are attached to it",
                hint="attach again",
            )
            client.session.send({"type": "error", "error": error.to_wire()})
            self._leave(client)

    # --- the end

    def end(self, exited: dict[str, object]) -> bool:
        """The command has ended: every client gets the rest and the frame `exited`. False where one was just
        asked to yield: who reads the rest is not known yet, `settle` finds out.
        """
        for client in [c for c in self._clients if c.role is Role.WAITING]:
            self._clients.remove(client)
            client.session.send({"type": "error", "error": has_ended(self._name).to_wire()})
            client.session.close()
        if any(client.role is Role.YIELDING for client in self._clients):
            return False
        if self._relaying:
            self._relay.finish()
        for client in self._clients:
            client.session.send(exited)
            client.session.close()
        self._clients.clear()
        return True

    def settle(self, exited: dict[str, object]) -> None:
        """As `end`, once the holder has answered or its time is up; waits for that."""
        for holder in [c for c in self._clients if c.role is Role.YIELDING]:
            poll = select.poll()
            poll.register(holder.session, select.POLLIN)
            while holder.role is Role.YIELDING and holder in self._clients:
                left = self._yielded + YIELD_SECONDS - time.monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    self._take_over(holder)
                else:
                    self._serve(holder, 0)
        self.end(exited)


def has_ended(name: str) -> Conflict:
    """Why nobody can attach to a container that was running a moment ago."""
    return Conflict(f"cannot attach to {name}: it has ended", rule="ended")


def is_integer(value: object, low: int, high: int) -> TypeGuard[int]:
    """Whether `value` is a whole number between these two; true and false are none."""
    return type(value) is int and low <= value <= high
