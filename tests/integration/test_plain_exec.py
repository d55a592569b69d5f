"""POST /v1/containers/{container}/exec as one plain request: what a tool does that cannot pass descriptors."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, sh
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture
def web(caller: Caller) -> Iterator[Caller]:
    """Somebody whose container `web` stands."""
    with caller.standing():
        yield caller


def execute(caller: Caller, *args: str, container: str = "web", **wanted: Any) -> tuple[int, Any]:
    """Status and answer."""
    return asked(caller, "POST", f"/v1/containers/{container}/exec", {"args": list(args), **wanted})


def test_input_output_errors_and_exit(web: Caller) -> None:
    status, answer = execute(web, *sh("tr a-z A-Z; echo oops >&2; exit 3"), stdin="some words\n")
    assert status == 200
    assert 0 <= answer.pop("duration") < SHELL_SECONDS
    assert len(answer.pop("id")) == 64
    assert answer == {
        "exit": {"code": 3, "signal": None, "cause": "exited"},
        "stdout": "SOME WORDS\n",
        "stderr": "oops\n",
        "truncated": False,
    }


def test_bytes_and_bounds(web: Caller) -> None:
    status, answer = execute(web, "/bin/cat", stdinBase64="//4A")
    assert (status, answer["stdoutBase64"]) == (200, "//4A")
    status, answer = execute(web, *sh("seq 100000; kill -9 $$"), maxOutput=4)
    assert (answer["stdout"], answer["truncated"]) == ("1\n2\n", True)
    assert answer["exit"] == {"code": None, "signal": 9, "cause": "signalled"}


def test_who_where_and_with_what(web: Caller) -> None:
    look = sh("id -u; pwd; echo $A; ls /proc/self/fd")
    _, answer = execute(web, *look, user="nobody", cwd="/tmp", env={"A": "b"})
    assert answer["stdout"].split() == ["65534", "/tmp", "b", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("wanted", "status", "code", "rule"),
    [
        ({"args": ["/nosuch"]}, 422, "command-not-found", None),
        ({"args": ["/etc/passwd"]}, 422, "command-not-executable", None),
        ({"args": ["/bin/true"], "user": "nosuch"}, 422, "start-failed", None),
        ({"args": ["/bin/true"], "cwd": "/nosuch"}, 422, "command-not-executable", None),
        ({"args": ["/bin/true"], "terminal": True}, 400, "bad-request", None),
        ({"args": ["/bin/true"], "preserveFds": 1}, 400, "bad-request", None),
        ({"args": ["/bin/true"], "onDisconnect": "keep"}, 400, "bad-request", None),
        ({"args": ["/bin/true"], "stdin": "", "stdinBase64": ""}, 400, "bad-request", None),
        ({"args": ["/bin/true"], "consoleSize": {"height": 1, "width": 1}}, 400, "bad-request", None),
    ],
)
def test_what_cannot_be_is_a_problem(
    web: Caller, wanted: dict[str, Any], status: int, code: str, rule: str | None
) -> None:
    got, problem = asked(web, "POST", "/v1/containers/web/exec", wanted)
    assert (got, problem["code"], problem.get("rule")) == (status, code, rule)


def test_nothing_is_executed_where_a_tenant_has_no_rights(root: Caller) -> None:
    """There nothing proves that its caller has asked for it."""
    with root.standing("--pid", "host", "/bin/sleep", "600"):
        status, problem = execute(root, "/bin/true")
        assert (status, problem["code"], problem["rule"]) == (403, "not-permitted", "http")
        assert root.exec("web", "/bin/true").returncode == 0


def test_unless_the_settings_let_admins(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(http_lifts=True), None)
    with root.standing("--pid", "host", "/bin/sleep", "600"):
        assert execute(root, *sh("exit 4"))[1]["exit"]["code"] == 4


def test_anothers_is_not_there(root: Caller, tenant: User) -> None:
    mine = Caller(root.daemon, tenant)
    with root.standing() as container:
        for name in ("web", container, "nosuch"):
            assert execute(mine, "/bin/true", container=name)[0] == 404


@pytest.mark.parametrize("wish", ["stop", "kill"])
def test_who_hangs_up_has_vanished(root: Caller, wish: str) -> None:
    with root.standing():
        body = json.dumps({"args": ["/bin/cat", "/dev/zero"], "onDisconnect": wish}).encode()
        head = f"POST /v1/containers/web/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(root.daemon.socket))
            sock.sendall(head.encode() + body)
            root.command("cat")
        eventually(lambda: asked(root, "GET", "/v1/containers/web/execs") == (200, []), "it has ended")


def test_it_ends_with_the_container(root: Caller) -> None:
    with root.standing(), socket.socket(socket.AF_UNIX) as sock:
        body = json.dumps({"args": ["/bin/cat", "/dev/zero"]}).encode()
        head = f"POST /v1/containers/web/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.settimeout(SHELL_SECONDS)
        sock.connect(str(root.daemon.socket))
        sock.sendall(head.encode() + body)
        root.command("cat")
        root.daemon.dkrctl("kill", "web", check=True)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
