"""Executing by dkr-stream/1 and WebSocket: what the api says in its client's place, and when it is told that it cannot be."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.api_process import Api, Client
from tests.unit.test_api_streams import (
    ATTACHED,
    EXIT,
    ONE,
    STREAM,
    WEBSOCKET,
    Attached,
    Talking,
    api,
    running,
)

if TYPE_CHECKING:
    from tests.unit.api_process import Guardian

__all__ = ("api", "running")  # fixtures

JSON = {"Content-Type": "application/json"}
REQUEST = {"args": ["/bin/cat"], "env": {"A": "b"}, "onDisconnect": "kill"}
FIRST = {
    "type": "exec",
    "version": 2,
    "container": ONE,
    "request": REQUEST,
    "stdio": [],
    "tty": [],
    "streams": True,
}
STARTED = {"type": "started", "id": ONE, "exec": "ee" * 32, "pid": 7}


def test_the_request_is_said_for_the_client(api: Api) -> None:
    at = Attached(api, "exec", body=json.dumps(REQUEST).encode())
    assert at.guardian.message["ask"] == {"type": "exec"}
    assert at.first == FIRST
    at.guardian.says(STARTED)
    assert at.hears() == (3, STARTED)
    at.streams[1].send(b"err")
    assert at.hears() == (2, b"err")
    at.end()
    assert at.hears() == (3, {"type": "exited", "exit": EXIT})
    assert at.ended()


def asked(api: Api) -> tuple[Client, Guardian]:
    """A client that waits for the answer, and the guardian that it has come to."""
    client = api.client()
    client.send("POST", "/v1/containers/one/exec", json.dumps(REQUEST).encode(), {**STREAM, **JSON})
    guardian = api.hear_session()
    assert guardian.hears() == FIRST
    return client, guardian


def test_what_cannot_be_started_is_a_problem(api: Api) -> None:
    client, guardian = asked(api)
    api.say({"type": "done", "seq": guardian.seq, "value": {}})
    error = {"code": "command-not-found", "message": "m", "step": "execve", "errno": 2}
    guardian.says({"type": "error", "error": error})
    guardian.close()
    answer = client.answer()
    assert (answer.status, answer.json()["code"], answer.json()["errno"]) == (422, "command-not-found", 2)
    assert client.ask("GET", "/_ping").status == 200  # the connection speaks HTTP still


def test_a_client_that_vanishes_before_it_is_started(api: Api) -> None:
    client, guardian = asked(api)
    api.say({"type": "done", "seq": guardian.seq, "value": {}})
    client.close()
    guardian.connection.close()
    assert guardian.hears() is None


# --- WebSocket


class Asking(Talking):
    """A client by WebSocket, which has said its request or has not."""

    def __init__(self, api: Api, said: bytes | None, opcode: int = 1) -> None:
        Client.__init__(self, api.settings.socket)
        api.open.append(self.sock)
        self.send("GET", "/v1/containers/one/exec", b"", WEBSOCKET)
        assert self.answer().status == 101
        if said is not None:
            self.says(opcode, said)

    def comes_to(self, api: Api) -> None:
        """Be served by a guardian."""
        self.guardian = api.hear_session()
        assert self.guardian.hears() == FIRST
        api.say({"type": "done", "seq": self.guardian.seq, "value": {}})
        pairs = [socket.socketpair() for _ in range(2)]
        self.streams = [ours for ours, _ in pairs]
        api.open += self.streams
        self.guardian.says(ATTACHED, *(theirs for _, theirs in pairs))
        self.guardian.connection.close()

    def told(self) -> Any:
        """The error that comes, and is the last."""
        opcode, data = self.hears()
        value = json.loads(data)
        assert (opcode, value["type"]) == (1, "error")
        assert self.hears()[0] == 8
        self.says(8, b"\3\xe8")
        return value["error"]


def test_the_first_message_is_the_request(api: Api) -> None:
    at = Asking(api, json.dumps(REQUEST).encode())
    at.says(2, b"\0typed")  # nobody waits for `attached`
    at.comes_to(api)
    assert json.loads(at.hears()[1]) == ATTACHED
    at.streams[0].settimeout(5)
    assert at.streams[0].recv(5) == b"typed"
    for stream in at.streams:
        stream.close()
    at.guardian.says({"type": "exited", "exit": EXIT})
    assert json.loads(at.hears()[1]) == {"type": "exited", "exit": EXIT}
    assert at.hears()[0] == 8
    at.says(8, b"\3\xe8")


@pytest.mark.parametrize(
    ("opcode", "said", "code", "path"),
    [
        (1, b"{", "bad-request", ""),
        (1, b"[]", "bad-request", ""),
        (1, b"{}", "bad-request", "args"),
        (1, b'{"args": ["x"], "preserveFds": 1}', "bad-request", "preserveFds"),
        (1, b'{"args": ["x"], "env": {"A=": "b"}}', "bad-request", "env.A="),
        (2, b"\0typed", "protocol", None),
        (2, b"\7", "protocol", None),
    ],
)
def test_a_request_that_is_none_is_told_by_a_message(
    api: Api, opcode: int, said: bytes, code: str, path: str | None
) -> None:
    error = Asking(api, said, opcode).told()
    assert error["code"] == code
    assert [field["path"] for field in error.get("fields", ())] == ([] if path is None else [path])


def test_a_request_that_does_not_fit_a_session(api: Api) -> None:
    long = {"args": ["x"] + ["y" * 100_000] * 2, "env": {"A": "z" * 30_000}}
    error = Asking(api, json.dumps(long).encode()).told()
    assert error["code"] == "limit-reached"


def test_what_the_guardian_refuses_is_told_by_a_message(api: Api) -> None:
    at = Asking(api, json.dumps(REQUEST).encode())
    guardian = api.hear_session()
    error = {"code": "not-permitted", "message": "no", "rule": "http"}
    guardian.says({"type": "error", "error": error})
    guardian.close()
    assert at.told() == error
    api.say({"type": "done", "seq": guardian.seq, "value": {}})


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_goes_before_its_request(api: Api, closes: bool) -> None:
    at = Asking(api, None)
    if closes:
        at.says(8, b"\3\xe8")
        assert at.hears()[0] == 8
    at.sock.close()


def test_a_client_that_goes_before_it_is_started(api: Api) -> None:
    at = Asking(api, json.dumps(REQUEST).encode())
    guardian = api.hear_session()
    assert guardian.hears() == FIRST
    at.sock.close()
    guardian.connection.close()
    assert guardian.hears() is None
    api.say({"type": "done", "seq": guardian.seq, "value": {}})


def test_where_it_does_not_run_is_a_problem(api: Api) -> None:
    answer = api.ask("GET", "/v1/containers/nosuch/exec", b"", WEBSOCKET)
    assert (answer.status, answer.json()["code"]) == (404, "not-found")
    headers = {name: value for name, value in WEBSOCKET.items() if name != "Sec-WebSocket-Key"}
    assert api.ask("GET", "/v1/containers/one/exec", b"", headers).status == 400


@pytest.mark.parametrize("target", ["attach", "exec"])
@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://evil.example", "localhost:8080", 403),
        ("http://localhost", "localhost:8080", 403),
        ("null", "localhost:8080", 403),
        ("", "localhost:8080", 403),
        ("http://LOCALHOST:8080", "localhost:8080", 101),
        ("https://dkr", "dkr", 101),
    ],
)
def test_a_page_of_another_site_comes_to_nothing(
    api: Api, target: str, origin: str, host: str, status: int
) -> None:
    client = api.client()
    headers = {**WEBSOCKET, "Host": host, "Origin": origin}
    client.send("GET", f"/v1/containers/one/{target}", b"", headers)
    if status == 101 and target == "attach":
        guardian = api.hear_session()
        api.say({"type": "done", "seq": guardian.seq, "value": {}})
        ours, theirs = socket.socketpair()
        guardian.says(ATTACHED, theirs)
        ours.close()
        guardian.close()
    answer = client.answer()
    assert answer.status == status
    if status == 403:
        assert (answer.json()["code"], answer.json()["rule"]) == ("not-permitted", "origin")
