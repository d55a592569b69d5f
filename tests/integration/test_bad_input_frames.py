"""What is no first frame, or no further one: the guardian answers with what is wrong and ends, nothing is left, others are served."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from common import frames
from tests.integration.test_bad_input import is_served
from tests.reliability.support import Counts, Manager, assert_same, count, eventually
from tests.sessions import Client, Json, start_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

WANTED: Json = {"args": ["/bin/true"], "rm": True}


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[Counts]:
    """What launcher, api and machine hold is the same behind each test."""
    yield at_rest
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


@contextlib.contextmanager
def descriptors(number: int) -> Iterator[list[int]]:
    """As many of /dev/null."""
    opened = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(number)]
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def asked(daemon: Daemon, **request: Any) -> Client:
    """A client that has its session and said nothing there."""
    client = Client(daemon)
    client.post("/v1/run", {**WANTED, **request})
    client.hand_over()
    return client


def error_of(client: Client) -> Json:
    """The error that the guardian answers with, which is its last word."""
    got = client.frame()
    assert got is not None
    assert got[0]["type"] == "error", got
    assert client.frame() is None
    error: Json = got[0]["error"]
    return error


def plain(wanted: Json = WANTED, /, **change: Any) -> Json:
    """The frame that starts with three descriptors; `change` replaces keys of it."""
    return {**start_frame(wanted, stdio=[0, 1, 2], tty=[]), **change}


def without(key: str) -> Json:
    frame = plain()
    del frame[key]
    return frame


FRAMES: list[tuple[Any, int]] = [
    (plain(), 0),
    (plain(), 2),
    (plain(), 4),
    (plain(), 253),
    (plain(stdio=[0, 1]), 3),
    (plain(stdio=[]), 1),
    (plain(stdio=[2, 1, 0]), 3),
    (plain(stdio=[0, 0, 1]), 3),
    (plain(stdio=[0, 1, 3]), 3),
    (plain(stdio="012"), 3),
    (plain(stdio=[True, 1, 2]), 3),
    (plain(tty=[0]), 3),
    (plain(want=["everything"]), 3),
    (plain(asks="pid:host"), 3),
    (plain(asks=[1]), 3),
    (plain(version=1), 3),
    (plain(version=99), 3),
    (plain(type="attach"), 3),
    (plain(request=[]), 3),
    (plain(more=1), 3),
    *[(without(key), 3) for key in ("type", "version", "request", "asks", "stdio", "tty", "want")],
    ({"type": "signal", "signal": 15}, 0),
    ({"type": "relay"}, 0),
    ({"type": "detach"}, 0),
    ({"type": "resize", "height": 1, "width": 1}, 0),
    ({}, 0),
    (plain({**WANTED, "name": "\ud800"}), 3),
    (plain(asks=["\udfff"]), 3),
    (plain(more={"\udc80": 1}), 3),
    (b"no json", 0),
    (b"[]", 3),
    (b"\xff", 0),
    (b'{"type":' * 100_000, 0),
    (b"[" * 1_000_000, 0),
]


@pytest.mark.parametrize(("frame", "number"), FRAMES, ids=[str(i) for i in range(len(FRAMES))])
def test_a_first_frame_that_is_none(daemon: Daemon, frame: Json | bytes, number: int) -> None:
    with asked(daemon) as client, descriptors(number) as passed:
        is_served(daemon)
        client.send(frame, *passed)
        assert error_of(client)["code"] in ("protocol", "bad-request")
        is_served(daemon)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"args": ["/bin/sh"]}, "request"),
        ({"env": {"LD_PRELOAD": "x"}}, "request"),
        ({"argz": []}, "request"),
        ({"args": "x"}, "request"),
        ({"args": None}, "request"),
    ],
    ids=str,
)
def test_another_request_than_the_one_that_was_posted(daemon: Daemon, change: Json, rule: str) -> None:
    with asked(daemon) as client, descriptors(3) as passed:
        client.send(plain({**WANTED, **change}), *passed)
        error = error_of(client)
        assert (error["code"], error["rule"]) == ("not-permitted", rule)


def test_fewer_descriptors_than_were_promised_to_be_preserved(daemon: Daemon) -> None:
    for number in (3, 4, 6):
        with asked(daemon, preserveFds=2) as client, descriptors(number) as passed:
            client.send(plain({**WANTED, "preserveFds": 2}), *passed)
            assert error_of(client)["code"] in ("protocol", "bad-request")


def test_a_directory_is_no_stdio(daemon: Daemon) -> None:
    place = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    with asked(daemon) as client, descriptors(2) as passed:
        client.send(plain(), place, *passed)
        assert error_of(client)["code"] in ("bad-request", "not-permitted")
    os.close(place)


def test_descriptors_that_came_cut_off(make_daemon: MakeDaemon) -> None:
    """Who has too few descriptors free is given fewer than were sent (MSG_CTRUNC): a start without them would be another one."""
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start(descriptors=100)
        before = count(daemon)
        with asked(daemon, preserveFds=200) as client, descriptors(203) as passed:
            client.send(plain({**WANTED, "preserveFds": 200}), *passed)
            error = error_of(client)
            assert error["code"] == "protocol"
            assert "cut off" in error["message"]
        is_served(daemon)
        assert_same(daemon, before)
        daemon.stop()
    finally:
        manager.close()


def test_a_frame_that_is_too_long(daemon: Daemon) -> None:
    with asked(daemon) as client:
        assert client.session is not None
        client.session.setsockopt(socket.SOL_SOCKET, 32, 16 * 1024 * 1024)  # SO_SNDBUFFORCE
        with descriptors(3) as passed:
            client.send(json.dumps(plain(more="x" * (frames.MAX_FRAME + 100))).encode(), *passed)
        assert error_of(client)["code"] == "protocol"


def test_who_goes_without_a_first_frame(daemon: Daemon) -> None:
    for _ in range(5):
        asked(daemon).close()
        with Client(daemon) as client:
            client.post("/v1/run", WANTED)  # not even the hand-over is read
    is_served(daemon)


def test_who_says_nothing(daemon: Daemon) -> None:
    """Their sessions end, whatever they have of the daemon is theirs until then only."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(asked(daemon)) for _ in range(10)]
        is_served(daemon)
        for client in clients:
            error = error_of(client)
            assert (error["code"], "no first frame within" in error["message"]) == ("protocol", True)


