"""Executing in a container for tools that cannot pass descriptors: dkr-stream/1 and WebSocket, against a real daemon."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.kept import TELLS_SIZE, Stream, asked, is_a_terminal, sh
from tests.integration.websockets import binary, connected, text
from tests.reliability.support import eventually, held, kill_and_wait, let_go, the_shim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import MakeDaemon
    from tests.host import User

pytestmark = pytest.mark.root

# Repeats each line that is typed, to either output; `end N` ends it.
ECHO = sh(
    'echo up; while read word rest; do [ "$word" = end ] && exit $rest; echo "got $word"; echo "err $word" >&2; done'
)
EXITED = {"code": 0, "signal": None, "cause": "exited"}


@pytest.fixture
def web(caller: Caller) -> Iterator[Caller]:
    """Somebody whose container `web` stands. Behind each test nothing is executed in it, and nobody holds anything of what was."""
    with caller.standing():
        assert caller.exec("web", "/bin/true").returncode == 0
        ended(caller)
        there = held(caller.daemon)
        yield caller
        ended(caller)
        let_go(caller.daemon, there)
    assert "Traceback" not in caller.daemon.log


def ended(caller: Caller) -> None:
    """Waits until nothing is executed any more."""
    eventually(lambda: asked(caller, "GET", "/v1/containers/web/execs") == (200, []), "all have ended")


def executed(caller: Caller, *args: str, container: str = "web", **wanted: Any) -> Stream:
    """A client that has asked for it."""
    return Stream(caller.daemon, f"{container}/exec", caller.user, {"args": list(args), **wanted})


# --- input, output, exit


def test_input_through_to_its_end(web: Caller) -> None:
    data = os.urandom(1_000_000)
    with executed(web, "/bin/cat") as stream:
        assert stream.status == 101
        attached = stream.until("attached")
        assert (attached["name"], attached["terminal"], attached["input"]) == ("web", False, True)
        started = stream.until("started")
        assert (started["id"], len(started["exec"])) == (attached["id"], 64)
        for place in range(0, len(data), 50_000):
            stream.send(0, data[place : place + 50_000])
            while len(stream.output[1]) < place + 50_000:
                got = stream.frame()
                assert got is not None
                stream.output[got[0]] += got[1]
        stream.send(0, b"")
        assert stream.until("exited")["exit"] == EXITED
        assert stream.ended()
        assert stream.output == {1: data, 2: b""}


def test_both_outputs_apart_and_the_exit_last(web: Caller) -> None:
    with executed(web, *ECHO) as stream:
        stream.send(0, b"one\n")
        stream.until_output(b"got one\n")
        stream.until_output(b"err one\n", 2)
        stream.send(0, b"end 7\n")
        assert stream.until("exited")["exit"]["code"] == 7
        assert stream.ended()


def test_all_that_was_written_comes_before_the_exit(web: Caller) -> None:
    with executed(web, *sh("seq 200000; seq 1000 >&2; kill -9 $$")) as stream:
        assert stream.until("exited")["exit"] == {"code": None, "signal": 9, "cause": "signalled"}
        assert stream.output[1].split() == [b"%d" % number for number in range(1, 200001)]
        assert stream.output[2].split() == [b"%d" % number for number in range(1, 1001)]


def test_its_end_is_not_that_of_what_it_has_left_behind(web: Caller) -> None:
    """Who holds its output still holds nobody up; and finds that nobody reads."""
    with executed(
        web, *sh("(trap '' PIPE; while echo x; do :; done 2>/dev/null) & sleep 0.1; exit 4")
    ) as stream:
        assert stream.until("exited")["exit"]["code"] == 4
        assert stream.ended()


def test_outputs_that_it_closes_itself(web: Caller) -> None:
    with executed(web, *sh("echo bye; exec >&- 2>&-; read word; exit $word")) as stream:
        stream.until_output(b"bye\n")
        stream.send(0, b"6\n")
        assert stream.until("exited")["exit"]["code"] == 6


def test_who_where_and_with_what(web: Caller) -> None:
    look = sh("id -u; pwd; echo $A; ls /proc/self/fd; echo again >/dev/stdout")
    with executed(web, *look, user="nobody", cwd="/tmp", env={"A": "b"}) as stream:
        assert stream.until("exited")["exit"] == EXITED
        assert stream.output[1].split() == [b"65534", b"/tmp", b"b", b"0", b"1", b"2", b"3", b"again"]


def test_a_signal(web: Caller) -> None:
    with executed(web, *sh("trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done")) as stream:
        stream.until_output(b"up\n")
        stream.say(type="signal", signal=10)
        assert stream.until("exited")["exit"]["code"] == 5


def test_by_its_id_and_in_the_list(web: Caller) -> None:
    with executed(web, "/bin/sleep", "600") as stream:
        started = stream.until("started")
        status, [shown] = asked(web, "GET", "/v1/containers/web/execs")
        assert (status, shown["id"], shown["pid"], shown["uid"]) == (
            200,
            started["exec"],
            started["pid"],
            web.uid,
        )
        assert (
            asked(web, "POST", f"/v1/containers/web/execs/{shown['id']}/kill", {"signal": "TERM"})[0] == 204
        )
        assert stream.until("exited")["exit"]["signal"] == 15


# --- a terminal


def test_a_terminal(web: Caller) -> None:
    size = {"height": 24, "width": 80}
    with executed(web, *sh(TELLS_SIZE), terminal=True, consoleSize=size) as stream:
        is_a_terminal(stream)
        assert stream.ended()


def test_keys_of_a_terminal_are_signals(web: Caller) -> None:
    with executed(
        web, *sh("trap 'exit 8' INT; echo up; while :; do sleep 0.05; done"), terminal=True
    ) as stream:
        stream.until_output(b"up\r\n")
        stream.send(0, b"\x03")
        assert stream.until("exited")["exit"]["code"] == 8


# --- who goes, and who is slow


def test_it_ends_with_its_client(web: Caller) -> None:
    for terminal in (False, True):
        for wish in ({}, {"onDisconnect": "stop"}, {"onDisconnect": "kill"}):
            with executed(web, *ECHO, terminal=terminal, **wish) as stream:
                stream.until_output(b"up")
            ended(web)


def test_it_ends_with_a_client_that_goes_as_soon_as_it_runs(web: Caller) -> None:
    """Also where the guardian finds so by what it says, and not by what it hears."""
    for _ in range(20):
        with executed(web, "/bin/sleep", "600") as stream:
            stream.until("attached")
    ended(web)


def test_unless_it_is_to_be_kept(web: Caller) -> None:
    """Then what it writes is dropped, and it can be ended by its id."""
    line = "trap 'exit 3' TERM; echo up; yes | head -c 300000; echo still >/tmp/still; sleep 600 & wait"
    with executed(web, *sh(line), onDisconnect="keep") as stream:
        started = stream.until("started")
        stream.until_output(b"up\n")
    eventually(lambda: web.exec("web", "/bin/cat", "/tmp/still").stdout == "still\n", "nobody holds it up")
    assert web.exec("kill", "web", started["exec"], "--signal", "TERM").returncode == 0
    ended(web)


def test_who_detaches_leaves_it_running(web: Caller) -> None:
    with executed(web, *sh("echo up; sleep 600"), onDisconnect="kill") as stream:
        started = stream.until("started")
        stream.until_output(b"up\n")
        stream.say(type="detach")
        assert stream.ended()
    [shown] = asked(web, "GET", "/v1/containers/web/execs")[1]
    assert shown["id"] == started["exec"]
    assert asked(web, "POST", f"/v1/containers/web/execs/{shown['id']}/kill", {})[0] == 204


def test_who_reads_nothing_holds_up_its_own_command_alone(web: Caller) -> None:
    with executed(web, "/bin/cat", "/dev/zero") as slow:
        slow.until("started")
        with executed(web, *ECHO) as other:
            other.send(0, b"end 2\n")
            assert other.until("exited")["exit"]["code"] == 2
        assert web.exec("web", "/bin/echo", "on").stdout == "on\n"
    ended(web)


def test_who_vanishes_while_nobody_takes_its_input(web: Caller) -> None:
    with executed(web, "/bin/sleep", "600") as stream:
        stream.until("started")
        stream.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            stream.send(0, b"x" * 10_000_000)
    ended(web)


def test_it_ends_with_its_container(root: Caller) -> None:
    with root.standing(), executed(root, "/bin/sleep", "600") as stream:
        stream.until("started")
        root.daemon.dkrctl("kill", "web", check=True)
        assert stream.until("exited")["exit"]["signal"] == 9


@pytest.mark.parametrize(("wish", "left"), [("stop", 0), ("keep", 1)])
def test_an_api_that_is_killed_has_vanished(make_daemon: MakeDaemon, wish: str, left: int) -> None:
    root = Caller(make_daemon(), None)
    with root.standing(), executed(root, "/bin/sleep", "599", onDisconnect=wish) as stream:
        stream.until("started")
        kill_and_wait(root.daemon.child("dkr-api"))
        assert stream.ended()

        def there() -> list[host.Process]:
            return [process for process in root.daemon.processes() if process.command == "/bin/sleep 599"]

        eventually(lambda: len(there()) == left, "it has ended, or has not")
        eventually(
            lambda: len(asked(root, "GET", "/v1/containers/web/execs")[1]) == left, "another api says so"
        )
        with executed(root, *ECHO) as other:
            other.send(0, b"end 6\n")
            assert other.until("exited")["exit"]["code"] == 6


def test_a_guardian_that_is_killed(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    with root.standing(), executed(root, "/bin/cat") as stream:
        stream.until("started")
        kill_and_wait(the_shim(root.daemon))
        assert stream.until("error")["error"]["code"] == "unavailable"
        assert stream.ended()
        with executed(root, "/bin/true") as other:
            assert (other.status, other.problem["rule"]) == (409, "unguarded")
        host.kill(root.command("sleep"))
        eventually(lambda: root.containers()[0]["status"] == "stopped", "the launcher sees its end")


# --- what is refused


REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"args": ["/nosuch"]}, 422, "command-not-found", None),
    ({"args": ["/etc/passwd"]}, 422, "command-not-executable", None),
    ({"args": ["/bin/true"], "user": "nosuch"}, 422, "start-failed", None),
    ({"args": ["/bin/true"], "cwd": "/nosuch"}, 422, "command-not-executable", None),
    ({"args": []}, 400, "bad-request", "args"),
    ({}, 400, "bad-request", "args"),
    ({"args": ["/bin/true"], "preserveFds": 1}, 400, "bad-request", "preserveFds"),
    ({"args": ["/bin/true"], "env": {"A": "a\0"}}, 400, "bad-request", "env.A"),
    ({"args": ["/bin/true"], "cwd": "tmp"}, 400, "bad-request", "cwd"),
    ({"args": ["/bin/true"], "stdin": "x"}, 400, "bad-request", "stdin"),
    ({"args": ["/bin/true"], "onDisconnect": "no"}, 400, "bad-request", "onDisconnect"),
    ({"args": ["/bin/true"], "consoleSize": {"height": 1, "width": 1}}, 400, "bad-request", "consoleSize"),
]


def test_what_cannot_be_is_a_problem(web: Caller) -> None:
    for wanted, status, code, path in REFUSED:
        with Stream(web.daemon, "web/exec", web.user, wanted) as stream:
            assert (stream.status, stream.problem["code"]) == (status, code)
            assert [field["path"] for field in stream.problem.get("fields", ())] == ([path] if path else [])


def test_without_a_body_or_with_a_query(web: Caller) -> None:
    with Stream(web.daemon, "web/exec", web.user) as stream:
        assert stream.status == 415
    with Stream(web.daemon, "web/exec?height=1", web.user, {"args": ["/bin/true"]}) as stream:
        assert (stream.status, stream.problem["fields"][0]["path"]) == (400, "height")


BAD = {
    "too long": b"\0\0\0\0\0\1\0\1",
    "unknown": b"\7\0\0\0\0\0\0\0",
    "no json": b"\3\0\0\0\0\0\0\1{",
    "another": b"\3\0\0\0\0\0\0\2{}",
    "torn": b"\0\0\0\0\0\0\0\5ab",
    "no signal": b'\3\0\0\0\0\0\0\x1e{"type": "signal", "signal": 0}',
}


def test_a_frame_that_is_none_is_the_end(web: Caller) -> None:
    for name, data in BAD.items():
        with executed(web, "/bin/sleep", "600") as stream:
            stream.until("started")
            stream.sock.sendall(data)
            stream.sock.shutdown(socket.SHUT_WR)
            assert stream.until("error")["error"]["code"] == "protocol", name
            assert stream.ended()


def test_where_nothing_can_be_executed(root: Caller) -> None:
    with root.standing("/bin/true"):
        root.daemon.dkrctl("wait", "web", check=True)
        with executed(root, "/bin/true") as stream:
            assert (stream.status, stream.problem["rule"]) == (409, "ended")
    with root.standing():
        root.daemon.dkrctl("pause", "web", check=True)
        with executed(root, "/bin/true") as stream:
            assert (stream.status, stream.problem["rule"]) == (409, "paused")


def test_anothers_is_not_there(root: Caller, tenant: User) -> None:
    mine = Caller(root.daemon, tenant)
    with root.standing() as container:
        for name in ("web", container, "nosuch"):
            with executed(mine, "/bin/true", container=name) as stream:
                assert (stream.status, stream.problem["code"]) == (404, "not-found")


def test_nothing_is_executed_where_a_tenant_has_no_rights(root: Caller) -> None:
    """There nothing proves that its caller has asked for it."""
    with root.standing("--pid", "host", "/bin/sleep", "600"), executed(root, "/bin/true") as stream:
        assert (stream.status, stream.problem["code"], stream.problem["rule"]) == (
            403,
            "not-permitted",
            "http",
        )


def test_unless_the_settings_let_admins(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(http_lifts=True), None)
    with root.standing("--pid", "host", "/bin/sleep", "600"), executed(root, *sh("exit 4")) as stream:
        assert stream.until("exited")["exit"]["code"] == 4


# --- WebSocket


@pytest.fixture
async def http(root: Caller) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the daemon's, while its container `web` stands."""
    with root.standing():
        async with connected(root.daemon) as session:
            yield session
        ended(root)


