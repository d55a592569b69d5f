"""`--sdnotify`: this client is the main process of a unit of Type=notify, and tells the service manager when the container is ready.

sd_notify(3): datagrams of lines NAME=VALUE to the socket that $NOTIFY_SOCKET names. The manager hears processes of the unit alone; those of
the container are none. Loaded by a run that has the option (see lean.py): imports built-in modules and our lean ones.
"""

import _socket
import posix

from common.errors import BadRequest


def manager() -> bytes:
    """Where the service manager listens, as bind(2) has it; empty where there is none."""
    address = posix.environ.get(b"NOTIFY_SOCKET", b"")
    if address[:1] == b"@":
        return b"\0" + address[1:]
    return address if address[:1] == b"/" else b""


def told_by(way: "str | None", request: dict[str, object]) -> "Manager | None":
    """Whom the run tells of itself in this way, if there is somebody. Raises BadRequest."""
    if way == "healthy" and "health" not in request:
        raise BadRequest(
            "cannot take --sdnotify healthy: nothing says how the container's health is found out",
            hint="one of --health-cmd, --health-http and --health-tcp is wanted",
        )
    address = manager()
    return None if way in (None, "ignore") or not address else Manager(address)


class Manager:
    """The service manager, as this client speaks to it."""

    __slots__ = ("_address", "_ready", "_socket")

    def __init__(self, address: bytes) -> None:
        """Raises BadRequest where there is no socket to be had."""
        self._address = address
        self._ready = False
        try:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        except OSError as err:
            raise BadRequest(
                f"cannot tell the service manager anything: {err.strerror}", errno=err.errno
            ) from err

    def health(self, status: object) -> None:
        """The container's health has changed: the first time that it is healthy it is ready."""
        if status not in ("healthy", "unhealthy"):
            return
        lines = [f"STATUS=the container is {status}"]
        if status == "healthy" and not self._ready:
            self._ready = True
            lines += ["READY=1", f"MAINPID={posix.getpid()}"]
        self.say("\n".join(lines).encode())

    def say(self, message: bytes) -> None:
        """Send it; a manager that is gone, or does not read, is told nothing, as by sd_notify(3)."""
        try:
            self._socket.sendto(message, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT, self._address)
        except OSError:
            return
