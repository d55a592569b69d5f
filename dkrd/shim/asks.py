"""What comes over shim.sock: launchers that adopt us, and what clients ask of their running container.

    api ─ ask + the client's connection ─► launcher ─ the same, and where it listens ─► here
                                           launcher ◄─ answer ────────────────────────── handler

Whoever connects (the socket is root's alone) gets the state at once and every report from then on; one that
has something to ask says it on the same connection. The evidence is proven here again, and whose container
it is: the launcher has looked at the form only. A handler answers at once, or by a Later; what takes longer is a session.
"""

from __future__ import annotations

import array
import os
import select
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common import frames
from common.errors import BadRequest, DkrError, Internal, ProtocolError
from dkrd import evidence
from dkrd.shim import callers
from dkrd.shim.state import send

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dkrd.loop import Loop
    from dkrd.policy import Caller, Credentials
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

VERSION = 1
MAX_ASK = 64 * 1024  # bytes
MAX_ANSWER = 1024 * 1024  # bytes
MAX_FOLLOWERS = 32  # the rest waits in the backlog; one launcher adopts, and asks a few things at a time
_AGAIN = 1.0  # seconds until connections are taken again, where there was no room for one
SO_SNDBUFFORCE = 32  # <asm-generic/socket.h>
_KEYS = {"type", "version", "listener", "ask"}


@dataclass(frozen=True, slots=True)
class Ask:
    """One question that is proven and about the asker's own container (or an admin's).

    body         the ask as the api sent it; its handler reads it as a closed schema
    connection   the client's, through the api; closed after the handler has returned
    credentials  of that connection
    who          whose rights these are
    given        a socket that the api made for what is more than an answer; closed unless the handler takes it
    request      id of the api's request, for what is logged later on; while the handler works the log has it
    """

    body: dict[str, object]
    connection: socket.socket
    credentials: Credentials
    who: Caller
    given: list[socket.socket]
    request: str | None = None

    def take_socket(self) -> socket.socket | None:
        """The socket that came along, the handler's from here on."""
        return self.given.pop() if self.given else None


class Later:
    """An answer that comes when something has happened. It must come: who has asked waits."""

    def __init__(self) -> None:
        self._answer: dict[str, object] | None = None
        self._send: Callable[[dict[str, object]], None] | None = None

    def answer(self, value: dict[str, object]) -> None:
        """What it was."""
        self._tell({"type": "answer", "value": value})

    def fail(self, error: DkrError) -> None:
        """It came to nothing."""
        self._tell({"type": "answer", "error": error.to_wire()})

    def when_there(self, send: Callable[[dict[str, object]], None]) -> None:
        """Have the message sent by `send` once there is one."""
        self._send = send
        if self._answer is not None:
            send(self._answer)

    def _tell(self, message: dict[str, object]) -> None:
        self._answer = message
        if self._send is not None:
            self._send(message)


if TYPE_CHECKING:
    # Answers at once, by a value that JSON can carry, or by a Later; raises DkrError.
    Handler = Callable[[Ask], dict[str, object] | Later]