def socket_of(http: aiohttp.ClientSession, name: str = "web") -> Any:
    return http.ws_connect(f"/v1/containers/{name}/exec")


async def test_messages(http: aiohttp.ClientSession) -> None:
    async with socket_of(http) as websocket:
        await websocket.send_str(json.dumps({"args": ECHO}))
        assert (await text(websocket))["type"] == "attached"
        assert len((await text(websocket))["exec"]) == 64
        await binary(websocket, b"\1up\n")
        await websocket.send_bytes(b"\0one\n")
        got = {(await websocket.receive()).data, (await websocket.receive()).data}
        assert got == {b"\1got one\n", b"\2err one\n"}
        await websocket.send_bytes(b"\0end 3\n")
        assert (await text(websocket))["exit"]["code"] == 3
        assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_what_comes_right_behind_the_request(http: aiohttp.ClientSession) -> None:
    data = os.urandom(65536)
    async with socket_of(http) as websocket:
        await websocket.send_str(json.dumps({"args": ["/bin/cat"], "env": {"LONG": "x" * 100_000}}))
        await websocket.send_bytes(b"\0" + data)
        await websocket.send_bytes(b"\0")
        assert [(await text(websocket))["type"] for _ in range(2)] == ["attached", "started"]
        await binary(websocket, b"\1" + data)
        assert (await text(websocket))["exit"]["code"] == 0


