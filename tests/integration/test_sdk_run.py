"""The Python client: commands with descriptors of the caller's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import pytest

from dkrctl.client import DEVNULL, PIPE, STDOUT, BadRequest, Client, Conflict, Process, ProtocolError
from tests import host
from tests.integration.conftest import Caller
from tests.reliability.support import inits, remains
from tests.sdk import drive, look_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeDaemon

pytestmark = pytest.mark.root

MUCH = 100 << 20  # bytes
MANY = 50
TALKS = 'echo up; while read word; do echo "got $word"; done; exit 7'


def sh(line: str) -> tuple[str, str, str]:
    """A command that runs a line."""
    return ("/bin/sh", "-c", line)


async def heard(process: Process) -> str:
    """The next line that it says."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def say(process: Process, word: str) -> None:
    """Write a line to it."""
    assert process.stdin is not None
    process.stdin.write(f"{word}\n".encode())
    await process.stdin.drain()


def test_talk_with_a_command(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run(*sh(TALKS), stdin=PIPE, stdout=PIPE, rm=True) as process:
            assert await heard(process) == "up"
            for word in ("one", "two"):
                await say(process, word)
                assert await heard(process) == f"got {word}"
            out, err = await process.communicate(b"last\n")
            assert (out, err) == (b"got last\n", None)
            ended = await process.wait()
            assert (ended.code, ended.signal, ended.cause) == (7, None, "exited")
            assert process.exit is ended
            with pytest.raises(Conflict, match="it has ended"):
                process.terminate()

    drive(caller, scenario)


def test_a_hundred_megabytes_both_ways(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        data = random.Random(1).randbytes(1 << 20) * (MUCH >> 20)
        process = await dkr.run("/bin/cat", stdin=PIPE, stdout=PIPE, stderr=PIPE, rm=True)
        out, err = await process.communicate(data)
        assert err == b""
        assert out is not None
        assert len(out) == MUCH
        assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
        await process.close()

    drive(caller, scenario)


def test_many_at_once(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async def one(number: int) -> None:
            async with dkr.run("/bin/cat", stdin=PIPE, stdout=PIPE, rm=True) as process:
                out, _ = await process.communicate(b"%d" % number)
                assert out == b"%d" % number
                assert (await process.wait()).code == 0

        async with asyncio.TaskGroup() as group:
            for number in range(MANY):
                group.create_task(one(number))

    drive(caller, scenario)


def test_descriptors_files_and_null(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as more:
            given.write(b"given")
            given.seek(0)
            with tempfile.TemporaryFile() as out:
                line = "cat; cat >&2; echo three >&3; echo four >&4; ls /proc/self/fd | wc -l"
                async with dkr.run(
                    *sh(line),
                    stdin=given,
                    stdout=out.fileno(),
                    stderr=STDOUT,
                    preserve_fds=[more, more.fileno()],
                    rm=True,
                ) as process:
                    assert (await process.wait()).code == 0
                out.seek(0)
                more.seek(0)
                # 0 to 4, and the one by which ls reads the directory
                assert out.read() == b"given6\n"
                assert more.read() == b"three\nfour\n"
        async with dkr.run(*sh("cat; echo lost"), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, rm=True) as p:
            assert await p.communicate() == (None, b"")

    drive(caller, scenario)


def test_a_root_of_the_callers(caller: Caller, open_tmp: Path) -> None:
    root = open_tmp / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for path in (root, root / "bin"):
        path.chmod(0o755)

    async def scenario(dkr: Client) -> None:
        with tempfile.TemporaryFile() as more:
            command = ("/bin/busybox", "sh", "-c", "/bin/busybox ls /bin; echo three >&3")
            async with dkr.run(*command, rootfs=root, stdout=PIPE, preserve_fds=[more], rm=True) as process:
                assert await process.communicate() == (b"busybox\n", None)
            more.seek(0)
            assert more.read() == b"three\n"
        with pytest.raises(BadRequest, match="no such directory"):
            await dkr.run("/bin/true", rootfs=root / "nosuch", stdin=PIPE)
        with pytest.raises(BadRequest, match="plain HTTP"):
            await dkr.run_plain("/bin/true", rootfs=root)

    drive(caller, scenario)


def test_pipes_can_be_opened_again_by_name(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        line = "echo out >/dev/stdout; echo err >/dev/stderr"
        async with dkr.run(*sh(line), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, rm=True) as process:
            assert await process.communicate() == (b"out\n", b"err\n")
        reader, writer = os.pipe()
        async with dkr.run(*sh(line), stdin=DEVNULL, stdout=writer, stderr=writer, rm=True) as process:
            await process.wait()
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"out\nerr\n"

    drive(caller, scenario)


INHERITS = """
import asyncio
from dkrctl.client import Client
async def main():
    async with Client() as dkr:
        async with dkr.run("/bin/sh", "-c", "cat; echo err >&2; test -e /proc/self/fd/0 || echo closed", rm=True) as process:
            return (await process.wait()).code
raise SystemExit(asyncio.run(main()))
"""


@pytest.mark.parametrize(("shell", "out"), [("", b"typed\n"), ("exec <&-;", b"closed\n")])
def test_without_a_word_they_are_the_callers_own(caller: Caller, shell: str, out: bytes) -> None:
    options: dict[str, Any] = {}
    if caller.user is not None:
        options = {"user": caller.user.uid, "group": caller.user.gid, "extra_groups": caller.user.groups}
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f'{shell} exec "$@"',
            "sh",
            caller.daemon.prefix / "bin/python",
            "-I",
            "-c",
            INHERITS,
        ],
        env=caller.daemon.environment(),
        cwd="/",
        input=b"typed\n",
        capture_output=True,
        check=False,
        **options,
    )
    assert (
        done.returncode,
        done.stdout,
        done.stderr.replace(b"cat: -: Bad file descriptor\n", b"")[-4:],
    ) == (
        0,
        out,
        b"err\n",
    )


def test_descriptors_that_cannot_be_passed(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        closed = os.dup(0)
        os.close(closed)
        with pytest.raises(BadRequest, match="it is not open"):
            await dkr.run("/bin/true", stdin=PIPE, stdout=closed)
        with pytest.raises(BadRequest, match="it is not open"):
            await dkr.run("/bin/true", stdin=PIPE, preserve_fds=[0, closed])
        with pytest.raises(BadRequest, match="at most 250"):
            await dkr.run("/bin/true", preserve_fds=[0] * 251)
        with pytest.raises(ValueError, match="stderr alone"):
            await dkr.run("/bin/true", stdin=PIPE, stdout=STDOUT)
        directory = os.open("/", os.O_RDONLY)
        with pytest.raises(BadRequest, match="directory"):
            await dkr.run("/bin/true", stdin=directory, stdout=PIPE, rm=True)
        os.close(directory)

    drive(caller, scenario)


def test_a_command_that_reads_nothing(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/true", stdin=PIPE, stdout=PIPE, rm=True) as process:
            assert await process.communicate(bytes(10 << 20)) == (b"", None)
        async with dkr.run("/bin/true", stdin=DEVNULL, rm=True) as process:
            with pytest.raises(ValueError, match="stdin=PIPE"):
                await process.communicate(b"x")

    drive(caller, scenario)


def test_signals(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        line = "trap 'echo usr1' USR1; echo up; while :; do sleep 0.01; done"
        async with dkr.run(*sh(line), stdin=DEVNULL, stdout=PIPE, rm=True) as process:
            with pytest.raises(ValueError, match="no signal"):
                process.send_signal(65)
            assert await heard(process) == "up"
            process.send_signal(signal.SIGUSR1)
            assert await heard(process) == "usr1"
            process.kill()
            assert (await process.wait()).signal == 9
        async with dkr.run("/bin/sleep", "600", stdin=DEVNULL, rm=True) as process:
            process.terminate()
            ended = await process.wait()
            assert (ended.signal, ended.cause) == (15, "signalled")
        async with dkr.run(
            *sh("trap '' TERM; echo up; while :; do sleep 1; done"), stdout=PIPE, rm=True
        ) as p:
            assert await heard(p) == "up"
            p.terminate()
            p.kill()
            assert (await p.wait()).signal == 9

    drive(caller, scenario)


def test_a_cancelled_wait_changes_nothing(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/cat", stdin=PIPE, stdout=PIPE, rm=True) as process:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await process.wait()
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(process.wait()) for _ in range(3)]
                await asyncio.sleep(0)
                waits[0].cancel()
                await process.communicate(b"x")
            assert waits[0].cancelled()
            assert [task.result().code for task in waits[1:]] == [0, 0]

    drive(caller, scenario)


def test_a_start_that_is_cancelled_anywhere_leaves_nothing(root: Caller) -> None:
    """After ever more milliseconds, until it comes to its end; each would be kept, unless it were withdrawn."""

    async def scenario(dkr: Client) -> None:
        turns, started = 0, False
        while not started:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(
                    _started(dkr, "/bin/sleep", "600", stdin=PIPE, stdout=PIPE, on_disconnect="keep")
                )
                await asyncio.sleep(turns / 1000)
                started = task.done()
                task.cancel()
            if started:
                task.result().kill()
                await task.result().wait()
                await task.result().close()
            turns += 1
        assert turns > 5

        def alive() -> list[str]:
            return [
                process.comm for process in root.daemon.processes() if process.comm in ("sleep", "dkr-shim")
            ]

        await look_until(lambda: not alive(), "all are gone")
        for container in await dkr.containers(all=True):
            await dkr.remove(container.id)

    drive(root, scenario)


async def _started(dkr: Client, *args: str, **options: Any) -> Process:
    return await dkr.run(*args, **options)


@pytest.mark.parametrize("wish", ["stop", "kill", "keep"])
@pytest.mark.parametrize("whole", [True, False], ids=["the client", "the process"])
def test_leaving_does_what_on_disconnect_says(
    caller: Caller, wish: Literal["stop", "kill", "keep"], whole: bool
) -> None:
    line = "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"

    async def scenario(dkr: Client) -> None:
        async with Client(caller.daemon.socket) as other:
            process = await other.run(*sh(line), stdin=DEVNULL, stdout=PIPE, on_disconnect=wish, name="left")
            assert await heard(process) == "up"
            if not whole:
                await process.close()
        if whole:
            with pytest.raises(Conflict, match="has left it"):
                await process.wait()
        if wish == "keep":
            while (await dkr.inspect("left")).status != "running":
                await asyncio.sleep(0.01)  # the news may be later than the command

    drive(caller, scenario)
    if wish == "keep":
        [inside] = inits(caller.daemon)  # whose children are called as it is until they are another program
        host.kill(inside)
    ended = caller.ended("left")["exit"]
    assert (ended["code"], ended["cause"]) == {
        "stop": (9, "client-gone"),
        "kill": (None, "client-gone"),
        "keep": (None, "signalled"),
    }[wish]
    caller.daemon.dkrctl("rm", "left", check=True)


def test_detached_it_runs_on(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run(*sh(TALKS), stdin=PIPE, stdout=PIPE, rm=True, on_disconnect="kill") as process:
            assert await heard(process) == "up"
            await process.detach()
            await say(process, "on")
            assert await heard(process) == "got on"
            with pytest.raises(Conflict):
                await process.wait()
            with pytest.raises(Conflict):
                await process.detach()
            assert process.stdin is not None
            process.stdin.close()
            assert await heard(process) == ""

    drive(caller, scenario)


def test_a_lost_guardian_is_told(make_daemon: MakeDaemon) -> None:
    caller = Caller(make_daemon(), None)

    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sleep", "600", stdin=DEVNULL, rm=True) as process:
            [shim] = [one for one in caller.daemon.processes() if one.comm == "dkr-shim"]
            host.kill(shim)
            with pytest.raises(ProtocolError, match="lost the container's guardian"):
                await process.wait()
        host.kill(caller.command("sleep"))
        await look_until(lambda: not remains(caller.daemon), "the launcher cleans up in the guardian's place")

    drive(caller, scenario)
