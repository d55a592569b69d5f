"""POST /v1/containers/{container}/stop and /restart, with the test as launcher and guardian."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.api_process import Api, Client, api_directory, eventually, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE = "aa" + "1" * 62
JSON = {"Content-Type": "application/json"}
ENDED = {"status": "stopped", "exit": {"code": 5, "signal": None, "cause": "stopped"}}


@pytest.fixture(scope="module")
def running() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    """With a container that runs. What the process holds is the same behind each test."""
    running.settle()
    before = running.descriptors()
    tell(running)
    yield running
    for sock in running.open:
        sock.close()
    running.open.clear()
    running.say({"type": "gone", "id": ONE})
    running.settle()
    eventually(lambda: running.descriptors() == before)
    assert "Traceback" not in running.told()


def tell(api: Api, **changes: Any) -> None:
    """The container, as a shim reports it."""
    api.say({"type": "state", "state": state(ONE, name="one", **{"status": "running", **changes})})
    api.settle()


def begun(api: Api, body: bytes = b"", verb: str = "stop") -> tuple[Client, dict[str, Any], socket.socket]:
    """A stop up to the guardian: the client, what was asked, and what the guardian holds until the end."""
    client = api.client()
    client.send("POST", f"/v1/containers/one/{verb}", body, JSON if body else {})
    message, fds = api.hear()
    evidence, held = (socket.socket(fileno=fd) for fd in fds)
    evidence.close()
    assert (message["type"], message["id"]) == ("ask", ONE)
    return client, message, held


def answer(api: Api, message: dict[str, Any], value: dict[str, Any]) -> None:
    api.say({"type": "done", "seq": message["seq"], "value": value})
    api.settle()


def answered(client: Client) -> bool:
    return bool(select.select([client.sock], [], [], 0)[0])


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"", {}),
        (b"{}", {}),
        (b'{"signal": "INT"}', {"signal": 2}),
        (b'{"timeout": 1.5}', {"timeout": 1.5}),
        (b'{"timeout": -1, "signal": "9"}', {"timeout": -1.0, "signal": 9}),
    ],
)
def test_it_is_answered_when_the_container_has_ended(api: Api, body: bytes, asked: dict[str, Any]) -> None:
    client, message, held = begun(api, body)
    assert message["ask"] == {"type": "stop", **asked}
    answer(api, message, {})
    assert not answered(client)
    tell(api, **ENDED)
    assert not answered(client)
    held.close()
    assert client.answer().status == 204
    assert api.ask("GET", "/v1/containers/one").json()["exit"] == ENDED["exit"]


def test_where_nothing_runs_it_is_answered_at_once(api: Api) -> None:
    client, message, held = begun(api)
    held.close()
    answer(api, message, {"rests": True})
    assert client.answer().status == 204


def test_a_guardian_that_goes_before_the_end(api: Api) -> None:
    client, message, held = begun(api)
    answer(api, message, {})
    held.close()
    got = client.answer()
    assert (got.status, got.json()["rule"]) == (409, "unguarded")


def test_one_that_is_started_again_at_once_has_ended_all_the_same(api: Api) -> None:
    client, message, held = begun(api)
    answer(api, message, {})
    tell(api, **ENDED)
    tell(api, started="2026-01-31T12:00:00.010000000Z")
    held.close()
    assert client.answer().status == 204


def test_one_that_is_gone_has_ended(api: Api) -> None:
    client, message, held = begun(api)
    answer(api, message, {})
    api.say({"type": "gone", "id": ONE})
    held.close()
    assert client.answer().status == 204


def test_what_the_guardian_refuses(api: Api) -> None:
    client, message, held = begun(api)
    held.close()
    error = {"code": "limit-reached", "message": "cannot stop: too many"}
    api.say({"type": "refused", "seq": message["seq"], "error": error})
    assert client.answer().status == 429


def test_a_restart_stops_and_starts(api: Api) -> None:
    client, message, held = begun(api, b'{"timeout": 1}', "restart")
    assert message["ask"] == {"type": "stop", "timeout": 1.0, "again": True}
    answer(api, message, {})
    tell(api, **ENDED)
    held.close()
    guardian = api.hear_session()
    assert guardian.message == {"type": "launch", "seq": guardian.seq, "id": ONE}
    assert guardian.hears() == {"type": "launch", "version": 2, "container": ONE, "again": True}
    api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
    assert not answered(client)
    guardian.says({"type": "started", "id": ONE, "pid": 4712})
    guardian.close()
    assert client.answer().status == 204


def test_a_restart_of_what_cannot_be_started_again_ends_there(api: Api) -> None:
    client, message, held = begun(api, verb="restart")
    held.close()
    error = {"code": "conflict", "message": "cannot start one again", "rule": "descriptors"}
    api.say({"type": "refused", "seq": message["seq"], "error": error})
    assert client.answer().json()["rule"] == "descriptors"
    api.settle()  # nothing else was asked


def test_a_client_that_goes_is_none_that_waits(api: Api) -> None:
    client, message, held = begun(api)
    answer(api, message, {})
    client.sock.close()
    held.settimeout(20)
    assert held.recv(1) == b""  # and the guardian is told
    held.close()


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"signal": "x"}', b'{"timeout": -3}', b'{"x": 1}', b" "])
def test_a_body_that_is_none(api: Api, body: bytes) -> None:
    got = api.ask("POST", "/v1/containers/one/stop", body, JSON)
    assert (got.status, got.json()["code"]) == (400, "bad-request")


def test_a_body_of_another_type(api: Api) -> None:
    assert api.ask("POST", "/v1/containers/one/stop", b"{}", {"Content-Type": "text/plain"}).status == 415