async def test_a_terminal_by_messages(http: aiohttp.ClientSession) -> None:
    line = "trap 'stty size; exit 9' WINCH; echo up; while :; do sleep 0.05; done"
    async with socket_of(http) as websocket:
        wanted = {"args": sh(line), "terminal": True, "consoleSize": {"height": 10, "width": 20}}
        await websocket.send_str(json.dumps(wanted))
        assert (await text(websocket))["terminal"] is True
        assert (await text(websocket))["type"] == "started"
        await binary(websocket, b"\1up\r\n")
        await websocket.send_str(json.dumps({"type": "resize", "height": 11, "width": 22}))
        await binary(websocket, b"\x0111 22\r\n")
        assert (await text(websocket))["exit"]["code"] == 9


@pytest.mark.parametrize(
    ("first", "code", "path"),
    [
        ('{"args": ["/nosuch"]}', "command-not-found", None),
        ('{"args": ["/bin/true"], "preserveFds": 2}', "bad-request", "preserveFds"),
        ('{"args": ["/bin/true"], "colour": 1}', "bad-request", "colour"),
        ("{", "bad-request", ""),
        (b"\0word\n", "protocol", None),
        (b"\1", "protocol", None),
    ],
)
async def test_what_is_wrong_is_a_message(
    http: aiohttp.ClientSession, first: str | bytes, code: str, path: str | None
) -> None:
    async with socket_of(http) as websocket:
        await (websocket.send_str(first) if isinstance(first, str) else websocket.send_bytes(first))
        told = await text(websocket)
        assert (told["type"], told["error"]["code"]) == ("error", code)
        assert [field["path"] for field in told["error"].get("fields", ())] == (
            [path] if path is not None else []
        )
        assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("first", ["", '{"args": ["/bin/sleep", "600"]}'])
async def test_a_websocket_that_closes(root: Caller, http: aiohttp.ClientSession, first: str) -> None:
    async with socket_of(http) as websocket:
        if first:
            await websocket.send_str(first)
            assert (await text(websocket))["type"] == "attached"
    ended(root)


async def test_what_is_not_there_by_websocket(http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await socket_of(http, "nosuch")
    assert caught.value.status == 404
    async with http.get("/v1/containers/web/exec") as answer:
        assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
