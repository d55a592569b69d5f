"""Who asks: proof that a descriptor handed over by the api is a client's connection to our own socket.

SO_PEERCRED alone proves nothing to a receiver of descriptors: on the listening socket, on a socketpair made
by root, on the client end of a connection to any root daemon it says uid 0. What cannot be made elsewhere
is a connection that was *accepted from our listening socket*: the kernel gives it the listener's file, and
ioctl(SIOCUNIXFILE) tells which that is.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct

from common.errors import NotPermitted
from dkrd.policy import Credentials

SIOCUNIXFILE = 0x89E0  # <linux/un.h>; wants CAP_NET_ADMIN
SO_PEERGROUPS = 59  # <asm-generic/socket.h>; the same number on x86-64 and arm64
_GROUPS_MAX = 65536  # NGROUPS_MAX, credentials(7)
_PYTHON_OPTION_MAX = 1024  # bytes; the longest option that socket.getsockopt() reads
_GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP

# socket.getsockopt() refuses more than 1024 bytes, which is 256 groups; a directory's user can have more.
_getsockopt = ctypes.PyDLL(None, use_errno=True).getsockopt
_getsockopt.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint32),
)
_getsockopt.restype = ctypes.c_int


def _refused(rule: str, cause: str) -> NotPermitted:
    return NotPermitted(f"cannot take the connection as evidence: {cause}", rule=rule)


def _bound_file(sock: socket.socket) -> tuple[int, int]:
    """(st_dev, st_ino) of the file that `sock` (or the listener it came from) is bound to; OSError."""
    descriptor = fcntl.ioctl(sock.fileno(), SIOCUNIXFILE)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


def listener_identity(sock: socket.socket) -> tuple[int, int]:
    """The identity of our listening socket, for `prove`; raises OSError where it has no file.

    Asked of the socket and not of its path: a path can be replaced, and as long as the socket is open its
    inode's number belongs to nothing else.
    """
    return _bound_file(sock)


def open_connection(descriptor: int) -> socket.socket:
    """The socket object that owns `descriptor`; raises NotPermitted (evidence-type) where it is no socket,
    and closes it.
    """
    try:
        return socket.socket(fileno=descriptor)
    except OSError as err:
        os.close(descriptor)
        raise _refused("evidence-type", "it is no socket") from err


def prove(sock: socket.socket, identity: tuple[int, int]) -> Credentials:
    """The credentials of the client at the other end of `sock`, a connection accepted from the listener
    `identity`.

    They are those of the client when it called connect(2): unix(7), SO_PEERCRED and SO_PEERGROUPS.
    Raises NotPermitted with a rule: evidence-type, evidence-listening, evidence-origin or evidence-gone.
    """
    # The order matters for the message only: each test stands on its own.
    if (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_UNIX
        or sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM
    ):
        raise _refused("evidence-type", "it is no stream socket of the Unix domain")
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _refused("evidence-listening", "it is a listening socket")
    try:
        origin = _bound_file(sock)
    except OSError as err:
        raise _refused("evidence-origin", f"it was not accepted from a socket file: {err.strerror}") from err
    if origin != identity:
        raise _refused("evidence-origin", "it was not accepted from the daemon's socket")
    # A bound socket that was not accepted would pass so far; it has no peer, and poll(2) says HUP for it.
    poll = select.poll()
    poll.register(sock, _GONE)
    if poll.poll(0):
        raise _refused("evidence-gone", "the client has hung up")
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Credentials(uid=uid, gid=gid, groups=_peer_groups(sock), pid=pid)


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """The peer's supplementary groups; raises OSError."""
    groups = array.array("I")
    try:
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _PYTHON_OPTION_MAX))
        return tuple(groups)
    except OSError as err:
        if err.errno != errno.ERANGE:
            raise
    buffer = (ctypes.c_uint32 * _GROUPS_MAX)()
    length = ctypes.c_uint32(ctypes.sizeof(buffer))
    if _getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(length)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "getsockopt SO_PEERGROUPS")
    return tuple(buffer[: length.value // 4])
