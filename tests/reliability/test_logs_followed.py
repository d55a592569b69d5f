"""A log that is followed goes on over the death of the api, of the launcher, and over a stop of the whole daemon: each line once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import Client, NotFound, Unavailable
from tests import host
from tests.integration.kept import made, sh
from tests.integration.kept import wait as ended
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    eventually,
    inits,
    kill_and_wait,
    listed,
    settle,
    shims,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Numbered lines, two at a time, on both streams; the last one when it is told to end.
NUMBERS = """trap 'echo end; exit 3' TERM; i=0
while :; do echo $i; echo $((i + 1)); echo $((i + 2)) >&2; i=$((i + 3)); sleep 0.01; done"""
SOME = 60  # lines


def api_killed(daemon: Daemon) -> None:
    kill_and_wait(daemon.child("dkr-api"))


def launcher_killed(daemon: Daemon) -> None:
    api = daemon.child("dkr-api")
    daemon.kill()
    assert host.wait_gone(api.pid, GUARD_SECONDS)
    daemon.start()


def stopped_and_started(daemon: Daemon) -> None:
    daemon.restart()


DEATHS = (api_killed, launcher_killed, stopped_and_started)


@contextlib.contextmanager
def following(daemon: Daemon, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`dkrctl logs -f`, both streams in one pipe."""
    with daemon.popen(
        "logs", "-f", *options, name, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def some(client: subprocess.Popen[str], number: int = SOME) -> list[str]:
    assert client.stdout is not None
    return [client.stdout.readline() for _ in range(number)]


def end(daemon: Daemon, name: str) -> None:
    status, problem = ask(daemon, "POST", f"/v1/containers/{name}/kill", {"signal": "TERM"})
    assert status == 204, problem


def whole(found: list[str], first: int = 0) -> None:
    """Each line from `first` on once; of each stream in order: between two streams nobody promises one."""
    assert found.count("end\n") == 1
    last = found.index("end\n")
    assert all(int(line) % 3 == 2 for line in found[last + 1 :])  # the other stream's
    numbers = [int(line) for line in found if line != "end\n"]
    for rest in ((0, 1), (2,)):
        one = [number for number in numbers if number % 3 in rest]
        assert one == [n for n in range(first, max(one) + 1) if n % 3 in rest]


@pytest.mark.parametrize("death", DEATHS)
def test_the_client_goes_on(make_daemon: MakeDaemon, death: Callable[[Daemon], None]) -> None:
    daemon = make_daemon()
    with made(daemon, *sh(NUMBERS)) as name, following(daemon, name) as client:
        found = some(client)
        for _ in range(2):
            death(daemon)
            found += some(client)
        end(daemon, name)
        assert client.stdout is not None
        found += client.stdout.readlines()
        assert client.wait(GUARD_SECONDS) == 0
    whole(found)


@pytest.mark.parametrize("death", DEATHS)
def test_the_python_client_goes_on(make_daemon: MakeDaemon, death: Callable[[Daemon], None]) -> None:
    daemon = make_daemon()

    async def follow(name: str) -> list[str]:
        found: list[str] = []
        async with asyncio.timeout(GUARD_SECONDS), Client(daemon.socket, retry=GUARD_SECONDS) as dkr:
            async for line in dkr.logs(name, follow=True):
                found.append(line.data.decode())
                if len(found) == SOME:
                    await asyncio.to_thread(death, daemon)
                if len(found) == 3 * SOME:
                    await asyncio.to_thread(end, daemon, name)
        return found

    with made(daemon, *sh(NUMBERS)) as name:
        whole(asyncio.run(follow(name)))


def test_it_ends_where_the_container_ended_meanwhile(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *sh(NUMBERS)) as name, following(daemon, name) as client:
        found = some(client)
        daemon.stop()
        (init,) = inits(daemon)
        os.kill(init.pid, signal.SIGTERM)
        for shim in shims(daemon):
            assert host.wait_gone(shim.pid, GUARD_SECONDS)
        assert client.poll() is None
        daemon.start()
        assert client.stdout is not None
        found += client.stdout.readlines()
        assert client.wait(GUARD_SECONDS) == 0
        assert ended(daemon, name)["code"] == 3
    whole(found)


def test_one_that_removed_itself_meanwhile_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *sh(NUMBERS), name="own", rm=True), following(daemon, "own") as client:
        some(client)
        daemon.stop()
        (init,) = inits(daemon)
        os.kill(init.pid, signal.SIGTERM)
        for shim in shims(daemon):
            assert host.wait_gone(shim.pid, GUARD_SECONDS)
        daemon.start()
        # Another one of that name is not taken for it.
        with made(daemon, "/bin/echo", "other", name="own"):
            assert client.stdout is not None
            said = client.stdout.read()
            assert client.wait(GUARD_SECONDS) == 1
    assert "cannot go on with the log of own: the container was removed while the daemon was away" in said
    assert "other" not in said


