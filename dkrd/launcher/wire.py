"""Messages over SEQPACKET sockets: bounded, with descriptors, never waiting."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque

from common import frames
from common.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_QUEUE_MAX = 32768  # messages that wait for a slow reader
_ROOM = 253  # SCM_MAX_FD, unix(7): what finds no room the kernel would close, before it could be looked at
_MOST = 4  # descriptors a message may carry; one is promised at most
# Numbers, and made once: of members of an enum each `|` is a call into Python.
_REFUSED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_LOOK = int(socket.MSG_PEEK | socket.MSG_TRUNC | socket.MSG_DONTWAIT)
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def pair() -> tuple[socket.socket, socket.socket]:
    """A SEQPACKET pair, close-on-exec, on which a message of frames.MAX_FRAME bytes passes."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    for end in ends:
        widen(end)
    return ends


def widen(sock: socket.socket) -> None:
    """Room for the largest message in both directions; SO_SNDBUFFORCE goes beyond wmem_max, socket(7)."""
    # SO_SNDBUFFORCE, SO_RCVBUFFORCE of <asm-generic/socket.h>: the socket module does not name them. The
    # kernel doubles the value for its own bookkeeping, of which a message of the largest size needs some.
    for option in (32, 33):
        sock.setsockopt(socket.SOL_SOCKET, option, frames.MAX_FRAME)


def receive(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and its descriptors (close-on-exec, now the caller's), or None at the end.

    Raises BlockingIOError where there is none, ProtocolError for one that is too long or carries too many
    descriptors (those that came are closed), OSError.
    """
    # The length first: a buffer of the largest size for each message would be memory that all shims inherit.
    probe = bytearray(1)
    length = sock.recv_into(probe, 1, _LOOK)
    room = min(length, frames.MAX_FRAME) or 1
    data, ancillary, got, _ = sock.recvmsg(room, socket.CMSG_SPACE(_ROOM * 4), _RECEIVE)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % 4])
    for descriptor in descriptors:
        _make_closable(descriptor)
    if got & _REFUSED or len(descriptors) > _MOST:
        close_all(descriptors)
        raise ProtocolError("cannot take a message: it is too long or carries too many descriptors")
    if not data:
        close_all(descriptors)
        return None
    return data, list(descriptors)


def _make_closable(descriptor: int) -> None:
    """Closing a socket with SO_LINGER may wait for its peer, socket(7): whoever sent it could hold us."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return  # no socket
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    finally:
        sock.detach()


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came with a message."""
    for descriptor in descriptors:
        os.close(descriptor)


class Sender:
    """Sends messages in order without waiting; what the socket does not take now waits in a bounded queue."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[bytes] = deque()

    @property
    def waiting(self) -> bool:
        """Whether messages wait: then `flush` is due when the socket is writable."""
        return bool(self._queue)

    def send(self, message: dict[str, object]) -> None:
        """Send, or queue. Raises ProtocolError where the other side does not read, OSError where it is
        gone.
        """
        data = frames.dumps(message)
        if len(data) > frames.MAX_FRAME:
            raise ProtocolError("cannot send a message: it is too long")
        if len(self._queue) >= _QUEUE_MAX:
            raise ProtocolError("cannot send a message: the other side does not read")
        self._queue.append(data)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it; OSError where the other side is gone."""
        while self._queue:
            try:
                self._sock.send(self._queue[0], _SEND)
            except BlockingIOError:
                return
            self._queue.popleft()
