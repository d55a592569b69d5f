"""POST /v1/run as one plain request: what a judge or a CI step does."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.reliability.support import eventually, remains
from tests.security.callers import as_user

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


class Http(http.client.HTTPConnection):
    """A connection that is kept, to the daemon's socket."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__("dkr", timeout=SHELL_SECONDS)
        self._path = str(daemon.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def run(self, **wanted: Any) -> tuple[int, dict[str, Any]]:
        """One run: status and answer."""
        self.request("POST", "/v1/run", json.dumps(wanted), {"Content-Type": "application/json"})
        answer = self.getresponse()
        value = json.loads(answer.read())
        assert isinstance(value, dict)
        return answer.status, value


def run(caller: Caller, **wanted: Any) -> tuple[int, dict[str, Any]]:
    """One run on a connection of its own, as the caller."""

    def ask() -> tuple[int, dict[str, Any]]:
        connection = Http(caller.daemon)
        try:
            return connection.run(**wanted)
        finally:
            connection.close()

    if caller.user is None:
        return ask()
    status, answer = as_user(caller.user, ask)
    return status, answer


def sh(line: str) -> list[str]:
    return ["/bin/sh", "-c", line]


def test_the_example_of_the_handbook(caller: Caller) -> None:
    status, answer = run(
        caller,
        image="host",
        args=sh("echo hi; exit 3"),
        env={"A": "b"},
        cwd="/",
        user="0:0",
        timeout=5.0,
        stdin="",
    )
    assert status == 200
    assert 0 <= answer.pop("duration") < SHELL_SECONDS
    assert len(answer.pop("id")) == 64
    assert answer == {
        "exit": {"code": 3, "signal": None, "cause": "exited"},
        "stdout": "hi\n",
        "stderr": "",
        "truncated": False,
    }


def test_only_args_are_required(caller: Caller) -> None:
    status, answer = run(caller, args=["/bin/true"])
    assert (status, answer["exit"]["code"], answer["stdout"], answer["stderr"]) == (200, 0, "", "")


def test_input_and_both_outputs(caller: Caller) -> None:
    status, answer = run(
        caller, args=sh("cat; echo $A >&2; id -u"), env={"A": "b"}, user="7:8", stdin="typed\u00e4\n"
    )
    assert (status, answer["stdout"], answer["stderr"]) == (200, "typed\u00e4\n7\n", "b\n")


def test_bytes_that_are_no_text(root: Caller) -> None:
    data = bytes(range(256)) * 1000
    _, answer = run(root, args=["/bin/cat"], stdinBase64=base64.b64encode(data).decode())
    assert base64.b64decode(answer["stdoutBase64"]) == data
    assert "stdout" not in answer
    assert answer["stderr"] == ""


def test_much_output_is_cut_and_holds_nobody(root: Caller) -> None:
    _, answer = run(root, args=sh("head -c 50000000 /dev/zero; echo end >&2"), maxOutput=1000)
    assert (answer["exit"]["code"], answer["stderr"], answer["truncated"]) == (0, "end\n", True)
    assert answer["stdout"] == "\0" * 1000


def test_input_that_nobody_reads(root: Caller) -> None:
    status, answer = run(root, args=["/bin/true"], stdin="x" * 1_000_000)
    assert (status, answer["exit"]["code"]) == (200, 0)


def test_a_time_limit_and_a_signal(root: Caller) -> None:
    _, answer = run(root, args=["/bin/sleep", "600"], timeout=0.05)
    assert answer["exit"] == {"code": None, "signal": signal.SIGTERM, "cause": "timeout"}
    _, answer = run(root, args=sh("kill -9 $$; sleep 600"), init=True)
    assert answer["exit"]["code"] == 137


def test_what_a_command_leaves_running_does_not_hold_the_answer(root: Caller) -> None:
    status, answer = run(root, args=sh("sleep 600 & echo done"))
    assert (status, answer["stdout"]) == (200, "done\n")


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"args": ["/bin/nosuch"]}, 422, "command-not-found"),
        ({"args": ["/etc"]}, 422, "command-not-executable"),
        ({"args": ["x"], "image": "nosuch"}, 404, "not-found"),
        ({"args": ["/bin/true"], "terminal": True}, 400, "bad-request"),
        ({"args": ["/bin/true"], "preserveFds": 1}, 400, "bad-request"),
        ({"args": ["/bin/true"], "rm": False}, 400, "bad-request"),
        ({"args": ["/bin/true"], "onDisconnect": "keep"}, 400, "bad-request"),
        ({"args": ["/bin/true"], "stdin": "a", "stdinBase64": "YQ=="}, 400, "bad-request"),
        ({"args": ["/bin/true"], "stdinBase64": "%"}, 400, "bad-request"),
        ({"args": ["/bin/true"], "maxOutput": -1}, 400, "bad-request"),
        ({"args": ["/bin/true"], "namespaces": {"pid": "host"}}, 403, "not-permitted"),
    ],
)
def test_what_is_refused(caller: Caller, wanted: dict[str, Any], status: int, code: str) -> None:
    """Also to root: over HTTP nothing proves what it asked for."""
    got, problem = run(caller, **wanted)
    assert (got, problem["code"], problem["status"]) == (status, code, status)


