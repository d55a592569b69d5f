"""Making a container, starting it, ending it by force: the api in a client's place, with the test as launcher and guardian."""

from __future__ import annotations

import json
import os
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from common.bundle import bundle_of
from tests.unit.api_process import UPGRADE, Answer, Api, Client, Guardian, api_directory, eventually, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = "aa" + "1" * 62, "ab" + "2" * 62
JSON = {"Content-Type": "application/json"}
SESSION = {"Connection": "Upgrade", "Upgrade": "dkr-session/1"}


@pytest.fixture(scope="module")
def running() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    """What the process holds is the same behind each test."""
    running.settle()
    before = running.descriptors()
    yield running
    for sock in running.open:
        sock.close()
    running.open.clear()
    for container in (ONE, TWO):
        running.say({"type": "gone", "id": container})
    running.settle()
    eventually(lambda: running.descriptors() == before)
    assert "Traceback" not in running.told()


def stands(api: Api, status: str, container: str = ONE, **changes: Any) -> None:
    """A container of ours, as a shim reports it."""
    api.say({"type": "state", "state": state(container, status=status, name="one", **changes)})
    api.settle()


def post(api: Api, path: str, body: object = None, headers: dict[str, str] | None = None) -> Client:
    client = api.client()
    data = b"" if body is None else json.dumps(body).encode()
    client.send("POST", path, data, {**(JSON if body is not None else {}), **(headers or {})})
    return client


def get(api: Api, path: str) -> Client:
    client = api.client()
    client.send("GET", path)
    return client


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"].startswith("application/problem+json")
    return answer.status, answer.json()["code"]


# --- create


def created(api: Api, request: dict[str, Any], container: str = ONE) -> tuple[Client, Guardian]:
    """Up to the guardian's word that it has been made."""
    client = post(api, "/v1/containers", request)
    guardian = api.hear_session()
    api.say({"type": "accepted", "seq": guardian.seq, "id": container})
    frame = guardian.hears()
    assert frame is not None
    assert frame["type"] == "create"
    name = guardian.bundle["dkr"]["name"]
    api.say({"type": "state", "state": state(container, status="created", name=name, pid=0, started=None)})
    guardian.says({"type": "created", "id": container, "name": name})
    guardian.close()
    return client, guardian


def test_a_container_is_made(api: Api) -> None:
    request = {"args": ["/bin/cat"], "name": "made", "openStdin": True, "labels": {"a": "b"}}
    client = post(api, "/v1/containers", request)
    guardian = api.hear_session()
    assert guardian.message == {"type": "start", "seq": guardian.seq}
    assert guardian.bundle == bundle_of(request, "host", "made")
    assert guardian.bundle["dkr"]["openStdin"] is True
    assert guardian.hears() == {"type": "create", "version": 2, "request": request, "asks": []}
    api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
    api.say({"type": "state", "state": state(ONE, status="created", name="made", pid=0, started=None)})
    guardian.says({"type": "created", "id": ONE, "name": "made"})
    answer = client.answer()
    assert answer.status == 201
    assert answer.headers["location"] == f"/v1/containers/{ONE}"
    made = answer.json()
    assert (made["id"], made["status"], made["args"], made["labels"]) == (
        ONE,
        "created",
        ["/bin/cat"],
        {"a": "b"},
    )
    assert not {"pid", "started", "finished", "exit"} & made.keys()
    assert guardian.hears() is None
    # it is not alive, and it is there
    assert client.ask("GET", "/v1/containers").json() == []
    assert [c["id"] for c in client.ask("GET", "/v1/containers?all=true").json()] == [ONE]
    assert client.ask("GET", "/v1/info").json()["containers"]["created"] == 1


