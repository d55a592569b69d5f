"""What is no request, over HTTP, to a real daemon: each is answered with what is wrong, leaves nothing behind, and is in nobody's way."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.reliability.support import GUARD_SECONDS, Counts, assert_same, eventually, listed
from tests.security.callers import as_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

JSON = {"Content-Type": "application/json"}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "dkr-session/1"}
MAX_BODY = 4 * 1024 * 1024


class Raw:
    """A connection on which whatever is sent as it is."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(GUARD_SECONDS)
        self.sock.connect(path)
        self._stream = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        """As much as is taken: who is refused early need not be read to the end."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers, and what the body says (None where it is no JSON)."""
        status = int(self._stream.readline().split()[1])
        headers: dict[str, str] = {}
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self._stream.read(int(headers.get("content-length", "0")))
        return status, headers, json.loads(body) if "json" in headers.get("content-type", "") else None

    def ended(self) -> bool:
        """Whether the daemon has closed the connection, behind what it said."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True  # it did not read all that was sent

    def close(self) -> None:
        self._stream.close()
        self.sock.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request as bytes, with the length of its body unless `headers` say another one."""
    lines = {"Host": "dkr", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def is_served(daemon: Daemon) -> None:
    """Somebody else gets an answer."""
    with Raw(str(daemon.socket)) as other:
        other.send(request("GET", "/v1/containers"))
        assert other.answer()[0] == 200


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[Counts]:
    """What launcher, api and machine hold is the same behind each test."""
    yield at_rest
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def refused(daemon: Daemon, data: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and problem, while another client is served."""
    with Raw(str(daemon.socket)) as client:
        client.send(data)
        is_served(daemon)
        status, headers, problem = client.answer()
    assert problem["status"] == status
    assert headers["content-type"].startswith("application/problem+json")
    assert problem["detail"].startswith("cannot ")
    return status, headers, problem


NUL = "holds a NUL"
BODIES: list[tuple[bytes, str | None, str]] = [
    (b"", "", "is not JSON"),
    (b"not json", "", "is not JSON"),
    (b'{"args": ["x"]', "", "is not JSON"),
    (b'{"args": ["x"]} x', "", "is not JSON"),
    (b'{"args": ["\xff"]}', "", "is not JSON"),
    (b'{"args": ["x"], "timeout": NaN}', "", "is not JSON"),
    (b"[]", "", "an object"),
    (b"null", "", "an object"),
    (b"{}", "args", "missing"),
    (b'{"args": "ls"}', "args", "list of strings"),
    (b'{"args": ["ls", 1]}', "args[1]", "string"),
    (b'{"args": []}', "args", "empty"),
    (b'{"args": [""]}', "args[0]", "empty"),
    (b'{"args": ["a\\u0000b"]}', "args[0]", NUL),
    (b'{"args": ["x"], "env": {"A": "\\u0000"}}', "env.A", NUL),
    (b'{"args": ["x"], "env": {"A\\u0000": ""}}', "env.A\0", NUL),
    (b'{"args": ["x"], "env": {"A=B": ""}}', "env.A=B", "="),
    (b'{"args": ["x"], "argz": []}', "argz", "unknown key"),
    (
        b'{"args": ["x"], "consoleSize": {"height": 1, "width": 1, "depth": 1}}',
        "consoleSize.depth",
        "unknown",
    ),
    (b'{"args": ["x"], "readonly": 1}', "readonly", "true or false"),
    (b'{"args": ["x"], "cwd": "tmp"}', "cwd", "absolute"),
    (b'{"args": ["x"], "name": null}', "name", "null"),
    (b'{"args": ["x"], "timeout": 1' + b"0" * 400 + b"}", "timeout", "number"),
    (json.dumps({"args": ["x" * 131071] * 17}).encode(), "args", "argument list too long"),
    (json.dumps({"args": ["x" * 131072]}).encode(), "args[0]", "131071"),
    (json.dumps({"args": ["x"], **{f"k{i}": 1 for i in range(1000)}}).encode(), "", "keys"),
    (b'{"args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "", "is not JSON"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "", "is not JSON"),
]


@pytest.mark.parametrize("session", [False, True], ids=["plain", "session"])
@pytest.mark.parametrize(("body", "path", "why"), BODIES, ids=[str(i) for i in range(len(BODIES))])
def test_a_body_that_is_no_request(daemon: Daemon, body: bytes, path: str, why: str, session: bool) -> None:
    headers = {**JSON, **(UPGRADE if session else {})}
    status, _, problem = refused(daemon, request("POST", "/v1/run", headers, body))
    assert (status, problem["code"]) == (400, "bad-request")
    assert why in f"{problem['fields'][0]['message']} {problem['detail']}"
    assert problem["fields"][0]["path"] == path
    if path == "argz":
        assert problem["hint"] == "did you mean args?"


@pytest.mark.parametrize("session", [False, True], ids=["plain", "session"])
def test_a_body_that_is_too_long(daemon: Daemon, session: bool) -> None:
    headers = {**JSON, **(UPGRADE if session else {})}
    said = {**headers, "Content-Length": str(MAX_BODY + 1)}
    assert refused(daemon, request("POST", "/v1/run", said))[0] == 413  # nothing of it is awaited
    body = b"x" * (MAX_BODY + 1)
    assert refused(daemon, request("POST", "/v1/run", headers, body))[0] == 413
    chunked = {**headers, "Transfer-Encoding": "chunked"}
    head = request("POST", "/v1/run", chunked).replace(b"Content-Length: 0\r\n", b"")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert refused(daemon, head + chunk * 65)[0] == 413


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_another_type_of_body(daemon: Daemon, headers: dict[str, str]) -> None:
    status, _, problem = refused(daemon, request("POST", "/v1/run", headers, b'{"args": ["x"]}'))
    assert (status, problem["code"]) == (415, "bad-request")


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(100_000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/run HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nul", "hello", "version", "header", "flood", "long", "path", "length", "two", "both", "chunk"],
)
def test_what_is_no_http(daemon: Daemon, data: bytes) -> None:
    with Raw(str(daemon.socket)) as client:
        client.send(data)
        is_served(daemon)
        status, _, problem = client.answer()
        assert (status, problem["code"]) == (400, "bad-request")
        assert client.ended()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/run", "POST"),
        ("GET", "/v1/run", "POST"),
        ("PATCH", "/v1/containers/x", "DELETE,GET"),
        ("TRACE", "/_ping", "GET"),
    ],
)
def test_another_method(daemon: Daemon, method: str, path: str, allowed: str) -> None:
    status, headers, problem = refused(daemon, request(method, path))
    assert (status, problem["code"], headers["allow"]) == (405, "bad-request", allowed)


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "websocket", "Connection": "Upgrade"},
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"},
        {"Upgrade": "dkr-session/1"},
        {"Upgrade": "dkr-session/2", "Connection": "Upgrade"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("path", "possible"),
    [
        ("/v1/run", "dkr-session/1"),
        ("/v1/containers", "dkr-session/1"),
        ("/v1/containers/x/attach", "dkr-session/1, dkr-stream/1"),
        ("/v1/containers/x/start", "dkr-session/1, dkr-stream/1"),
        ("/v1/containers/x/exec", "dkr-session/1, dkr-stream/1"),
    ],
)
def test_an_upgrade_to_something_else(
    daemon: Daemon, path: str, possible: str, headers: dict[str, str]
) -> None:
    status, told, problem = refused(daemon, request("POST", path, headers))
    assert (status, problem["code"], told["upgrade"]) == (426, "bad-request", possible)


def test_a_body_where_none_is_wanted(daemon: Daemon) -> None:
    status, _, problem = refused(daemon, request("GET", "/v1/version", JSON, b"{}"))
    assert (status, problem["code"]) == (400, "bad-request")


@pytest.mark.parametrize(
    "name", ["nosuch", "a" * 64, "%00", "%ff", "..%2f..", "x" * 5000, "\u00e4".encode().hex()]
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "attach"])
def test_what_is_not_there(daemon: Daemon, method: str, name: str) -> None:
    path = f"/v1/containers/{name}"
    attach = request("POST", f"{path}/attach", UPGRADE)
    data = attach if method == "attach" else request(method, path)
    status, _, problem = refused(daemon, data)
    assert (status, problem["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    "query", ["all=1", "all", "all=true&all=true", "ALL=true", "x=1", "&".join(["a=b"] * 5000)]
)
def test_a_query_that_is_none(daemon: Daemon, query: str) -> None:
    status, _, problem = refused(daemon, request("GET", f"/v1/containers?{query}"))
    assert (status, problem["code"]) == (400, "bad-request")


def test_a_name_in_use(daemon: Daemon) -> None:
    waits = json.dumps({"args": ["/bin/sleep", "600"], "name": "taken"}).encode()
    with Raw(str(daemon.socket)) as first:
        first.send(request("POST", "/v1/run", JSON, waits))
        eventually(
            lambda: "taken" in [container["name"] for container in listed(daemon, every=True)], "it is there"
        )
        for headers in (JSON, {**JSON, **UPGRADE}):
            status, _, problem = refused(daemon, request("POST", "/v1/run", headers, waits))
            assert (status, problem["code"]) == (409, "conflict")
            assert "taken" in problem["detail"]


# --- clients that stop in the middle

HALVES = [
    b"",
    b"PO",
    b"POST /v1/run HTTP/1.1\r\nHost: dkr\r\nContent-",
    request("POST", "/v1/run", {**JSON, "Content-Length": "100"}, b'{"args": ["/bin/true"'),
    request("POST", "/v1/run", {**JSON, **UPGRADE, "Content-Length": "100"}, b'{"args": ["/bin/true"'),
    request("POST", "/v1/run", {**JSON, "Transfer-Encoding": "chunked"}).replace(
        b"Content-Length: 0\r\n", b""
    )
    + b"100\r\nab",
]


@pytest.mark.parametrize("half", HALVES, ids=[str(i) for i in range(len(HALVES))])
def test_half_a_request_and_gone(daemon: Daemon, half: bytes) -> None:
    with Raw(str(daemon.socket)) as client:
        client.send(half)
        is_served(daemon)


def test_a_request_and_gone_before_the_answer(daemon: Daemon) -> None:
    body = json.dumps({"args": ["/bin/sleep", "600"]}).encode()
    for headers in (JSON, {**JSON, **UPGRADE}):
        for _ in range(10):
            with Raw(str(daemon.socket)) as client:
                client.send(request("POST", "/v1/run", headers, body))
    is_served(daemon)


def test_answers_that_nobody_reads(daemon: Daemon) -> None:
    with Raw(str(daemon.socket)) as client:
        client.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10_000):
                client.sock.send(request("GET", "/v1/openapi.json") * 10)
        is_served(daemon)


def test_a_thousand_connections_that_say_nothing(daemon: Daemon, tenant: User, other_tenant: User) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(Raw(str(daemon.socket)))
        is_served(daemon)

        def flood() -> list[Any]:
            """As one user: those beyond the bound are told, the others can go on."""
            held = [Raw(str(daemon.socket)) for _ in range(600)]
            told = []
            for client in held[512:]:
                status, _, problem = client.answer()
                told.append((status, problem["code"]))
            held[0].send(request("GET", "/v1/version"))
            return [held[0].answer()[0], sorted(set(told)), len(told)]

        assert as_user(tenant, flood) == [200, [[429, "limit-reached"]], 88]

        def once() -> int:
            with Raw(str(daemon.socket)) as client:
                client.send(request("GET", "/v1/version"))
                return client.answer()[0]

        assert as_user(other_tenant, once) == 200
        # Those of a process that has ended count until each of them is seen to be closed.
        eventually(lambda: as_user(tenant, once) == 200, "those that are closed do not count")


def test_the_connection_goes_on_behind_a_refusal(daemon: Daemon) -> None:
    with Raw(str(daemon.socket)) as client:
        for body in (b"{}", b'{"args": [""]}', b'{"args": ["/bin/nosuch"]}'):
            client.send(request("POST", "/v1/run", JSON, body))
            assert client.answer()[0] in (400, 422)
        client.send(request("POST", "/v1/run", JSON, b'{"args": ["/bin/echo", "on"]}'))
        assert client.answer()[2]["stdout"] == "on\n"
        assert not select.select([client.sock], [], [], 0)[0]
