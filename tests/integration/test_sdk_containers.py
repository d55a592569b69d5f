"""The Python client: containers whose stdio their guardian holds, from the making to the removal."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import BadRequest, Client, CommandNotFound, Conflict, NotFound, NotPermitted
from tests.integration.verbs import sweep
from tests.sdk import drive, look_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

TALKS = 'echo up; echo err >&2; while read word; do echo "got $word"; done; exit 7'
WAITS = "trap 'exit 4' TERM; echo up; while :; do sleep 600 & wait; done"
MUCH = 20 << 20  # bytes


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def sh(line: str) -> tuple[str, str, str]:
    """A command that runs a line."""
    return ("/bin/sh", "-c", line)


def test_from_the_making_to_the_removal(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        made = await dkr.create(*sh("echo out; echo err >&2; exit 3"), name="job", labels={"a": "b"})
        assert (made.name, made.status, made.labels, made.uid) == ("job", "created", {"a": "b"}, os.getuid())
        assert made.started is None
        assert made.id not in [one.id for one in await dkr.containers()]
        assert made.id in [one.id for one in await dkr.containers(all=True)]
        for times in (1, 2):
            await dkr.start("job")
            ended = await dkr.wait("job")
            assert ended is not None
            assert ended.code == 3
            found = [(line.stream, line.data) async for line in dkr.logs(made.id)]
            assert sorted(found) == [("stderr", b"err\n")] * times + [("stdout", b"out\n")] * times
        await dkr.remove("job")
        with pytest.raises(NotFound):
            await dkr.inspect("job")

    drive(caller, scenario)


def test_attached_from_the_start(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(TALKS), name="talks", open_stdin=True)
        async with dkr.start_attached("talks") as process:
            assert process.pid is not None
            assert await process.communicate(b"one\ntwo\n") == (b"up\ngot one\ngot two\n", b"err\n")
            assert (await process.wait()).code == 7

    drive(caller, scenario)


def test_two_who_are_attached(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(TALKS), name="talks", open_stdin=True)
        async with dkr.start_attached("talks", stdin=False) as first, dkr.attach("talks") as second:
            assert first.stdin is None
            assert second.stdin is not None
            second.stdin.write(b"word\n")
            for process in (first, second):
                assert process.stdout is not None
                while await process.stdout.readline() != b"got word\n":
                    continue
            second.stdin.close()
            assert (await first.wait()).code == (await second.wait()).code == 7

    drive(caller, scenario)


def test_megabytes_both_ways(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        data = random.Random(1).randbytes(1 << 20) * (MUCH >> 20)
        await dkr.create("/bin/cat", name="copies", open_stdin=True)
        async with dkr.start_attached("copies") as process:
            out, err = await process.communicate(data)
            assert err == b""
            assert out is not None
            assert len(out) == MUCH
            assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()

    drive(caller, scenario)


def test_who_writes_to_what_reads_nothing_loses_no_output(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh("exec <&-; echo hi; echo err >&2; exit 2"), name="deaf", open_stdin=True)
        async with dkr.start_attached("deaf") as process:
            assert await process.communicate(bytes(1 << 20)) == (b"hi\n", b"err\n")
            assert (await process.wait()).code == 2

    drive(caller, scenario)


def test_a_terminal(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        line = 'stty size; read word; echo "got $word"; exit 5'
        await dkr.create(*sh(line), name="shell", terminal=True, open_stdin=True)
        async with dkr.start_attached("shell", size=(20, 70)) as process:
            assert process.terminal is not None
            shown = await process.terminal.read()
            while not shown.endswith(b"20 70\r\n"):
                data = await process.terminal.read()
                assert data, shown
                shown += data
            await process.terminal.write(b"word\r")
            while data := await process.terminal.read():
                shown += data
            assert shown.endswith(b"got word\r\n")
            assert (await process.wait()).code == 5

    drive(caller, scenario)


def test_signals_leaving_and_force(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(WAITS), name="waits")
        async with dkr.start_attached("waits") as process:
            assert process.stdin is None  # it is not open
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            await process.detach()
        async with dkr.attach("waits", on_disconnect="kill") as process:
            process.terminate()
            assert (await process.wait()).code == 4
        async with dkr.start_attached("waits") as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            with pytest.raises(Conflict) as caught:
                await dkr.start_attached("waits")
            assert caught.value.rule == "running"
            await dkr.start("waits")  # what is wanted is so
            with pytest.raises(Conflict):
                await dkr.remove("waits")
            await dkr.remove("waits", force=True)
            assert (await process.wait()).signal == 9

    drive(caller, scenario)


def test_following_a_log(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(TALKS), name="talks", open_stdin=True)
        await dkr.start("talks")
        async with dkr.attach("talks") as process:
            assert process.stdin is not None
            heard = []
            async for line in dkr.logs("talks", follow=True, stderr=False):
                heard.append(line.data)
                if heard == [b"up\n"]:
                    process.stdin.write(b"one\n")
                elif heard[1:] == [b"got one\n"]:
                    process.stdin.close()
            assert heard == [b"up\n", b"got one\n"]  # it has ended by itself
            assert (await process.wait()).code == 7
        async with contextlib.aclosing(dkr.logs("talks", tail=1)) as last:
            assert (await anext(last)).data in (b"got one\n", b"err\n")
        now = datetime.now(UTC)
        assert [line async for line in dkr.logs("talks", until=now - timedelta(hours=1))] == []
        assert len([line async for line in dkr.logs("talks", since=now - timedelta(hours=1))]) == 3

    drive(caller, scenario)


def test_a_log_that_is_left_while_it_is_followed(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(WAITS), name="waits")
        await dkr.start("waits")
        async for line in dkr.logs("waits", follow=True):
            assert line.data == b"up\n"
            break
        async with contextlib.aclosing(dkr.logs("waits", follow=True)) as following:
            assert (await anext(following)).data == b"up\n"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(following)
        await dkr.remove("waits", force=True)

    drive(caller, scenario)


def test_what_goes_wrong(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        made = await dkr.create("/bin/nosuch", name="none")
        for start in (dkr.start, dkr.start_attached):
            with pytest.raises(CommandNotFound):
                await start(made.id)
        with pytest.raises(Conflict):
            await dkr.create("/bin/true", name="none")
        for options in ({"rootfs": "/usr"}, {"on_disconnect": "keep"}):
            with pytest.raises(BadRequest, match=next(iter(options)).partition("_")[0]):
                await dkr.create("/bin/true", **options)  # type: ignore[arg-type]
        if os.getuid():
            with pytest.raises(NotPermitted):
                await dkr.create("/bin/true", namespaces={"pid": "host"})
        else:
            near = await dkr.create("/bin/true", namespaces={"pid": "host"})
            await dkr.start(near.id)
        async with dkr.run("/bin/true", name="ran") as process:
            await process.wait()
        with pytest.raises(Conflict) as caught:
            async for _ in dkr.logs("ran"):
                pass
        assert caught.value.rule == "no-log"

    drive(caller, scenario)


def test_a_start_that_is_cancelled_leaves_the_container(root: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.create(*sh(WAITS), name="waits")
        async with asyncio.TaskGroup() as group:
            start = group.create_task(_start(dkr))
            await asyncio.sleep(0)
            start.cancel()
        await look_until(lambda: start.done(), "left")
        assert (await dkr.inspect("waits")).status in ("created", "running")
        await dkr.remove("waits", force=True)

    async def _start(dkr: Client) -> None:
        await dkr.start_attached("waits")

    drive(root, scenario)
