"""The Python client before a daemon that misbehaves: what it refuses, and that nothing stays open."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dkrctl.client import (
    PIPE,
    Client,
    CommandNotFound,
    Conflict,
    DkrError,
    LimitReached,
    ProtocolError,
    Unavailable,
)
from dkrctl.sdk.channel import Channel
from tests.sdk import descriptors, look_until
from tests.unit.client_harness import Peer, root_made_socket

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")


@pytest.mark.parametrize(
    ("label", "kind", "part"),
    [
        ("record-error", LimitReached, "cannot run: too many"),
        ("error-frame", CommandNotFound, 'cannot run "x": no such file'),
        ("garbage", ProtocolError, "its frame is"),
        ("hang-up", Unavailable, "closed the connection"),
        ("not-root", ProtocolError, "the session was not made by root"),
        ("two", ProtocolError, "brings no session"),
        ("three", ProtocolError, "more descriptors than one"),
        ("none", ProtocolError, "brings no session"),
        ("file", ProtocolError, "it is no socket"),
    ],
)
async def test_a_start_that_fails_leaves_nothing_open(
    peer: Peer, label: str, kind: type[DkrError], part: str
) -> None:
    async with Client(peer.socket) as dkr:
        before = descriptors()
        with pytest.raises(kind) as caught:
            await dkr.run("/bin/sleep", "60", stdin=PIPE, stdout=PIPE, labels={"peer": label})
        assert part in str(caught.value)
        await look_until(lambda: descriptors() == before, label)


async def test_nothing_is_sent_into_a_session_that_root_did_not_make(peer: Peer) -> None:
    async with Client(peer.socket) as dkr:
        with pytest.raises(ProtocolError):
            await dkr.run("/bin/true", stdin=PIPE, labels={"peer": "not-root"})
    assert peer.told("vanished") is True


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("refused", Conflict, "cannot attach"),
        ("no-stream", ProtocolError, "sent none"),
        ("elsewhere", ProtocolError, "the daemon led to another container"),
    ],
)
async def test_an_attach_that_fails_leaves_nothing_open(
    peer: Peer, name: str, kind: type[DkrError], part: str
) -> None:
    async with Client(peer.socket) as dkr:
        before = descriptors()
        with pytest.raises(kind, match=part):
            await dkr.attach(name)
        await look_until(lambda: descriptors() == before, "closed")


async def test_a_guardian_that_sends_no_terminal(peer: Peer) -> None:
    async with Client(peer.socket) as dkr:
        before = descriptors()
        with pytest.raises(ProtocolError, match="sent none"):
            await dkr.run("/bin/sleep", "60", terminal=True, labels={"peer": "no-master"})
        await look_until(lambda: descriptors() == before, "closed")


async def test_a_guardian_that_is_lost(peer: Peer) -> None:
    async with Client(peer.socket) as dkr:
        before = descriptors()
        async with dkr.run("/bin/sleep", "60", stdin=PIPE, stdout=PIPE, labels={"peer": "lost"}) as process:
            with pytest.raises(ProtocolError, match="lost the container's guardian"):
                await process.wait()
        await look_until(lambda: descriptors() == before, "closed")


async def test_a_daemon_that_never_answers_can_be_left(peer: Peer) -> None:
    async with Client(peer.socket) as dkr:
        before = descriptors()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dkr.run("/bin/true", stdin=PIPE, labels={"peer": "mute"})
        await look_until(lambda: descriptors() == before, "closed")


async def test_the_last_frame_is_read_though_one_of_ours_was_not() -> None:
    """The guardian ends while a signal, or a size, is on its way to it: how the command ended is not lost over that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    frames: list[object] = []
    ended = asyncio.Event()
    channel = Channel(ours.detach(), lambda frame, _: frames.append(frame), lambda _: ended.set())
    channel.post({"type": "signal", "signal": 15})
    theirs.send(b'{"type": "exited", "exit": {"code": 3}}')
    theirs.close()
    await ended.wait()
    assert frames == [{"type": "exited", "exit": {"code": 3}}]
