"""`--sdnotify`: this client is the main process of a unit of Type=notify, and tells the service manager when the container is ready.

sd_notify(3): datagrams of lines NAME=VALUE to the socket that $NOTIFY_SOCKET names. The manager hears processes of the unit alone; those of
the container are none. Loaded by a run that has the option (see lean.py): imports built-in modules and our lean ones.
"""

import _socket
import posix
import select

from common.errors import BadRequest
from common.frames import NOTIFY_PATH
from dkrctl.http import descriptors_of

MAX_MESSAGE = 4096  # bytes; the manager takes no longer one
_ROOM = _socket.CMSG_SPACE(4 * 253)  # descriptors, SCM_MAX_FD of unix(7)
_FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
_BATCH = 16  # messages passed on in one go, so that nothing else waits
# What a container may say for its unit. Not which process is the main one, nor descriptors to keep, nor who may speak.
_PASSED = (
    *(b"READY", b"RELOADING", b"STOPPING", b"STATUS", b"ERRNO", b"BUSERROR", b"MONOTONIC_USEC"),
    *(b"WATCHDOG", b"WATCHDOG_USEC", b"EXTEND_TIMEOUT_USEC"),
)


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
    if way in (None, "ignore") or not address:
        return None
    if way == "container":
        env = request.get("env")
        request["env"] = {**(env if isinstance(env, dict) else {}), "NOTIFY_SOCKET": NOTIFY_PATH}
    return Manager(address, by_container=way == "container")


class Relay:
    """What the command tells the manager, from the socket that its guardian has made inside; attended as a Pump, inward."""

    __slots__ = ("_manager", "_socket", "blocked", "broken", "outward", "resting")

    def __init__(self, manager: "Manager", descriptor: int) -> None:
        self._manager = manager
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM, 0, descriptor)
        self.blocked = self.broken = self.outward = self.resting = False

    def interest(self, table: dict[int, int]) -> None:
        """What is waited for."""
        table[self._socket.fileno()] = select.POLLIN

    def step(self, ready: dict[int, int]) -> None:
        """Pass on what has come."""
        if self._socket.fileno() in ready:
            self._pass_on()

    def holding(self) -> bool:
        """Nothing is kept here."""
        return False

    def done(self) -> bool:
        """The command may speak as long as it runs."""
        return False

    def finish(self) -> None:
        """It has ended: what it said last, as STOPPING=1."""
        self._pass_on()

    def _pass_on(self) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(MAX_MESSAGE, _ROOM, _FLAGS)
            except OSError:
                return
            for descriptor in descriptors_of(ancillary):
                _close(descriptor)
            message = passed(data)
            if message:
                self._manager.say(message)


def _close(descriptor: int) -> None:
    """A descriptor that came along, as sd_notify_barrier(3) sends one: that it is closed is the answer. A socket does not linger."""
    try:
        sock = _socket.socket(-1, -1, -1, descriptor)
    except OSError:
        posix.close(descriptor)
        return
    try:  # noqa: SIM105 - contextlib would cost 3.5 ms
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, bytes(8))
    except OSError:
        pass
    sock.close()


def passed(data: bytes) -> bytes:
    """The part of a message that a container may say."""
    lines = [line for line in data.split(b"\n") if line.partition(b"=")[0] in _PASSED and b"=" in line]
    if b"READY=1" in lines:
        lines.append(b"MAINPID=%d" % posix.getpid())
    return b"\n".join(lines)


class Manager:
    """The service manager, as this client speaks to it."""

    __slots__ = ("_address", "_ready", "_socket", "by_container")

    def __init__(self, address: bytes, *, by_container: bool) -> None:
        """`by_container`: what is told comes from the command. Raises BadRequest where there is no socket to be had."""
        self._address = address
        self._ready = False
        self.by_container = by_container
        try:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        except OSError as err:
            raise BadRequest(
                f"cannot tell the service manager anything: {err.strerror}", errno=err.errno
            ) from err

    def relay(self, descriptor: int) -> Relay:
        """What attends the command's socket."""
        return Relay(self, descriptor)

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
