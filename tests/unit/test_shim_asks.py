"""The guardian's side of shim.sock, driven turn by turn: whoever asks, and whatever comes."""

from __future__ import annotations

import array
import gc
import json
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import Conflict
from dkrd import evidence
from dkrd.ids import Pool
from dkrd.log import Log
from dkrd.loop import Loop
from dkrd.settings import Settings
from dkrd.shim.asks import MAX_FOLLOWERS, Asks, Later
from dkrd.shim.state import State
from dkrd.shim.task import ShimTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dkrd.shim.asks import Ask, Handler

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="evidence wants CAP_NET_ADMIN")

ID = "ab" * 32
OWNER, OTHER, ADMIN_GROUP, API, INSIDE = 4711, 4712, 4800, 4900, 0x70000005


@dataclass
class Guardian:
    """Asks of a container of OWNER's, and the daemon's socket that connections are accepted from."""

    place: Path
    loop: Loop = field(default_factory=Loop)
    asked: list[Ask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clients = self._listen(socket.SOCK_STREAM, "clients")
        self.shim = self._listen(socket.SOCK_SEQPACKET, "shim")
        self.pidfd = os.pidfd_open(os.getpid())
        self.log = self.place / "log"
        self.log_fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        sink, self.reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.state = State(str(self.place), sink, {"id": ID, "uid": OWNER})
        task = ShimTask(
            id=ID,
            connection=-1,
            session=-1,
            bundle=b"",
            settings=Settings(),
            listener=(0, 0),
            reports=-1,
            pool=Pool(0x70000000, 0x7000FFFF, str(self.place)),
            slot_hint=0,
            subids=(),
            api_uid=API,
            admin_gid=ADMIN_GROUP,
            seccomp="",
            layers={},
            log=Log("info", "text", "shim", self.log_fd),
            begun=0,
        )
        self.later = Later()
        handlers: dict[str, Handler] = {
            "look": self._look,
            "refuse": self._refuse,
            "fail": self._fail,
            "big": self._big,
            "later": lambda _ask: self.later,
        }
        Asks(self.loop, self.shim, task, self.state, self.pidfd, handlers).serve()

    def _listen(self, kind: int, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(str(self.place / name))
        sock.listen(8)
        sock.setblocking(kind == socket.SOCK_STREAM)
        return sock

    def _look(self, ask: Ask) -> dict[str, object]:
        self.asked.append(ask)
        return {"seen": ask.body}

    def _refuse(self, ask: Ask) -> dict[str, object]:
        raise Conflict("cannot do that", rule="busy")

    def _fail(self, ask: Ask) -> dict[str, object]:
        os.close(-1)
        return {}

    def _big(self, ask: Ask) -> dict[str, object]:
        return {"x": "y" * (ask.body["size"] if isinstance(ask.body["size"], int) else 0)}

    def identity(self) -> tuple[int, int]:
        return evidence.listener_identity(self.clients)

    def accepted(self, uid: int, gid: int = 0) -> tuple[socket.socket, socket.socket]:
        """A client's connection as that user: its end, and the daemon's."""
        os.setegid(gid)
        os.seteuid(uid)
        try:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(str(self.place / "clients"))
        finally:
            os.seteuid(0)
            os.setegid(0)
        return client, self.clients.accept()[0]

    def follower(self) -> socket.socket:
        """A connection to shim.sock that has been told the state."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.place / "shim"))
        self.loop.turn(1)
        data, descriptors, _, _ = socket.recv_fds(sock, 65536, 2)
        assert json.loads(data) == {"type": "state", "state": {"id": ID, "uid": OWNER}}
        assert len(descriptors) == 1
        os.close(descriptors[0])
        return sock

    def ask(self, uid: int = OWNER, gid: int = 0, kind: str = "look", **change: Any) -> dict[str, Any]:
        """The answer to an ask with that user's connection; `change` replaces keys of the message."""
        body = {"type": kind, **change.pop("body", {})}
        message = {"type": "ask", "version": 1, "listener": list(self.identity()), "ask": body, **change}
        client, accepted = self.accepted(uid, gid)
        with self.follower() as sock, client, accepted:
            send(sock, message, accepted.fileno())
            self.loop.turn(1)
            answer: dict[str, Any] = json.loads(sock.recv(1 << 21))
        self.loop.turn(1)
        assert not self.state.followers
        return answer

    def close(self) -> None:
        for sock in (self.clients, self.shim, self.reports, self.state.reports, *self.state.followers):
            sock.close()
        os.close(self.pidfd)
        os.close(self.log_fd)


def send(sock: socket.socket, message: object, *descriptors: int) -> None:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], rights)


