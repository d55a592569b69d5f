"""Each request has an id: its client is told it, problems name it, and all logs have it, beside the container's."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.launcher.api_process import Message
from dkrd.launcher.starts import request_of
from tests.integration.kept import STREAM, create, remove, start
from tests.reliability.support import GUARD_SECONDS, eventually

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

HEADER = "Dkr-Request"
SESSION = {"Connection": "Upgrade", "Upgrade": "dkr-session/1"}
FORM = re.compile("[0-9a-f]{16}")


@pytest.fixture
def own(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(log_format="json")


def requested(
    daemon: Daemon, method: str, target: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, str, Any]:
    """Status, the request's id, and the body as JSON, if it is that."""
    connection = http.client.HTTPConnection("dkr", timeout=GUARD_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(GUARD_SECONDS)
    connection.sock.connect(str(daemon.socket))
    data = None if body is None else json.dumps(body)
    more = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, target, data, {**more, **(headers or {})})
    answer = connection.getresponse()
    found = b"" if answer.status == 101 else answer.read()
    connection.close()
    told = answer.getheader(HEADER)
    assert told is not None
    assert FORM.fullmatch(told)
    is_json = "json" in (answer.getheader("Content-Type") or "") and "ndjson" not in (
        answer.getheader("Content-Type") or ""
    )
    return answer.status, told, json.loads(found) if is_json and found else None


def records(daemon: Daemon, request: str) -> list[dict[str, Any]]:
    """Those of the log that are of this request."""
    found = [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]
    return [record for record in found if record.get("request") == request]


def said(daemon: Daemon, request: str, container: str | None, *messages: str) -> None:
    """Waits until the log tells these of it, by the process in front, and each with the container's id."""

    def told() -> set[str]:
        return {
            f"{record.get('process', 'api')}: {record['message']}"
            for record in records(daemon, request)
            if container is None or record.get("id") == container
        }

    eventually(lambda: set(messages) <= told(), f"{messages} of {request}, not only {told()}")


def test_who_asks_is_told_it(own: Daemon) -> None:
    seen = set()
    for method, target, headers in (
        ("GET", "/_ping", None),
        ("GET", "/v1/containers", None),
        ("GET", "/v1/events?until=2020-01-01T00:00:00Z", None),
        ("GET", "/v1/nosuch", None),
        ("GET", "/v1/containers/nosuch", None),
        ("PATCH", "/v1/containers", None),
        ("POST", "/v1/containers/nosuch/attach", STREAM),
    ):
        status, request, body = requested(own, method, target, headers=headers)
        assert request not in seen
        seen.add(request)
        if status >= 400:
            assert body["request"] == request
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(GUARD_SECONDS)
        raw.connect(str(own.socket))
        raw.sendall(b"GET /_ping HTTP/1.1\r\nHost: dkr\r\n\r\n")
        answers = raw.recv(65536)
        raw.sendall(b"no HTTP at all\r\n\r\n")
        while data := raw.recv(65536):
            answers += data
    first, second = re.findall(rb"Dkr-Request: ([0-9a-f]{16})", answers)
    assert first != second
    assert b'"request":"%s"' % second in answers


def test_all_logs_have_it_beside_the_container(own: Daemon) -> None:
    status, request, made = requested(
        own, "POST", "/v1/containers", {"args": ["/bin/sleep", "600"], "name": "it"}
    )
    assert status == 201
    container = made["id"]
    said(own, request, container, "launcher: accepted", "shim: created")
    status, begun, _ = requested(own, "POST", "/v1/containers/it/start")
    assert status == 204
    said(own, begun, container, "launcher: accepted", "shim: started")
    for target, body, message in (
        ("rename", {"name": "that"}, "shim: renamed"),
        ("update", {"pidsLimit": 50}, "shim: updated"),
        ("exec", {"args": ["/bin/true"]}, "shim: executed"),
        ("exec", {"args": ["/bin/nosuch"]}, "shim: not executed"),
        ("pause", None, "shim: paused"),
        ("pause", None, "launcher: refused"),
        ("unpause", None, None),
        ("stop", {"timeout": 0}, "shim: stop"),
    ):
        _, request, _ = requested(own, "POST", f"/v1/containers/{container}/{target}", body)
        if message is not None:
            said(own, request, container, message)
    # Its end was asked for, but is nobody's request.
    eventually(lambda: '"message":"ended"' in own.log, "its end is told")
    ended = [json.loads(line) for line in own.log.splitlines() if '"message":"ended"' in line]
    assert [(record["id"], "request" in record) for record in ended] == [(container, False)]
    assert not [record for record in records(own, begun) if record["message"] not in ("accepted", "started")]
    _, request, _ = requested(own, "DELETE", f"/v1/containers/{container}")
    said(own, request, container, "launcher: removed")


def test_what_is_refused_is_found_by_it(own: Daemon) -> None:
    status, request, problem = requested(own, "POST", "/v1/run", {"args": ["/bin/nosuch"]})
    assert (status, problem["request"]) == (422, request)
    said(own, request, None, "launcher: accepted", "shim: not started")
    body = {"args": ["/bin/true"], "namespaces": {"network": "host"}}
    status, request, problem = requested(own, "POST", "/v1/run", body)
    assert (status, problem["request"]) == (403, request)
    said(own, request, None, "shim: not started")


def test_what_goes_on_in_a_session_has_it(own: Daemon) -> None:
    """With the caller's own descriptors: the header is in the 101, and what is logged later on is of that request all the same."""
    create(own, "/bin/sleep", "600", name="it")
    start(own, "it")
    status, request, _ = requested(own, "POST", "/v1/containers/it/attach", headers=SESSION)
    assert (status, bool(request)) == (101, True)
    with own.popen("exec", "it", "/bin/true") as client:
        assert client.wait(GUARD_SECONDS) == 0
    [executed] = [json.loads(line) for line in own.log.splitlines() if '"message":"executed"' in line]
    assert FORM.fullmatch(executed["request"])
    remove(own, "it")


def test_an_id_of_no_form_is_none() -> None:
    """It is the api's word, and goes into root's log."""
    for value in (None, 1, "", "x" * 33, "a b", "a\nb", "\u00e9"):
        assert request_of(Message({"request": value}, b"", [])) is None
    assert request_of(Message({}, b"", [])) is None
    assert request_of(Message({"request": "0123456789abcdef"}, b"", [])) == "0123456789abcdef"
