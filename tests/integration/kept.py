"""Containers that are made and started over plain HTTP, and a client of dkr-stream/1, for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, Self

from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.reliability.support import ask, ask_bytes, eventually
from tests.security.callers import as_user
from tests.sessions import acting_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

STREAM = {"Connection": "Upgrade", "Upgrade": "dkr-stream/1"}


def sh(line: str) -> list[str]:
    """A command that is a line of shell."""
    return ["/bin/sh", "-c", line]


def create(daemon: Daemon, *args: str, **wanted: Any) -> dict[str, Any]:
    """POST /v1/containers as root, which must succeed: the container."""
    status, made = ask(daemon, "POST", "/v1/containers", {"args": list(args), **wanted})
    assert status == 201, made
    assert isinstance(made, dict)
    return made


def start(daemon: Daemon, name: str) -> None:
    """POST …/start as root, which must succeed."""
    status, problem = ask(daemon, "POST", f"/v1/containers/{name}/start")
    assert status == 204, problem


def wait(daemon: Daemon, name: str) -> dict[str, Any]:
    """POST …/wait as root: how it ended."""
    status, answer = ask(daemon, "POST", f"/v1/containers/{name}/wait")
    assert status == 200, answer
    found = answer["exit"]
    assert isinstance(found, dict)
    return found


def shown(daemon: Daemon, name: str) -> dict[str, Any]:
    """GET of it, as root."""
    status, found = ask(daemon, "GET", f"/v1/containers/{name}")
    assert status == 200, found
    assert isinstance(found, dict)
    return found


def remove(daemon: Daemon, name: str) -> None:
    """By force, if it is there; it is not listed then."""
    status, problem = ask(daemon, "DELETE", f"/v1/containers/{name}?force=true")
    assert status in (204, 404), problem
    _, there = ask(daemon, "GET", "/v1/containers?all=true")
    assert not [container for container in there if name in (container["id"], container["name"])]


def lines(daemon: Daemon, name: str, query: str = "") -> list[dict[str, Any]]:
    """GET …/logs as root: its lines."""
    status, data = ask_bytes(daemon, "GET", f"/v1/containers/{name}/logs{query}")
    assert status == 200, data
    return [json.loads(line) for line in data.splitlines()]


def asked(caller: Caller, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """One request as the caller: status and JSON."""

    def work() -> tuple[int, Any]:
        return ask(caller.daemon, method, target, body)

    if caller.user is None:
        return work()
    status, value = as_user(caller.user, work)
    return status, value


@contextlib.contextmanager
def made(daemon: Daemon, *args: str, begin: bool = True, **wanted: Any) -> Iterator[str]:
    """The id of a container that is there for the block, and started with `begin`."""
    container = str(create(daemon, *args, **wanted)["id"])
    try:
        if begin:
            start(daemon, container)
        yield container
    finally:
        remove(daemon, container)


def logged(daemon: Daemon, name: str, text: str) -> None:
    """Waits until a line of the log is this one: the command says so that it is there."""
    eventually(
        lambda: any(line.get("log") == text for line in lines(daemon, name)),
        f"{text!r} is in the log of {name}",
    )


class Stream:
    """A client by dkr-stream/1, whoever `user` is."""

    def __init__(self, daemon: Daemon, target: str, user: User | int | None = None, body: Any = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SHELL_SECONDS)
        with acting_as(user):
            self.sock.connect(str(daemon.socket))
        data = b"" if body is None else json.dumps(body).encode()
        of_body = {"Content-Type": "application/json", "Content-Length": len(data)} if data else {}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**STREAM, **of_body}.items())
        self.sock.sendall(f"POST /v1/containers/{target} HTTP/1.1\r\nHost: dkr\r\n{head}\r\n".encode() + data)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            got = self.sock.recv(1)
            assert got, answer
            answer += got
        self.status = int(answer.split()[1])
        self.problem: dict[str, Any] = {}
        if self.status != 101:
            length = next(line for line in answer.decode().lower().split("\r\n") if "content-length" in line)
            self.problem = json.loads(self.exactly(int(length.split(":")[1])))
        self.output = {1: b"", 2: b""}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def exactly(self, length: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < length:
            got = self.sock.recv(length - len(data))
            if not got:
                raise EOFError(data)
            data += got
        return data

    def frame(self) -> tuple[int, bytes] | None:
        """The next one; None at the end."""
        if not (first := self.sock.recv(1)):
            return None
        head = first + self.exactly(7)
        assert head[1:4] == b"\0\0\0"
        return head[0], self.exactly(int.from_bytes(head[4:], "big"))

    def until(self, kind: str) -> dict[str, Any]:
        """The next object of this type; output that comes before is kept. Fails where another comes last."""
        while True:
            got = self.frame()
            assert got is not None, f"no {kind}: {self.output}"
            if got[0] in self.output:
                self.output[got[0]] += got[1]
                continue
            value = json.loads(got[1])
            assert isinstance(value, dict)
            if value["type"] == kind:
                return value
            assert value["type"] in ("attached", "started"), value

    def until_output(self, text: bytes, kind: int = 1) -> None:
        """Waits until that was written."""
        while text not in self.output[kind]:
            got = self.frame()
            assert got is not None, self.output
            if got[0] in self.output:
                self.output[got[0]] += got[1]
            else:
                assert json.loads(got[1])["type"] in ("attached", "started"), got

    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.frame() is None

    def send(self, kind: int, data: bytes) -> None:
        """A frame, or several where it is long."""
        pieces = [data[place : place + 65536] for place in range(0, len(data), 65536)] or [b""]
        for piece in pieces:
            self.sock.sendall(bytes([kind, 0, 0, 0]) + len(piece).to_bytes(4, "big") + piece)

    def say(self, **value: Any) -> None:
        """A JSON object."""
        self.send(3, json.dumps(value).encode())


class Lines:
    """A reader of an answer that goes on, line by line: the log of a container, or what a path that begins with / answers."""

    def __init__(
        self, daemon: Daemon, target: str, query: str = "?follow=true", user: User | None = None
    ) -> None:
        where = target if target.startswith("/") else f"/v1/containers/{target}/logs{query}"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SHELL_SECONDS)
        with acting_as(user):
            self.sock.connect(str(daemon.socket))
        connection = http.client.HTTPConnection("dkr")
        connection.sock = self.sock
        connection.request("GET", where)
        self.answer = connection.getresponse()
        assert self.answer.status == 200

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.sock.close()

    def line(self) -> dict[str, Any] | None:
        """The next one; None at the end."""
        text = self.answer.readline()
        return json.loads(text) if text else None


# Says at its terminal how large that is, for each word that is typed.
TELLS_SIZE = 'stty -echo; echo up; while read word; do echo "$word $(stty size)"; done'


def is_a_terminal(stream: Stream) -> None:
    """Fails unless TELLS_SIZE, at a terminal of 24 rows and 80 columns, is typed to, resized and ended over the stream."""
    assert stream.until("attached")["terminal"] is True
    stream.until_output(b"up\r\n")
    stream.send(0, b"first\r")
    stream.until_output(b"first 24 80\r\n")
    stream.say(type="resize", height=33, width=44)
    turn = 0
    while b" 33 44\r\n" not in stream.output[1]:  # what is typed may be there before it
        turn += 1
        stream.send(0, b"%d\r" % turn)
        stream.until_output(b"%d " % turn)
    assert stream.output[2] == b""
    stream.send(0, b"\x04")
    assert stream.until("exited")["exit"]["code"] == 0
