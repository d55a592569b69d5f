"""The session socket (docs/protocol.md, section 3) and the loop that attends it.

On the lean path (see lean.py): imports built-in modules, errors and frames.
"""

import _socket
import select
import sys

from common.errors import BadRequest, DkrError, LimitReached, ProtocolError, from_wire
from common.frames import dumps, loads_object
from dkrctl.http import descriptors_of
from dkrctl.signals import SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH, Signals

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrctl.pump import Pump
    from dkrctl.sdnotify import Relay
    from dkrctl.terminal import Terminal

    Join = Callable[["Session", dict[str, object], list[int]], tuple[Terminal | None, list[Pump]]]

VERSION = 2
MAX_ANSWER = 256 * 1024  # bytes; a frame from the shim
_ROOM = _socket.CMSG_SPACE(8)  # two descriptors at most: who attaches to a container without a terminal
_LEAVING = frozenset((SIGHUP, SIGINT, SIGQUIT, SIGTERM))
_DRAIN = 1000  # ms without output after the exit, before a terminal that did not hang up is left
_REST = 100  # ms until a pty is looked at again whose other side nobody held
_BEHIND = 500  # ms until a client in the background looks whether it is in front


def send_first(sock: _socket.socket, head: dict[str, object], descriptors: list[int]) -> None:
    """Send the first frame of a session, with its version, and its descriptors. Raises DkrError."""
    frame = dumps({**head, "version": VERSION})
    packed = b"".join(n.to_bytes(4, sys.byteorder) for n in descriptors)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if packed else []
    try:
        sock.sendmsg([frame], rights, _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return  # the shim gave up; what it said is still to be read
    except OSError as err:
        raise _unsent(err, len(frame)) from err


def _unsent(err: OSError, size: int) -> DkrError:
    # Late: only an error pays.
    import errno

    if err.errno == errno.EMSGSIZE:
        return BadRequest(
            f"cannot start the container: the request has {size} bytes, more than the session takes",
            hint="fewer or shorter arguments and variables; or a file, passed with --preserve-fds",
        )
    if err.errno == errno.ETOOMANYREFS:
        return LimitReached(
            "cannot pass the descriptors: too many are under way for this user",
            hint="try again; the bound is RLIMIT_NOFILE, unix(7)",
            errno=err.errno,
        )
    return ProtocolError(
        f"cannot pass the descriptors: {(err.strerror or str(err)).lower()}", errno=err.errno
    )


def frame_of(data: bytes, descriptors: list[int], flags: int) -> tuple[dict[str, object], list[int]] | None:
    """What recvmsg(2) gave as a frame and its descriptors, or None where the shim has gone. ProtocolError closes them."""
    try:
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("too large")
        if data:
            return loads_object(data), descriptors
    except ValueError as err:
        for descriptor in descriptors:
            _socket.close(descriptor)
        raise ProtocolError(f"cannot understand the container's guardian: its frame is {err}") from err
    for descriptor in descriptors:
        _socket.close(descriptor)
    return None


class Session:
    """Our end of the session socket."""

    __slots__ = ("_pending", "_socket")

    def __init__(self, descriptor: int) -> None:
        """Take over `descriptor`, which `ask_session` has looked at."""
        self._pending: list[dict[str, object]] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)

    def fileno(self) -> int:
        """For poll(2)."""
        return self._socket.fileno()

    def first(self, head: dict[str, object], descriptors: list[int]) -> None:
        """Send the first frame, with its version, and its descriptors."""
        send_first(self._socket, head, descriptors)

    def signal(self, number: int) -> None:
        """Have a signal forwarded; one that already waits for its turn is not doubled, as in the kernel."""
        self.post({"type": "signal", "signal": number})

    def post(self, frame: dict[str, object]) -> None:
        """Have a frame sent, once `flush` finds room for it."""
        if frame not in self._pending:
            self._pending.append(frame)

    @property
    def waiting(self) -> bool:
        """Frames could not be sent yet."""
        return bool(self._pending)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._pending:
            try:
                self._socket.send(dumps(self._pending[0]), _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._pending.clear()  # the shim has gone; the reading side finds out what it said last
                return
            del self._pending[0]

    def _listen(self) -> "tuple[bytes, list[tuple[int, int, bytes]], int, object]":
        try:
            return self._socket.recvmsg(MAX_ANSWER, _ROOM, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It closed with a frame of ours unread, as a signal sent while the command ended; the kernel tells that first, once,
            # and what the shim has sent before is still there.
            return self._socket.recvmsg(MAX_ANSWER, _ROOM, _socket.MSG_CMSG_CLOEXEC)

    def receive(self) -> tuple[dict[str, object], list[int]] | None:
        """The next frame and its descriptors, or None where the shim has gone."""
        try:
            data, ancillary, flags, _ = self._listen()
        except ConnectionResetError:
            return None
        return frame_of(data, descriptors_of(ancillary), flags)

    def cut(self) -> None:
        """Leave, with another thread in `receive`: it is told that there is nobody any more."""
        self._socket.shutdown(_socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave; the shim sees it."""
        self._socket.close()


class Left(Exception):
    """The client leaves before the end, because its terminal did: `status` is what it ends with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Detached(Exception):
    """The keys that leave were typed: the command runs on."""


class Attendance:
    """One session from the first frame to the exit: frames, signals, and what has to be copied.

    pumps     what stdio.prepare() made
    terminal  where the command has one of its own, or it is attached to at one
    attached  where it is attached to: the terminal from then on, and what to copy, given the frame `attached` and its streams
    forwards  signals are the command's; else this client only looks on, and leaves by them
    alone     a hang-up and SIGTERM are this client's end and of nobody else

    on_notify   given the socket of what the command tells a service manager, where that was wanted: what reads it
    on_health   is told how the container's health has changed, where that was wanted
    on_started  is told the host's number of the command's process, once there is one

    `trace` is the record of the start, once it has come.
    """

    __slots__ = (
        "_alone",
        "_attached",
        "_exit",
        "_forwards",
        "_pumps",
        "_session",
        "_signals",
        "_terminal",
        "executed",
        "on_health",
        "on_notify",
        "on_started",
        "started_as",
        "trace",
        "wanted",
    )

    def __init__(
        self,
        session: Session,
        signals: Signals,
        pumps: "list[Pump | Relay]",
        terminal: "Terminal | None",
        attached: "Join | None" = None,
        *,
        forwards: bool = True,
        alone: bool = False,
    ) -> None:
        self._session = session
        self._signals = signals
        self._pumps = pumps
        self._terminal = terminal
        self._attached = attached
        self._forwards = forwards
        self._alone = alone
        self._exit: dict[str, object] | None = None
        self.on_started: Callable[[object], None] | None = None
        self.on_health: Callable[[object], None] | None = None
        self.on_notify: Callable[[int], Relay] | None = None
        self.started_as: str | None = None
        self.executed: object = None  # the id of a further command in the container, where it is one
        self.wanted = ""  # by what name or beginning of an id it is attached to, where it is
        self.trace: object = None

    def until_started(self) -> str:
        """Attend until the command runs; the container's id. Raises the DkrError that ended the start."""
        while self.started_as is None and self._exit is None:
            self._turn()
        return self.started_as or ""

    def leave(self) -> None:
        """Leave the command, which runs on, to itself."""
        self._session.post({"type": "detach"})
        self._session.flush()

    def until_exit(self) -> dict[str, object]:
        """Attend until the command has ended and all its output is where it belongs; the exit of the last
        frame.

        Raises Left, and DkrError where the shim is lost.
        """
        while self._exit is None or self._draining():
            if self._turn() or self._exit is None:
                continue
            if not any(pump.holding() for pump in self._pumps):
                break
        return self._exit

    def _draining(self) -> bool:
        """After the exit: is output still on its way? Input is over."""
        left = [pump for pump in self._pumps if pump.outward]
        for pump in self._pumps:
            if not pump.outward:
                pump.finish()
        self._pumps = left
        return any(pump.holding() or not (pump.done() or pump.resting) for pump in left)

    def _turn(self) -> bool:
        """Wait and do what is to be done; False where the wait was in vain."""
        table: dict[int, int] = {self._signals.fileno(): select.POLLIN}
        if self._exit is None:
            table[self._session.fileno()] = select.POLLIN | (select.POLLOUT if self._session.waiting else 0)
        for pump in self._pumps:
            pump.interest(table)
        poller = select.poll()
        for descriptor, mask in table.items():
            poller.register(descriptor, mask)
        ready = dict(poller.poll(self._patience()))
        for pump in self._pumps:
            pump.blocked = False
            pump.resting = pump.resting and self._exit is not None
        if self._signals.fileno() in ready:
            for number in self._signals.take():
                self._signalled(number)
        if ready.get(self._session.fileno(), 0) & ~select.POLLOUT:
            self._frame()
        for pump in self._pumps:
            pump.step(ready)
        if self._exit is None:
            self._attend(bool(ready))
        if self._session.waiting:
            self._session.flush()
        return bool(ready)

    def _attend(self, moved: bool) -> None:
        """What is to be done about the caller's side. Raises Left, Detached."""
        terminal = self._terminal
        if terminal is not None and terminal.leaving and (terminal.settle() or not moved):
            self.leave()
            raise Detached
        lost = terminal.lost if terminal is not None else 0
        if self._attached is not None and any(pump.outward and pump.broken for pump in self._pumps):
            lost = lost or SIGPIPE  # it would hold up the command and all who look at it
        if lost:
            raise Left(128 + lost)
        if terminal is not None and terminal.waits:
            terminal.look()

    def _patience(self) -> int | None:
        if self._exit is not None:
            return None if any(pump.holding() for pump in self._pumps) else _DRAIN
        terminal = self._terminal
        if any(pump.resting or pump.blocked for pump in self._pumps) or (
            terminal is not None and terminal.leaving
        ):
            return _REST
        return _BEHIND if terminal is not None and terminal.waits else None

    def _signalled(self, number: int) -> None:
        terminal = self._terminal
        if terminal is not None and number in (SIGWINCH, SIGTSTP, SIGCONT):
            terminal.signalled(number)
            if number == SIGWINCH and not terminal.typed and terminal.holds and self._exit is None:
                # No session inside has this terminal, so the kernel tells nobody.
                self._session.signal(number)
        elif self._exit is not None:
            if number in _LEAVING:
                raise Left(128 + number)  # only output that nobody takes is left
        elif self._alone and number in (SIGHUP, SIGTERM):
            raise Left(128 + number)
        elif self._forwards:
            self._session.signal(number)
        elif number in _LEAVING:
            self.leave()
            raise Left(128 + number)

    def _frame(self) -> None:
        got = self._session.receive()
        if got is None:
            raise ProtocolError(
                "cannot tell how the command ended: lost the container's guardian",
                hint="the container may run on; the daemon finds out how it ends",
            )
        frame, descriptors = got
        kind = frame.get("type")
        if kind == "started" and self.started_as is None and isinstance(frame.get("id"), str):
            self.started_as, self.executed = str(frame["id"]), frame.get("exec")
            if self.on_notify is not None and descriptors:
                self._pumps.append(self.on_notify(descriptors.pop()))
            if self._terminal is not None and len(descriptors) == 1:
                terminal = self._terminal
                self._pumps += terminal.begin(self._session, master=descriptors.pop(), whole=terminal.typed)
        elif kind == "attached" and self.started_as is None and len(descriptors) == _streams(frame):
            streams, descriptors = descriptors, []
            self._begin(frame, streams)
        elif (
            kind == "yield" and self._terminal is not None and self._terminal.holds and len(descriptors) == 1
        ):
            self._terminal.relay(descriptors.pop())
            self._session.post({"type": "relay"})
            self._terminal.resize()
        for descriptor in descriptors:
            _socket.close(descriptor)
        if kind == "started" and self.on_started is not None:
            self.on_started(frame.get("pid"))
        if kind == "exited" and isinstance(frame.get("exit"), dict):
            value = frame["exit"]
            self._exit = value if isinstance(value, dict) else {}
        elif kind == "error":
            raise from_wire(frame.get("error"))
        elif kind == "trace":
            self.trace = frame.get("trace")
        elif kind == "health" and self.on_health is not None:
            self.on_health(frame.get("status"))
        elif kind not in ("started", "attached", "yield") or self.started_as is None:
            raise ProtocolError(f"cannot understand the container's guardian: a frame {kind!a}")
        elif self._terminal is not None and not self._terminal.begun:
            raise ProtocolError("cannot take the terminal: the container's guardian sent none")

    def _begin(self, frame: dict[str, object], streams: list[int]) -> None:
        """Attached."""
        self.started_as = str(frame.get("id"))
        if self.wanted and not self.started_as.startswith(self.wanted) and frame.get("name") != self.wanted:
            # The api chose the container, its guardian says which it is: one that was taken over may lead elsewhere.
            raise ProtocolError(f"cannot attach to {self.wanted}: the daemon led to another container")
        if _streams(frame) == 1 and frame.get("input") is False:
            self._forwards = (
                False  # a terminal that is for output only is looked at; who does that leaves by ctrl-C
            )
        if self._attached is None:
            raise ProtocolError("cannot understand the container's guardian: a frame 'attached' in a start")
        self._terminal, pumps = self._attached(self._session, frame, streams)
        self._pumps += pumps


def _streams(frame: dict[str, object]) -> int:
    """How many streams a frame `attached` brings: the terminal's one, or those of output and error."""
    return 2 if frame.get("terminal") is False else 1
