"""dkr-stream/1 and WebSocket: what passes between a client and a guardian, and how either one's end is the end."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.api_process import (
    PYTHON,
    WAIT,
    Api,
    Client,
    Guardian,
    api_directory,
    eventually,
    state,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = "aa" + "1" * 62
STREAM = {"Connection": "Upgrade", "Upgrade": "dkr-stream/1"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(),
}
EXIT = {"code": 3, "signal": None, "cause": "exited"}
ATTACHED = {"type": "attached", "id": ONE, "name": "one", "terminal": False, "input": True}


@pytest.fixture(scope="module")
def running() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    """With a container that runs; what the process holds is the same behind each test."""
    running.say({"type": "state", "state": state(ONE, name="one")})
    running.settle()
    before = running.descriptors()
    yield running
    for sock in running.open:
        sock.close()
    running.open.clear()
    eventually(lambda: running.descriptors() == before)
    running.say({"type": "gone", "id": ONE})
    running.settle()
    assert "Traceback" not in running.told()


def frame(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def spoken(value: object) -> bytes:
    return frame(3, json.dumps(value).encode())


def exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise EOFError(data)
        data += more
    return data


class Attached:
    """A client by dkr-stream/1, and the guardian that it has come to."""

    def __init__(
        self, api: Api, target: str = "attach", query: str = "", outputs: int = 2, body: bytes = b""
    ) -> None:
        self.client = api.client()
        headers = {**STREAM, "Content-Type": "application/json"} if body else STREAM
        self.client.send("POST", f"/v1/containers/one/{target}{query}", body, headers)
        self.guardian = api.hear_session()
        self.first = self.guardian.hears()
        answer = {"type": "accepted", "id": ONE} if target == "start" else {"type": "done", "value": {}}
        api.say({**answer, "seq": self.guardian.seq})
        pairs = [socket.socketpair() for _ in range(outputs)]
        self.streams = [ours for ours, _ in pairs]
        for ours in self.streams:
            ours.settimeout(WAIT)
        api.open += self.streams
        self.guardian.says(ATTACHED, *(theirs for _, theirs in pairs))
        self.guardian.connection.close()
        self.sock = self.client.sock
        answer_of_http = self.client.answer()
        assert (answer_of_http.status, answer_of_http.headers["upgrade"]) == (101, "dkr-stream/1")
        assert self.hears() == (3, ATTACHED)

    def hears(self) -> tuple[int, Any]:
        """The next frame: its kind, and its bytes or the object."""
        kind, *zeros = exactly(self.sock, 4)
        assert zeros == [0, 0, 0]
        data = exactly(self.sock, int.from_bytes(exactly(self.sock, 4), "big"))
        return kind, json.loads(data) if kind == 3 else data

    def hears_of(self, kind: int, length: int) -> bytes:
        """So many bytes of one kind, in however many frames."""
        data = b""
        while len(data) < length:
            got, more = self.hears()
            assert got == kind
            data += more
        return data

    def ended(self) -> bool:
        return self.sock.recv(1) == b""

    def end(self) -> None:
        for stream in self.streams:
            stream.close()
        self.guardian.says({"type": "exited", "exit": EXIT})
        self.guardian.session.close()


def test_input_output_and_the_end(api: Api) -> None:
    at = Attached(api, query="?height=24&width=80&onDisconnect=kill")
    assert at.guardian.message["ask"] == {"type": "attach"}
    assert at.first == {
        "type": "attach",
        "version": 2,
        "container": ONE,
        "onDisconnect": "kill",
        "stdin": True,
        "height": 24,
        "width": 80,
    }
    out, err = at.streams
    out.send(b"out")
    assert at.hears() == (1, b"out")
    err.send(b"err")
    assert at.hears() == (2, b"err")
    at.sock.sendall(frame(0, b"some ") + frame(0, b"words"))
    assert exactly(out, 10) == b"some words"
    at.sock.sendall(frame(0, b""))
    assert out.recv(1) == b""
    out.send(b"last")
    at.end()
    assert at.hears() == (1, b"last")
    assert at.hears() == (3, {"type": "exited", "exit": EXIT})
    assert at.ended()


def test_what_was_written_comes_before_the_end(api: Api) -> None:
    at = Attached(api)
    written = full(at.streams[0], b"x" * 20_000_000)
    at.end()
    data = b""
    while len(data) < written:
        kind, more = at.hears()
        assert kind == 1
        data += more
    assert at.hears() == (3, {"type": "exited", "exit": EXIT})
    assert at.ended()


def test_without_a_query(api: Api) -> None:
    at = Attached(api, outputs=1)
    assert at.first is not None
    assert (at.first["onDisconnect"], at.first["stdin"]) == ("keep", True)
    assert (at.first["height"], at.first["width"]) == (0, 0)
    at.end()


def test_a_start_tells_when_the_command_runs(api: Api) -> None:
    at = Attached(api, "start")
    assert at.guardian.message["type"] == "launch"
    assert at.first is not None
    assert at.first["type"] == "attach"
    at.guardian.says({"type": "started", "id": ONE, "pid": 7})
    assert at.hears() == (3, {"type": "started", "id": ONE, "pid": 7})
    at.end()
    assert at.hears() == (3, {"type": "exited", "exit": EXIT})
    assert at.ended()


def test_a_start_that_fails_behind_the_101(api: Api) -> None:
    at = Attached(api, "start")
    error = {"code": "command-not-found", "message": "m", "step": "execve", "errno": 2}
    at.guardian.says({"type": "error", "error": error})
    for stream in at.streams:
        stream.close()
    assert at.hears() == (3, {"type": "error", "error": error})
    assert at.ended()


def test_a_guardian_that_is_lost(api: Api) -> None:
    at = Attached(api)
    at.guardian.close()
    for stream in at.streams:
        stream.close()
    kind, told = at.hears()
    assert (kind, told["type"], told["error"]["code"]) == (3, "error", "unavailable")
    assert at.ended()


@pytest.mark.parametrize("target", ["attach", "start"])
@pytest.mark.parametrize("way", ["launcher", "guardian", "lost", "descriptors"])
def test_what_goes_wrong_before_is_a_problem(api: Api, target: str, way: str) -> None:
    client = api.client()
    client.send("POST", f"/v1/containers/one/{target}", b"", STREAM)
    guardian = api.hear_session()
    assert guardian.hears() is not None
    error = {"code": "conflict", "message": "no", "rule": "running"}
    if way == "launcher":
        api.say({"type": "refused", "seq": guardian.seq, "error": error})
    else:
        answer = {"type": "done", "value": {}} if target == "attach" else {"type": "accepted", "id": ONE}
        api.say({**answer, "seq": guardian.seq})
        if way == "guardian":
            guardian.says({"type": "error", "error": error})
        elif way == "descriptors":
            guardian.says(ATTACHED)
    guardian.close()
    found = client.answer()
    wanted = {"lost": (503, "unavailable"), "descriptors": (502, "protocol")}.get(way, (409, "conflict"))
    assert (found.status, found.json()["code"]) == wanted
    assert client.ask("GET", "/_ping").status == 200  # the connection speaks HTTP still


def test_signal_resize_and_detach(api: Api) -> None:
    at = Attached(api)
    for said in (
        {"type": "signal", "signal": 15},
        {"type": "resize", "height": 5, "width": 6},
        {"type": "detach"},
    ):
        at.sock.sendall(spoken(said))
        assert at.guardian.hears() == said
    at.guardian.close()
    for stream in at.streams:
        stream.close()
    assert at.ended()  # as it wished: no error


def room() -> int:
    """Bytes that a stream takes in pieces before anybody reads."""
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.suppress(BlockingIOError):
        ours.setblocking(False)
        taken = 0
        while True:
            taken += ours.send(b"x" * 16384)
    return taken


def test_what_was_typed_comes_before_the_detach(api: Api) -> None:
    at = Attached(api)
    data = os.urandom((room() // 16384 + 2) * 16384)  # two pieces more than are taken: they wait in the api
    typed = b"".join(frame(0, data[place : place + 16384]) for place in range(0, len(data), 16384))
    at.sock.sendall(typed + spoken({"type": "detach"}))
    assert not select.select([at.guardian.session], [], [], 0.3)[0]
    assert exactly(at.streams[0], len(data)) == data
    assert at.guardian.hears() == {"type": "detach"}
    at.end()


BAD: list[tuple[str, bytes]] = [
    ("too long", b"\0\0\0\0" + (65537).to_bytes(4, "big")),
    ("output", frame(1, b"x")),
    ("unknown", frame(9, b"x")),
    ("zeros", b"\0\1\0\0\0\0\0\1x"),
    ("http", b"GET / HTTP/1.1\r\n\r\n"),
    ("no json", frame(3, b"{")),
    ("no object", frame(3, b"[]")),
    ("empty", frame(3, b"")),
    ("nested", frame(3, b"[" * 60000)),
    ("no utf-8", frame(3, b"\xff")),
    ("no type", spoken({})),
    ("other type", spoken({"type": "start"})),
    ("relay", spoken({"type": "relay"})),
    ("type of a type", spoken({"type": ["signal"]})),
    ("more keys", spoken({"type": "detach", "more": 1})),
    ("fewer keys", spoken({"type": "resize", "height": 1})),
    ("no integer", spoken({"type": "signal", "signal": "15"})),
    ("a boolean", spoken({"type": "signal", "signal": True})),
]


@pytest.mark.parametrize(("name", "data"), BAD, ids=[name for name, _ in BAD])
def test_a_frame_that_is_none_is_the_end(api: Api, name: str, data: bytes) -> None:
    at = Attached(api)
    at.sock.sendall(data + b"what nobody reads any more")
    kind, told = at.hears()
    assert (kind, told["type"], told["error"]["code"]) == (3, "error", "protocol")
    assert at.ended()
    assert at.guardian.hears() is None


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\5x", b"\3\0\0\0\0\0\0\5{"])
def test_a_frame_that_is_torn(api: Api, data: bytes) -> None:
    at = Attached(api)
    at.sock.sendall(data)
    at.sock.shutdown(socket.SHUT_WR)
    kind, told = at.hears()
    assert (kind, told["error"]["code"]) == (3, "protocol")
    assert at.ended()
    assert at.guardian.hears() is None


def test_a_client_that_vanishes(api: Api) -> None:
    at = Attached(api)
    at.sock.sendall(frame(0, b"typed"))
    at.sock.close()
    assert exactly(at.streams[0], 5) == b"typed"
    assert at.guardian.hears() is None


def test_a_client_that_vanishes_while_nobody_takes_its_input(api: Api) -> None:
    at = Attached(api)
    full(at.sock, frame(0, b"x" * 60000) * 300)
    at.sock.close()
    assert at.guardian.hears() is None


def test_a_client_that_vanishes_while_it_is_attached(api: Api) -> None:
    client = api.client()
    client.send("POST", "/v1/containers/one/attach", b"", STREAM)
    guardian = api.hear_session()
    assert guardian.hears() is not None
    client.close()
    guardian.connection.close()
    guardian.session.settimeout(5)  # and not when an answer would have been due
    assert guardian.hears() is None
    api.say({"type": "done", "seq": guardian.seq, "value": {}})


def full(sock: socket.socket, data: bytes) -> int:
    """How much of `data` a socket takes from us before nobody reads it."""
    sock.setblocking(False)
    sent = 0
    while sent < len(data):
        try:
            sent += sock.send(data[sent : sent + 65536])
        except BlockingIOError:
            if not select.select([], [sock], [], 0.3)[1]:
                break
    sock.setblocking(True)
    return sent


def test_a_client_that_does_not_read_holds_up_the_command(api: Api) -> None:
    at = Attached(api)
    before = memory(api)
    sent = full(at.streams[0], b"x" * 20_000_000)
    assert sent < 2_000_000  # what sockets hold, and some 64 KiB here
    assert memory(api) - before < 2_000_000
    at.streams[1].send(b"err")
    got = b""
    while len(got) < sent:
        kind, data = at.hears()
        got += data if kind == 1 else b""
    at.end()


def test_a_command_that_does_not_read_holds_up_the_client(api: Api) -> None:
    at = Attached(api)
    assert full(at.sock, frame(0, b"x" * 60000) * 300) < 2_000_000
    at.streams[1].send(b"err")  # the other way is open
    assert at.hears() == (2, b"err")
    at.end()


def memory(api: Api) -> int:
    """Bytes that are the process's alone."""
    with open(f"/proc/{api.pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) * 1024


def test_input_that_is_not_wanted_any_more_is_dropped(api: Api) -> None:
    at = Attached(api)
    at.streams[0].shutdown(socket.SHUT_RD)
    for _ in range(40):
        at.sock.sendall(frame(0, b"x" * 65536))
    at.streams[0].send(b"still here")
    assert at.hears() == (1, b"still here")
    at.end()


def test_much_passes_both_ways(api: Api) -> None:
    at = Attached(api)
    there, back = os.urandom(300_000), os.urandom(150_000)
    for place in range(0, len(there), 50_000):
        at.sock.sendall(frame(0, there[place : place + 50_000]))
        at.streams[0].sendall(back[place // 2 : place // 2 + 25_000])
        assert exactly(at.streams[0], 50_000) == there[place : place + 50_000]
        assert at.hears_of(1, 25_000) == back[place // 2 : place // 2 + 25_000]
    at.end()


HOLD = """
import socket, sys, json
request = b"POST /v1/containers/one/attach HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: dkr-stream/1\\r\\n\\r\\n"
held = []
for i in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(request); held.append(s)
    assert s.recv(12) == b"HTTP/1.1 101"
for i in range(512 - len(held)):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)
s.sendall(b"GET /_ping HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
assert s.recv(12) == b"HTTP/1.1 200"
one_more = socket.socket(socket.AF_UNIX); one_more.connect(sys.argv[1])
print(one_more.recv(12).decode())
"""


def test_streams_are_connections_of_their_user(api: Api) -> None:
    other = 65533
    command = ["setpriv", f"--reuid={other}", f"--regid={other}", "--clear-groups"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot become another one")
    api.say({"type": "state", "state": state(ONE, name="one", uid=other)})
    api.settle()
    argv = [*command, PYTHON, "-I", "-c", HOLD, api.settings.socket, "3"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        guardians: list[Guardian] = []
        for _ in range(3):
            guardian = api.hear_session()
            api.say({"type": "done", "seq": guardian.seq, "value": {}})
            guardian.connection.close()
            pair = socket.socketpair()
            api.open.append(pair[0])
            guardian.says(ATTACHED, pair[1])
            guardians.append(guardian)
        assert holder.communicate(timeout=WAIT)[0] == "HTTP/1.1 429\n"
    for guardian in guardians:
        assert guardian.hears() is not None  # the first frame
        assert guardian.hears() is None


# --- WebSocket


class Talking(Client):
    """A client by WebSocket, RFC 6455."""

    def __init__(self, api: Api) -> None:
        super().__init__(api.settings.socket)
        api.open.append(self.sock)
        self.send("GET", "/v1/containers/one/attach", b"", WEBSOCKET)
        self.guardian = api.hear_session()
        assert self.guardian.hears() is not None
        api.say({"type": "done", "seq": self.guardian.seq, "value": {}})
        pairs = [socket.socketpair() for _ in range(2)]
        self.streams = [ours for ours, _ in pairs]
        api.open += self.streams
        self.guardian.says(ATTACHED, *(theirs for _, theirs in pairs))
        self.guardian.connection.close()
        answer = self.answer()
        assert (answer.status, answer.headers["upgrade"]) == (101, "websocket")
        assert self.hears() == (1, json.dumps(ATTACHED, separators=(",", ":")).encode())

    def hears(self) -> tuple[int, bytes]:
        """The next message: opcode and payload."""
        first, length = exactly(self.sock, 2)
        if length == 126:
            length = int.from_bytes(exactly(self.sock, 2), "big")
        elif length == 127:
            length = int.from_bytes(exactly(self.sock, 8), "big")
        return first & 15, exactly(self.sock, length)

    def says(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            length = bytes([128 | size])
        elif size < 65536:
            length = bytes([128 | 126]) + size.to_bytes(2, "big")
        else:
            length = bytes([128 | 127]) + size.to_bytes(8, "big")
        self.sock.sendall(bytes([128 | opcode]) + length + b"\0\0\0\0" + data)  # masked by nothing


def test_messages(api: Api) -> None:
    at = Talking(api)
    at.streams[0].send(b"out")
    assert at.hears() == (2, b"\1out")
    at.streams[1].send(b"err")
    assert at.hears() == (2, b"\2err")
    at.says(2, b"\0typed")
    assert exactly(at.streams[0], 5) == b"typed"
    at.says(1, b'{"type": "resize", "height": 5, "width": 6}')
    assert at.guardian.hears() == {"type": "resize", "height": 5, "width": 6}
    at.says(2, b"\0")
    assert at.streams[0].recv(1) == b""
    for stream in at.streams:
        stream.close()
    at.guardian.says({"type": "exited", "exit": EXIT})
    assert json.loads(at.hears()[1]) == {"type": "exited", "exit": EXIT}
    assert at.hears()[0] == 8  # close
    at.says(8, b"\3\xe8")
    assert at.sock.recv(1) == b""


@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        (2, b""),
        (2, b"\1x"),
        (2, b"\3{}"),
        (2, b"\0" + b"x" * 65537),
        (1, b"{"),
        (1, b'{"type": "start"}'),
    ],
    ids=["empty", "output", "json", "long", "no json", "type"],
)
def test_a_message_that_is_none_is_the_end(api: Api, opcode: int, data: bytes) -> None:
    at = Talking(api)
    at.says(opcode, data)
    told = json.loads(at.hears()[1])
    assert (told["type"], told["error"]["code"]) == ("error", "protocol")
    assert at.hears()[0] == 8
    at.says(8, b"\3\xe8")
    assert at.guardian.hears() is None


@pytest.mark.parametrize("way", ["huge", "closes", "vanishes"])
def test_a_websocket_that_ends(api: Api, way: str) -> None:
    at = Talking(api)
    if way == "huge":
        with contextlib.suppress(ConnectionError):
            at.says(2, b"\0" + b"x" * 300_000)
    elif way == "closes":
        at.says(8, b"\3\xe8")
        assert at.hears()[0] == 8
    else:
        at.sock.close()
    assert at.guardian.hears() is None


@pytest.mark.parametrize("without", ["Sec-WebSocket-Version", "Sec-WebSocket-Key"])
def test_what_is_no_handshake(api: Api, without: str) -> None:
    headers = {name: value for name, value in WEBSOCKET.items() if name != without}
    answer = api.ask("GET", "/v1/containers/one/attach", b"", headers)
    assert (answer.status, answer.json()["code"]) == (400, "bad-request")
    assert api.ask("GET", "/v1/containers/one/attach").status == 426
