"""`dkrctl kill` and `wait`, and what they are over HTTP."""

from __future__ import annotations

import select
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller, request
from tests.integration.kept import create, remove, sh, start
from tests.reliability.support import ask, eventually, remains

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@contextmanager
def running(caller: Caller, script: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A container that has said `up`, by its id, and its client."""
    with caller.popen(*options, "/bin/sh", "-c", f"{script}", text=True, stdin=subprocess.DEVNULL) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        [container] = caller.containers()
        yield container["id"], client


SLEEP = "echo up; exec sleep 600"
TRAP = "trap 'echo hup' HUP; trap 'exit 5' TERM; echo up; while :; do sleep 600 & wait; done"


def test_kill_ends_it(caller: Caller) -> None:
    with running(caller, SLEEP) as (name, client):
        done = caller.daemon.dkrctl("kill", name[:12], user=caller.user)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name[:12]}\n", "")
        assert client.wait(SHELL_SECONDS) == 137


def test_another_signal_by_name(caller: Caller) -> None:
    with running(caller, TRAP) as (name, client):
        assert caller.daemon.dkrctl("kill", "-s", "HUP", name, user=caller.user).returncode == 0
        assert client.stdout is not None
        assert client.stdout.readline() == "hup\n"
        assert caller.daemon.dkrctl("kill", "--signal=15", name, user=caller.user).returncode == 0
        assert client.wait(SHELL_SECONDS) == 5


def test_wait_tells_how_it_ended(make_daemon: MakeDaemon) -> None:
    caller = Caller(make_daemon(log_level="debug"), None)
    with running(caller, TRAP) as (name, client):
        waiting = caller.daemon.popen("wait", name, user=caller.user, stdout=subprocess.PIPE, text=True)
        until_asked(caller.daemon, name)
        caller.daemon.dkrctl("kill", "-s", "TERM", name, user=caller.user, check=True)
        assert waiting.communicate(timeout=SHELL_SECONDS)[0] == "5\n"
        assert client.wait(SHELL_SECONDS) == 5


def until_asked(daemon: Daemon, name: str) -> None:
    """Waits until somebody's request to wait for the container is being answered: the daemon's log tells it when it came."""
    while f"wait for {name[:12]}" not in daemon.log:
        select.select([], [], [], 0.005)


def test_wait_for_one_that_has_ended(root: Caller) -> None:
    root.daemon.dkrctl("run", "--name", "ended", "/bin/sh", "-c", "exit 6")
    try:
        assert root.daemon.dkrctl("wait", "ended", check=True).stdout == "6\n"
        assert request(root.daemon, "POST", "/v1/containers/ended/wait")["exit"] == {
            "code": 6,
            "signal": None,
            "cause": "exited",
        }
        done = root.daemon.dkrctl("kill", "ended")
        assert done.returncode == 1
        assert "cannot signal ended: it has ended" in done.stderr
    finally:
        root.daemon.dkrctl("rm", "ended", check=True)


def test_wait_may_give_up(root: Caller) -> None:
    with running(root, SLEEP) as (name, client):
        done = root.daemon.dkrctl("wait", "--timeout", "0.2", name)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "it is not stopped after 0.2 s" in done.stderr
        done = root.daemon.dkrctl("wait", "--timeout", "9" * 400, name)
        assert done.returncode == 1
        assert "cannot wait --timeout 99999999999999999999: at most" in done.stderr
        root.daemon.dkrctl("kill", name, check=True)
        client.wait(SHELL_SECONDS)


@pytest.mark.parametrize("verb", ["kill", "wait"])
def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User, verb: str) -> None:
    with running(root, SLEEP) as (name, client):
        done = daemon.dkrctl(verb, name, user=tenant)
        assert done.returncode == 1
        assert "no container has this id or name" in done.stderr
        assert client.poll() is None
        root.daemon.dkrctl("kill", name, check=True)
        client.wait(SHELL_SECONDS)


def test_a_signal_that_is_none(root: Caller) -> None:
    done = root.daemon.dkrctl("kill", "-s", "NOSUCH", "x")
    assert done.returncode == 1
    assert done.stderr == "dkrctl: cannot take --signal NOSUCH: no signal is named 'NOSUCH'\n"


def test_kill_after_the_daemon_was_restarted(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, None)
    with running(caller, SLEEP) as (name, client):
        daemon.kill()
        daemon.start()
        daemon.dkrctl("kill", name, check=True)
        assert client.wait(SHELL_SECONDS) == 137


def test_kill_without_a_guardian(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, None)
    with running(caller, SLEEP) as (name, client):
        caller.command("sleep")
        eventually(lambda: caller.containers()[0]["status"] == "running", "its guardian has said so")
        [shim] = [process for process in daemon.processes() if process.comm == "dkr-shim"]
        host.kill(shim)
        client.wait(SHELL_SECONDS)
        done = daemon.dkrctl("kill", "-s", "TERM", name)
        assert done.returncode == 1
        assert "its guardian was killed" in done.stderr
        daemon.dkrctl("kill", name, check=True)
        eventually(lambda: not remains(daemon), "the launcher cleans up in the guardian's place")


def wait(daemon: Daemon, name: str, query: str) -> tuple[int, Any]:
    """POST …/wait as root: status and answer."""
    return ask(daemon, "POST", f"/v1/containers/{name}/wait?{query}")


def test_wait_for_the_removal(make_daemon: MakeDaemon) -> None:
    caller = Caller(make_daemon(log_level="debug"), None)
    with running(caller, TRAP) as (name, client), ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait, caller.daemon, name, "condition=removed&timeout=30")
        until_asked(caller.daemon, name)
        caller.daemon.dkrctl("kill", "-s", "TERM", name, check=True)
        status, answer = waiting.result()
        assert (status, answer["exit"]) == (200, {"code": 5, "signal": None, "cause": "exited"})
        assert caller.containers() == []
        assert client.wait(SHELL_SECONDS) == 5


def test_wait_for_the_removal_of_one_that_is_kept(root: Caller) -> None:
    root.daemon.dkrctl("run", "--name", "kept", "/bin/sh", "-c", "exit 6")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait, root.daemon, "kept", "condition=removed")
        assert wait(root.daemon, "kept", "condition=stopped")[1]["exit"]["code"] == 6
        assert wait(root.daemon, "kept", "condition=removed&timeout=0.05")[0] == 503
        assert wait(root.daemon, "kept", "timeout=0.000001")[1]["exit"]["code"] == 6  # known already
        root.daemon.dkrctl("rm", "kept", check=True)
        # Whoever came too late for the removal is told that it is not there.
        assert waiting.result()[0] in (200, 404)


def test_wait_for_the_next_end(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    daemon = root.daemon
    for name, line in (("one", "exit 5"), ("two", "exit 6")):
        create(daemon, *sh(line), name=name)
        start(daemon, name)
    assert daemon.dkrctl("wait", "--condition=not-running", "one", "two").stdout == "5\n6\n"
    assert wait(daemon, "one", "condition=next-exit&timeout=0.05")[0] == 503
    with daemon.popen(
        "wait", "--condition", "next-exit", "one", "two", stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        while waiting.poll() is None:
            for name in ("two", "one"):  # until both are waited for
                start(daemon, name)
                daemon.dkrctl("wait", name)
        assert (waiting.stdout.read(), waiting.returncode) == ("5\n6\n", 0)
    done = daemon.dkrctl("wait", "--condition", "removed", "--timeout", "0.05", "one")
    assert done.returncode == 1
    assert "it is not removed after 0.05 s" in done.stderr
    assert "it takes" in daemon.dkrctl("wait", "--condition", "running", "one").stderr
    for name in ("one", "two"):
        remove(daemon, name)


def test_wait_ends_in_time(root: Caller) -> None:
    with running(root, SLEEP) as (name, client):
        status, problem = wait(root.daemon, name, "timeout=0.05")
        assert (status, problem["code"], problem["rule"]) == (503, "unavailable", "timeout")
        assert client.poll() is None
        root.daemon.dkrctl("kill", name, check=True)
        client.wait(SHELL_SECONDS)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("condition=running", "condition"),
        ("timeout=x", "timeout"),
        ("timeout=0", "timeout"),
        ("timeout=-1", "timeout"),
        ("timeout=nan", "timeout"),
        ("timeout=1e99", "timeout"),
        ("timeout=1_0", "timeout"),
        ("timeout=", "timeout"),
        ("until=1", "until"),
    ],
)
def test_a_wait_that_is_none(root: Caller, query: str, path: str) -> None:
    status, problem = wait(root.daemon, "x", query)
    assert (status, problem["fields"][0]["path"]) == (400, path)
