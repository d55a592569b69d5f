"""Containers over plain HTTP from their making to their removal, against a real daemon."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, create, lines, logged, made, remove, sh, shown, start, wait
from tests.reliability.support import Counts, ask, assert_same, eventually, listed
from tests.sessions import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[Counts]:
    """What launcher, api and machine hold, and which containers there are, is the same behind each test."""
    there = listed(daemon, every=True)
    yield at_rest
    eventually(lambda: listed(daemon, every=True) == there, "what removes itself is removed")
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def test_from_its_making_to_its_removal(caller: Caller) -> None:
    wanted = {"args": sh("echo out; echo err >&2; exit 3"), "name": "whole", "labels": {"a": "b"}}
    status, container = asked(caller, "POST", "/v1/containers", wanted)
    assert status == 201, container
    assert (container["status"], container["uid"]) == ("created", caller.uid)
    assert (container["name"], container["labels"]) == ("whole", {"a": "b"})
    assert not {"pid", "started", "finished", "exit"} & container.keys()
    assert asked(caller, "GET", "/v1/containers") == (200, [])
    assert asked(caller, "GET", "/v1/containers?all=true") == (200, [container])
    assert asked(caller, "GET", "/v1/containers/whole") == (200, container)
    assert asked(caller, "POST", "/v1/containers/whole/start") == (204, None)
    status, answer = asked(caller, "POST", "/v1/containers/whole/wait")
    assert (status, answer["exit"]) == (200, {"code": 3, "signal": None, "cause": "exited"})
    _, container = asked(caller, "GET", f"/v1/containers/{container['id'][:16]}")
    assert (container["status"], container["exit"]) == ("stopped", answer["exit"])
    status, trace = asked(caller, "GET", "/v1/containers/whole/explain")
    assert (status, trace["outcome"]) == (200, "started")
    assert asked(caller, "DELETE", "/v1/containers/whole") == (204, None)
    assert asked(caller, "GET", "/v1/containers/whole")[0] == 404


def test_the_answer_tells_where_it_is(daemon: Daemon) -> None:
    connection = http.client.HTTPConnection("dkr", timeout=SHELL_SECONDS)
    with socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(daemon.socket))
        body = json.dumps({"args": ["/bin/true"]})
        connection.request("POST", "/v1/containers", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        container = json.loads(answer.read())
        assert answer.status == 201
        place = answer.headers["Location"]
        connection.request("GET", place)
        assert json.loads(connection.getresponse().read()) == container
        connection.request("DELETE", place)
        assert connection.getresponse().status == 204


def test_one_that_has_ended_starts_again_where_it_was(daemon: Daemon) -> None:
    with made(daemon, *sh("echo again >>/srv/notes; cat /srv/notes; exit $(wc -l </srv/notes)")) as name:
        assert wait(daemon, name)["code"] == 1
        for turn in (2, 3):
            start(daemon, name)
            assert wait(daemon, name)["code"] == turn
        assert [line["log"] for line in lines(daemon, name)] == ["again\n"] * 6
        found = shown(daemon, name)
        assert found["started"] > found["created"]


def test_while_it_runs(daemon: Daemon) -> None:
    with made(daemon, "/bin/sleep", "600", labels={"k": "v"}, name="sleeper") as name:
        found = shown(daemon, name)
        assert found["status"] == "running"
        assert found["pid"] > 1
        assert "exit" not in found
        assert [c["id"] for c in listed(daemon)] == [name]
        start(daemon, name)  # which it is already
        assert shown(daemon, name) == found
        status, problem = ask(daemon, "DELETE", f"/v1/containers/{name}")
        assert (status, problem["code"]) == (409, "conflict")
        status, problem = ask(daemon, "POST", "/v1/containers", {"args": ["x"], "name": "sleeper"})
        assert (status, problem["code"]) == (409, "conflict")


def test_what_was_only_made(daemon: Daemon) -> None:
    with made(daemon, "/bin/true", begin=False) as name:
        for method, target, body in (
            ("POST", "kill", {}),
            ("GET", "explain", None),
        ):
            status, problem = ask(daemon, method, f"/v1/containers/{name}/{target}", body)
            assert (status, problem["rule"]) == (409, "not-started")
        status, problem = ask(daemon, "POST", f"/v1/containers/{name}/wait?timeout=0.05")
        assert (status, problem["rule"]) == (503, "timeout")
        assert lines(daemon, name) == []
        assert ask(daemon, "DELETE", f"/v1/containers/{name}") == (204, None)


def test_whoever_waits_for_one_that_was_only_made_learns_its_end(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(log_level="debug")
    with made(daemon, *sh("exit 4"), begin=False) as name, ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait, daemon, name)
        eventually(lambda: f"wait for {name[:12]}" in daemon.log, "somebody waits for it")
        start(daemon, name)
        assert waiting.result()["code"] == 4


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"args": ["/bin/nosuch"]}, 422, "command-not-found"),
        ({"args": ["/etc"]}, 422, "command-not-executable"),
        ({"args": ["/bin/true"], "cwd": "/nosuch"}, 422, "command-not-executable"),
    ],
)
def test_what_cannot_be_started(caller: Caller, wanted: dict[str, Any], status: int, code: str) -> None:
    made_status, container = asked(caller, "POST", "/v1/containers", wanted)
    assert made_status == 201, container
    place = f"/v1/containers/{container['id']}"
    for _ in range(2):
        got, problem = asked(caller, "POST", f"{place}/start")
        assert (got, problem["code"]) == (status, code)
        assert asked(caller, "GET", place)[1]["status"] == "created"  # as it was
    assert asked(caller, "DELETE", place) == (204, None)


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"args": ["x"], "image": "nosuch"}, 404, "not-found"),
        ({"args": ["x"], "namespaces": {"pid": "host"}}, 403, "not-permitted"),
        ({"args": ["x"], "rootfs": "/"}, 400, "bad-request"),
        ({"args": ["x"], "preserveFds": 1}, 400, "bad-request"),
        ({"args": ["x"], "onDisconnect": "stop"}, 400, "bad-request"),
        ({"args": ["x"], "maxOutput": 1}, 400, "bad-request"),
        ({"args": []}, 400, "bad-request"),
    ],
)
def test_what_cannot_be_made(caller: Caller, wanted: dict[str, Any], status: int, code: str) -> None:
    got, problem = asked(caller, "POST", "/v1/containers", wanted)
    assert (got, problem["code"], problem["status"]) == (status, code, status)
    # What the guardian has refused is told as gone when that has ended.
    eventually(lambda: asked(caller, "GET", "/v1/containers?all=true") == (200, []), "nothing was made")


def test_others_containers_are_not_there(daemon: Daemon, tenant: User, other_tenant: User) -> None:
    _, container = asked(Caller(daemon, tenant), "POST", "/v1/containers", {"args": ["/bin/sleep", "600"]})
    place = f"/v1/containers/{container['id']}"
    other = Caller(daemon, other_tenant)
    for method, target, body in (
        ("GET", "", None),
        ("POST", "/start", None),
        ("POST", "/kill", {}),
        ("GET", "/logs", None),
        ("POST", "/wait", None),
        ("DELETE", "", None),
        ("DELETE", "?force=true", None),
    ):
        status, problem = asked(other, method, place + target, body)
        assert (status, problem["code"]) == (404, "not-found"), target
    assert shown(daemon, container["id"])["status"] == "created"
    # an admin starts and removes it, and it stays its owner's
    start(daemon, container["id"])
    assert shown(daemon, container["id"])["uid"] == tenant.uid
    assert ask(daemon, "DELETE", f"{place}?force=true") == (204, None)


# --- removal


def test_by_force(daemon: Daemon) -> None:
    with made(daemon, *sh("trap '' TERM; echo up; sleep 600")) as name:
        logged(daemon, name, "up\n")
        assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true") == (204, None)
        assert ask(daemon, "GET", f"/v1/containers/{name}")[0] == 404


def test_by_force_of_one_that_removes_itself(daemon: Daemon) -> None:
    for _ in range(5):
        with made(daemon, "/bin/sleep", "600", rm=True, name="again") as name:
            assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true") == (204, None)
            assert ask(daemon, "GET", f"/v1/containers/{name}")[0] == 404


def test_by_force_of_one_that_ends_just_now(daemon: Daemon) -> None:
    for _ in range(10):
        with made(daemon, "/bin/true") as name:
            assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true") == (204, None)


def test_by_force_of_what_does_not_run(daemon: Daemon) -> None:
    for begin in (False, True):
        with made(daemon, "/bin/true", begin=begin) as name:
            if begin:
                wait(daemon, name)
            assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true") == (204, None)


DEEP = """
import os
for _ in range(3000):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
"""


def test_whatever_it_has_left_goes(caller: Caller) -> None:
    wanted = {"args": ["/usr/bin/python3", "-c", DEEP], "cwd": "/srv"}
    _, container = asked(caller, "POST", "/v1/containers", wanted)
    place = f"/v1/containers/{container['id']}"
    assert asked(caller, "POST", f"{place}/start")[0] == 204
    assert asked(caller, "POST", f"{place}/wait")[1]["exit"]["code"] == 0
    assert asked(caller, "DELETE", place) == (204, None)


def test_one_of_a_run_too(root: Caller) -> None:
    client = root.daemon.popen("run", "--name", "of-run", "/bin/sleep", "600")
    root.command("sleep")
    assert ask(root.daemon, "DELETE", "/v1/containers/of-run?force=true") == (204, None)
    assert client.wait(SHELL_SECONDS) == 137


def test_rm_goes_by_itself(daemon: Daemon) -> None:
    name = str(create(daemon, *sh("exit 2"), rm=True)["id"])
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, daemon, "POST", f"/v1/containers/{name}/wait?condition=removed&timeout=30")
        start(daemon, name)
        assert waiting.result()[0] in (200, 404)
    remove(daemon, name)


# --- more than once, and at once


def test_of_many_starts_one_is_done(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up; sleep 600"), begin=False) as name, ThreadPoolExecutor(8) as pool:
        target = f"/v1/containers/{name}/start"
        statuses = list(pool.map(lambda _: ask(daemon, "POST", target)[0], range(8)))
        assert 204 in statuses
        assert set(statuses) <= {204, 409}
        logged(daemon, name, "up\n")
        assert len(lines(daemon, name)) == 1


def test_several_at_once(daemon: Daemon) -> None:
    def whole(number: int) -> tuple[int, list[str]]:
        with made(daemon, *sh(f"echo {number}; exit {number}")) as name:
            code = wait(daemon, name)["code"]
            return code, [line["log"] for line in lines(daemon, name)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(whole, range(12))) == [(n, [f"{n}\n"]) for n in range(12)]


def test_a_client_that_goes_while_it_is_started(daemon: Daemon) -> None:
    for _ in range(5):
        with made(daemon, *sh("exit 5"), begin=False) as name:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(daemon.socket))
                sock.sendall(f"POST /v1/containers/{name}/start HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            # Whether it was heard of or not: it can be started still, and ends in its own way.
            status, _ = ask(daemon, "POST", f"/v1/containers/{name}/start")
            assert status in (204, 409)
            assert wait(daemon, name)["code"] == 5


# --- sessions


def by_session(daemon: Daemon, target: str, first: dict[str, Any], said: str) -> str:
    """The id that a guardian's only word names, which must be of this type."""
    with Client(daemon) as client:
        client.post(target, first.get("request"))
        client.hand_over()
        client.send({"version": 2, **first})
        got = client.frame()
        assert got is not None
        assert got[0]["type"] == said
        assert client.frame() is None
    return str(got[0]["id"])


