"""The Python client and containers whose stdio their guardian holds, before peers: create, attach by two streams, the log."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import (
    Client,
    CommandNotFound,
    Conflict,
    DkrError,
    LogLine,
    NotFound,
    NotPermitted,
    ProtocolError,
    Unavailable,
)
from tests.sdk import descriptors, look_until
from tests.unit.canned import canned, fault
from tests.unit.client_harness import Peer, root_made_socket
from tests.unit.test_client_logs import TIME, chunked, line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from dkrctl.client import Starting

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")

ID = "c0ffee" + "0" * 58
MUCH = 4 << 20  # bytes, more than all buffers on the way have room for


class HeldPeer(Peer):
    module = "tests.unit.held_peer"


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[HeldPeer]:
    with HeldPeer(tmp_path) as peer:
        yield peer


@contextlib.asynccontextmanager
async def client(peer: Peer) -> AsyncIterator[Client]:
    """A client by which nothing stays open."""
    async with asyncio.timeout(20), Client(peer.socket) as dkr:
        before = descriptors()
        yield dkr
        await look_until(lambda: descriptors() == before, "closed")


def joined(dkr: Client, way: str, name: str, **options: Any) -> Starting:
    return (dkr.attach if way == "attach" else dkr.start_attached)(name, **options)


WAYS = ("attach", "start")


# create


async def test_create_waits_until_it_is_known(peer: HeldPeer) -> None:
    async with client(peer) as dkr:
        made = await dkr.create("/x", open_stdin=True, terminal=True, namespaces={"pid": "host"})
    assert (made.id, made.name, made.status) == (ID, "made", "created")
    request = {"args": ["/x"], "namespaces": {"pid": "host"}, "terminal": True, "openStdin": True}
    assert peer.told("create") == {"type": "create", "version": 2, "request": request, "asks": ["pid:host"]}


@pytest.mark.parametrize(
    ("label", "kind", "part"),
    [
        ("refused", NotPermitted, "cannot give pid:host"),
        ("garbage", ProtocolError, "a frame 'started'"),
        ("lost", ProtocolError, "lost its guardian"),
        ("nosuch", NotFound, "there is none"),
    ],
)
async def test_a_create_that_fails(peer: HeldPeer, label: str, kind: type[DkrError], part: str) -> None:
    async with client(peer) as dkr:
        with pytest.raises(kind, match=part):
            await dkr.create("/x", labels={"peer": label})


# attached by two streams


@pytest.mark.parametrize("way", WAYS)
async def test_input_output_and_errors(peer: HeldPeer, way: str) -> None:
    async with client(peer) as dkr, joined(dkr, way, "talk") as process:
        assert process.terminal is None
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.stdin.write(b"one\n")
        assert await process.stdout.readline() == b"got one\n"
        assert await process.communicate(b"two\n") == (b"got two\nend\n", b"err\nheard one\nheard two\n")
        assert (await process.wait()).code == 7
        assert (process.pid is not None) == (way == "start")


async def test_output_comes_after_the_input_has_ended(peer: HeldPeer) -> None:
    async with client(peer) as dkr, dkr.start_attached("talk") as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.close()
        await process.stdin.wait_closed()
        assert process.stdin.is_closing()
        assert (await process.wait()).code == 7
        assert await process.communicate() == (b"up\ngot one\nend\n", b"err\nheard one\n")


async def test_who_writes_to_a_command_that_reads_nothing_loses_no_output(peer: HeldPeer) -> None:
    async with client(peer) as dkr, dkr.start_attached("hasty") as process:
        assert await process.communicate(bytes(MUCH)) == (b"hi\n", b"err\n")
        assert (await process.wait()).code == 0


@pytest.mark.parametrize("way", WAYS)
async def test_all_of_the_output_is_there_after_the_end(peer: HeldPeer, way: str) -> None:
    async with client(peer) as dkr, joined(dkr, way, "much") as process:
        out, err = await process.communicate()
        assert (out, err) == (bytes(1_000_000), b"x" * 1_000_000)
        assert (await process.wait()).code == 3


async def test_without_input(peer: HeldPeer) -> None:
    async with client(peer) as dkr:
        for name, wanted in (("closed", True), ("talk", False)):
            async with dkr.attach(name, stdin=wanted) as process:
                assert process.stdin is None
                assert process.stdout is not None
                assert await process.stdout.readline() == b"up\n"
                with pytest.raises(ValueError, match="no stdin"):
                    await process.communicate(b"x")


async def test_signals_and_leaving(peer: HeldPeer) -> None:
    async with client(peer) as dkr, dkr.attach("trapped") as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(2)
        assert await process.stdout.readline() == b"int\n"
        assert peer.told("frame") == {"type": "signal", "signal": 2}
        await process.detach()
        assert peer.told("frame") == {"type": "detach"}


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("not-found", CommandNotFound, 'cannot run "x"'),
        ("running", Conflict, "it runs already"),
        ("nosuch", NotFound, "there is none"),
        ("elsewhere", ProtocolError, "the daemon led to another container"),
        ("one", ProtocolError, "sent none of its streams"),
    ],
)
async def test_an_attached_start_that_fails(
    peer: HeldPeer, name: str, kind: type[DkrError], part: str
) -> None:
    async with client(peer) as dkr:
        with pytest.raises(kind, match=part):
            await dkr.start_attached(name)


async def test_a_guardian_that_is_lost(peer: HeldPeer) -> None:
    async with client(peer) as dkr, dkr.start_attached("lost") as process:
        with pytest.raises(ProtocolError, match="lost the container's guardian"):
            await process.wait()


async def test_a_start_that_is_not_attended(peer: HeldPeer) -> None:
    async with client(peer) as dkr:
        await dkr.start("one")
        with pytest.raises(NotFound):
            await dkr.start("nosuch")
    assert peer.told("head").startswith("POST /v1/containers/one/start HTTP/1.1")


# the log


async def test_the_lines_of_a_log(tmp_path: Path) -> None:
    whole = line("one\n") + line(b"\xff", "stderr") + line("two\n")
    with canned(tmp_path / "s", default=chunked([whole[:9], whole[9:]])) as peer:
        async with Client(tmp_path / "s") as dkr:
            found = [one async for one in dkr.logs("web")]
            since = datetime(2026, 1, 31, 12, tzinfo=UTC)
            options: dict[str, Any] = {
                "follow": True,
                "tail": 3,
                "since": since,
                "until": TIME,
                "stderr": False,
            }
            assert len([one async for one in dkr.logs("web", **options)]) == 3
    assert found == [
        LogLine("stdout", TIME, b"one\n"),
        LogLine("stderr", TIME, b"\xff"),
        LogLine("stdout", TIME, b"two\n"),
    ]
    assert peer.requests == [
        "GET /v1/containers/web/logs HTTP/1.1",
        "GET /v1/containers/web/logs?stderr=false&follow=true&tail=3&since=2026-01-31T12:00:00%2B00:00"
        f"&until={TIME} HTTP/1.1",
    ]


async def test_lines_come_one_by_one_and_may_be_left(tmp_path: Path) -> None:
    said = chunked([line("one\n"), line("two\n")], ends=False)
    with canned(tmp_path / "s", default=said, hold=True):
        async with Client(tmp_path / "s") as dkr:
            before = descriptors()
            async with contextlib.aclosing(dkr.logs("web", follow=True)) as found:
                assert (await anext(found)).data == b"one\n"
                assert (await anext(found)).data == b"two\n"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(found)
            await look_until(
                lambda: len(descriptors()) <= len(before) + 1, "closed"
            )  # the peer holds its end


async def test_a_log_that_is_cut_off(tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=chunked([line("one\n")], ends=False)):
        async with Client(tmp_path / "s", retry=0.2) as dkr:
            for follow in (False, True):  # which is asked for again, and cut off again
                found = dkr.logs("web", follow=follow)
                assert (await anext(found)).data == b"one\n"
                with pytest.raises(Unavailable):
                    await anext(found)


async def test_a_log_that_there_is_not(tmp_path: Path) -> None:
    problem = fault("conflict", "409 Conflict", "cannot read the log of web", rule="no-log")
    with canned(tmp_path / "s", default=problem):
        async with Client(tmp_path / "s") as dkr:
            with pytest.raises(Conflict) as caught:
                await anext(dkr.logs("web"))
    assert caught.value.rule == "no-log"


async def test_a_log_is_asked_for_again_while_nobody_answers(tmp_path: Path) -> None:
    async with Client(tmp_path / "s") as dkr, asyncio.TaskGroup() as group:
        found = dkr.logs("web")
        waits = group.create_task(anext(found))
        while not waits.done():
            await asyncio.sleep(0.05)  # the first attempts find nobody
            with canned(tmp_path / "s", default=chunked([line("one\n")])):
                await asyncio.wait([waits])
        assert waits.result().data == b"one\n"
        await found.aclose()


async def test_a_time_must_know_its_zone() -> None:
    async with Client("/nonexistent") as dkr:
        with pytest.raises(ValueError, match="without a zone"):
            dkr.logs("web", since=datetime(2026, 1, 31))


async def test_what_is_removed_by_force(tmp_path: Path) -> None:
    gone = b"HTTP/1.1 204 No Content\r\nServer: dkr\r\n\r\n"
    with canned(tmp_path / "s", default=gone) as peer:
        async with Client(tmp_path / "s") as dkr:
            await dkr.remove("web", force=True)
            await dkr.remove("web")
    assert peer.requests == [
        "DELETE /v1/containers/web?force=true HTTP/1.1",
        "DELETE /v1/containers/web HTTP/1.1",
    ]
