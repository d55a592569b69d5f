"""The client's end of HTTP/1.1 over the Unix socket, and of the hand-over record after a 101.

On the lean path (see lean.py): imports built-in modules, errors, frames and the table of options. `socket` would cost 6.8 ms for
its enums, `http.client` 33.

Whatever the daemon answers is bounded and nothing of it is trusted: a session is one only if root has made its socket.
"""

import _socket
import posix
import sys

from common.errors import BadRequest, DkrError, ProtocolError, Unavailable, from_wire
from common.frames import dumps, loads_object
from common.options import DEFAULT_SOCKET, SOCKET_VARIABLE

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable

UPGRADE = "dkr-session/1"
MAX_HEAD = 64 * 1024  # bytes
MAX_BODY = 1024 * 1024  # bytes; of an answer or a record
ROOM = _socket.CMSG_SPACE(4)
_UCRED = 12  # bytes of struct ucred: pid, uid, gid; unix(7)
_CHUNK = 65536
_BEGIN = b"HTTP/1."  # of every answer
_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def socket_path(*given: str | None) -> str:
    """The daemon's socket: the first that is given, the variable DKR_SOCKET, the default."""
    for path in given:
        if path:
            return path
    variable = posix.environ.get(SOCKET_VARIABLE.encode())
    return variable.decode("utf-8", "surrogateescape") if variable else DEFAULT_SOCKET


def descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg(2) gave; they are the caller's from here on."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            found += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, whole, 4)]
    return found


def _uid(ucred: bytes) -> int:
    return int.from_bytes(ucred[4:8], sys.byteorder)


class Answer:
    """The head of a response: `status`, `headers` by lower-case name."""

    __slots__ = ("headers", "status")

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if (
            version not in ("HTTP/1.1", "HTTP/1.0")
            or len(code) != 3
            or not (code.isascii() and code.isdigit())
        ):
            raise ProtocolError(f"cannot understand the daemon: it answered {first[:60]!a}")
        self.status = int(code)
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }


class Connection:
    """One connection to the daemon.

    Always reads with room for a descriptor: a plain recv(2) that runs into the hand-over record would lose
    it.

    meanwhile  called while the daemon works, once the request for an upgrade is sent and the answer is looked for
    vouched    the descriptor came with root's word (`look_for_word`)
    """

    __slots__ = ("_data", "_descriptors", "_path", "_room", "_socket", "meanwhile", "vouched")

    def __init__(self, path: str, limit: bytes = b"") -> None:
        """Connect to the socket at `path`; raises Unavailable or NotPermitted, saying what to do.

        limit  a struct timeval: how long each single wait may take, socket(7) SO_RCVTIMEO; empty: for ever
        """
        self._data = bytearray()
        self._descriptors: list[int] = []
        self._path = path
        self._room = ROOM
        self.meanwhile: Callable[[], None] | None = None
        self.vouched = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        if limit:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, limit)
        try:
            self._socket.connect(path)
        except OSError as err:
            self._socket.close()
            # Late: only who cannot connect pays for finding out why.
            from dkrctl.diagnosis import unreachable

            raise unreachable(path, err) from err

    def ask(
        self, method: str, target: str, body: bytes = b"", *, upgrade: bool = False, accept: str = ""
    ) -> Answer:
        """Send one request and read the head of its answer."""
        self.send(method, target, body, upgrade=upgrade, accept=accept)
        return self.head()

    def send(
        self, method: str, target: str, body: bytes = b"", *, upgrade: bool = False, accept: str = ""
    ) -> None:
        """Send one request, whose answer is read by `head`."""
        head = f"{method} {target} HTTP/1.1\r\nHost: dkr\r\n"
        if upgrade:
            head += f"Connection: Upgrade\r\nUpgrade: {UPGRADE}\r\n"
        else:
            head += "Connection: close\r\n"
        if accept:
            head += f"Accept: {accept}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:  # noqa: SIM105 - contextlib would cost 3.5 ms
            self._socket.sendall(head.encode() + b"\r\n" + body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have answered before it had read all; what it said comes next
        if upgrade:
            self._room = look_for_word(self._socket)
            if self.meanwhile is not None:
                self.meanwhile()

    def head(self) -> Answer:
        """Read the head of the answer."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            # Looked at as it comes: who speaks something else may well wait for us to go on.
            if len(self._data) > MAX_HEAD or self._data[: len(_BEGIN)] != _BEGIN[: len(self._data)]:
                from dkrctl.diagnosis import foreign

                raise foreign(self._path, bytes(self._data))
            if not self._fill():
                raise Unavailable(
                    "cannot get an answer: the daemon closed the connection",
                    hint="see its log: journalctl -u dkrd",
                )
        answer = Answer(bytes(self._data[:end]))
        del self._data[: end + 4]
        return answer

    def body(self, answer: Answer) -> bytes:
        """The body that follows the head `answer`; cut off where the daemon stops early."""
        text = answer.headers.get("content-length", "")
        wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else MAX_BODY
        wanted = min(wanted, MAX_BODY)
        while len(self._data) < wanted and self._fill():
            pass
        return bytes(self._data[:wanted])

    def record(self) -> tuple[dict[str, object], list[int]]:
        """The hand-over record (docs/protocol.md, section 2) and its descriptors, now the caller's."""
        head = self._exactly(4)
        size = int.from_bytes(head, "big")
        if size > MAX_BODY:
            raise ProtocolError(f"cannot understand the daemon: a record of {size} bytes")
        try:
            value = loads_object(self._exactly(size))
        except ValueError as err:
            raise ProtocolError(f"cannot understand the daemon: its record is {err}") from err
        taken, self._descriptors = self._descriptors, []
        return value, taken

    def close(self) -> None:
        """Let go of the connection and of descriptors nobody took."""
        self._socket.close()
        for descriptor in self._descriptors:
            _socket.close(descriptor)
        self._descriptors = []

    def _exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            if not self._fill():
                raise Unavailable(
                    "cannot start the container: the daemon closed the connection before it handed over",
                    hint="see its log: journalctl -u dkrd",
                )
        data = bytes(self._data[:count])
        del self._data[:count]
        return data

    def _fill(self) -> bool:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_CHUNK, self._room, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        descriptors = descriptors_of(ancillary)
        if descriptors:
            # Bytes of two senders never come in one piece while credentials are asked for: these are the descriptor's.
            self.vouched = self._room > ROOM and vouches(ancillary)
        self._descriptors += descriptors
        if flags & _socket.MSG_CTRUNC:
            raise ProtocolError("cannot understand the daemon: it sent more descriptors than one")
        self._data += data
        return bool(data)


def look_for_word(sock: _socket.socket) -> int:
    """Room for what comes with the record, from here on, and in a user namespace that does not have root's uid for root's word.

    There no socket shows that root has made it (SO_PEERCRED says nobody). So with the descriptor root sends credentials that are not
    its own but ours, which the kernel allows nobody else (SCM_CREDENTIALS, unix(7)). To be called once the request is sent: a socket
    that sends while it wants credentials is given an abstract name.
    """
    if _uid(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED)) == 0:
        return ROOM
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    return ROOM + _socket.CMSG_SPACE(_UCRED)


