"""Events that are read go on over the death of the api, of the launcher, and over a stop of the whole daemon: each once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client, Event
from tests.integration.kept import create, remove, sh, start
from tests.reliability.support import GUARD_SECONDS, ask, eventually, inits, kill_and_wait
from tests.reliability.test_logs_followed import DEATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LIFE = ["create", "start", "kill", "die", "stop", "destroy"]


@contextlib.contextmanager
def reading(daemon: Daemon, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`dkrctl events`, once it is heard: what comes from here on it tells."""
    with daemon.popen(
        "events", "--format", "json", *options, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def some(client: subprocess.Popen[str], number: int) -> list[dict[str, Any]]:
    assert client.stdout is not None
    return [json.loads(client.stdout.readline()) for _ in range(number)]


def steps(found: list[dict[str, Any]]) -> list[str]:
    return [event["action"] for event in found]


def life(daemon: Daemon, name: str) -> None:
    create(daemon, *sh("exec sleep 600"), name=name)
    start(daemon, name)
    assert ask(daemon, "POST", f"/v1/containers/{name}/stop", {"timeout": 5})[0] == 204
    remove(daemon, name)


@pytest.mark.parametrize("death", DEATHS)
def test_the_client_goes_on(make_daemon: MakeDaemon, death: Callable[[Daemon], None]) -> None:
    daemon = make_daemon()
    with reading(daemon, "--since", "1h") as client:
        found = []
        for name in ("a", "b", "c"):
            life(daemon, name)
            found += some(client, len(LIFE))
            death(daemon)
        life(daemon, "d")
        found += some(client, len(LIFE))
    assert steps(found) == LIFE * 4
    assert [event["name"] for event in found] == [name for name in "abcd" for _ in LIFE]
    times = [event["time"] for event in found]
    assert times == sorted(set(times))


@pytest.mark.parametrize("death", DEATHS)
def test_the_python_client_goes_on(make_daemon: MakeDaemon, death: Callable[[Daemon], None]) -> None:
    daemon = make_daemon()

    async def follow() -> list[Event]:
        found: list[Event] = []
        async with asyncio.timeout(GUARD_SECONDS), Client(daemon.socket, retry=GUARD_SECONDS) as dkr:
            await asyncio.to_thread(life, daemon, "a")
            async for event in dkr.events(since="2026-01-01T00:00:00Z"):
                found.append(event)
                if len(found) == len(LIFE):
                    await asyncio.to_thread(death, daemon)
                    await asyncio.to_thread(life, daemon, "b")
                if len(found) == 2 * len(LIFE):
                    break
        return found

    found = asyncio.run(follow())
    assert [(event.action, event.name) for event in found] == [(step, name) for name in "ab" for step in LIFE]


def test_what_happens_while_the_daemon_is_away(make_daemon: MakeDaemon) -> None:
    """Of two that ended, the one that did so first, whatever the reader's filter leaves out."""
    daemon = make_daemon()
    kept = [str(create(daemon, *sh("exec sleep 600"), name=name)["id"]) for name in ("one", "two")]
    for name in kept:
        start(daemon, name)
    by_pid = {ask(daemon, "GET", f"/v1/containers/{name}")[1]["pid"]: name for name in kept}
    with reading(daemon, "--filter", "event=die", "--filter", "event=update") as client:
        eventually(lambda: _is_heard(daemon, kept[0], client), "it is heard")
        daemon.stop()
        order = []
        for init in inits(daemon):
            container = by_pid[init.pid]
            order.append(container)
            kill_and_wait(init)
            # Each guardian learns of it in its own time: the next one ends behind that.
            eventually(partial(_is_known, daemon, container), "its guardian knows")
        assert client.poll() is None
        daemon.start()
        found = some(client, 3)
        while found[-2]["action"] == "update":
            found += some(client, 1)
        assert [event["id"] for event in found if event["action"] == "die"] == order
    for name in kept:
        remove(daemon, name)


def _is_known(daemon: Daemon, container: str) -> bool:
    """Whether its guardian has written down that it has ended."""
    state = daemon.state_dir / "containers" / container / "state.json"
    return state.exists() and json.loads(state.read_text())["status"] == "stopped"


def _is_heard(daemon: Daemon, name: str, client: subprocess.Popen[str]) -> bool:
    """Have something happen, and see whether the reader tells it."""
    assert ask(daemon, "POST", f"/v1/containers/{name}/update", {"pidsLimit": 100})[0] == 204
    assert client.stdout is not None
    return bool(select.select([client.stdout], [], [], 0.1)[0])


def test_a_terminal_is_told_once_and_ctrl_c_ends_the_waiting(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    life(daemon, "a")
    master, theirs = pty.openpty()
    client = daemon.popen(
        *("events", "--since", "1h"), text=True, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    with client, os.fdopen(master, "rb", buffering=0) as screen:
        try:
            assert client.stdout is not None
            assert " container create " in client.stdout.readline()
            daemon.stop()
            said = b""
            while b"ends)" not in said:
                said += screen.read(4096)
            assert b"dkrctl: dkrd has gone; events go on when it is back (ctrl-C ends)" in said
            client.send_signal(signal.SIGINT)
            assert client.wait(GUARD_SECONDS) == -signal.SIGINT
        finally:
            client.kill()
    daemon.start()


def test_what_has_its_end_is_not_waited_for_and_who_has_no_patience_is_told(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    life(daemon, "a")
    pipe = subprocess.PIPE
    words = ("events", "--since", "1h")
    with daemon.popen(*words, env={"DKR_TIMEOUT": "2"}, stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdout is not None
        for _ in LIFE:
            client.stdout.readline()
        daemon.stop()
        assert "there is no such socket" in client.communicate(timeout=GUARD_SECONDS)[1]
        assert client.returncode == 1
    # What never began.
    assert daemon.dkrctl("events").returncode == 1
    daemon.start()