def test_making_and_starting_by_session(daemon: Daemon) -> None:
    """Each step is known to whoever asks next, though the api is told of it by another way than the client."""
    request = {"args": ["/bin/cat"], "openStdin": True, "namespaces": {"uts": "host"}}
    making = {"type": "create", "request": request, "asks": ["uts:host"]}
    for _ in range(10):
        name = by_session(daemon, "/v1/containers", making, "created")
        try:
            assert shown(daemon, name)["status"] == "created"
            by_session(
                daemon, f"/v1/containers/{name}/start", {"type": "launch", "container": name}, "started"
            )
            assert shown(daemon, name)["status"] == "running"
            with Client(daemon) as client:
                client.post(f"/v1/containers/{name}/start")
                record = client.connection.recv(65536)
                assert json.loads(record[4:])["error"]["rule"] == "running"
        finally:
            remove(daemon, name)


def test_a_restart_of_the_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with (
        made(daemon, "/bin/cat", begin=False, name="kept", labels={"k": "v"}) as kept,
        made(daemon, "/bin/sleep", "600", name="runs") as runs,
    ):
        before = shown(daemon, kept)
        daemon.restart()
        assert shown(daemon, "kept") == before
        assert shown(daemon, runs)["status"] == "running"
        start(daemon, "kept")
        wait(daemon, "kept")
