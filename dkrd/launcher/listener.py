"""The listening socket: systemd's, or bound here."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from dataclasses import dataclass

from common.errors import BadRequest, Conflict, HostUnfit
from dkrd import evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from dkrd.settings import Settings

BACKLOG = 4096
_FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_SO_PASSRIGHTS = 83  # <asm-generic/socket.h>, Linux 6.16
_GROUP_HINT = "run `make install`, or systemd-sysusers with the package's sysusers.d file"


@dataclass(frozen=True, slots=True)
class Listener:
    """The socket clients connect to.

    identity  (st_dev, st_ino) of its file: what evidence is measured against
    path      where clients find it
    own       it was bound here and its file is removed at an orderly end
    """

    socket: socket.socket
    identity: tuple[int, int]
    path: str
    own: bool

    def close(self) -> None:
        """Close the socket; remove its file where it is ours and still that one."""
        if self.own:
            try:
                status = os.stat(self.path, follow_symlinks=False)
                if (status.st_dev, status.st_ino) == self.identity:
                    os.unlink(self.path)
            except FileNotFoundError:
                pass  # somebody removed it; that is what we wanted
        self.socket.close()


def inherited(environ: MutableMapping[str, str]) -> int:
    """How many descriptors from 3 on systemd passed to this process; takes the variables out of `environ`."""
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    return int(count) if pid == str(os.getpid()) and count.isdecimal() else 0


def open_listener(settings: Settings, passed: int) -> Listener:
    """The listening socket: descriptor 3 where systemd `passed` one, else bound to settings.socket.

    Raises BadRequest for a socket of systemd that does not fit, Conflict where another process listens,
    HostUnfit.
    """
    if passed:
        return _from_systemd(passed)
    return _bound(settings)


def _from_systemd(passed: int) -> Listener:
    hint = "give dkrd.socket one ListenStream= with an absolute path"
    if passed != 1:
        raise BadRequest(f"cannot use systemd's sockets: {passed} were passed, one is expected", hint=hint)
    os.set_inheritable(_FIRST, False)
    sock = socket.socket(fileno=_FIRST)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        raise BadRequest("cannot use systemd's socket: it is no listening Unix stream socket", hint=hint)
    name = sock.getsockname()
    if not isinstance(name, str) or not name.startswith("/"):
        raise BadRequest("cannot use systemd's socket: it has no path", hint=hint)
    _refuse_descriptors(sock)
    sock.listen(BACKLOG)
    return Listener(sock, evidence.listener_identity(sock), name, own=False)


def _refuse_descriptors(sock: socket.socket) -> None:
    """No client sends descriptors to the api; what it sent all the same the kernel would close in the api, and
    the close of a socket with SO_LINGER waits (socket(7)). Accepted connections inherit it.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError as err:
        if err.errno != errno.ENOPROTOOPT:  # a kernel that is older
            raise


def group_id(name: str) -> int:
    """The gid of the group that may connect; HostUnfit where it does not exist."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise HostUnfit(f"cannot use group {name}: it does not exist", hint=_GROUP_HINT) from None


def _bound(settings: Settings) -> Listener:
    path = settings.socket
    gid = group_id(settings.socket_group)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # From its first moment the file is root's alone; group and mode come before anybody can be refused by
    # them.
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as err:
        sock.close()
        raise HostUnfit(f"cannot bind {path}: {err.strerror}", errno=err.errno) from err
    finally:
        os.umask(mask)
    _refuse_descriptors(sock)
    sock.listen(BACKLOG)
    # The directory is root's alone (directories.verify): the path is still our socket.
    os.chown(path, 0, gid, follow_symlinks=False)
    os.chmod(path, settings.socket_mode)
    return Listener(sock, evidence.listener_identity(sock), path, own=True)


def _remove_stale(path: str) -> None:
    """Remove the socket that a daemon left behind that did not end in order; Conflict where it is in use."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise Conflict(
            f"cannot bind {path}: a file that is no socket is there", hint="choose another --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # a full backlog (EAGAIN) or another kind of socket: somebody is there
    raise Conflict(
        f"cannot bind {path}: another process listens there",
        hint="stop it, or give this dkrd its own --socket",
    )
