"""How the verbs ask: whole answers and streams, within a time, from dkrd and from what is none. Real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from common.errors import BadRequest, DkrError, NotFound, ProtocolError, Unavailable
from common.version import API_VERSION, VERSION
from dkrctl.daemon import Daemon, patience, target
from tests.unit.canned import canned, fault, http

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 20.0  # generous: only a failure takes that long
SHORT = 0.2  # for those that never answer
CHUNKED = b"HTTP/1.1 200 OK\r\nServer: dkr\r\nTransfer-Encoding: chunked\r\n\r\n"


def raised(path: Path, seconds: float = SECONDS, where: str = "/v1/containers") -> DkrError:
    with pytest.raises(DkrError) as caught:
        Daemon(str(path), seconds).get(where)
    return caught.value


def test_an_answer(tmp_path: Path) -> None:
    with canned(tmp_path / "s", {"/v1/x": http([1, {"a": "ü"}])}) as peer:
        assert Daemon(str(tmp_path / "s"), SECONDS).get("/v1/x") == [1, {"a": "ü"}]
        assert peer.requests == ["GET /v1/x HTTP/1.1"]


def test_an_answer_without_a_body(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=b"HTTP/1.1 204 No Content\r\nServer: dkr\r\n\r\n", hold=True) as peer:
        Daemon(str(tmp_path / "s"), SECONDS).delete("/v1/containers/a")
        assert Daemon(str(tmp_path / "s"), SECONDS).post("/v1/containers/a/kill", {"signal": "TERM"}) is None
        assert peer.requests[0] == "DELETE /v1/containers/a HTTP/1.1"


@pytest.mark.parametrize(
    "body",
    [
        b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n",
        b"3;name=value\r\n[1]\r\n0\r\nTrailer: x\r\n\r\n",
        b"00003\r\n[1]\r\n0\r\n\r\n",
    ],
)
def test_an_answer_in_chunks(tmp_path: Path, body: bytes) -> None:
    with canned(tmp_path / "s", default=CHUNKED + body):
        assert Daemon(str(tmp_path / "s"), SECONDS).get("/v1/x") == [1]


def test_an_answer_that_ends_with_the_connection(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=b"HTTP/1.0 200 OK\r\n\r\n[1,2]"):
        assert Daemon(str(tmp_path / "s"), SECONDS).get("/v1/x") == [1, 2]


def test_a_stream_is_given_as_it_comes(tmp_path: Path) -> None:
    """And has no time limit once it has begun: `hold` leaves it open after two chunks, then the client leaves."""
    with canned(tmp_path / "s", default=CHUNKED + b"5\r\nfirst\r\n6\r\nsecond\r\n", hold=True):
        stream = Daemon(str(tmp_path / "s"), SECONDS).stream("GET", "/v1/x")
        got = b""
        while len(got) < 11:
            got += next(stream)
        assert got == b"firstsecond"
        stream.close()


def test_a_stream_that_is_refused(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=fault("conflict", "409 Conflict", "cannot follow x: it is odd")):
        stream = Daemon(str(tmp_path / "s"), SECONDS).stream("GET", "/v1/x")
        with pytest.raises(DkrError, match="it is odd"):
            next(stream)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1]", "closed the connection in its middle"),
        (CHUNKED + b"3\r\n[1", "closed the connection in its middle"),
        (CHUNKED + b"3\r\n[1]\r\n", "closed the connection in its middle"),
        (CHUNKED + b"3\r\n[1]x\r\n0\r\n\r\n", "longer than it says"),
        (CHUNKED + b"x\r\n", "has no size"),
        (CHUNKED + b"-1\r\n", "has no size"),
        (CHUNKED + b"1" * 2000, "has no size"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 'it is no dkrd, it says "SSH-2.0'),
        (b"HTTP/1.1 OK\r\n\r\n", "cannot understand the daemon"),
        (b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n<html>", "it is no dkrd"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: bytes, cause: str) -> None:
    with canned(tmp_path / "s", default=answer):
        error = raised(tmp_path / "s")
    assert cause in error.message
    assert error.hint is not None or error.code == "protocol"


def test_one_that_greets_and_waits_is_told_at_once(tmp_path: Path) -> None:
    """It never closes, and there is no time limit: what it says is enough."""
    with canned(tmp_path / "s", default=b"220 mail ready\r\n", hold=True):
        error = raised(tmp_path / "s")
    assert isinstance(error, ProtocolError)
    assert "220 mail ready" in error.message
    assert "--socket" in str(error.hint)


def test_nothing_it_says_steers_the_terminal(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=b"\x1b[2J\x07boo", hold=True):
        assert raised(tmp_path / "s").message.isprintable()


@pytest.mark.parametrize("server", ["Docker/24.0 (linux)", "nginx"])
def test_another_web_server(tmp_path: Path, server: str) -> None:
    with canned(tmp_path / "s", default=http({"message": "page not found"}, "404 Not Found", server)):
        error = raised(tmp_path / "s")
    assert f"it is no dkrd, it is {server}" in error.message


# --- time


@pytest.mark.parametrize(
    "begin",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", CHUNKED + b"5\r\nab"],
)
def test_one_that_hangs(tmp_path: Path, begin: bytes) -> None:
    with canned(tmp_path / "s", default=begin, hold=True):
        error = raised(tmp_path / "s", SHORT)
    assert isinstance(error, Unavailable)
    assert "none came within 0.2 s, it hangs" in error.message
    assert "systemctl restart dkrd" in str(error.hint)
    assert "DKR_TIMEOUT" in str(error.hint)


def test_one_that_never_comes_to_an_end(tmp_path: Path) -> None:
    """A byte now and then is no answer: the limit is for the whole."""
    left = threading.Event()

    def drip(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(BrokenPipeError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not left.wait(SHORT / 10):
                client.sendall(b" ")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            assert "it hangs" in raised(tmp_path / "s", SHORT).message
        finally:
            left.set()
            thread.join()


def test_one_that_does_not_accept(tmp_path: Path) -> None:
    """Its queue takes one, unix(7); connect(2) then waits, and says EAGAIN after SO_SNDTIMEO."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(str(tmp_path / "s"))
        error = raised(tmp_path / "s", SHORT)
        first.close()
    assert "its queue is full" in error.message


