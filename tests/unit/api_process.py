"""A real api process, with the test in the places of launcher and client."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common import frames
from dkrd.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT = 20.0  # seconds; only a failure takes that long
NOBODY = 65534


@dataclass
class Answer:
    """A parsed HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A connection to the api that speaks HTTP by hand, so that nothing is hidden."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT)
        self.sock.connect(path)
        self._rest = b""

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        head = {"Host": "dkr", **(headers or {})}
        if body or method == "POST":
            head.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items()), "", ""]
        with contextlib.suppress(BrokenPipeError):
            self.sock.sendall("\r\n".join(lines).encode() + body)

    def run(self, request: object) -> None:
        self.send("POST", "/v1/run", json.dumps(request).encode(), UPGRADE)

    def answer(self) -> Answer:
        """The next answer; behind a 101 nothing is read."""
        while b"\r\n\r\n" not in self._rest:
            # byte by byte near the end: what follows a 101 may carry descriptors
            data = self.sock.recv(1)
            if not data:
                raise EOFError(self._rest)
            self._rest += data
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        body = b""
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            body += self.sock.recv(length - len(body))
        return Answer(int(first.split()[1]), headers, body)

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        self.send(method, path, body, headers)
        return self.answer()

    def record(self) -> tuple[Any, list[int]]:
        """The hand-over record and the descriptors that came with it."""
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(data)
            data += more
        return frames.loads(data[4:]), list(fds)

    def close(self) -> None:
        self.sock.close()


UPGRADE = {"Connection": "Upgrade", "Upgrade": "dkr-session/1", "Content-Type": "application/json"}


@dataclass
class Start:
    """A `start` as the launcher gets it."""

    seq: int
    bundle: Any
    connection: socket.socket


@dataclass
class Guardian:
    """The other end of a session that the api made: what the launcher would have a shim take."""

    message: dict[str, Any]
    bundle: Any
    connection: socket.socket
    session: socket.socket

    @property
    def seq(self) -> int:
        seq = self.message["seq"]
        assert isinstance(seq, int)
        return seq

    def hears(self) -> dict[str, Any] | None:
        """The next frame; None at the end."""
        data = self.session.recv(65536)
        return frames.loads_object(data) if data else None

    def says(self, frame: dict[str, Any], *sockets: socket.socket) -> None:
        """A frame, with descriptors of sockets that are closed here."""
        socket.send_fds(self.session, [frames.dumps(frame)], [sock.fileno() for sock in sockets])
        for sock in sockets:
            sock.close()

    def close(self) -> None:
        """It is gone, and the launcher keeps nothing."""
        self.connection.close()
        self.session.close()