def test_what_is_above_a_tenants_defaults_is_asked_for(api: Api) -> None:
    """And refused by root's side, which knows that nobody but the api has said so."""
    client = post(api, "/v1/containers", {"args": ["a"], "namespaces": {"pid": "host", "time": "host"}})
    guardian = api.hear_session()
    frame = guardian.hears()
    assert frame is not None
    assert frame["asks"] == ["pid:host"]
    api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
    guardian.says({"type": "error", "error": {"code": "not-permitted", "message": "m", "rule": "http"}})
    answer = client.answer()
    assert problem(answer) == (403, "not-permitted")
    assert answer.json()["rule"] == "http"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("rootfs", {"rootfs": "/x"}),
        ("preserveFds", {"preserveFds": 1}),
        ("onDisconnect", {"onDisconnect": "keep"}),
        ("openStdin", {"openStdin": "yes"}),
        ("stdin", {"stdin": ""}),
        ("maxOutput", {"maxOutput": 1}),
        ("args", {"args": []}),
    ],
)
@pytest.mark.parametrize("headers", [{}, SESSION], ids=["plain", "session"])
def test_what_cannot_be_kept_is_refused_by_name(
    api: Api, path: str, wanted: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = post(api, "/v1/containers", {"args": ["a"], **wanted}, headers).answer()
    assert problem(answer) == (400, "bad-request")
    assert [field["path"] for field in answer.json()["fields"]] == [path]


def test_a_session_makes_one_too(api: Api) -> None:
    client = api.client()
    client.send("POST", "/v1/containers", b'{"args": ["a"], "openStdin": true}', UPGRADE)
    assert client.answer().status == 101
    start = api.hear_start()
    assert start.bundle["dkr"]["openStdin"] is True
    api.say({"type": "accepted", "seq": start.seq, "id": ONE})
    start.connection.close()
    assert client.sock.recv(1) == b""


@pytest.mark.parametrize("what", ["launcher", "guardian", "lost", "broken"])
def test_a_container_that_was_not_made(api: Api, what: str) -> None:
    client = post(api, "/v1/containers", {"args": ["a"], "name": "again"})
    guardian = api.hear_session()
    error = {"code": "limit-reached", "message": "no more"}
    if what == "launcher":
        api.say({"type": "refused", "seq": guardian.seq, "error": error})
    else:
        api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
        if what == "guardian":
            guardian.says({"type": "error", "error": error})
        elif what == "broken":
            guardian.session.send(b"{")
        guardian.close()
        api.say({"type": "gone", "id": ONE})
    wanted = {"lost": (503, "unavailable"), "broken": (502, "protocol")}.get(what, (429, "limit-reached"))
    assert problem(client.answer()) == wanted
    # and its name is free
    client, _ = created(api, {"args": ["a"], "name": "again"})
    assert client.answer().status == 201


def test_an_image_that_is_not_known(api: Api) -> None:
    answer = post(api, "/v1/containers", {"args": ["a"], "image": "nosuch", "name": "free"}).answer()
    assert problem(answer) == (404, "not-found")
    client, _ = created(api, {"args": ["a"], "name": "free"})
    assert client.answer().status == 201


def test_a_name_in_use(api: Api) -> None:
    stands(api, "created")
    client = post(api, "/v1/containers", {"args": ["a"], "name": "one"})
    assert problem(client.answer()) == (409, "conflict")


def test_a_client_that_goes_while_it_is_made(api: Api) -> None:
    client = post(api, "/v1/containers", {"args": ["a"]})
    guardian = api.hear_session()
    assert guardian.hears() is not None
    client.close()
    guardian.connection.close()
    assert guardian.hears() is None  # the session has ended with the client
    api.say({"type": "refused", "seq": guardian.seq, "error": {"code": "conflict", "message": "m"}})


# --- start


def test_a_container_is_started(api: Api) -> None:
    ended = {"code": 1, "signal": None, "cause": "exited"}
    stands(api, "stopped", exit=ended)
    client = post(api, "/v1/containers/one/start")
    guardian = api.hear_session()
    assert guardian.message == {"type": "launch", "seq": guardian.seq, "id": ONE}
    assert guardian.hears() == {"type": "launch", "version": 2, "container": ONE}
    api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
    guardian.says({"type": "started", "id": ONE, "pid": 7})
    api.say({"type": "state", "state": state(ONE, name="one")})
    guardian.close()
    answer = client.answer()
    assert (answer.status, answer.body) == (204, b"")
    shown = client.ask("GET", "/v1/containers/one").json()
    assert shown["status"] == "running"
    assert "exit" not in shown


def test_one_that_runs_already(api: Api) -> None:
    stands(api, "running")
    client = post(api, "/v1/containers/one/start")
    guardian = api.hear_session()
    error = {"code": "conflict", "message": "it runs", "rule": "running"}
    api.say({"type": "refused", "seq": guardian.seq, "error": error})
    guardian.close()
    assert client.answer().status == 204


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        ({"code": "command-not-found", "message": "m", "step": "execve", "errno": 2}, 422),
        ({"code": "conflict", "message": "m", "rule": "descriptors"}, 409),
        ({"code": "not-found", "message": "m"}, 404),
        ({"code": "limit-reached", "message": "m"}, 429),
    ],
)
@pytest.mark.parametrize("way", ["launcher", "guardian"])
def test_one_that_could_not_be_started(api: Api, error: dict[str, Any], wanted: int, way: str) -> None:
    stands(api, "created")
    client = post(api, "/v1/containers/one/start")
    guardian = api.hear_session()
    if way == "launcher":
        api.say({"type": "refused", "seq": guardian.seq, "error": error})
    else:
        api.say({"type": "accepted", "seq": guardian.seq, "id": ONE})
        guardian.says({"type": "error", "error": error})
    guardian.close()
    assert problem(client.answer()) == (wanted, error["code"])