@pytest.fixture
def guardian(open_tmp: Path) -> Iterator[Guardian]:
    made = Guardian(open_tmp)
    (open_tmp / "clients").chmod(0o666)
    try:
        yield made
    finally:
        made.close()
        del made
        gc.collect()  # the loop and its epoll descriptor, before the next test counts


@pytest.mark.parametrize(("uid", "gid"), [(OWNER, 0), (0, 0), (OTHER, ADMIN_GROUP)])
def test_owner_root_and_admins_are_answered(guardian: Guardian, uid: int, gid: int) -> None:
    answer = guardian.ask(uid, gid, body={"more": [1]})
    assert answer == {"type": "answer", "value": {"seen": {"type": "look", "more": [1]}}}
    [ask] = guardian.asked
    assert (ask.credentials.uid, ask.who.uid, ask.who.admin) == (uid, uid, uid != OWNER)
    assert ask.connection.fileno() == -1  # closed behind the handler


@pytest.mark.parametrize(
    ("uid", "code", "rule"),
    [(OTHER, "not-found", None), (API, "not-permitted", "evidence-api"), (INSIDE, "not-permitted", "nobody")],
)
def test_others_are_not(guardian: Guardian, uid: int, code: str, rule: str | None) -> None:
    error = guardian.ask(uid)["error"]
    assert (error["code"], error.get("rule")) == (code, rule)
    assert not guardian.asked


def test_a_connection_to_another_socket_is_no_evidence(guardian: Guardian) -> None:
    error = guardian.ask(0, listener=[1, 2])["error"]
    assert (error["code"], error["rule"]) == ("not-permitted", "evidence-origin")


def test_who_has_hung_up_is_not_answered(guardian: Guardian) -> None:
    client, accepted = guardian.accepted(OWNER)
    client.close()
    with guardian.follower() as sock, accepted:
        message = {
            "type": "ask",
            "version": 1,
            "listener": list(guardian.identity()),
            "ask": {"type": "look"},
        }
        send(sock, message, accepted.fileno())
        guardian.loop.turn(1)
        assert json.loads(sock.recv(65536))["error"]["rule"] == "evidence-gone"