@dataclass
class Api:
    """The process, its channel, its directory."""

    directory: str
    settings: Settings
    listener: socket.socket
    pid: int = 0
    channel: socket.socket = field(default_factory=socket.socket)
    log: str = ""
    open: list[socket.socket] = field(default_factory=list)  # closed with the api, if the test has not
    answers_pings: bool = True  # without the test's doing

    def client(self) -> Client:
        client = Client(self.settings.socket)
        self.open.append(client.sock)
        return client

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        client = self.client()
        try:
            return client.ask(method, path, body, headers)
        finally:
            client.close()

    # --- the launcher's part

    def spawn(self) -> None:
        """Start the process; nothing is said to it yet."""
        self.channel.close()
        outer, theirs = _pair()
        self.channel, inner = _pair()
        self.channel.settimeout(WAIT)
        threading.Thread(target=self._relay, args=(outer, inner), daemon=True).start()
        high = [
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in (self.listener.fileno(), theirs.fileno())
        ]
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        actions: Sequence[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
        ]
        argv = [*as_nobody(), PYTHON, "-I", "-m", "dkrd.api"]
        self.pid = os.posix_spawnp(argv[0], argv, {"PATH": os.environ["PATH"]}, file_actions=actions)
        for fd in (*high, log):
            os.close(fd)
        theirs.close()

    def _relay(self, outer: socket.socket, inner: socket.socket) -> None:
        """Between the api and the test, which may be waiting for an answer when the api wants to know what has been reported."""
        with outer, inner, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([outer, inner], [], [])
                if inner in ready:
                    if not _pass_on(inner, outer):
                        return
                    continue
                message = outer.recv(64, socket.MSG_PEEK)
                if self.answers_pings and message == b'{"type":"ping"}':
                    outer.recv(64)
                    outer.send(b'{"type":"pong"}')
                elif not _pass_on(outer, inner):
                    return

    def start(self, containers: Sequence[dict[str, Any]] = ()) -> None:
        """Start the process and wait until it serves."""
        self.spawn()
        self.say({"type": "hello", "version": 2, **self.facts(), "containers": [*containers]})
        message, _ = self.hear()
        assert message == {"type": "ready"}, self.told()

    def facts(self) -> dict[str, Any]:
        """What it is told of settings and host."""
        missing = {
            "busybox": {"code": "host-unfit", "message": "cannot use it: none is here", "hint": "bring one"}
        }
        host = {
            "cgroups": "hybrid",
            "controllers": ["cpu", "pids"],
            "features": {"seccomp": True, "flying": False},
            "missingRoots": missing,
        }
        return {"settings": self.settings.to_wire(), "host": host}

    def say(self, message: dict[str, Any]) -> None:
        self.channel.send(frames.dumps(message))

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        """The api's next message, without the bundle, and its descriptors."""
        data, fds = self._receive()
        return _without_request(data.partition(b"\n")[0]), fds

    def hear_start(self) -> Start:
        data, fds = self._receive()
        head, _, bundle = data.partition(b"\n")
        message = _without_request(head)
        assert message["type"] == "start", message
        assert set(message) == {"type", "seq"}
        assert len(fds) == 1
        seq = message["seq"]
        assert isinstance(seq, int)
        connection = socket.socket(fileno=fds[0])
        self.open.append(connection)
        return Start(seq, frames.loads(bundle), connection)

    def hear_session(self) -> Guardian:
        """A message with a session that the api made in a client's place."""
        data, fds = self._receive()
        head, _, bundle = data.partition(b"\n")
        assert len(fds) == 2, head
        connection, session = (socket.socket(fileno=fd) for fd in fds)
        assert session.type == socket.SOCK_SEQPACKET
        assert session.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1
        session.settimeout(WAIT)
        self.open += [connection, session]
        return Guardian(_without_request(head), frames.loads(bundle) if bundle else None, connection, session)

    def descriptors(self) -> int:
        """How many the process has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _receive(self) -> tuple[bytes, list[int]]:
        data, ancillary, flags, _ = self.channel.recvmsg(frames.MAX_FRAME, socket.CMSG_SPACE(64))
        assert data, self.told()
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        fds = array.array("i")
        for _, _, payload in ancillary:
            fds.frombytes(payload[: len(payload) - len(payload) % 4])
        return data, list(fds)

    def told(self) -> str:
        """What the process has logged."""
        with open(self.log) as log:
            return log.read()

    def wait(self) -> int:
        """The exit status of the process, which must end by itself."""
        pidfd = os.pidfd_open(self.pid)
        try:
            assert select.select([pidfd], [], [], WAIT)[0], "the api does not end"
        finally:
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            self.wait()
        self.channel.close()
        for sock in self.open:
            sock.close()
        self.open.clear()

    def settle(self) -> None:
        """Return when every report sent so far was taken: ping and pong share the channel with them."""
        self.say({"type": "ping"})
        message, _ = self.hear()
        assert message == {"type": "pong"}


def _pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, 32, frames.MAX_FRAME)  # SO_SNDBUFFORCE
    return pair


def _pass_on(source: socket.socket, sink: socket.socket) -> bool:
    """One message with its descriptors; False at the end."""
    data, fds, _, _ = socket.recv_fds(source, frames.MAX_FRAME + 1, 8)
    if data:
        socket.send_fds(sink, [data], fds)
    for fd in fds:
        os.close(fd)
    return bool(data)


# The installed one, where there is an install: the api's user may not be able to reach the checkout.
PYTHON = f"{os.environ['DKR_TEST_PREFIX']}/bin/python" if "DKR_TEST_PREFIX" in os.environ else sys.executable


def as_nobody() -> list[str]:
    """The beginning of a command that runs as another user without any right, where that is possible here."""
    if os.geteuid() != 0:
        return []
    return [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ]


@contextlib.contextmanager
def api_directory() -> Any:
    """An Api that is not started yet, in a directory that is removed again."""
    directory = tempfile.mkdtemp(prefix="dkr-api-")
    os.chmod(directory, 0o755)
    state = os.path.join(directory, "api")
    os.mkdir(state, 0o700)
    if os.geteuid() == 0:
        os.chown(state, NOBODY, NOBODY)
    settings = Settings(
        state_dir=directory, run_dir=directory, socket=f"{directory}/dkr.sock", log_level="debug"
    )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(settings.socket)
    os.chmod(settings.socket, 0o666)
    listener.listen(4096)
    api = Api(directory, settings, listener, log=f"{directory}/log")
    try:
        yield api
    finally:
        api.kill()
        listener.close()
        shutil.rmtree(directory)


def state(container: str, **changes: object) -> dict[str, Any]:
    """A shim's report."""
    return {
        "version": 1,
        "id": container,
        "name": "n" + container[:8],
        "uid": os.getuid(),
        "status": "running",
        "pid": 4711,
        "pidStartTime": 1,
        "shimPid": 4710,
        "shimStartTime": 1,
        "slot": 28673,
        "cgroup": ["/dkr/x"],
        "rm": False,
        "created": "2026-01-31T12:00:00.000000000Z",
        "started": "2026-01-31T12:00:00.010000000Z",
        "finished": None,
        "exit": None,
        **changes,
    }


def eventually(check: Any) -> None:
    """Wait for a condition that nothing announces."""
    deadline = time.monotonic() + WAIT
    while not check():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.005)


def _without_request(data: bytes) -> dict[str, Any]:
    """The message but for the id of the request, which what has a number has."""
    message = frames.loads_object(data)
    assert ("seq" in message) == (message.pop("request", None) is not None), message
    return message
