"""The Python client: further commands in a container, with descriptors and terminal, and as one plain request."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import (
    DEVNULL,
    PIPE,
    STDOUT,
    Client,
    CommandNotFound,
    Conflict,
    NotFound,
    NotPermitted,
    StartFailed,
)
from tests.integration.conftest import Caller
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture
def web(caller: Caller) -> Iterator[Caller]:
    """Somebody whose container `web` stands."""
    with caller.standing():
        yield caller


def sh(line: str) -> tuple[str, str, str]:
    """A command that runs a line."""
    return ("/bin/sh", "-c", line)


def test_pipes_of_this_process(web: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.exec(
            "web", *sh("cat; echo oops >&2; exit 3"), stdin=PIPE, stdout=PIPE, stderr=PIPE
        ) as process:
            assert process.exec is not None
            assert [one.id for one in await dkr.execs("web")] == [process.exec]
            assert await process.communicate(b"some words\n") == (b"some words\n", b"oops\n")
            assert (await process.wait()).code == 3
        assert await dkr.execs("web") == []

    drive(web, scenario)


def test_files_who_and_where(web: Caller, open_tmp: Path) -> None:
    path = open_tmp / "out"

    async def scenario(dkr: Client) -> None:
        with path.open("wb") as out:
            process = await dkr.exec(
                "web",
                *sh("id -u; pwd; echo $A"),
                stdin=DEVNULL,
                stdout=out,
                stderr=STDOUT,
                user="7:8",
                cwd="/tmp",
                env={"A": "b"},
            )
            assert (await process.wait()).code == 0
            await process.close()

    path.touch()
    path.chmod(0o666)
    drive(web, scenario)
    assert path.read_text() == "7\n/tmp\nb\n"


def test_a_terminal(web: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.exec(
            "web", *sh("stty size; read word; echo got $word"), terminal=True, size=(10, 20)
        ) as process:
            assert process.terminal is not None
            shown = b""
            while b"10 20\r\n" not in shown:
                shown += await process.terminal.read(4096)
            await process.terminal.write(b"word\r")
            while b"got word\r\n" not in shown:
                shown += await process.terminal.read(4096)
            assert (await process.wait()).code == 0

    drive(web, scenario)


def test_signals_and_leaving(web: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.exec("web", "/bin/sleep", "586", stdin=DEVNULL) as process:
            process.send_signal(signal.SIGUSR1)
            assert (await process.wait()).signal == signal.SIGUSR1
        async with dkr.exec("web", "/bin/sleep", "585", stdin=DEVNULL) as process:
            pass
        async with dkr.exec("web", "/bin/sleep", "584", stdin=DEVNULL) as process:
            await process.detach()
        left: list[list[str]] = []

        async def look() -> None:
            left[:] = [[*one.args] for one in await dkr.execs("web")]

        while left != [["/bin/sleep", "584"]]:
            await look()
        [one] = await dkr.execs("web")
        await dkr.kill_exec("web", one.id[:12], "TERM")
        while left:
            await look()

    drive(web, scenario)


def test_cancelled_it_leaves_nothing(web: Caller) -> None:
    async def begin(dkr: Client) -> None:
        async with dkr.exec("web", "/bin/sleep", "583", stdin=DEVNULL, on_disconnect="kill"):
            await asyncio.sleep(60)

    async def scenario(dkr: Client) -> None:
        for seconds in (0.0, 0.002, 0.01, 0.05):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(begin(dkr))
                await asyncio.sleep(seconds)
                task.cancel()
        while await dkr.execs("web"):
            await asyncio.sleep(0.01)

    drive(web, scenario)


def test_one_plain_request(web: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        done = await dkr.exec_plain("web", *sh("cat; exit 3"), stdin=b"\xff", user="nobody")
        assert (done.exit.code, done.stdout, done.stderr, done.truncated) == (3, b"\xff", b"", False)
        done = await dkr.exec_plain("web", *sh("seq 1000"), max_output=4)
        assert (done.stdout, done.truncated) == (b"1\n2\n", True)
        with pytest.raises(CommandNotFound):
            await dkr.exec_plain("web", "/nosuch")

    drive(web, scenario)


def test_what_cannot_be_is_raised(root: Caller, tenant: User) -> None:
    async def scenario(dkr: Client) -> None:
        with pytest.raises(CommandNotFound):
            await dkr.exec("web", "/nosuch", stdin=DEVNULL)
        with pytest.raises(StartFailed):
            await dkr.exec("web", "/bin/true", user="nosuch", stdin=DEVNULL)
        with pytest.raises(NotFound):
            await dkr.exec("nosuch", "/bin/true", stdin=DEVNULL)
        with pytest.raises(NotFound):
            await dkr.kill_exec("web", "0" * 64)
        with pytest.raises(NotPermitted) as refused:
            await dkr.exec_plain("web", "/bin/true")
        assert refused.value.rule == "http"
        with pytest.raises(TypeError):
            await dkr.exec("web", "/bin/true", image="host")  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="size has no meaning"):
            await dkr.exec("web", "/bin/true", size=(1, 1))
        made = await dkr.create("/bin/true", name="made")
        with pytest.raises(Conflict):
            await dkr.exec("made", "/bin/true", stdin=DEVNULL)
        await dkr.remove(made.id)

    async def stranger(dkr: Client) -> None:
        with pytest.raises(NotFound):
            await dkr.exec("web", "/bin/true", stdin=DEVNULL)
        with pytest.raises(NotFound):
            await dkr.execs("web")

    with root.standing("--pid", "host", "/bin/sleep", "600"):
        drive(root, scenario)
        drive(Caller(root.daemon, tenant), stranger)


def test_descriptors_beyond_three(web: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        read, write = os.pipe()
        os.write(write, b"third\n")
        os.close(write)
        async with dkr.exec(
            "web", *sh("cat <&3"), stdin=DEVNULL, stdout=PIPE, preserve_fds=[read]
        ) as process:
            os.close(read)
            assert await process.communicate() == (b"third\n", None)

    drive(web, scenario)