def test_a_start_by_session(api: Api) -> None:
    stands(api, "created")
    client = post(api, "/v1/containers/one/start", headers=SESSION)
    answer = client.answer()
    assert (answer.status, answer.headers["upgrade"]) == (101, "dkr-session/1")
    message, fds = api.hear()
    assert message == {"type": "launch", "seq": message["seq"], "id": ONE}
    [fd] = fds
    with socket.socket(fileno=fd) as connection:
        connection.send(b"from root")
    api.say({"type": "refused", "seq": message["seq"], "error": {"code": "conflict", "message": "m"}})
    assert client.sock.recv(20) == b"from root"  # which has told the client itself
    assert client.sock.recv(20) == b""


def test_what_is_not_there_cannot_be_started(api: Api) -> None:
    for headers in ({}, SESSION, {**SESSION, "Upgrade": "dkr-stream/1"}):
        assert problem(post(api, "/v1/containers/nosuch/start", headers=headers).answer()) == (
            404,
            "not-found",
        )


def test_each_way_to_start_has_its_own_query(api: Api) -> None:
    stands(api, "created")
    for headers in ({}, SESSION):
        answer = post(api, "/v1/containers/one/start?stdin=true", headers=headers).answer()
        assert problem(answer) == (400, "bad-request")
    stream = {**SESSION, "Upgrade": "dkr-stream/1"}
    answer = post(api, "/v1/containers/one/start?stdin=1", headers=stream).answer()
    assert answer.json()["fields"][0]["path"] == "stdin"
    answer = post(api, "/v1/containers/one/start", headers={**SESSION, "Upgrade": "websocket"}).answer()
    assert (answer.status, answer.headers["upgrade"]) == (426, "dkr-session/1, dkr-stream/1")


# --- exec


def test_an_exec_by_session(api: Api) -> None:
    """Root's side is not told what the api was: it goes by what the client says to it."""
    stands(api, "running")
    client = post(api, "/v1/containers/one/exec", {"args": ["/bin/id"], "user": "7"}, SESSION)
    answer = client.answer()
    assert (answer.status, answer.headers["upgrade"]) == (101, "dkr-session/1")
    message, [fd] = api.hear()
    assert message == {"type": "ask", "seq": message["seq"], "id": ONE, "ask": {"type": "exec"}}
    with socket.socket(fileno=fd) as connection:
        connection.send(b"from root")
    api.say({"type": "done", "seq": message["seq"], "value": {}})
    assert client.sock.recv(20) == b"from root"
    assert client.sock.recv(20) == b""


