"""POST /v1/run against a real api process: the upgrade, the hand-over, and every way to be refused."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from common import frames
from common.bundle import bundle_of
from tests.unit.api_process import UPGRADE, Api, Client, api_directory, eventually, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "c0ffee" + "0" * 58


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture(autouse=True)
def answers(api: Api) -> None:
    api.answers_pings = True


def accept(api: Api, client: Client, container: str, request: dict[str, Any]) -> None:
    """A start up to the launcher's answer; then the shim's part: the session socket."""
    client.run(request)
    assert client.answer().status == 101
    start = api.hear_start()
    api.say({"type": "accepted", "seq": start.seq, "id": container})
    start.connection.close()


def gone(api: Api, container: str) -> None:
    api.say({"type": "gone", "id": container})
    api.settle()


def test_the_connection_is_handed_over_and_lives_on(api: Api) -> None:
    request = {"args": ["/bin/echo", "ä\u0001"], "env": {"A": "b"}, "name": "happy", "labels": {"l": "m"}}
    client = api.client()
    client.run(request)
    answer = client.answer()
    assert answer.status == 101
    assert answer.headers["upgrade"] == "dkr-session/1"
    assert answer.headers["connection"].lower() == "upgrade"
    start = api.hear_start()
    assert start.bundle == bundle_of(json.loads(json.dumps(request)), "host", "happy")

    # what the launcher got is the client's own connection
    pid, uid, _ = struct.unpack("iII", start.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    assert (pid, uid) == (os.getpid(), os.getuid())
    api.say({"type": "accepted", "seq": start.seq, "id": ID})
    api.settle()  # the api has let go of its copies by now

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(start.connection, [frames.record({"type": "session", "id": ID})], [theirs.fileno()])
    record, fds = client.record()
    assert record == {"type": "session", "id": ID}
    session = socket.socket(fileno=fds[0])
    session.send(b"hello")
    assert ours.recv(10) == b"hello"

    # nobody else holds the connection: closing it is seen at once
    start.connection.close()
    assert client.sock.recv(1) == b""
    for sock in (ours, theirs, session, client.sock):
        sock.close()
    gone(api, ID)


def test_what_the_api_is_told_is_what_it_tells(api: Api) -> None:
    client = api.client()
    accept(api, client, ID, {"args": ["/bin/sleep", "1"], "name": "told", "labels": {"a": "b"}, "rm": True})
    api.settle()
    shown = api.ask("GET", "/v1/containers/told").json()
    assert shown["status"] == "creating"
    assert (shown["image"], shown["args"], shown["labels"]) == ("host", ["/bin/sleep", "1"], {"a": "b"})
    api.say({"type": "state", "state": state(ID, name="told", rm=True)})
    api.settle()
    shown = api.ask("GET", f"/v1/containers/{ID[:6]}").json()
    assert (shown["status"], shown["pid"], shown["labels"]) == ("running", 4711, {"a": "b"})
    ended = {"code": 3, "signal": None, "cause": "exited"}
    api.say({"type": "state", "state": state(ID, name="told", rm=True, status="stopped", exit=ended)})
    api.settle()
    assert api.ask("GET", "/v1/containers").json() == []
    shown = api.ask("GET", "/v1/containers?all=true").json()
    assert [(c["id"], c["status"], c["exit"]) for c in shown] == [(ID, "stopped", ended)]
    assert "pid" not in shown[0]
    gone(api, ID)
    assert api.ask("GET", f"/v1/containers/{ID}").status == 404
    client.close()


BAD: list[tuple[str, object]] = [
    ("args", {"args": []}),
    ("args[0]", {"args": ["a\0"]}),
    ("env.A=B", {"args": ["a"], "env": {"A=B": ""}}),
    ("cwd", {"args": ["a"], "cwd": "x"}),
    ("tmpfs./proc/x", {"args": ["a"], "tmpfs": {"/proc/x": ""}}),
    ("colour", {"args": ["a"], "colour": "red"}),
    ("", ["args"]),
]


@pytest.mark.parametrize(("path", "request_"), BAD, ids=[path or "whole" for path, _ in BAD])
def test_bad_input_is_answered_with_its_path(api: Api, path: str, request_: object) -> None:
    answer = api.ask("POST", "/v1/run", json.dumps(request_).encode(), UPGRADE)
    problem = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status, problem["status"], problem["code"]) == (400, 400, "bad-request")
    assert problem["type"] == "about:blank"
    assert problem["title"] == "Bad Request"
    assert problem["fields"][0]["path"] == path


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"args": ["\\udc00"]}', b"[" * 10_000])
def test_what_is_not_json_is_answered(api: Api, body: bytes) -> None:
    answer = api.ask("POST", "/v1/run", body, UPGRADE)
    assert (answer.status, answer.json()["code"]) == (400, "bad-request")


@pytest.mark.parametrize(
    "headers",
    [
        {**UPGRADE, "Upgrade": "websocket"},
        {**UPGRADE, "Upgrade": "dkr-session/2"},
        {**UPGRADE, "Connection": "keep-alive"},
    ],
)
def test_an_upgrade_that_is_not_ours_426(api: Api, headers: dict[str, str]) -> None:
    answer = api.ask("POST", "/v1/run", b'{"args": ["a"]}', headers)
    assert (answer.status, answer.json()["status"]) == (426, 426)
    assert answer.headers["upgrade"] == "dkr-session/1"


def test_the_connection_can_be_used_again_after_a_refusal(api: Api) -> None:
    client = api.client()
    assert client.ask("POST", "/v1/run", b"{}", UPGRADE).status == 400
    assert client.ask("GET", "/v1/version").status == 200
    accept(api, client, ID, {"args": ["a"]})
    gone(api, ID)
    client.close()


def test_a_body_that_is_too_large_is_not_read(api: Api) -> None:
    client = api.client()
    client.send("POST", "/v1/run", b"", {**UPGRADE, "Content-Length": str(4 * 1024 * 1024 + 1)})
    answer = client.answer()
    assert (answer.status, answer.json()["code"]) == (413, "limit-reached")
    client.close()


def test_a_chunked_body_that_is_too_large_is_refused(api: Api) -> None:
    client = api.client()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = "POST /v1/run HTTP/1.1\r\nHost: dkr\r\nTransfer-Encoding: chunked\r\n"
    head += "".join(f"{k}: {v}\r\n" for k, v in UPGRADE.items()) + "\r\n"
    with contextlib.suppress(BrokenPipeError):  # it need not be read to its end
        client.sock.sendall(head.encode() + chunk * 65)
    assert client.answer().status == 413
    client.close()


@pytest.mark.parametrize(
    "headers",
    [
        {**UPGRADE, "Content-Type": "text/plain"},
        {k: v for k, v in UPGRADE.items() if k != "Content-Type"},
        {**UPGRADE, "Content-Encoding": "gzip"},
    ],
)
def test_another_kind_of_body_415(api: Api, headers: dict[str, str]) -> None:
    answer = api.ask("POST", "/v1/run", b'{"args": ["a"]}', headers)
    assert (answer.status, answer.json()["code"]) == (415, "bad-request")


def test_a_bundle_that_passes_no_frame_is_refused_before_the_101(api: Api) -> None:
    # control characters take one byte of an argument and six of JSON
    args = ["\u0001" * 131000] * 5 + ["\u0001" * 43900]
    body = json.dumps({"args": args}).encode()
    assert len(body) < 4 * 1024 * 1024
    answer = api.ask("POST", "/v1/run", body, UPGRADE)
    assert (answer.status, answer.json()["code"]) == (429, "limit-reached")


def test_a_large_bundle_passes(api: Api) -> None:
    client = api.client()
    client.run({"args": ["x" * 131071] * 15})
    assert client.answer().status == 101
    start = api.hear_start()
    assert [len(arg) for arg in start.bundle["spec"]["process"]["args"]] == [131071] * 15
    api.say({"type": "refused", "seq": start.seq, "error": {"code": "conflict", "message": "m"}})
    start.connection.close()
    client.close()


def test_an_unknown_image_is_refused_before_the_101(api: Api) -> None:
    answer = api.ask("POST", "/v1/run", b'{"args": ["a"], "image": "nosuch", "name": "free"}', UPGRADE)
    assert (answer.status, answer.json()["code"]) == (404, "not-found")
    assert "host" in answer.json()["hint"]
    # and its name was not kept
    client = api.client()
    accept(api, client, ID, {"args": ["a"], "name": "free"})
    gone(api, ID)
    client.close()


def test_a_name_belongs_to_one_container(api: Api) -> None:
    first, second = api.client(), api.client()
    first.run({"args": ["a"], "name": "twice"})
    assert first.answer().status == 101
    start = api.hear_start()
    # reserved: nobody has answered yet
    second.run({"args": ["a"], "name": "twice"})
    answer = second.answer()
    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    api.say({"type": "accepted", "seq": start.seq, "id": ID})
    api.settle()
    second.run({"args": ["a"], "name": "twice"})
    answer = second.answer()
    assert answer.status == 409
    assert ID[:12] in answer.json()["detail"]
    gone(api, ID)
    accept(api, second, ID, {"args": ["a"], "name": "twice"})
    gone(api, ID)
    start.connection.close()
    first.close()
    second.close()


def test_a_name_is_free_when_only_the_removal_is_left(api: Api) -> None:
    """Its client has heard of the end, and asks before we have."""
    client, again = api.client(), api.client()
    api.answers_pings = False
    accept(api, client, ID, {"args": ["a"], "name": "brief", "rm": True})
    again.run({"args": ["a"], "name": "brief"})
    message, _ = api.hear()
    assert message == {"type": "ping"}
    api.say({"type": "state", "state": state(ID, status="stopped", name="brief", rm=True)})
    api.say({"type": "pong"})
    assert again.answer().status == 101
    start = api.hear_start()
    api.say({"type": "refused", "seq": start.seq, "error": {"code": "limit-reached", "message": "no more"}})
    start.connection.close()
    gone(api, ID)
    client.close()
    again.close()


def test_the_name_of_a_plain_run_is_free_when_its_client_has_gone(api: Api) -> None:
    first, again = api.client(), api.client()
    api.answers_pings = False
    accept(api, first, ID, {"args": ["a"], "name": "twice"})
    plain = api.client()
    body = json.dumps({"args": ["a"], "name": "twice"}).encode()
    plain.send("POST", "/v1/run", body, {"Content-Type": "application/json"})
    # It waits for what has been reported. Before it hears of that its client goes; whoever is answered later proves it.
    message, _ = api.hear()
    assert message == {"type": "ping"}
    plain.close()
    assert api.ask("GET", "/_ping").status == 200
    api.say({"type": "gone", "id": ID})
    api.say({"type": "pong"})
    api.settle()
    accept(api, again, ID, {"args": ["a"], "name": "twice"})
    gone(api, ID)
    first.close()
    again.close()


def test_after_a_refusal_the_api_writes_nothing_and_the_name_is_free(api: Api) -> None:
    client = api.client()
    client.run({"args": ["a"], "name": "refused"})
    assert client.answer().status == 101
    start = api.hear_start()
    error = {"code": "limit-reached", "message": "no more"}
    start.connection.send(frames.record({"type": "error", "error": error}))
    start.connection.close()
    api.say({"type": "refused", "seq": start.seq, "error": error})
    record, fds = client.record()
    assert (record, fds) == ({"type": "error", "error": error}, [])
    assert client.sock.recv(1) == b""
    again = api.client()
    accept(api, again, ID, {"args": ["a"], "name": "refused"})
    gone(api, ID)
    client.close()
    again.close()


def test_many_at_once_get_each_their_own_answer(api: Api) -> None:
    clients = [api.client() for _ in range(30)]
    for number, client in enumerate(clients):
        client.run({"args": ["a", str(number)]})
    starts = [api.hear_start() for _ in clients]
    assert len({start.seq for start in starts}) == len(starts)
    for start in reversed(starts):
        word = start.bundle["spec"]["process"]["args"][1]
        api.say({"type": "accepted", "seq": start.seq, "id": word.zfill(64)})
        start.connection.send(frames.record({"type": "session", "id": word.zfill(64)}))
        start.connection.close()
    for number, client in enumerate(clients):
        assert client.answer().status == 101
        assert client.record()[0]["id"] == str(number).zfill(64)
        client.close()
    api.settle()
    names = {c["id"]: c["name"] for c in api.ask("GET", "/v1/containers").json()}
    assert len(set(names.values())) == 30
    for number in range(30):
        api.say({"type": "gone", "id": str(number).zfill(64)})
    api.settle()


def test_a_client_that_is_gone_before_the_answer_leaves_nothing(api: Api) -> None:
    before = len(os.listdir(f"/proc/{api.pid}/fd"))
    for _ in range(10):
        client = api.client()
        client.run({"args": ["a"], "name": "vanishing"})
        client.close()
        # Whether the api noticed in time or not: what it hands over is answered like any other.
        api.say({"type": "ping"})
        message, fds = api.hear()
        while message["type"] == "start":
            api.say({"type": "refused", "seq": message["seq"], "error": {"code": "conflict", "message": "m"}})
            for fd in fds:
                os.close(fd)
            message, fds = api.hear()

    # some may arrive only now: drained by the pings of the loop
    def settled() -> bool:
        api.say({"type": "ping"})
        message, fds = api.hear()
        while message["type"] == "start":
            api.say({"type": "refused", "seq": message["seq"], "error": {"code": "conflict", "message": "m"}})
            for fd in fds:
                os.close(fd)
            message, fds = api.hear()
        return len(os.listdir(f"/proc/{api.pid}/fd")) <= before

    eventually(settled)
    assert "Traceback" not in api.told()