def test_the_last_lines_alone_and_nothing_yet(make_daemon: MakeDaemon) -> None:
    """A tail of none that has shown nothing goes on behind what there was when it was asked for."""
    daemon = make_daemon()
    line = "trap 'echo after; echo end; exit 0' TERM; echo before; while :; do sleep 0.05; done"
    with made(daemon, *sh(line)) as name:
        eventually(lambda: b"before" in daemon.dkrctl("logs", name, text=False).stdout, "it is up")
        eventually(lambda: not follows(daemon), "who has read it has gone")
        with following(daemon, name, "--tail", "0") as client:
            eventually(lambda: follows(daemon), "it follows")
            daemon.stop()
            (init,) = inits(daemon)
            os.kill(init.pid, signal.SIGTERM)
            for shim in shims(daemon):
                assert host.wait_gone(shim.pid, GUARD_SECONDS)
            daemon.start()
            assert client.stdout is not None
            assert client.stdout.read() == "after\nend\n"
            assert client.wait(GUARD_SECONDS) == 0


def follows(daemon: Daemon) -> bool:
    """Whether somebody reads a log: the api has one of its files open."""
    return any("container.log" in name for name in host.descriptors(daemon.child("dkr-api").pid))


def test_a_terminal_is_told_once_and_ctrl_c_ends_the_waiting(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *sh(NUMBERS), name="web"):
        master, theirs = pty.openpty()
        client = daemon.popen(
            "logs", "-f", "web", text=True, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        with client, os.fdopen(master, "rb", buffering=0) as screen:
            try:
                some(client, 3)
                daemon.stop()
                said = b""
                while b"ends)" not in said:
                    said += screen.read(4096).replace(b"\r\n", b"\n")
                words = b"dkrctl: dkrd has gone; the log of web goes on when it is back (ctrl-C ends)"
                assert said.count(words) == 1
                assert client.poll() is None
                client.send_signal(signal.SIGINT)
                assert client.wait(GUARD_SECONDS) == -signal.SIGINT
                os.set_blocking(master, False)
                with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
                    said += screen.read(4096) or b""
                assert b"Traceback" not in said
                assert said.count(b"has gone") == 1
            finally:
                client.kill()
        daemon.start()


def test_a_reader_that_goes_while_the_daemon_is_away_ends_it(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *sh(NUMBERS)) as name:
        with following(daemon, name) as client:
            some(client, 3)
            daemon.stop()
            assert client.stdout is not None
            client.stdout.close()
            assert client.wait(GUARD_SECONDS) == -signal.SIGPIPE
        daemon.start()
    settle(daemon)
    assert listed(daemon) == []


def test_who_does_not_want_to_wait_so_long_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()

    async def follow(name: str) -> None:
        async with asyncio.timeout(GUARD_SECONDS), Client(daemon.socket, retry=0.2) as dkr:
            lines = dkr.logs(name, follow=True)
            await anext(lines)
            await asyncio.to_thread(daemon.stop)
            with pytest.raises(Unavailable):
                async for _ in lines:
                    pass
        async with Client(daemon.socket, retry=0.2) as dkr:
            with pytest.raises(Unavailable):  # what never began
                await anext(dkr.logs(name, follow=True))

    with made(daemon, *sh(NUMBERS)) as name:
        with daemon.popen(
            "logs", "-f", name, env={"DKR_TIMEOUT": "2"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            client.stdout.readline()
            asyncio.run(follow(name))
            said = client.communicate(timeout=GUARD_SECONDS)[1]
        assert client.returncode == 1
        assert b"there is no such socket" in said
        daemon.start()


def test_a_name_that_nobody_has_is_no_matter_of_waiting(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()

    async def follow() -> None:
        async with Client(daemon.socket) as dkr:
            with pytest.raises(NotFound, match="nobody"):
                await anext(dkr.logs("nobody", follow=True))

    asyncio.run(follow())
    assert "nobody" in daemon.dkrctl("logs", "-f", "nobody").stderr