def test_a_refused_exec_is_told_by_the_api(api: Api) -> None:
    stands(api, "running")
    client = post(api, "/v1/containers/one/exec", {"args": ["/bin/id"]}, SESSION)
    assert client.answer().status == 101
    message, [fd] = api.hear()
    api.say({"type": "refused", "seq": message["seq"], "error": {"code": "limit-reached", "message": "m"}})
    record, _ = client.record()
    assert record == {"type": "error", "error": {"code": "limit-reached", "message": "m"}}
    os.close(fd)


def test_what_is_executed_is_asked_of_the_guardian(api: Api) -> None:
    stands(api, "running")
    client = get(api, "/v1/containers/one/execs")
    message, [fd] = api.hear()
    os.close(fd)
    assert message["ask"] == {"type": "execs"}
    one = {
        "id": "6" * 64,
        "pid": 1,
        "uid": 2,
        "args": ["x"],
        "terminal": False,
        "started": "2026-01-31T12:00:00Z",
    }
    api.say({"type": "done", "seq": message["seq"], "value": {"execs": [one]}})
    answer = client.answer()
    assert (answer.status, answer.json()) == (200, [one])


def test_a_guardian_that_tells_nonsense_of_them(api: Api) -> None:
    stands(api, "running")
    client = get(api, "/v1/containers/one/execs")
    message, [fd] = api.hear()
    os.close(fd)
    api.say({"type": "done", "seq": message["seq"], "value": {"execs": [{"id": 1}]}})
    assert problem(client.answer()) == (502, "protocol")


def test_a_signal_for_an_exec(api: Api) -> None:
    stands(api, "running")
    client = post(api, "/v1/containers/one/execs/abc/kill", {"signal": "TERM"})
    message, [fd] = api.hear()
    os.close(fd)
    assert message["ask"] == {"type": "exec-kill", "exec": "abc", "signal": 15}
    api.say({"type": "done", "seq": message["seq"], "value": {}})
    assert client.answer().status == 204


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "args"),
        ({"args": []}, "args"),
        ({"args": [""]}, "args[0]"),
        ({"args": ["x"], "cwd": "tmp"}, "cwd"),
        ({"args": ["x"], "cwd": None}, "cwd"),
        ({"args": ["x"], "user": "a b"}, "user"),
        ({"args": ["x"], "env": {"": "b"}}, "env"),
        ({"args": ["x"], "onDisconnect": "stay"}, "onDisconnect"),
        ({"args": ["x"], "preserveFds": 251}, "preserveFds"),
        ({"args": ["x"], "consoleSize": {"height": 1, "width": 1}}, "consoleSize"),
        ({"args": ["x"], "privileged": True}, "privileged"),
        ({"args": ["x" * 100_000] * 30}, "args"),
    ],
)
def test_a_bad_exec_is_told_where_it_is_bad(api: Api, body: object, path: str) -> None:
    stands(api, "running")
    answer = post(api, "/v1/containers/one/exec", body, SESSION).answer()
    assert problem(answer) == (400, "bad-request")
    assert answer.json()["fields"][0]["path"].startswith(path)


