"""SIGKILL of a client at any moment, and clients that break the protocol: nothing of theirs is left."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    RawClient,
    ask,
    assert_same,
    count,
    eventually,
    inits,
    listed,
    null_stdio,
    running,
    settle,
    shims,
    start_raw,
    waiting,
)

if TYPE_CHECKING:
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LONG: dict[str, Any] = {"args": ["/bin/sleep", "600"], "rm": True}


def _end_of(daemon: Daemon, name: str) -> dict[str, Any]:
    """How the kept container `name` ended; then it is removed."""
    found: dict[str, Any] = {}

    def stopped() -> bool:
        found.update(ask(daemon, "GET", f"/v1/containers/{name}")[1])
        return bool(found["status"] == "stopped")

    eventually(stopped, f"{name} stops")
    assert ask(daemon, "DELETE", f"/v1/containers/{name}")[0] == 204
    exit_: dict[str, Any] = found["exit"]
    return exit_


def test_with_rm_the_run_is_stopped(daemon: Daemon) -> None:
    before = count(daemon)
    with waiting(daemon, "--rm") as run:
        (init,) = inits(daemon)
        run.client.kill()
        assert host.wait_gone(init.pid, GUARD_SECONDS)
    assert_same(daemon, before)


def test_without_rm_the_run_goes_on(daemon: Daemon) -> None:
    with waiting(daemon, "--name", "alone") as run:
        run.client.kill()
        run.client.wait()
        assert len(running(daemon)) == 1
        run.say("on 3")
        assert run.line() == "got on\n"
    assert _end_of(daemon, "alone") == {"code": 3, "signal": None, "cause": "exited"}
    settle(daemon)


@pytest.mark.parametrize(("wish", "signal"), [("stop", 15), ("kill", 9)])
def test_the_cause_is_told(daemon: Daemon, wish: str, signal: int) -> None:
    with waiting(daemon, "--name", "told", "--on-disconnect", wish) as run:
        (init,) = inits(daemon)
        run.client.kill()
        assert host.wait_gone(init.pid, GUARD_SECONDS)
    assert _end_of(daemon, "told") == {"code": None, "signal": signal, "cause": "client-gone"}
    settle(daemon)


def test_a_command_that_ignores_the_stop_signal_is_killed_in_time(daemon: Daemon) -> None:
    request = {"args": ["/bin/sh", "-c", "trap '' TERM; read x; while :; do sleep 600; done"], "name": "deaf"}
    with null_stdio() as stdio:
        client = start_raw(daemon, stdio, **request, onDisconnect="stop", stopTimeout=0.2)
        frame = client.frame()
        assert frame is not None
        assert frame["type"] == "started"
        (init,) = inits(daemon)
        # SIGTERM, 15, is bit 14 of the mask; proc(5).
        status = Path(f"/proc/{init.pid}/status")
        eventually(
            lambda: int(status.read_text().split("SigIgn:")[1].split()[0], 16) >> 14 & 1, "it ignores TERM"
        )
        client.close()
    assert _end_of(daemon, "deaf") == {"code": None, "signal": 9, "cause": "client-gone"}
    settle(daemon)


def _half_a_request(client: RawClient) -> None:
    client.connection.send(b"POST /v1/run HTTP/1.1\r\nHost: dkr\r\nUpgrade: dkr-session/1\r\nContent-Le")


def _a_request(client: RawClient) -> None:
    client.post(LONG)


def _to_the_101(client: RawClient) -> None:
    client.post(LONG)
    assert client.head() == 101


def _to_the_session(client: RawClient) -> None:
    _to_the_101(client)
    assert client.record()["type"] == "session"


def _the_first_frame(client: RawClient) -> None:
    _to_the_session(client)
    with null_stdio() as stdio:
        client.first(LONG, stdio)


def _until_started(client: RawClient) -> None:
    _the_first_frame(client)
    client.frame()


STEPS = (
    lambda client: None,
    _half_a_request,
    _a_request,
    _to_the_101,
    _to_the_session,
    _the_first_frame,
    _until_started,
)


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_killed_between_two_steps(daemon: Daemon, step: int) -> None:
    """The kernel does the same for a client that is killed: it closes what it has."""
    before = count(daemon)
    for _ in range(5):
        with RawClient(daemon) as client:
            STEPS[step](client)
    assert_same(daemon, before)


def test_killed_at_any_moment_a_hundred_times(daemon: Daemon) -> None:
    before = count(daemon)
    chance = random.Random(2)
    reached = set()
    most = 0.06  # about twice what a start takes, however long that is here and now
    with null_stdio() as stdio:
        for _ in range(100):
            with start_raw(daemon, stdio, **LONG) as client:
                assert client.session is not None
                client.session.settimeout(chance.uniform(0.0002, most))
                try:
                    frame = client.frame()
                    reached.add(frame["type"] if frame else "end")
                    most = max(most * 0.9, 0.0004)
                except TimeoutError:
                    reached.add("nothing")
                    most *= 1.1
    assert {"started", "nothing"} <= reached <= {"started", "nothing"}
    assert_same(daemon, before)


def test_dkrctl_killed_at_any_moment(daemon: Daemon) -> None:
    before = count(daemon)
    chance = random.Random(3)
    for _ in range(20):
        with daemon.popen("run", "--rm", "/bin/sleep", "600") as client:
            assert not host.wait_gone(client.pid, chance.uniform(0.0, 0.1))
            client.kill()
    assert_same(daemon, before)


@pytest.mark.parametrize(
    "frame",
    [
        b"no json",
        b"[]",
        b'{"type": "nonsense"}',
        b'{"type": "signal"}',
        b'{"type": "signal", "signal": 65}',
        b'{"type": "signal", "signal": true}',
        b'{"type": "start", "version": 2}',
        b"\xff",
    ],
)
@pytest.mark.parametrize("gone", [False, True], ids=["listens", "gone"])
def test_who_breaks_the_protocol_is_no_client_any_more(daemon: Daemon, frame: bytes, gone: bool) -> None:
    before = count(daemon)
    with null_stdio() as stdio, start_raw(daemon, stdio, **LONG) as client:
        assert (client.frame() or {})["type"] == "started"
        (init,), (shim,) = inits(daemon), shims(daemon)
        client.send(frame)
        if gone:
            client.close()
        else:
            answer = client.frame()
            assert answer is not None
            assert (answer["type"], answer["error"]["code"]) == ("error", "protocol")
            assert client.frame() is None
        assert host.wait_gone(init.pid, GUARD_SECONDS)
        assert host.wait_gone(shim.pid, GUARD_SECONDS)
    assert_same(daemon, before)
    assert "Traceback" not in daemon.log


def test_a_first_frame_that_is_none(daemon: Daemon) -> None:
    before = count(daemon)
    for data in (b"no json", b"{}", json.dumps({"type": "start", "version": 2}).encode()):
        with RawClient(daemon) as client:
            client.post(LONG)
            assert client.head() == 101
            client.record()
            client.send(data)
            answer = client.frame()
            assert answer is not None
            assert answer["error"]["code"] == "protocol"
    assert_same(daemon, before)


def test_what_is_listed_is_gone_with_its_client(daemon: Daemon) -> None:
    with null_stdio() as stdio:
        clients = [start_raw(daemon, stdio, **LONG) for _ in range(5)]
        for client in clients:
            client.frame()
        assert len(listed(daemon)) == 5
        for client in clients:
            client.close()
    settle(daemon)