LATER: list[tuple[bytes, bool]] = [
    (b"no json", False),
    (b"{}", False),
    (json.dumps(plain()).encode(), False),
    (b'{"type": "signal", "signal": 0}', False),
    (b'{"type": "signal", "signal": 15, "more": 1}', False),
    (b'{"type": "relay"}', False),
    (b'{"type": "resize", "height": 1, "width": 1}', False),
    (b'{"type": "detach"}', True),
]


@pytest.mark.parametrize("number", [0, 3, 253])
@pytest.mark.parametrize(("frame", "taken"), LATER, ids=[str(i) for i in range(len(LATER))])
def test_frames_out_of_order(daemon: Daemon, frame: bytes, taken: bool, number: int) -> None:
    """Behind a start, and with descriptors, which no later frame may bring: who breaks the protocol is gone, and its container too."""
    with asked(daemon, args=["/bin/sleep", "600"]) as client, descriptors(3) as passed:
        client.send(plain({**WANTED, "args": ["/bin/sleep", "600"]}), *passed)
        started, _ = client.wait_for("started")
        with descriptors(number) as more:
            try:
                client.send(frame, *more)
            except PermissionError:
                client.send(frame)  # the kernel does not let them pass (Linux 6.16)
        is_served(daemon)
        if taken:
            client.close()
            _end(daemon, started["pid"])


def _end(daemon: Daemon, pid: int) -> None:
    os.kill(pid, 9)  # it runs on: its client has detached, and what came along with that was closed
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "it ends")


def test_descriptors_on_the_connection_itself_reach_nobody(daemon: Daemon) -> None:
    data = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"
    with Client(daemon) as client, descriptors(20) as passed:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))]
        try:
            client.connection.sendmsg([data], rights)
        except PermissionError:
            client.connection.send(data)  # the kernel does not let them pass (Linux 6.16)
        assert client.connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