class Asks:
    """The listening end of shim.sock.

    pidfd     of init, which goes along with the state
    handlers  by the ask's type
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        task: ShimTask,
        state: State,
        pidfd: int,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._task = task
        self._state = state
        self._pidfd = pidfd
        self._handlers = handlers

    def serve(self) -> None:
        """Take connections from now on."""
        self._loop.watch(self._listener.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, events: int) -> None:
        try:
            follower, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors: whoever waits would be told of again at once, and for ever.
            self._loop.forget(self._listener.fileno())
            self._loop.later(_AGAIN, self.serve)
            return
        follower.setblocking(False)
        follower.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, MAX_ANSWER)
        state = frames.dumps({"type": "state", "state": self._state.values})
        if not send(follower, state, self._pidfd):
            follower.close()
            return
        self._state.followers.append(follower)
        self._loop.watch(follower.fileno(), select.EPOLLIN, partial(self._hear, follower))
        if len(self._state.followers) >= MAX_FOLLOWERS:
            self._loop.forget(self._listener.fileno())

    def _drop(self, follower: socket.socket) -> None:
        self._loop.forget(follower.fileno())
        self._state.followers.remove(follower)
        follower.close()
        self.serve()

    def _hear(self, follower: socket.socket, events: int) -> None:
        """An ask, or the end of whoever is there. Anything else is nobody we know."""
        try:
            received = _receive(follower)
        except BlockingIOError:
            return
        except (ProtocolError, OSError) as err:
            self._task.log.warning("a connection to shim.sock is dropped", id=self._task.id, cause=str(err))
            received = None
        if received is None:
            self._drop(follower)
            return
        answer = self._answer(*received)
        if isinstance(answer, Later):
            answer.when_there(partial(_tell, follower))
        else:
            _tell(follower, answer)

    def _answer(self, message: dict[str, object], descriptors: list[int]) -> dict[str, object] | Later:
        given: list[socket.socket] = []
        try:
            with evidence.open_connection(descriptors.pop(0)) as connection:
                given += [_own_socket(descriptors.pop()) for _ in list(descriptors)]
                ask = self._prove(message, connection, given)
                kind = str(ask.body.get("type"))
                handler = self._handlers.get(kind)
                if handler is None:
                    raise BadRequest(
                        f"cannot {kind[:80]!r}: this container's guardian does not know how",
                        hint="it is of another release than the daemon; start the container anew",
                    )
                self._task.log.request = ask.request
                value = handler(ask)
                return value if isinstance(value, Later) else {"type": "answer", "value": value}
        except DkrError as err:
            return {"type": "answer", "error": err.to_wire()}
        except OSError as err:
            error = Internal(f"cannot answer: {err.strerror or err}", errno=err.errno)
            return {"type": "answer", "error": error.to_wire()}
        finally:
            self._task.log.request = None
            for sock in given:
                sock.close()
            for fd in descriptors:
                os.close(fd)

    def _prove(
        self, message: dict[str, object], connection: socket.socket, given: list[socket.socket]
    ) -> Ask:
        listener, body = message["listener"], message["ask"]
        if message["version"] != VERSION or not isinstance(body, dict) or not isinstance(listener, list):
            raise ProtocolError("cannot read the ask: it is not a version 1 ask")
        if len(listener) != 2 or not all(type(number) is int for number in listener):
            raise ProtocolError("cannot read the ask: listener is a device and an inode")
        # The launcher's word on where it listens: it may have another socket than the one that forked us.
        asking = callers.prove(self._task, connection, (listener[0], listener[1]))
        who = callers.weigh(self._task, asking, asking)
        owner = self._state.values["uid"]
        assert isinstance(owner, int)
        callers.check_owner(who, owner, self._task.id)
        return Ask(body, connection, asking, who, given, _request_of(message))


def _request_of(message: dict[str, object]) -> str | None:
    value = message.get("request")
    return (
        value if isinstance(value, str) and len(value) <= 32 and value.isascii() and value.isalnum() else None
    )


def _tell(follower: socket.socket, answer: dict[str, object]) -> None:
    """Send it, unless whoever has asked has gone meanwhile."""
    data = frames.dumps(answer)
    if len(data) > MAX_ANSWER:
        error = Internal(f"cannot answer: {len(data)} bytes are more than an answer may have")
        data = frames.dumps({"type": "answer", "error": error.to_wire()})
    send(follower, data)


def _own_socket(descriptor: int) -> socket.socket:
    """What the api made for more than an answer. Raises NotPermitted where it is another kind of descriptor."""
    sock = evidence.open_connection(descriptor)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        sock.close()
        raise ProtocolError("cannot read the ask: what came along is no session socket")
    return sock


def _receive(follower: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """The next ask and its one or two descriptors; None at the end. Raises BlockingIOError, ProtocolError, OSError."""
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, got, _ = follower.recvmsg(MAX_ASK, socket.CMSG_SPACE(8), flags)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    try:
        if not data and not descriptors:
            return None
        message = frames.loads_foreign(data)
        whole = not got & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if (
            not whole
            or message.keys() - {"request"} != _KEYS
            or message["type"] != "ask"
            or len(descriptors) not in (1, 2)
        ):
            raise ValueError("it is no ask with its descriptors")
        taken, descriptors = list(descriptors), array.array("i")
        return message, taken
    except ValueError as err:
        raise ProtocolError(f"cannot read what came: {err}") from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
