"""The Python client: the command's own terminal, held by this client and shared with others; and the caller's."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import DEVNULL, PIPE, Client, Conflict, Process, Terminal
from tests.integration.terminals import Terminal as Pty
from tests.sdk import drive
from tests.sessions import ECHO

if TYPE_CHECKING:
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root


def at(process: Process) -> Terminal:
    """Its terminal, which it has."""
    assert process.terminal is not None
    return process.terminal


async def shown(process: Process, until: bytes = b"") -> bytes:
    """What is shown up to `until`, or to the end."""
    data = b""
    while not until or not data.endswith(until):
        more = await at(process).read(1 if until else 65536)
        if not more:
            assert not until, f"not shown: {until!r}, but {data!r}"
            return data
        data += more
    return data


def test_a_terminal_of_the_commands_own(caller: Caller) -> None:
    line = "trap 'stty size' WINCH; stty -echo; tty; stty size; while read word; do echo \"got $word\"; done; exit 5"

    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/bash", "-c", line, terminal=True, size=(31, 91), rm=True) as process:
            assert re.match(rb"/dev/pts/\d+\r\n", await shown(process, b"\n"))
            assert await shown(process, b"\n") == b"31 91\r\n"
            at(process).resize(40, 100)
            await at(process).write(b"word\r")
            both = {await shown(process, b"\n"), await shown(process, b"\n")}
            assert both == {b"40 100\r\n", b"got word\r\n"}
            with pytest.raises(ValueError, match="0 rows"):
                at(process).resize(0, 80)
            await at(process).write(b"\x04")
            assert await shown(process) == b""
            assert (await process.wait()).code == 5
            assert await at(process).read() == b""
            assert at(process).closed
            with pytest.raises(BrokenPipeError):
                await at(process).write(b"x")
            with pytest.raises(ValueError, match="for pipes"):
                await process.communicate()

    drive(caller, scenario)


def test_what_was_shown_before_the_end_can_be_read_later(root: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sh", "-c", "seq 500", terminal=True, rm=True) as process:
            assert (await process.wait()).code == 0
            assert await shown(process) == b"".join(b"%d\r\n" % n for n in range(1, 501))
        async with dkr.run("/bin/sh", "-c", "seq 500", terminal=True, rm=True) as process:
            await process.wait()  # nobody reads it: closed all the same

    drive(root, scenario)


def test_a_terminal_for_output_only(caller: Caller) -> None:
    line = "cat; test -t 0 || test -t 1 && echo output; cat </dev/tty || echo none; echo err >&2"

    async def scenario(dkr: Client) -> None:
        async with dkr.run(
            "/bin/sh", "-c", line, stdin=PIPE, stderr=DEVNULL, terminal=True, rm=True
        ) as process:
            with pytest.raises(BrokenPipeError, match="output only"):
                await at(process).write(b"x")
            assert process.stdin is not None
            process.stdin.write(b"typed\n")
            process.stdin.close()
            assert await shown(process) == b"typed\noutput\nnone\n"
            assert (await process.wait()).code == 0
        with pytest.raises(ValueError, match="nothing to the terminal"):
            await dkr.run("/bin/true", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, terminal=True)

    drive(caller, scenario)


def test_reading_and_writing_at_once_and_cancelled(root: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sh", "-c", ECHO, terminal=True, rm=True) as process:
            assert await shown(process, b"\n") == b"up\r\n"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await at(process).read()
            text = "x" * 2000
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(shown(process, b"last\r\n"))
                for _ in range(50):
                    await at(process).write(f"{text}\r".encode())
                await at(process).write(b"last\r")
            assert reading.result().count(f"got {text}\r\n".encode()) == 50
            await at(process).write(b"end 3\r")
            assert (await process.wait()).code == 3

    drive(root, scenario)


def test_two_clients_at_one_terminal(caller: Caller) -> None:
    """The first gives its master up, and goes on over a stream."""

    async def scenario(dkr: Client) -> None:
        async with dkr.run(
            "/bin/sh", "-c", ECHO, terminal=True, size=(30, 90), name="shared", rm=True
        ) as first:
            assert await shown(first, b"\n") == b"up\r\n"
            async with (
                dkr.attach("shared", size=(20, 100)) as second,
                dkr.attach("shared", stdin=False) as third,
            ):
                assert (second.id, second.pid) == (first.id, None)
                await at(second).write(b"one\r")
                for each in (first, second, third):
                    assert await shown(each, b"\n") == b"got one\r\n"
                await at(first).write(b"two\r")
                for each in (first, second, third):
                    assert await shown(each, b"\n") == b"got two\r\n"
                with pytest.raises(BrokenPipeError):
                    await at(third).write(b"x")
                await second.detach()
                await at(first).write(b"three\r")
                assert await shown(third, b"\n") == await shown(first, b"\n") == b"got three\r\n"
                await at(first).write(b"end 6\r")
                for each in (first, third):
                    assert await shown(each) == b""
                    assert (await each.wait()).code == 6
                with pytest.raises(Conflict):
                    await second.wait()

    drive(caller, scenario)


def test_nothing_is_lost_or_doubled_by_the_hand_over(root: Caller) -> None:
    """Both directions are busy when the terminal passes to the guardian."""
    count = 20000
    line = (
        f"stty -echo raw; echo up; exec 3<&0; head -c 200000 <&3 | md5sum >/sum & seq {count}; wait; cat /sum"
    )

    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sh", "-c", line, terminal=True, name="busy", rm=True) as process:
            assert await shown(process, b"up\n")
            data = b"0123456789" * 20000
            async with asyncio.TaskGroup() as group:
                typing = group.create_task(at(process).write(data))
                begun = await shown(process, b"\n100\n")
                async with dkr.attach("busy", stdin=False) as other:
                    reading = group.create_task(shown(other))
                    said = begun + await shown(process)
                    await reading
            assert typing.done()
            numbers = [int(word) for word in said.split() if word.isdigit()]
            assert numbers == list(range(1, count + 1))
            assert hashlib.md5(data).hexdigest().encode() in said
            assert (await process.wait()).code == 0

    drive(root, scenario)


def test_who_cannot_be_attached_to(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/cat", stdin=PIPE, stdout=DEVNULL, name="pipes", rm=True) as process:
            with pytest.raises(Conflict) as caught:
                await dkr.attach("pipes")
            assert caught.value.rule == "no-terminal"
            await process.communicate()

    drive(caller, scenario)


AT_A_TERMINAL = """
import asyncio, os
from dkrctl.client import BadRequest, Client
async def main():
    async with Client() as dkr:
        line = "test -t 0 || test -t 1 || echo none; read word; echo got $word; echo err >&2"
        try:
            await dkr.run("/bin/true", preserve_fds=[os.open("/dev/tty", os.O_RDWR)])
        except BadRequest as error:
            print(error)
        async with dkr.run("/bin/sh", "-c", line, rm=True) as process:
            print("status", (await process.wait()).code, os.isatty(0), os.get_blocking(0))
asyncio.run(main())
"""


def test_a_terminal_of_the_callers_is_copied_never_passed(caller: Caller) -> None:
    with Pty(caller) as pty:
        options = pty.here()
        if caller.user is not None:
            options |= {"user": caller.user.uid, "group": caller.user.gid, "extra_groups": caller.user.groups}
        command = [str(caller.daemon.prefix / "bin/python"), "-I", "-c", AT_A_TERMINAL]
        pty.client = subprocess.Popen(command, env=caller.daemon.environment(), cwd="/", **options)
        pty.until("it is the terminal you are at\r\n")
        pty.until("none\r\n")
        pty.type("typed\n")
        pty.until("got typed\r\nerr\r\n")
        pty.until("status 0 True True\r\n")
        assert pty.status() == 0
