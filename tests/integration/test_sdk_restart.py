"""The Python client while the daemon is exchanged: what is asked again, what never is, and what goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import PIPE, Client, Unavailable
from tests import host
from tests.integration.conftest import Caller
from tests.reliability.support import WAITS
from tests.sdk import drive, look_until

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


def test_questions_wait_for_a_daemon_that_is_restarted(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()

    async def scenario(dkr: Client) -> None:
        daemon.stop()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(dkr.version()), group.create_task(dkr.ping())]
            listed = group.create_task(dkr.containers(all=True))
            await asyncio.sleep(0.1)  # long enough for several attempts
            assert not any(task.done() for task in (*asked, listed))
            await asyncio.to_thread(daemon.start)
        assert listed.result() == []

    drive(Caller(daemon, None), scenario)


def test_acts_are_never_sent_twice(make_daemon: MakeDaemon) -> None:
    """They fail at once, and stay undone when a daemon is there again."""
    daemon = make_daemon()

    async def scenario(dkr: Client) -> None:
        daemon.stop()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for act in (dkr.run_plain("/bin/true"), dkr.remove("x"), dkr.run("/bin/true"), dkr.attach("x")):
            with pytest.raises(Unavailable):
                await act
        async with Client(daemon.socket, retry=0) as hasty:
            with pytest.raises(Unavailable):
                await hasty.ping()
        assert loop.time() - begun < 5  # less than a question waits
        await asyncio.to_thread(daemon.start)
        assert await dkr.containers(all=True) == []

    drive(Caller(daemon, None), scenario)


def test_a_plain_run_whose_api_dies_is_told_and_not_repeated(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()

    async def scenario(dkr: Client) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_unavailable(dkr))
            await look_until(lambda: _sleepers(daemon), "it runs")
            host.kill(daemon.child("dkr-api"))
        assert task.result() == "unavailable"
        await dkr.ping()
        await look_until(lambda: not _sleepers(daemon), "it was stopped, and none was begun in its place")

    drive(Caller(daemon, None), scenario)
    assert daemon.log.count("audit shim: started") == 1


async def _unavailable(dkr: Client) -> str:
    with pytest.raises(Unavailable) as caught:
        await dkr.run_plain("/bin/sleep", "600")
    return caught.value.code


def _sleepers(daemon: Daemon) -> list[int]:
    return [process.pid for process in daemon.processes() if process.comm == "sleep"]


def test_a_process_does_not_notice(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()

    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sh", "-c", WAITS, stdin=PIPE, stdout=PIPE, rm=True) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            await asyncio.to_thread(daemon.kill)
            await asyncio.to_thread(daemon.start)
            assert await process.communicate(b"on 6\n") == (b"got on\n", None)
            assert (await process.wait()).code == 6

    drive(Caller(daemon, None), scenario)
