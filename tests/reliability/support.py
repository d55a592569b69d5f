"""What the reliability tests share: a client without a program, runs that wait to be told, counts, and lives of dkrd."""

from __future__ import annotations

import array
import contextlib
import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkrd.runtime import cgroups
from tests import host
from tests.daemon import READY_SECONDS, Daemon
from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket as Socket

GUARD_SECONDS = guard(20.0)  # hang guards: no test passes or fails by how quick something was
LOOK_SECONDS = 0.01
SMALL = "dkr-test-small"  # the source of a test's own mounts

# Reads a word, repeats it, ends with the number that follows: `up` says that it runs.
WAITS = 'echo up; read word code; echo "got $word"; exit "$code"'


def eventually(check: Callable[[], object], what: str, seconds: float = GUARD_SECONDS) -> None:
    """Waits for what the daemon does unasked and announces to nobody: looks until `check` is true."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(LOOK_SECONDS)


# The API without dkrctl


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("dkr", timeout=GUARD_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(daemon: Daemon, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON of one request as root."""
    status, data = ask_bytes(daemon, method, target, body)
    return status, json.loads(data) if data else None


def ask_bytes(daemon: Daemon, method: str, target: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of one request as root."""
    connection = _Unix(daemon.socket)
    sent = None if body is None else json.dumps(body)
    with contextlib.closing(connection):
        connection.request(method, target, sent, {"Content-Type": "application/json"} if sent else {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def listed(daemon: Daemon, *, every: bool = False) -> list[dict[str, Any]]:
    """GET /v1/containers."""
    status, value = ask(daemon, "GET", "/v1/containers" + ("?all=true" if every else ""))
    assert status == 200, value
    assert isinstance(value, list)
    return value


def running(daemon: Daemon) -> list[dict[str, Any]]:
    """The containers, once all that live are `running`: a client hears of its start before the index does."""
    found: list[dict[str, Any]] = []

    def settled() -> bool:
        found[:] = listed(daemon)
        return all(container["status"] == "running" for container in found)

    eventually(settled, "all that live are running")
    return found


class RawClient:
    """A client of the session protocol that stops where a test wants: closing it is what SIGKILL does to one."""

    def __init__(self, daemon: Daemon) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(GUARD_SECONDS)
        try:
            self.connection.connect(str(daemon.socket))
        except OSError:
            self.connection.close()
            raise
        self.session: socket.socket | None = None
        self.id = ""
        self._data = b""
        self._descriptors: list[int] = []

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, request: dict[str, Any]) -> None:
        """The request, with `Upgrade`."""
        body = json.dumps(request).encode()
        head = (
            "POST /v1/run HTTP/1.1\r\nHost: dkr\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.connection.sendall(head.encode() + body)

    def _fill(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self.connection, 65536, 1)
        self._descriptors += descriptors
        assert data, f"the daemon hung up after {self._data!r}"
        self._data += data

    def head(self) -> int:
        """Reads the answer's head: its status."""
        while b"\r\n\r\n" not in self._data:
            self._fill()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        return int(head.split()[1])

    def record(self) -> dict[str, Any]:
        """Reads the hand-over record; opens the session where it is one."""
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
            self._fill()
        value: dict[str, Any] = json.loads(self._data[4:])
        if self._descriptors:
            self.session = socket.socket(fileno=self._descriptors.pop())
            self.session.settimeout(GUARD_SECONDS)
            self.id = value["id"]
        return value

    def first(self, request: dict[str, Any], stdio: tuple[int, int, int]) -> None:
        """Sends the first frame."""
        frame = {
            "type": "start",
            "version": 2,
            "request": request,
            "asks": [],
            "stdio": [0, 1, 2],
            "tty": [],
            "want": [],
            "root": [],
        }
        assert self.session is not None
        rights = array.array("i", stdio)
        self.session.sendmsg([json.dumps(frame).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def send(self, data: bytes) -> None:
        """Sends any bytes as a frame."""
        assert self.session is not None
        self.session.send(data)

    def frame(self) -> dict[str, Any] | None:
        """The shim's next frame; None at its end."""
        assert self.session is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(self.session, 1 << 20, 1)
        except ConnectionResetError:
            return None
        for descriptor in descriptors:
            os.close(descriptor)
        return json.loads(data) if data else None

    def close(self) -> None:
        """Lets go of everything."""
        self.connection.close()
        if self.session is not None:
            self.session.close()
        while self._descriptors:
            os.close(self._descriptors.pop())


@contextlib.contextmanager
def null_stdio() -> Iterator[tuple[int, int, int]]:
    """/dev/null as a command's three descriptors."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield null, null, null
    finally:
        os.close(null)


def start_raw(daemon: Daemon, stdio: tuple[int, int, int], **request: Any) -> RawClient:
    """A raw client up to its first frame: what follows are the shim's frames."""
    client = RawClient(daemon)
    try:
        client.post(request)
        assert client.head() == 101
        value = client.record()
        assert value["type"] == "session", value
        client.first(request, stdio)
    except BaseException:
        client.close()
        raise
    return client


# Runs that wait


@dataclass(slots=True)
class Waiting:
    """`dkrctl run` of WAITS, with pipes: it runs when this exists, and ends when it is told."""

    client: subprocess.Popen[str]

    def say(self, line: str) -> None:
        """One line to the command."""
        assert self.client.stdin is not None
        self.client.stdin.write(f"{line}\n")
        self.client.stdin.flush()

    def line(self) -> str:
        """One line of the command's."""
        assert self.client.stdout is not None
        return str(self.client.stdout.readline())

    def end(self, word: str, code: int) -> int:
        """Has the command end with `code`: the client's status. What it says comes the whole way."""
        self.say(f"{word} {code}")
        assert self.line() == f"got {word}\n"
        return self.client.wait(GUARD_SECONDS)


@contextlib.contextmanager
def waiting(daemon: Daemon, *options: str, **popen: Any) -> Iterator[Waiting]:
    """A run that waits; whatever the test has made of it, its client is gone afterwards."""
    for name in ("stdin", "stdout", "stderr"):
        popen.setdefault(name, subprocess.PIPE)
    client = daemon.popen("run", *options, "/bin/sh", "-c", WAITS, text=True, **popen)
    with client:
        try:
            assert client.stdout is not None
            up = client.stdout.readline()
            if up != "up\n":
                _, err = client.communicate(timeout=GUARD_SECONDS)
                raise AssertionError(f"it did not come up: {up!r}, {err}\n{daemon.log[-4000:]}")
            yield Waiting(client)
        finally:
            client.kill()


def shims(daemon: Daemon) -> list[host.Process]:
    """The guardians that live."""
    return [process for process in daemon.processes() if process.comm == "dkr-shim"]


def the_shim(daemon: Daemon) -> host.Process:
    """The one guardian that lives."""
    (shim,) = shims(daemon)
    return shim


def kill_and_wait(process: host.Process) -> None:
    """SIGKILL, and the end of it."""
    host.kill(process)
    assert host.wait_gone(process.pid, GUARD_SECONDS)


def inits(daemon: Daemon) -> list[host.Process]:
    """The containers' processes whose parent is outside of any: one a container."""
    # On cgroup v2 a guardian is in its container's cgroup too, in a leaf of its own.
    inside = [
        process
        for process in daemon.processes()
        if f"/{daemon.cgroup}/" in process.cgroups and process.comm != "dkr-shim"
    ]
    pids = {process.pid for process in inside}
    return [process for process in inside if process.parent not in pids]


# Counts


def children(daemon: Daemon) -> list[str]:
    """What the launcher has forked when there is no container. On cgroup v2 no guardian waits for the next start."""
    v2 = cgroups.read_layout().kind == "v2" or any("cgroup2" in word for word in daemon.wrapper)
    return ["dkr-api"] if v2 else ["dkr-api", "dkr-spare"]


def remains(daemon: Daemon) -> list[str]:
    """What stands of containers; the daemon's own processes and what a test has mounted do not count."""
    known = ("dkrd", *children(daemon))
    own = [f"process {process.pid} " for process in daemon.processes() if process.comm in known]
    own += [f"mount {line}" for line in host.mounts(SMALL)]
    return [line for line in daemon.leftovers() if not line.startswith(tuple(own))]


def settle(daemon: Daemon) -> None:
    """Waits until nothing is left of any container, on the host and in the index."""
    for shim in shims(daemon):
        assert host.wait_gone(shim.pid, GUARD_SECONDS), f"shim {shim.pid} does not end"
    eventually(lambda: not remains(daemon), "nothing of a container is left")
    try:
        eventually(lambda: not listed(daemon, every=True), "the index is empty")
    except AssertionError as err:
        raise AssertionError(f"{err}: {listed(daemon, every=True)}") from None


@dataclass(frozen=True, slots=True)
class Counts:
    """What launcher, api and the whole machine hold at a moment when no container is."""

    launcher: list[str]
    api: int
    mounts: int

    def within(self, before: Counts) -> bool:
        """Whether nothing is held that was not held then."""
        few = Counter(self.launcher) <= Counter(before.launcher) and self.api <= before.api
        return few and self.mounts == before.mounts


def count(daemon: Daemon) -> Counts:
    """Counts when all is at rest: connections of clients that are gone are closed, jobs have ended."""
    _rest(daemon)
    seen = _look(daemon)
    same = 0
    while same < 5:  # the last client's connection may be closing
        time.sleep(LOOK_SECONDS)
        before, seen = seen, _look(daemon)
        same = same + 1 if seen == before else 0
    return seen


def _rest(daemon: Daemon) -> None:
    settle(daemon)
    eventually(
        lambda: sorted(child.comm for child in host.children(daemon.pid)) == children(daemon),
        "the launcher has no children but its own",
    )


def _look(daemon: Daemon) -> Counts:
    kinds = [name.partition(":[")[0] for name in host.descriptors(daemon.pid)]
    api = len(host.descriptors(daemon.child("dkr-api").pid))
    return Counts(kinds, api, len(host.mounts()))


def assert_same(daemon: Daemon, before: Counts) -> None:
    """Fails with both counts unless what is held now is what was held before; the last answers may be under way.

    Fewer descriptors are no fault: on a busy machine a connection may have been closing for longer than was looked before.
    """
    _rest(daemon)
    until = time.monotonic() + GUARD_SECONDS
    while not (now := _look(daemon)).within(before):
        assert time.monotonic() < until, f"before {before}\nnow    {now}"
        time.sleep(LOOK_SECONDS)


def held(daemon: Daemon) -> list[int]:
    """Descriptors of all who have to do with the one container that there is: launcher, api, guardian."""
    places = (daemon.pid, daemon.child("dkr-api").pid, the_shim(daemon).pid)
    return [len(host.descriptors(pid)) for pid in places]


def let_go(daemon: Daemon, before: list[int]) -> None:
    """Waits until none of them holds more than `before`, when one may have been closing what the last client had."""
    eventually(
        lambda: all(now <= then for now, then in zip(held(daemon), before, strict=True)),
        "nobody holds anything more",
    )


def pss(pid: int) -> int:
    """Proportional set size, bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")


# Lives of dkrd that are not Daemon.start()'s

_EXEC = """
import os, resource, sys
number, limit, *command = sys.argv[1:]
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
if number:
    os.dup2(int(number), 3)
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


@dataclass(slots=True)
class Manager:
    """A service manager: what dkrd tells it, in order; starts it with what systemd would give it."""

    daemon: Daemon
    socket: Socket = field(init=False)
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.daemon.directory / "manager"))

    def start(self, listener: Socket | None = None, descriptors: int = 0, **environment: str) -> None:
        """Starts the daemon's dkrd and waits for READY=1.

        listener     passed as systemd passes one
        descriptors  LimitNOFILE=
        """
        number = "" if listener is None else str(listener.fileno())
        extra = {} if listener is None else {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "dkrd.socket"}
        daemon = self.daemon
        with (daemon.directory / "log").open("ab") as log:
            daemon.process = subprocess.Popen(
                [
                    *(sys.executable, "-ISc", _EXEC, number, str(descriptors or "")),
                    *(str(daemon.prefix / "sbin/dkrd"), "--config", str(daemon.directory / "dkrd.toml")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "NOTIFY_SOCKET": str(daemon.directory / "manager"),
                    **extra,
                    **environment,
                },
                pass_fds=() if listener is None else (listener.fileno(),),
                start_new_session=True,
            )
        self.hear("READY=1", READY_SECONDS)

    def hear(self, wanted: str, seconds: float = GUARD_SECONDS) -> None:
        """Waits until `wanted` is said anew; fails at once where dkrd has ended without."""
        until = time.monotonic() + seconds
        assert self.daemon.process is not None
        while (left := until - time.monotonic()) > 0:
            ended = self.daemon.process.poll() is not None
            if select.select([self.socket], [], [], 0 if ended else min(left, 0.1))[0]:
                if self._take(wanted):
                    return
            elif ended:
                break
        raise AssertionError(f"{wanted} was not said, but {self.heard}; log:\n{self.daemon.log[-4000:]}")

    def _take(self, wanted: str) -> bool:
        said = self.socket.recv(4096).decode().split("\n")
        self.heard += said
        return wanted in said

    def close(self) -> None:
        """No manager any more."""
        self.socket.close()
