"""The HTTP border: what is no route, no method, no HTTP; and who may see what."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import CLASSES
from common.version import API_VERSION, VERSION
from dkrd.api.problems import STATUSES
from tests.unit.api_process import PYTHON, WAIT, Answer, Api, api_directory, state

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = 65533


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_directory() as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def as_other() -> list[str]:
    """The beginning of a command that runs as another user."""
    command = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot become another one")
    return command


def test_every_code_has_a_status() -> None:
    assert STATUSES.keys() == CLASSES.keys()


def test_ping_and_version(api: Api) -> None:
    answer = api.ask("GET", "/_ping")
    assert (answer.status, answer.body) == (200, b"OK")
    answer = api.ask("GET", "/v1/version")
    assert answer.headers["content-type"].startswith("application/json")
    version = answer.json()
    assert (version["version"], version["apiVersion"]) == (VERSION, API_VERSION)
    assert version["kernel"] == os.uname().release
    assert answer.headers["server"] == "dkr"


def test_a_path_that_is_not_there(api: Api) -> None:
    for path in ("/", "/v1/nope", "/v1/containers/", "/v1/containers/a/b", "/" + "x" * 5000):
        answer = api.ask("GET", path)
        assert (answer.status, answer.json()["code"]) == (404, "not-found")
        assert answer.headers["content-type"].startswith("application/problem+json")


def test_a_method_that_is_not_there(api: Api) -> None:
    answer = api.ask("PUT", "/v1/containers")
    assert (answer.status, answer.json()["code"]) == (405, "bad-request")
    assert "GET" in answer.headers["allow"]
    assert api.ask("GET", "/v1/run").status == 405


@pytest.mark.parametrize("query", ["al=true", "all=1", "all=true&all=false", "all"])
def test_a_query_that_is_not_there(api: Api, query: str) -> None:
    answer = api.ask("GET", f"/v1/containers?{query}")
    assert (answer.status, answer.json()["code"]) == (400, "bad-request")
    assert answer.json()["fields"][0]["path"] in ("al", "all")


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["nul", "hello", "header", "long", "length"],
)
def test_what_is_no_http(api: Api, data: bytes) -> None:
    client = api.client()
    client.sock.sendall(data)
    answer = client.answer()
    assert (answer.status, answer.json()["code"]) == (400, "bad-request")
    assert client.sock.recv(1) == b""
    client.close()


def test_no_answer_shows_a_traceback_and_nothing_is_a_defect(api: Api) -> None:
    for path in (
        "/v1/containers/%00",
        "/v1/containers/%ff",
        "/v1/containers/" + "a" * 64,
        "/v1/containers/..%2f",
    ):
        answer = api.ask("GET", path)
        assert answer.status in (400, 404), path
        assert b"Traceback" not in answer.body
    assert " error " not in api.told()


# --- containers

ONE, TWO, THREE = "aa" + "1" * 62, "ab" + "2" * 62, "b0" + "3" * 62


@pytest.fixture
def standing(api: Api) -> Iterator[None]:
    """Two containers of ours, one of another user."""
    api.say({"type": "state", "state": state(ONE, name="one", created="2026-01-01T00:00:00Z")})
    ended = {"code": 0, "signal": None, "cause": "exited"}
    api.say({"type": "state", "state": state(TWO, name="two", status="stopped", exit=ended)})
    api.say({"type": "state", "state": state(THREE, name="one", uid=OTHER)})
    api.settle()
    yield
    for container in (ONE, TWO, THREE):
        api.say({"type": "gone", "id": container})
    api.settle()


@pytest.mark.usefixtures("standing")
def test_references(api: Api) -> None:
    for reference, wanted in ((ONE, ONE), ("one", ONE), ("two", TWO), ("aa", ONE), (TWO[:12], TWO)):
        assert api.ask("GET", f"/v1/containers/{reference}").json()["id"] == wanted
    answer = api.ask("GET", "/v1/containers/a")
    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    assert ONE[:16] in answer.json()["hint"]
    for reference in ("c", "nosuch", "A" * 64, ONE + "0", "%25"):
        assert api.ask("GET", f"/v1/containers/{reference}").status == 404


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [container["id"] for container in answer.json()]


ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(f"{sys.argv[2]} {sys.argv[3]} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
while data := s.recv(65536): sys.stdout.buffer.write(data)
"""


def ask_as(command: list[str], api: Api, method: str, path: str) -> tuple[int, Any]:
    argv = [
        *command,
        "/usr/bin/env",
        "-i",
        PYTHON,
        "-I",
        "-c",
        ASK,
        api.settings.socket,
        method,
        path,
    ]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=WAIT)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else None


