"""What is executed in a container is told as an event: which, by what command, how it ended."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from common.clock import now
from dkrctl.client import Client, ExitStatus
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import Stream, sh
from tests.integration.test_events import steps, told
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from tests.host import User

pytestmark = pytest.mark.root

OF_ONE = ["exec_create", "exec_start", "exec_die"]


def of_execs(caller: Caller, since: str, query: str = "") -> list[dict[str, Any]]:
    found = told(caller.daemon, since, query, caller.user)
    return [event for event in found if event["action"].startswith("exec_")]


def test_which_one_and_how_it_ended(caller: Caller) -> None:
    since = now()
    with caller.standing() as container:
        assert caller.exec("web", *sh("exit 3")).returncode == 3
        eventually(lambda: "exec_die" in steps(of_execs(caller, since)), "its end is told")
        found = told(caller.daemon, since, "", caller.user)
        assert steps(found) == ["create", "start", *OF_ONE]
        assert {(event["id"], event["name"], event["uid"]) for event in found} == {
            (container, "web", caller.uid)
        }
        created, started, died = found[2:]
        assert len(created["execID"]) == 64
        assert created["execID"] == started["execID"] == died["execID"]
        assert created["command"] == started["command"] == "/bin/sh -c exit 3"
        assert died["exit"] == {"code": 3, "signal": None, "cause": "exited"}
        times = [event["time"] for event in found]
        assert times == sorted(set(times))
        assert steps(of_execs(caller, since, "&filter=event%3Dexec_die")) == ["exec_die"]


def test_however_it_is_asked_for(caller: Caller) -> None:
    since = now()
    with caller.standing():
        with Stream(caller.daemon, "web/exec", caller.user, {"args": ["/bin/sleep", "600"]}) as stream:
            started = stream.until("started")
        eventually(lambda: "exec_die" in steps(of_execs(caller, since)), "it has ended with its client")
        died = of_execs(caller, since)[-1]
        assert (died["execID"], died["exit"]["cause"]) == (started["exec"], "client-gone")
        found = caller.exec("-d", "web", "/bin/sleep", "600").stdout.strip()
    # It ends with its container.
    eventually(lambda: steps(of_execs(caller, since)) == OF_ONE * 2, "both ends are told")
    assert of_execs(caller, since)[-1]["execID"] == found


def test_what_could_not_be_executed_is_not_told(root: Caller) -> None:
    since = now()
    with root.standing():
        assert root.exec("web", "/nosuch").returncode == 127
        assert root.exec("web", "/bin/true").returncode == 0
        eventually(lambda: "exec_die" in steps(of_execs(root, since)), "the other is told")
        assert steps(of_execs(root, since)) == OF_ONE


def test_others_are_not_seen(root: Caller, tenant: User) -> None:
    since = now()
    with root.standing():
        assert root.exec("web", "/bin/true").returncode == 0
        eventually(lambda: steps(of_execs(root, since)) == OF_ONE, "it is told")
        assert told(root.daemon, since, "", tenant) == []


def test_many_of_them_neither_flood_nor_hide_anything(root: Caller) -> None:
    """Each is told from its beginning to its end, or not at all; and what else is done to the container is told."""
    since = now()
    with root.standing():
        execs = ["for i in $(seq 40); do dkrctl exec web /bin/true & done; wait"]
        assert root.shell(*execs).returncode == 0
        assert root.daemon.dkrctl("kill", "-s", "WINCH", "web").returncode == 0
        eventually(lambda: "kill" in steps(told(root.daemon, since)), "the signal is told")
        found = of_execs(root, since)
        by_exec: dict[str, list[str]] = {event["execID"]: [] for event in found}
        for event in found:
            by_exec[event["execID"]].append(event["action"])
        assert 32 <= len(by_exec) <= 40
        assert all(actions == OF_ONE for actions in by_exec.values())


def test_the_verb_shows_them(root: Caller) -> None:
    since = now()
    with root.standing():
        assert root.exec("web", *sh("exit 5"), "x" * 400).returncode == 5
        eventually(lambda: "exec_die" in steps(of_execs(root, since)), "its end is told")
        words = (
            "events",
            "--since",
            since,
            "--until",
            "0s",
            "-f",
            "event=exec_start",
            "-f",
            "event=exec_die",
        )
        started, died = root.daemon.dkrctl(*words, check=True).stdout.splitlines()
        assert f"command=/bin/sh -c exit 5 {'x' * 238}, image=host" in started
        assert " exec_die " in died
        assert "(exitCode=5, cause=exited, execID=" in died
        show = (*words, "--format", "{{.action}} {{.command}} {{.exit.code}}")
        assert root.daemon.dkrctl(*show, check=True).stdout.splitlines()[1] == "exec_die  5"


async def test_from_python(root: Caller) -> None:
    since = now()
    with root.standing():
        async with Client(root.daemon.socket) as dkr, asyncio.timeout(SHELL_SECONDS):
            heard = dkr.events(since=since, filters=["event=exec_start", "event=exec_die"])
            async with aclosing(heard):
                await dkr.exec_plain("web", "/bin/sh", "-c", "exit 6")
                first, second = await anext(heard), await anext(heard)
        assert (first.action, first.command, first.exit) == ("exec_start", "/bin/sh -c exit 6", None)
        assert first.exec == second.exec
        assert second.exit == ExitStatus(code=6, signal=None, cause="exited")