# --- what only was made


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "kill", {}),
        ("GET", "explain", {}),
        ("POST", "attach", SESSION),
        ("POST", "attach", {**SESSION, "Upgrade": "dkr-stream/1"}),
        ("GET", "attach", {"Connection": "Upgrade", "Upgrade": "websocket"}),
        ("POST", "exec", SESSION),
        ("POST", "exec", {**SESSION, "Upgrade": "dkr-stream/1"}),
        ("GET", "exec", {"Connection": "Upgrade", "Upgrade": "websocket"}),
    ],
)
def test_one_that_was_not_started_does_none_of_that(
    api: Api, method: str, path: str, headers: dict[str, str]
) -> None:
    stands(api, "created", started=None)
    body = {"kill": b"{}", "exec": b'{"args": ["x"]}'}.get(path, b"") if method == "POST" else b""
    answer = api.ask(method, f"/v1/containers/one/{path}", body, {**(JSON if body else {}), **headers})
    assert problem(answer) == (409, "conflict")
    assert answer.json()["rule"] == "not-started"
    assert "has not been started" in answer.json()["detail"]


def test_a_new_api_knows_of_it(api: Api) -> None:
    with api_directory() as other:
        other.start([state(ONE, status="created", name="one", started=None, pid=0)])
        other.kill()
        other.start([state(ONE, status="created", name="one", started=None, pid=0)])
        shown = other.ask("GET", "/v1/containers/one").json()
        assert shown["status"] == "created"
        other.kill()
        other.start([])
        assert other.ask("GET", "/v1/containers/one").status == 404


# --- remove by force


def kill_of(api: Api) -> dict[str, Any]:
    message, fds = api.hear()
    socket.socket(fileno=fds[0]).close()
    assert message["ask"] == {"type": "kill", "signal": 9}
    return message


def test_force_kills_waits_and_removes(api: Api) -> None:
    stands(api, "running")
    client = api.client()
    client.send("DELETE", "/v1/containers/one?force=true")
    message = kill_of(api)
    api.say({"type": "done", "seq": message["seq"], "value": {}})
    stands_still = state(
        ONE, status="stopped", name="one", exit={"code": None, "signal": 9, "cause": "signalled"}
    )
    api.say({"type": "state", "state": stands_still})
    message, fds = api.hear()
    socket.socket(fileno=fds[0]).close()
    assert message == {"type": "remove", "seq": message["seq"], "id": ONE}
    api.say({"type": "done", "seq": message["seq"]})
    assert client.answer().status == 204
    assert client.ask("GET", "/v1/containers/one").status == 404


def test_force_waits_for_one_that_removes_itself(api: Api) -> None:
    stands(api, "running", rm=True)
    client = api.client()
    client.send("DELETE", "/v1/containers/one?force=true")
    message = kill_of(api)
    error = {"code": "conflict", "message": "it has ended", "rule": "ended"}
    api.say({"type": "refused", "seq": message["seq"], "error": error})  # by itself, just now
    stands(api, "stopped", rm=True)
    assert not select.select([client.sock], [], [], 0.1)[0]
    api.say({"type": "gone", "id": ONE})
    assert client.answer().status == 204


def test_force_where_nobody_can(api: Api) -> None:
    stands(api, "running")
    client = api.client()
    client.send("DELETE", "/v1/containers/one?force=true")
    message = kill_of(api)
    error = {"code": "conflict", "message": "its guardian was killed", "rule": "unguarded"}
    api.say({"type": "refused", "seq": message["seq"], "error": error})
    answer = client.answer()
    assert (answer.status, answer.json()["rule"]) == (409, "unguarded")


def test_whoever_removes_by_force_may_go(api: Api) -> None:
    stands(api, "running")
    client = api.client()
    client.send("DELETE", "/v1/containers/one?force=true")
    message = kill_of(api)
    api.say({"type": "done", "seq": message["seq"], "value": {}})
    client.close()


@pytest.mark.parametrize("status", ["created", "stopped"])
def test_force_of_what_does_not_run(api: Api, status: str) -> None:
    stands(api, status)
    client = api.client()
    client.send("DELETE", "/v1/containers/one?force=true")
    message, fds = api.hear()
    socket.socket(fileno=fds[0]).close()
    assert message["type"] == "remove"
    api.say({"type": "done", "seq": message["seq"]})
    assert client.answer().status == 204