@pytest.mark.usefixtures("standing")
def test_root_sees_all_and_others_see_their_own(api: Api, as_other: list[str]) -> None:
    assert ids(api.ask("GET", "/v1/containers")) == [THREE, ONE]
    assert set(ids(api.ask("GET", "/v1/containers?all=true"))) == {ONE, TWO, THREE}
    status, shown = ask_as(as_other, api, "GET", "/v1/containers?all=true")
    assert (status, [c["id"] for c in shown]) == (200, [THREE])
    assert ask_as(as_other, api, "GET", "/v1/containers/one")[1]["id"] == THREE
    for reference in (ONE, "aa", "two"):
        status, problem = ask_as(as_other, api, "GET", f"/v1/containers/{reference}")
        assert (status, problem["code"]) == (404, "not-found")
    assert ask_as(as_other, api, "DELETE", "/v1/containers/two")[0] == 404


@pytest.mark.usefixtures("standing")
def test_remove_hands_over_the_evidence(api: Api) -> None:
    client = api.client()
    client.send("DELETE", "/v1/containers/two")
    message, fds = api.hear()
    assert message == {"type": "remove", "seq": message["seq"], "id": TWO}
    evidence = socket.socket(fileno=fds[0])
    assert evidence.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert not select.select([client.sock], [], [], 0)[0]  # nothing is said before the launcher has
    evidence.close()
    api.say({"type": "done", "seq": message["seq"]})
    answer = client.answer()
    assert (answer.status, answer.body) == (204, b"")
    assert client.ask("GET", f"/v1/containers/{TWO}").status == 404
    client.close()


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("code", "status", "stays"),
    [("conflict", 409, True), ("not-permitted", 403, True), ("not-found", 404, False), ("what", 500, True)],
)
def test_remove_refused(api: Api, code: str, status: int, stays: bool) -> None:
    client = api.client()
    client.send("DELETE", "/v1/containers/two")
    message, fds = api.hear()
    os.close(fds[0])
    error = {"code": code, "message": "cannot remove: no", "hint": "wait", "rule": "r"}
    api.say({"type": "refused", "seq": message["seq"], "error": error})
    answer = client.answer()
    problem = answer.json()
    assert (answer.status, problem["detail"], problem["hint"], problem["rule"]) == (
        status,
        "cannot remove: no",
        "wait",
        "r",
    )
    # what root does not know is not there
    assert client.ask("GET", f"/v1/containers/{TWO}").status == (200 if stays else 404)
    client.close()


TRACE = {
    "version": 1,
    "id": ONE,
    "outcome": "started",
    "command": ["/bin/true"],
    "begun": "2026-01-02T03:04:05.000000006Z",
    "steps": [{"name": "fork", "call": "fork() = 7", "start": 0, "duration": 5, "process": "launcher"}],
}


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("value", "status"),
    [
        (TRACE, 200),
        ({**TRACE, "omitted": 3}, 200),
        ({**TRACE, "version": 2}, 503),  # a guardian of a release to come
        ({"steps": []}, 503),
        (None, 503),
    ],
)
def test_explain_passes_on_what_the_guardian_tells(api: Api, value: object, status: int) -> None:
    client = api.client()
    client.send("GET", "/v1/containers/one/explain")
    message, fds = api.hear()
    os.close(fds[0])
    assert message == {"type": "ask", "seq": message["seq"], "id": ONE, "ask": {"type": "explain"}}
    api.say({"type": "done", "seq": message["seq"], "value": value})
    answer = client.answer()
    assert answer.status == status
    if status == 200:
        assert answer.json() == value
    else:
        assert answer.json()["code"] == "unavailable"
    client.close()


FLOOD = """
import socket, sys
held = []
for i in range(513):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)
sys.stdout.buffer.write(held[-1].recv(65536))
sys.stdout.flush()
held[0].sendall(b"GET /_ping HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
sys.stdout.buffer.write(held[0].recv(65536))
"""


def test_one_user_cannot_take_all_connections(api: Api, as_other: list[str]) -> None:
    argv = [*as_other, PYTHON, "-I", "-c", FLOOD, api.settings.socket]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=WAIT)
    assert done.stdout.startswith(b"HTTP/1.1 429 ")
    assert b'"limit-reached"' in done.stdout
    assert done.stdout.endswith(b"OK")
    # they are counted down again
    assert ask_as(as_other, api, "GET", "/v1/version")[0] == 200


def test_an_id_of_a_container_owns_nothing(api: Api, as_other: list[str]) -> None:
    uid = api.settings.ids_first + 1000
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    status, problem = ask_as(command, api, "GET", "/v1/containers")
    assert (status, problem["code"], problem["rule"]) == (403, "not-permitted", "owner")
    assert ask_as(command, api, "GET", "/v1/version")[0] == 200