def test_an_admin_may_be_allowed_more(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(http_lifts=True)
    connection = Http(daemon)
    _, answer = connection.run(args=["/bin/readlink", "/proc/self/ns/uts"], namespaces={"uts": "host"})
    assert answer["stdout"].strip() == os.readlink("/proc/self/ns/uts")
    connection.close()

    def ask() -> tuple[int, dict[str, Any]]:
        return Http(daemon).run(args=["/bin/true"], namespaces={"uts": "host"})

    status, problem = as_user(tenant, ask)
    assert (status, problem["rule"]) == (403, "http")


def test_one_connection_for_many(root: Caller) -> None:
    connection = Http(root.daemon)
    for number in range(20):
        _, answer = connection.run(args=["/bin/echo", str(number)])
        assert answer["stdout"] == f"{number}\n"
    connection.request("GET", "/_ping")
    assert connection.getresponse().status == 200
    connection.close()


def test_several_at_once(caller: Caller) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: answers.append(run(caller, args=["/bin/echo", str(n)])[1]["stdout"])
        )
        for n in range(8 if caller.user is None else 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [f"{n}\n" for n in range(len(threads))]


def _sleeping(caller: Caller) -> tuple[Http, host.Process]:
    connection = Http(caller.daemon)
    connection.request(
        "POST", "/v1/run", json.dumps({"args": ["/bin/sleep", "600"]}), {"Content-Type": "application/json"}
    )
    return connection, caller.command("sleep")


def test_a_client_that_goes_away_takes_the_container_along(root: Caller) -> None:
    connection, sleeper = _sleeping(root)
    connection.close()
    assert host.wait_gone(sleeper.pid, SHELL_SECONDS)


def test_an_api_that_is_killed_takes_the_container_along(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    connection, sleeper = _sleeping(Caller(daemon, None))
    host.kill(daemon.child("dkr-api"))
    assert host.wait_gone(sleeper.pid, SHELL_SECONDS)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()


def test_a_guardian_that_is_killed_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    connection, sleeper = _sleeping(Caller(daemon, None))
    [shim] = [process for process in daemon.processes() if process.comm == "dkr-shim"]
    host.kill(shim)
    answer = connection.getresponse()
    problem = json.loads(answer.read())
    assert (answer.status, problem["code"]) == (503, "unavailable")
    assert "lost the container's guardian" in problem["detail"]
    connection.close()
    host.kill(sleeper)
    eventually(lambda: not remains(daemon), "the launcher cleans up in the guardian's place")