@pytest.mark.parametrize("sooner", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_may_come_later(guardian: Guardian, *, sooner: bool, fails: bool) -> None:
    client, accepted = guardian.accepted(OWNER)
    with guardian.follower() as sock, client, accepted:
        message = {
            "type": "ask",
            "version": 1,
            "listener": list(guardian.identity()),
            "ask": {"type": "later"},
        }
        sock.setblocking(False)
        for turn in range(2):
            if turn == (0 if sooner else 1):
                if fails:
                    guardian.later.fail(Conflict("cannot: no"))
                else:
                    guardian.later.answer({"done": True})
            if turn == 0:
                send(sock, message, accepted.fileno())
                guardian.loop.turn(1)
                if not sooner:
                    with pytest.raises(BlockingIOError):
                        sock.recv(65536)
        got = json.loads(sock.recv(65536))
        error = {"code": "conflict", "message": "cannot: no"}
        assert got == {"type": "answer", **({"error": error} if fails else {"value": {"done": True}})}


def test_who_has_gone_when_the_answer_comes_does_without(guardian: Guardian) -> None:
    client, accepted = guardian.accepted(OWNER)
    with client, accepted:
        with guardian.follower() as sock:
            message = {
                "type": "ask",
                "version": 1,
                "listener": list(guardian.identity()),
                "ask": {"type": "later"},
            }
            send(sock, message, accepted.fileno())
            guardian.loop.turn(1)
        guardian.loop.turn(1)
    assert not guardian.state.followers
    guardian.later.answer({})
    assert guardian.ask()["value"] == {"seen": {"type": "look"}}


def test_no_socket_at_all_is_no_evidence(guardian: Guardian) -> None:
    with guardian.follower() as sock:
        message = {
            "type": "ask",
            "version": 1,
            "listener": list(guardian.identity()),
            "ask": {"type": "look"},
        }
        send(sock, message, guardian.pidfd)
        guardian.loop.turn(1)
        assert json.loads(sock.recv(65536))["error"]["rule"] == "evidence-type"


def test_what_a_handler_raises_is_the_answer(guardian: Guardian) -> None:
    assert guardian.ask(kind="refuse")["error"] == {
        "code": "conflict",
        "message": "cannot do that",
        "rule": "busy",
    }
    assert guardian.ask(kind="fail")["error"]["code"] == "internal"
    assert guardian.ask(kind="other")["error"]["code"] == "bad-request"
    assert len(guardian.ask(kind="big", body={"size": 1_000_000})["value"]["x"]) == 1_000_000
    assert guardian.ask(kind="big", body={"size": 2_000_000})["error"]["code"] == "internal"


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"listener": "here"}, {"listener": [1]}, {"listener": [True, 1]}, {"ask": []}]
)
def test_a_launcher_of_another_release_is_told(guardian: Guardian, change: dict[str, Any]) -> None:
    assert guardian.ask(0, **change)["error"]["code"] == "protocol"


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (b"no json", 0),
        (b"[]", 1),
        (b"\xff", 0),
        (b"[" * 60_000, 0),
        (b" " * 100_000, 0),
        (b'{"type": "ask"}', 1),
        (b'{"type": "state", "version": 1, "listener": [1, 1], "ask": {}}', 1),
        (b'{"type": "ask", "version": 1, "listener": [1, 1], "ask": {}}', 0),
        (b'{"type": "ask", "version": 1, "listener": [1, 1], "ask": {}}', 3),
        (b'{"type": "ask", "version": 1, "listener": [1, 1], "ask": {}}', 40),
        (b'{"type": "ask", "version": 1, "listener": [1, 1], "ask": {"path": "\\ud800"}}', 1),
        (b"", 1),
    ],
)
def test_garbage_ends_that_connection_and_nothing_else(
    guardian: Guardian, data: bytes, descriptors: int
) -> None:
    with guardian.follower() as other, guardian.follower() as sock:
        before = len(os.listdir("/proc/self/fd"))
        send(sock, data, *[guardian.pidfd] * descriptors)
        guardian.loop.turn(1)
        assert sock.recv(65536) == b""
        assert len(os.listdir("/proc/self/fd")) == before - 1
        guardian.state.report({"type": "gone", "id": ID})
        assert json.loads(other.recv(65536)) == {"type": "gone", "id": ID}
        assert "a connection to shim.sock is dropped" in guardian.log.read_text()
    guardian.loop.turn(1)
    assert guardian.ask()["value"]


def test_more_than_are_served_wait_their_turn(guardian: Guardian) -> None:
    followers = [guardian.follower() for _ in range(MAX_FOLLOWERS)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as late:
        late.connect(str(guardian.place / "shim"))
        guardian.loop.turn(0)
        with pytest.raises(BlockingIOError):
            late.recv(1, socket.MSG_DONTWAIT)
        followers.pop().close()
        guardian.loop.turn(1)
        guardian.loop.turn(1)
        assert json.loads(late.recv(65536))["type"] == "state"
    for sock in followers:
        sock.close()
    guardian.loop.turn(1)
