"""The sessions of one container: the client that started it, and those that attached.

Who holds the terminal's master, and what moves it on:

    started with a terminal ─► HOLDING ─ somebody attaches: `yield` ─► YIELDING ─ `relay` ─► RELAYED
                                  └────────── it detaches or vanishes ──────┴───────────────► (nobody)
    attaches ─► WAITING ─ the guardian has the master ─► RELAYED
                   └───── not within YIELD_SECONDS: refused, busy

As long as a client holds the master the guardian never reads it: two readers would tear what is written
apart. From then on the guardian relays, to nobody too, until the end. A container that was started without a
client's descriptors (launching.py) is relayed from its beginning, with a terminal or with pipes.
"""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from common.errors import Conflict, DkrError, LimitReached, ProtocolError
from dkrd.shim.relay import STUCK_SECONDS, Stream
from dkrd.shim.terminal import Window

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    from dkrd.loop import Loop, Timer
    from dkrd.shim.called import Called
    from dkrd.shim.outlets import Outlets
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

    wish     what is done when it vanishes as the last one: stop, kill or keep
    streams  its way through each relay
    size     rows and columns of its own window; 0 where it does not know
    """

    session: Session
    wish: str
    role: Role
    streams: tuple[Stream, ...]
    size: tuple[int, int] = (0, 0)
    timer: Timer | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Deeds:
    """What the clients' doings lead to.

    signal  sends a signal that a client wants to be sent
    resized tells the command that its terminal has another size, where the kernel does not
    gone    called with the wish of the last client, when it vanished
    note    reports what somebody did: `attach`, `detach`
    """

    signal: Callable[[int], None]
    resized: Callable[[], None]
    gone: Callable[[str], None]
    note: Callable[[str], None]


class Clients:
    """All sessions.

    names    the container's id and name
    outlets  of its stdio
    """

    def __init__(
        self,
        loop: Loop,
        names: tuple[str, Called],
        outlets: Outlets,
        deeds: Deeds,
    ) -> None:
        self._loop = loop
        self._id, self._name = names
        self._outlets = outlets
        self._deeds = deeds
        self._clients: list[Client] = []
        self._window = Window(loop, outlets.terminal, self._resized) if outlets.terminal else None
        for relay in outlets.relays:
            relay.on_stuck = self._drop
        self._relaying = False
        self._yielded = 0.0  # when the holder was asked

    def begin(self, session: Session, wish: str) -> None:
        """The client that started the container; it may have vanished while that was built."""
        role = Role.HOLDING if self._outlets.relays else Role.PLAIN
        client = Client(session, wish, role, self._new_streams(types=True))
        self._enter(client)
        if not session.open:
            self._vanish(client)

    def relay_from_the_beginning(self) -> None:
        """No client has held what the command writes to."""
        self._relaying = True
        self._outlets.begin()

    def _new_streams(self, *, types: bool) -> tuple[Stream, ...]:
        """One for each relay; what is sent over the first is for the command, where it takes any."""
        takes = types and self._outlets.typed
        return tuple(Stream(types=takes and not number) for number in range(len(self._outlets.relays)))

    def check_attach(self) -> None:
        """Raise Conflict where there is nothing to attach to, LimitReached where there are too many."""
        if not self._outlets.relays:
            raise Conflict(
                f"cannot attach to {self._name}: its input and output are its caller's own descriptors",
                rule="no-terminal",
                hint="run it with -t to attach to it later",
            )
        if len(self._clients) >= MAX_CLIENTS:
            raise LimitReached(
                f"cannot attach to {self._name}: {MAX_CLIENTS} clients have", hint="detach some"
            )

    def attach(
        self, session: Session, wish: str, types: bool, size: tuple[int, int], *, first: bool = False
    ) -> None:
        """A client that may attach; `first`: nothing was shown before, to anybody. Raises as `check_attach`."""
        self.check_attach()
        self._deeds.note("attach")
        client = Client(session, wish, Role.WAITING, self._new_streams(types=types), size)
        self._enter(client)
        if self._relaying:
            self._admit(redraw=not first)
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
            self._deeds.signal(number)
        elif kind == "detach" and keys == {"type"}:
            self._deeds.note("detach")
            self._leave(client)
        elif kind == "relay" and keys == {"type"} and client.role is Role.YIELDING:
            self._take_over(client)
        elif kind == "resize" and keys == {"type", "height", "width"} and self._may_resize(client):
            if not is_integer(rows, 0, MAX_SIZE) or not is_integer(columns, 0, MAX_SIZE):
                raise ProtocolError("cannot resize: height and width are no numbers of rows and columns")
            client.size = (rows, columns)
            if client.role is Role.RELAYED and self._window is not None:
                self._window.know(client, *client.size)
        else:
            raise ProtocolError(f"cannot act on a frame of type {str(kind)[:80]!r} now")

    @staticmethod
    def _may_resize(client: Client) -> bool:
        """Who holds the master resizes it without us."""
        return client.role in (Role.WAITING, Role.RELAYED)

    def _send(self, client: Client, frame: dict[str, object], descriptors: tuple[int, ...] = ()) -> bool:
        """Send; False where the client has gone instead."""
        client.session.send(frame, *descriptors)
        if not client.session.open:
            self._vanish(client)
        return client.session.open

    # --- the master moves on

    def _ask_to_yield(self, holder: Client) -> None:
        holder.role = Role.YIELDING
        self._yielded = time.monotonic()
        self._hand_streams(holder, {"type": "yield"})

    def _hand_streams(self, client: Client, frame: dict[str, object]) -> bool:
        """Send a frame with the client's ends of its streams; False where the client has gone instead."""
        with contextlib.ExitStack() as theirs:
            ends = tuple(theirs.enter_context(stream.open()).fileno() for stream in client.streams)
            return self._send(client, frame, ends)

    def _take_over(self, holder: Client | None) -> None:
        """The master is ours now: from a holder that goes on as a client like others, or from one that has
        gone (None).
        """
        self._relaying = True
        self._outlets.begin()
        if holder is not None:
            holder.role = Role.RELAYED
            self._add(holder)
            if self._window is not None:
                holder.size = self._window.size()  # it was the holder's
                self._window.know(holder, *holder.size)
        self._admit()

    def _add(self, client: Client) -> None:
        for relay, stream in zip(self._outlets.relays, client.streams, strict=True):
            relay.add(stream)

    def _admit(self, *, redraw: bool = True) -> None:
        """Those who wait see the terminal from now on, and have it drawn anew."""
        resized, admitted = False, False
        for client in [c for c in self._clients if c.role is Role.WAITING]:
            if client.timer is not None:
                client.timer.cancel()
            client.role = Role.RELAYED
            if not self._hand_streams(client, self._attached()):
                continue
            self._add(client)
            if self._window is not None:
                resized = self._window.know(client, *client.size) or resized
            admitted = True
        if redraw and admitted and not resized and self._window is not None:
            self._window.redraw()

    def _attached(self) -> dict[str, object]:
        terminal, typed = self._outlets.terminal is not None, self._outlets.typed
        return {
            "type": "attached",
            "id": self._id,
            "name": str(self._name),
            "terminal": terminal,
            "input": typed and any(relay.listens for relay in self._outlets.relays),
        }

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
        if not self._outlets.typed:
            self._deeds.resized()

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
        for relay, stream in zip(self._outlets.relays, client.streams, strict=True):
            if stream.sock is not None:
                relay.leave(stream)
        if client.role is Role.RELAYED and self._window is not None:
            self._window.forget(client)

    def _vanish(self, client: Client) -> None:
        """It has gone without `detach`: its wish counts where it was the last one."""
        if client not in self._clients:
            return
        self._leave(client)
        if not self._clients:
            self._deeds.gone(client.wish)

    def notice(self) -> None:
        """Who does not take what somebody else has just said over its session, which is closed then, has vanished."""
        for client in [c for c in self._clients if not c.session.open]:
            self._vanish(client)

    def _drop(self, stream: Stream) -> None:
        """It took nothing while others waited for it."""
        for client in [c for c in self._clients if stream in c.streams]:
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
            for relay in self._outlets.relays:
                relay.finish()
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


def has_ended(name: Called) -> Conflict:
    """Why nobody can attach to a container that was running a moment ago."""
    return Conflict(f"cannot attach to {name}: it has ended", rule="ended")


def is_integer(value: object, low: int, high: int) -> TypeGuard[int]:
    """Whether `value` is a whole number between these two; true and false are none."""
    return type(value) is int and low <= value <= high
