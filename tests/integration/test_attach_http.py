"""Input and output of a container for tools that cannot take descriptors: dkr-stream/1 and WebSocket, against a real daemon."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.kept import (
    TELLS_SIZE,
    Stream,
    asked,
    is_a_terminal,
    lines,
    logged,
    made,
    sh,
    shown,
    start,
    wait,
)
from tests.integration.websockets import binary, connected, text
from tests.reliability.support import Counts, assert_same, eventually, listed, the_shim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

CAT = ("/bin/cat",)
# Repeats each line that is typed, to either output; `end N` ends it.
ECHO = sh(
    'echo up; while read word rest; do [ "$word" = end ] && exit $rest; echo "got $word"; echo "err $word" >&2; done'
)


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[Counts]:
    """What launcher, api and machine hold, and which containers there are, is the same behind each test."""
    there = listed(daemon, every=True)
    yield at_rest
    eventually(lambda: listed(daemon, every=True) == there, "what removes itself is removed")
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


# --- dkr-stream/1


def test_input_through_to_its_end(daemon: Daemon) -> None:
    data = os.urandom(3_000_000)
    with made(daemon, *CAT, openStdin=True) as name, Stream(daemon, f"{name}/attach") as stream:
        attached = stream.until("attached")
        assert (attached["id"], attached["terminal"], attached["input"]) == (name, False, True)
        for place in range(60_000, len(data) + 60_000, 60_000):
            stream.send(0, data[place - 60_000 : place])
            while len(stream.output[1]) < min(place, len(data)):
                got = stream.frame()
                assert got is not None
                stream.output[got[0]] += got[1]
        stream.send(0, b"")
        assert stream.until("exited")["exit"] == {"code": 0, "signal": None, "cause": "exited"}
        assert stream.ended()
        assert stream.output == {1: data, 2: b""}


def test_both_outputs_apart_and_the_exit_last(daemon: Daemon) -> None:
    with made(daemon, *ECHO, openStdin=True) as name, Stream(daemon, f"{name}/attach") as stream:
        stream.until("attached")
        stream.send(0, b"one\n")
        stream.until_output(b"got one\n")
        stream.until_output(b"err one\n", 2)
        stream.send(0, b"end 7\n")
        assert stream.until("exited")["exit"]["code"] == 7
        assert stream.ended()


@pytest.mark.parametrize("again", [False, True])
def test_a_start_misses_nothing(daemon: Daemon, again: bool) -> None:
    with made(daemon, *sh("echo first; echo err >&2; exit 3"), begin=again) as name:
        if again:
            wait(daemon, name)
        with Stream(daemon, f"{name}/start") as stream:
            stream.until("attached")
            assert stream.until("exited")["exit"]["code"] == 3
            assert stream.output == {1: b"first\n", 2: b"err\n"}
            assert stream.ended()
        assert len(lines(daemon, name)) == (4 if again else 2)


def test_a_start_tells_that_the_command_runs(daemon: Daemon) -> None:
    with made(daemon, *CAT, openStdin=True, begin=False) as name, Stream(daemon, f"{name}/start") as stream:
        started = stream.until("started")
        assert started["id"] == name
        assert started["pid"] > 1
        stream.send(0, b"")
        assert stream.until("exited")["exit"]["code"] == 0


def test_a_start_that_fails(daemon: Daemon) -> None:
    with made(daemon, "/bin/nosuch", begin=False) as name:
        for _ in range(2):
            with Stream(daemon, f"{name}/start") as stream:
                assert (stream.status, stream.problem["code"]) == (422, "command-not-found")
        assert shown(daemon, name)["status"] == "created"


def test_a_signal(daemon: Daemon) -> None:
    with made(daemon, *sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")) as name:
        logged(daemon, name, "up\n")
        with Stream(daemon, f"{name}/attach") as stream:
            stream.until("attached")
            stream.say(type="signal", signal=15)
            assert stream.until("exited")["exit"]["code"] == 5


def test_a_terminal(daemon: Daemon) -> None:
    with (
        made(daemon, *sh(TELLS_SIZE), terminal=True, openStdin=True, begin=False) as name,
        Stream(daemon, f"{name}/start?height=24&width=80") as stream,
    ):
        is_a_terminal(stream)


def test_detach_leaves_it_running(daemon: Daemon) -> None:
    with made(daemon, *ECHO, openStdin=True) as name:
        with Stream(daemon, f"{name}/attach?onDisconnect=kill") as stream:
            stream.until("attached")
            stream.send(0, b"one\n")
            stream.say(type="detach")
            while (got := stream.frame()) is not None:
                assert got[0] in (1, 2), got
        logged(daemon, name, "got one\n")
        with Stream(daemon, f"{name}/attach") as stream:
            stream.until("attached")
            stream.send(0, b"end 4\n")
            assert stream.until("exited")["exit"]["code"] == 4


@pytest.mark.parametrize(
    ("what", "status"), [("keep", "running"), ("stop", "stopped"), ("kill", "stopped"), ("", "running")]
)
@pytest.mark.parametrize("target", ["attach", "start"])
def test_a_client_that_vanishes(daemon: Daemon, what: str, status: str, target: str) -> None:
    query = f"?onDisconnect={what}" if what else ""
    with made(daemon, *ECHO, openStdin=True, begin=target == "attach") as name:
        with Stream(daemon, f"{name}/{target}{query}") as stream:
            stream.until("attached")
            stream.send(0, b"one\n")
            stream.until_output(b"got one\n")
        if status == "running":
            with Stream(daemon, f"{name}/attach") as stream:
                stream.until("attached")
                stream.send(0, b"two\n")
                stream.until_output(b"got two\n")
        else:
            assert wait(daemon, name)["cause"] == "client-gone"


def test_a_client_that_vanishes_while_nobody_takes_its_input(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up; sleep 600"), openStdin=True) as name:
        with Stream(daemon, f"{name}/attach?onDisconnect=kill") as stream:
            stream.until("attached")
            stream.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                stream.send(0, b"x" * 10_000_000)
        assert wait(daemon, name)["cause"] == "client-gone"


def test_a_client_that_vanishes_while_it_does_not_read(daemon: Daemon) -> None:
    with made(daemon, *sh("echo up; yes"), openStdin=True) as name:
        with Stream(daemon, f"{name}/attach?onDisconnect=kill") as stream:
            stream.until("attached")
            stream.until_output(b"y\ny\n")
        assert wait(daemon, name)["cause"] == "client-gone"


def test_several_clients_see_the_same(daemon: Daemon) -> None:
    with (
        made(daemon, *ECHO, openStdin=True) as name,
        Stream(daemon, f"{name}/attach") as first,
        Stream(daemon, f"{name}/attach") as second,
    ):
        first.until("attached")
        second.until("attached")
        first.send(0, b"one\n")
        for stream in (first, second):
            stream.until_output(b"got one\n")
        second.send(0, b"end 2\n")
        for stream in (first, second):
            assert stream.until("exited")["exit"]["code"] == 2


def test_one_that_only_looks(daemon: Daemon) -> None:
    with (
        made(daemon, *ECHO, openStdin=True) as name,
        Stream(daemon, f"{name}/attach?stdin=false") as looks,
        Stream(daemon, f"{name}/attach") as types,
    ):
        looks.until("attached")
        types.until("attached")
        looks.send(0, b"unheard\n")
        types.send(0, b"heard\n")
        looks.until_output(b"got heard\n")
        types.send(0, b"end 0\n")
        assert looks.until("exited")["exit"]["code"] == 0
        assert b"unheard" not in looks.output[1]


def test_without_open_stdin_its_input_is_empty(daemon: Daemon) -> None:
    with made(daemon, *sh("cat; echo end; sleep 600")) as name:
        logged(daemon, name, "end\n")
        with Stream(daemon, f"{name}/attach") as stream:
            assert stream.until("attached")["input"] is False
            stream.send(0, b"dropped\n" * 1000)


def test_an_api_that_is_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *ECHO, openStdin=True) as name:
        with Stream(daemon, f"{name}/attach") as stream:
            stream.until("attached")
            host.kill(daemon.child("dkr-api"))
            assert stream.ended()
        eventually(lambda: b"dkr-api" in _names(daemon), "the launcher has started another api")
        with Stream(daemon, f"{name}/attach") as stream:
            stream.until("attached")
            stream.send(0, b"end 6\n")
            assert stream.until("exited")["exit"]["code"] == 6


def _names(daemon: Daemon) -> list[bytes]:
    return [process.comm.encode() for process in host.children(daemon.pid)]


def test_a_guardian_that_is_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *CAT, openStdin=True) as name:
        with Stream(daemon, f"{name}/attach") as stream:
            stream.until("attached")
            host.kill(the_shim(daemon))
            assert stream.until("error")["error"]["code"] == "unavailable"
            assert stream.ended()
        # Its input ended with the guardian, and it with that.
        eventually(
            lambda: shown(daemon, name)["status"] == "stopped", "the launcher ends it in the guardian's place"
        )


# --- what is refused


def test_where_it_does_not_run(daemon: Daemon) -> None:
    with made(daemon, "/bin/true", begin=False) as name:
        with Stream(daemon, f"{name}/attach") as stream:
            assert (stream.status, stream.problem["rule"]) == (409, "not-started")
        start(daemon, name)
        wait(daemon, name)
        with Stream(daemon, f"{name}/attach") as stream:
            assert (stream.status, stream.problem["rule"]) == (409, "ended")


def test_a_start_where_it_runs(daemon: Daemon) -> None:
    with made(daemon, "/bin/sleep", "600") as name, Stream(daemon, f"{name}/start") as stream:
        assert (stream.status, stream.problem["rule"]) == (409, "running")


def test_others_are_not_there(daemon: Daemon, tenant: User) -> None:
    with made(daemon, *CAT, openStdin=True) as name:
        for target in ("attach", "start"):
            with Stream(daemon, f"{name}/{target}", tenant) as stream:
                assert (stream.status, stream.problem["code"]) == (404, "not-found")


def test_as_a_tenant(daemon: Daemon, tenant: User) -> None:
    caller = Caller(daemon, tenant)
    status, container = asked(caller, "POST", "/v1/containers", {"args": list(CAT), "openStdin": True})
    assert status == 201
    with Stream(daemon, f"{container['id']}/start", tenant) as stream:
        stream.until("attached")
        stream.send(0, b"mine")
        stream.send(0, b"")
        assert stream.until("exited")["exit"]["code"] == 0
        assert stream.output[1] == b"mine"
    assert asked(caller, "DELETE", f"/v1/containers/{container['id']}")[0] == 204


def test_one_of_a_run_with_its_callers_descriptors(root: Caller) -> None:
    client = root.daemon.popen("run", "--rm", "--name", "own", "/bin/sleep", "600")
    root.command("sleep")
    with Stream(root.daemon, "own/attach") as stream:
        assert (stream.status, stream.problem["code"]) == (409, "conflict")
    root.daemon.dkrctl("kill", "own", check=True)
    client.wait(20)


BAD: list[tuple[str, bytes]] = [
    ("too long", b"\0\0\0\0\0\1\0\1"),
    ("unknown", b"\7\0\0\0\0\0\0\0"),
    ("no zeros", b"\0\0\0\1\0\0\0\0"),
    ("no json", b"\3\0\0\0\0\0\0\1{"),
    ("another", b"\3\0\0\0\0\0\0\2{}"),
]


@pytest.mark.parametrize(("name", "data"), BAD, ids=[name for name, _ in BAD])
def test_a_frame_that_is_none(daemon: Daemon, name: str, data: bytes) -> None:
    with made(daemon, *CAT, openStdin=True) as container:
        with Stream(daemon, f"{container}/attach?onDisconnect=kill") as stream:
            stream.until("attached")
            stream.sock.sendall(data)
            assert stream.until("error")["error"]["code"] == "protocol"
            assert stream.ended()
        assert wait(daemon, container)["cause"] == "client-gone"


@pytest.mark.parametrize("value", [0, 65, -1, 2**70])
def test_a_signal_that_is_none(daemon: Daemon, value: int) -> None:
    """Of the right form, and refused by the guardian."""
    with made(daemon, *CAT, openStdin=True) as name, Stream(daemon, f"{name}/attach") as stream:
        stream.until("attached")
        stream.say(type="signal", signal=value)
        assert stream.until("error")["error"]["code"] in ("protocol", "bad-request")
        assert stream.ended()


def test_a_frame_that_is_torn(daemon: Daemon) -> None:
    with made(daemon, *CAT, openStdin=True) as name, Stream(daemon, f"{name}/attach") as stream:
        stream.until("attached")
        stream.sock.sendall(b"\0\0\0\0\0\0\0\5ab")
        stream.sock.shutdown(socket.SHUT_WR)
        assert stream.until("error")["error"]["code"] == "protocol"
        assert stream.output[1] in (b"ab", b"")


# --- WebSocket


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with connected(daemon) as session:
        yield session


async def test_messages(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    with made(daemon, *ECHO, openStdin=True) as name:
        logged(daemon, name, "up\n")
        async with http.ws_connect(f"/v1/containers/{name}/attach") as websocket:
            assert (await text(websocket))["type"] == "attached"
            await websocket.send_bytes(b"\0one\n")
            got = {(await websocket.receive()).data, (await websocket.receive()).data}
            assert got == {b"\1got one\n", b"\2err one\n"}
            await websocket.send_bytes(b"\0end 3\n")
            assert (await text(websocket))["exit"]["code"] == 3
            assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_much_by_messages(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    with made(daemon, *CAT, openStdin=True) as name:
        async with http.ws_connect(f"/v1/containers/{name}/attach") as websocket:
            assert (await text(websocket))["type"] == "attached"
            for _ in range(20):
                data = os.urandom(65536)
                await websocket.send_bytes(b"\0" + data)
                await binary(websocket, b"\1" + data)
            await websocket.send_bytes(b"\0")
            assert (await text(websocket))["exit"]["code"] == 0


async def test_a_terminal_by_messages(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    line = """trap '[ "$(stty size)" = "11 22" ] && exit 9' WINCH; echo up; while :; do sleep 0.05; done"""
    with made(daemon, *sh(line), terminal=True, openStdin=True) as name:
        logged(daemon, name, "up\r\n")  # from here on it minds its window
        async with http.ws_connect(f"/v1/containers/{name}/attach?height=10&width=20") as websocket:
            attached = await text(websocket)
            assert attached["terminal"] is True
            await websocket.send_str(json.dumps({"type": "resize", "height": 11, "width": 22}))
            last: Any = None
            async for message in websocket:
                last = message.data
            assert json.loads(last)["exit"]["code"] == 9


@pytest.mark.parametrize(("what", "cause"), [("kill", "client-gone"), ("keep", None)])
async def test_a_websocket_that_closes(
    daemon: Daemon, http: aiohttp.ClientSession, what: str, cause: str | None
) -> None:
    with made(daemon, *ECHO, openStdin=True) as name:
        async with http.ws_connect(f"/v1/containers/{name}/attach?onDisconnect={what}") as websocket:
            assert (await text(websocket))["type"] == "attached"
        if cause:
            assert wait(daemon, name)["cause"] == cause
        else:
            assert shown(daemon, name)["status"] == "running"


async def test_a_message_that_is_none(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    with made(daemon, *CAT, openStdin=True) as name:
        for send in ("send_bytes", "send_str"):
            async with http.ws_connect(f"/v1/containers/{name}/attach") as websocket:
                assert (await text(websocket))["type"] == "attached"
                await getattr(websocket, send)(b"\5" if send == "send_bytes" else "[]")
                assert (await text(websocket))["error"]["code"] == "protocol"
                assert (await websocket.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_what_is_refused_by_websocket(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    with made(daemon, "/bin/true", begin=False) as name:
        for target, status in ((name, 409), ("nosuch", 404)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(f"/v1/containers/{target}/attach")
            assert caught.value.status == status