def test_one_that_does_not_read(tmp_path: Path) -> None:
    """A large body does not fit into the socket's buffer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        with pytest.raises(Unavailable, match="it hangs"):
            Daemon(str(tmp_path / "s"), SHORT).post("/v1/containers", {"args": ["x" * 4_000_000]})


def test_the_limit_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DKR_TIMEOUT", raising=False)
    assert patience() is None
    monkeypatch.setenv("DKR_TIMEOUT", "2.5")
    assert patience() == 2.5
    for text in ("0", "-1", "soon", "nan", "inf", "1e9"):
        monkeypatch.setenv("DKR_TIMEOUT", text)
        with pytest.raises(BadRequest, match="DKR_TIMEOUT"):
            patience()


# --- another release


def version(release: str, api: str = API_VERSION) -> bytes:
    return http({"version": release, "apiVersion": api})


NO_PATH = fault("not-found", "404 Not Found", "cannot find /v1/info: the API has no such path")


@pytest.mark.parametrize(
    ("release", "api", "advice"),
    [("9.0.0", "2", "upgrade the client"), ("0.0.1", "0", "upgrade dkrd")],
)
def test_another_api_version_is_the_cause(tmp_path: Path, release: str, api: str, advice: str) -> None:
    with canned(tmp_path / "s", {"/v1/version": version(release, api)}, NO_PATH):
        error = raised(tmp_path / "s", where="/v1/info")
    assert isinstance(error, ProtocolError)
    assert f"API version {api} (release {release}), this client {API_VERSION}" in error.message
    assert advice in str(error.hint)


@pytest.mark.parametrize(("release", "advice"), [("9.0.0", "upgrade the client"), ("0.0.9", "upgrade dkrd")])
def test_another_release_may_be_the_cause(tmp_path: Path, release: str, advice: str) -> None:
    with canned(tmp_path / "s", {"/v1/version": version(release)}, NO_PATH):
        error = raised(tmp_path / "s", where="/v1/info")
    assert isinstance(error, NotFound)
    assert "no such path" in error.message
    assert f"dkrd is of release {release}" in str(error.hint)
    assert advice in str(error.hint)


def test_the_same_release_is_not_told_of(tmp_path: Path) -> None:
    with canned(tmp_path / "s", {"/v1/version": version(VERSION)}, NO_PATH):
        error = raised(tmp_path / "s", where="/v1/info")
    assert (error.code, error.hint) == ("not-found", None)


def test_only_what_a_release_explains_asks_for_it(tmp_path: Path) -> None:
    with canned(
        tmp_path / "s", default=fault("conflict", "409 Conflict", "cannot: it runs", hint="stop it")
    ) as peer:
        error = raised(tmp_path / "s")
        assert (error.code, error.hint) == ("conflict", "stop it")
        assert len(peer.requests) == 1


# --- names


@pytest.mark.parametrize("name", ["web", "a.b-c_d", "0" * 64, "A" * 128])
def test_names_become_paths(name: str) -> None:
    assert target(name, "/wait") == f"/v1/containers/{name}/wait"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../version", "a/b", "a?all=true", "a b", "a\r\nX: y", "ü", "x" * 129]
)
def test_what_is_no_name_is_asked_of_nobody(name: str) -> None:
    with pytest.raises(NotFound):
        target(name)
