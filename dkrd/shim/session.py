"""The session socket: how the client and the guardian of its container speak, out of the api's reach.

The guardian makes the pair and sends one end over the client's connection. The client sees that root made
it (SO_PEERCRED), the guardian sees who sends (SO_PASSCRED), and the api, which may still hold the
connection, sees none of what passes.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from typing import TYPE_CHECKING

from common import frames
from common.errors import DkrError, ProtocolError
from dkrd.policy import Credentials
from dkrd.shim.descriptors import close_all

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 2
FIRST_FRAME_SECONDS = 10.0
SO_SNDBUFFORCE = 32
SO_PASSRIGHTS = 83  # <asm-generic/socket.h>, from Linux 6.16
_UNREAD_MAX = 64  # frames of one that is closed
_CREDENTIALS = struct.Struct("iII")
# Numbers, and made once: of members of an enum each `|` is a call into Python.
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_ANCILLARY = socket.CMSG_SPACE(4 * frames.MAX_DESCRIPTORS) + socket.CMSG_SPACE(_CREDENTIALS.size)


def offer(connection: socket.socket, container: str) -> socket.socket:
    """Make the session socket, send the client's end over `connection`, return ours. Raises OSError,
    ProtocolError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    for end in (ours, theirs):
        # A frame holds a whole command line; the sender's buffer is the bound (socket(7)).
        end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, frames.MAX_FRAME)
    data = frames.record({"type": "session", "id": container})
    rights = array.array("i", [theirs.fileno()])
    # The client's own credentials, in its place: only root may send another's. By these a client that cannot see whose
    # socket it is (in a user namespace without root's uid) knows that root has made it.
    _, uid, gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    word = _CREDENTIALS.pack(os.getpid(), uid, gid)
    try:
        sent = connection.sendmsg(
            [data],
            [
                (socket.SOL_SOCKET, socket.SCM_RIGHTS, rights),
                (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, word),
            ],
            _SEND,
        )
    finally:
        theirs.close()
    if sent != len(data):
        raise ProtocolError("cannot hand over the session socket: the client's connection is full")
    return ours


def refuse(connection: socket.socket, error: DkrError) -> None:
    """Tell the client over the connection itself that there is no session; a client that is gone is no
    error.
    """
    try:
        connection.send(
            frames.record({"type": "error", "error": error.to_wire()}),
            _SEND,
        )
    except OSError:
        return  # nobody listens any more, and nobody else would want to know


def forbid_descriptors(sock: socket.socket) -> None:
    """Have the kernel refuse descriptors on `sock`: closing one that was sent may take as long as its sender
    likes (SO_LINGER, socket(7)). Before Linux 6.16 they are closed as they come.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def unheard() -> Session:
    """The session of a start that nobody has asked for: what is said there is lost."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    return Session(ours)


class Session:
    """Our end of the session socket.

    on_close  called just before it is closed, by whichever side: who watches the descriptor lets go of it
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.open = True
        self.on_close: Callable[[], None] = lambda: None
        self._said_hello = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def await_first(self) -> None:
        """Return when the client has said something, or has gone. Raises ProtocolError where it does neither in time."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(FIRST_FRAME_SECONDS * 1000):
            raise ProtocolError(
                f"cannot go on: the client sent no first frame within {FIRST_FRAME_SECONDS:.0f} s"
            )

    def hello(self) -> tuple[dict[str, object], list[int], Credentials]:
        """Whatever the client says first, its descriptors, and who sent it. Raises BlockingIOError,
        ProtocolError.
        """
        message, descriptors, credentials = self._receive()
        self._listen_on()
        if message is None:
            close_all(descriptors)  # an empty message may bring some
            raise ProtocolError("cannot go on: the client went away before its first frame")
        if credentials is None:
            close_all(descriptors)
            raise ProtocolError("cannot go on: the kernel named no sender of the first frame")
        return message, descriptors, credentials

    def _listen_on(self) -> None:
        """After the first frame neither the sender matters nor are descriptors wanted."""
        if self._said_hello:
            return
        self._said_hello = True
        # A socket that still has the flag when it sends is given an abstract name by the kernel (autobind,
        # unix(7)), and we keep none of those.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        forbid_descriptors(self._sock)

    def _receive(self) -> tuple[dict[str, object] | None, list[int], Credentials | None]:
        data, ancillary, flags, _ = self._sock.recvmsg(frames.MAX_FRAME, _ANCILLARY, _RECEIVE)
        descriptors: list[int] = []
        credentials = None
        for level, kind, payload in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                descriptors += numbers
            elif kind == socket.SCM_CREDENTIALS:
                pid, uid, gid = _CREDENTIALS.unpack(payload)
                credentials = Credentials(uid, gid, (), pid)
        try:
            if flags & _CUT_OFF:
                raise ProtocolError("cannot read a frame: it, or its descriptors, came cut off")
            if not data:
                return None, descriptors, credentials
            return frames.loads_foreign(data), descriptors, credentials
        except (ValueError, DkrError) as err:
            close_all(descriptors)
            raise err if isinstance(err, DkrError) else ProtocolError(f"cannot read a frame: {err}") from None

    def next(self) -> dict[str, object] | None:
        """The next frame, or None when the client is gone. Descriptors are closed: no later frame brings
        any. Raises BlockingIOError, ProtocolError.
        """
        try:
            message, descriptors, _ = self._receive()
        except ConnectionError:
            message, descriptors = None, []
        close_all(descriptors)
        if message is None:
            self.close()
        return message

    def send(self, frame: dict[str, object], *descriptors: int) -> None:
        """Send a frame; one that the client no longer takes is dropped, and the session closed."""
        if not self.open:
            return
        self._listen_on()
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            self._sock.sendmsg([frames.dumps(frame)], ancillary, _SEND)
        except OSError:
            # Gone, or it has not read for megabytes of frames: either way it is no client any more.
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self.on_close()
            self._drain()
            self._sock.close()

    def _drain(self) -> None:
        """Leave nothing unread: a socket closed over something unread resets the connection, and what was sent last, why the
        client is not served, would be lost to it (unix(7), ECONNRESET).
        """
        with contextlib.suppress(OSError, DkrError):
            self._sock.shutdown(socket.SHUT_RD)
            for _ in range(_UNREAD_MAX):
                message, descriptors, _ = self._receive()
                close_all(descriptors)
                if message is None:
                    break