def vouches(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether the credentials are root's word (`look_for_word`): those of this process, which only root, or this user, can send."""
    own = posix.geteuid()
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS and len(data) == _UCRED:
            return _uid(data) == own and own != _overflow()
    return False


def _overflow() -> int:
    """The uid that every uid without a name here is shown as; ours, too, if it has none."""
    try:
        with open("/proc/sys/fs/overflowuid", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def trust(descriptor: int, vouched: bool) -> None:
    """ProtocolError, and the descriptor closed, unless it is a session socket made by root.

    That tells the shim from the api: the api could have put itself in between, and would get the caller's descriptors.
    """
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
    except OSError as err:
        posix.close(descriptor)
        raise ProtocolError("cannot trust the session: it is no socket") from err
    option = sock.getsockopt
    try:
        domain = option(_socket.SOL_SOCKET, _socket.SO_DOMAIN)
        kind = option(_socket.SOL_SOCKET, _socket.SO_TYPE)
        ucred = option(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED)
    except OSError as err:
        sock.close()
        raise ProtocolError("cannot trust the session: it is no socket") from err
    if domain != _socket.AF_UNIX or kind != _socket.SOCK_SEQPACKET:
        sock.close()
        raise ProtocolError("cannot trust the session: it is not a Unix SEQPACKET socket")
    if _uid(ucred) != 0 and not vouched:
        sock.close()
        raise ProtocolError(
            "cannot trust the session: the session was not made by root",
            hint="what answers on this socket is not dkrd, or its api was taken over",
        )
    sock.detach()


def problem(answer: Answer, body: bytes, path: str) -> DkrError:
    """The exception for a response that is no success: RFC 9457, `application/problem+json`.

    path  the socket that was asked, for what is said where something else than dkrd answers
    """
    try:
        said = loads_object(body)
    except ValueError:
        said = {}
    if not isinstance(said.get("code"), str):
        from dkrctl.diagnosis import unexplained

        return unexplained(path, answer.status, answer.headers.get("server", ""))
    return from_wire({**said, "message": said.get("detail") or said.get("title")})


def target_of(name: str, what: str, verb: str) -> str:
    """The path of `what` of a container; a name that no container can have is refused here, where it would be another path."""
    if not name or not all(letter in _PLAIN for letter in name) or name.strip(".") == "":
        raise BadRequest(f"cannot {verb} {ascii(name)[1:-1] or 'nothing'}: that is no name and no id")
    return f"/v1/containers/{name}/{what}"


def ask_run(
    path: str, request: dict[str, object], meanwhile: "Callable[[], None] | None" = None
) -> tuple[str, int]:
    """Ask the daemon at `path` for a run: as `ask_session`."""
    return ask_session(path, "/v1/run", dumps(request), meanwhile)


def ask_session(
    path: str,
    target: str,
    body: bytes = b"",
    meanwhile: "Callable[[], None] | None" = None,
    limit: bytes = b"",
) -> tuple[str, int]:
    """Ask the daemon at `path` for a session; the container's id and the descriptor of the session.

    meanwhile  is called while the daemon works
    limit      as of Connection; then BlockingIOError tells that it is over

    Raises DkrError: what the daemon said, or why it could not be asked.
    """
    connection = Connection(path, limit)
    connection.meanwhile = meanwhile
    try:
        answer = connection.ask("POST", target, body, upgrade=True)
        if answer.status != 101:
            raise problem(answer, connection.body(answer), path)
        if answer.headers.get("upgrade", "").lower() != UPGRADE:
            raise ProtocolError(f"cannot talk to the daemon: it does not speak {UPGRADE}")
        value, descriptors = connection.record()
    finally:
        connection.close()
    if value.get("type") == "session" and len(descriptors) == 1 and isinstance(value.get("id"), str):
        trust(descriptors[0], connection.vouched)
        return str(value["id"]), descriptors[0]
    for descriptor in descriptors:
        _socket.close(descriptor)
    if value.get("type") == "error":
        raise from_wire(value.get("error"))
    raise ProtocolError("cannot understand the daemon: its record is neither a session nor an error")
