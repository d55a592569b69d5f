"""Stopping and starting again, in one request."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, lines, logged, remove, sh, shown
from tests.integration.verbs import sweep
from tests.reliability.support import eventually, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

# Says which life it is, by a file in its root.
LIVES = (
    "echo >>/lives; n=$(wc -l </lives); trap 'echo term; exit 5' TERM; trap 'echo hup; exit 6' HUP; "
    "echo up $n; while :; do sleep 600 & wait; done"
)
STUBBORN = "trap 'echo term' TERM; echo up; while :; do sleep 600 & wait; done"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line."""
    for words in (("create", "--name", name, *options, *sh(line)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0


def restart(caller: Caller, name: str, body: Any = None) -> tuple[int, Any]:
    """POST …/restart as the caller."""
    return asked(caller, "POST", f"/v1/containers/{name}/restart", body)


def test_it_lives_again_with_its_files_and_its_log(caller: Caller) -> None:
    started(caller, "it", LIVES)
    logged(caller.daemon, "it", "up 1\n")
    before = shown(caller.daemon, "it")
    done = dkrctl(caller, "restart", "it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it\n", "")
    after = shown(caller.daemon, "it")
    assert (after["id"], after["status"]) == (before["id"], "running")
    assert after["pid"] != before["pid"]
    assert after["started"] > before["started"]
    assert "exit" not in after
    logged(caller.daemon, "it", "up 2\n")
    assert restart(caller, "it", {"signal": "HUP"}) == (204, None)
    logged(caller.daemon, "it", "up 3\n")
    assert [line["log"] for line in lines(caller.daemon, "it")] == [
        "up 1\n",
        "term\n",
        "up 2\n",
        "hup\n",
        "up 3\n",
    ]


def test_one_that_does_not_run_is_started(caller: Caller) -> None:
    assert dkrctl(caller, "create", "--name", "it", "/bin/echo", "hi").returncode == 0
    for times in (1, 2):
        assert dkrctl(caller, "restart", "it").stdout == "it\n"
        assert dkrctl(caller, "wait", "it").stdout == "0\n"
        assert [line["log"] for line in lines(caller.daemon, "it")] == ["hi\n"] * times


def test_one_that_is_paused(caller: Caller) -> None:
    started(caller, "it", LIVES)
    logged(caller.daemon, "it", "up 1\n")
    assert dkrctl(caller, "pause", "it").returncode == 0
    assert dkrctl(caller, "restart", "it").returncode == 0
    logged(caller.daemon, "it", "up 2\n")
    assert shown(caller.daemon, "it")["status"] == "running"


def test_several_and_by_force(root: Caller) -> None:
    for name in "ab":
        started(root, name, STUBBORN)
        logged(root.daemon, name, "up\n")
    done = dkrctl(root, "restart", "-t", "0.1", "a", "nosuch", "b")
    assert (done.returncode, done.stdout) == (1, "a\nb\n")
    assert 'cannot find container "nosuch"' in done.stderr
    for name in "ab":
        eventually(lambda name=name: said(root, name).count("up\n") == 2, "it lives again")  # type: ignore[misc]
        # Told to end first; whether it has come to say so in that time is another matter.
        assert signals(root, name) == ["15", "9"]


def signals(caller: Caller, name: str) -> list[str]:
    """Which it was sent."""
    words = ("events", "--since", "1m", "--until", "0s", "--filter", "event=kill", "--format", "{{.signal}}")
    identity = shown(caller.daemon, name)["id"]
    return dkrctl(caller, *words, "--filter", f"container={identity}").stdout.split()


def said(caller: Caller, name: str) -> list[str]:
    return [line["log"] for line in lines(caller.daemon, name)]


def test_two_at_once(root: Caller) -> None:
    started(root, "it", LIVES)
    logged(root.daemon, "it", "up 1\n")
    clients = [root.daemon.popen("restart", "it", stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [client.communicate()[0] for client in clients] == ["it\n"] * 3
    assert shown(root.daemon, "it")["status"] == "running"


def test_a_run_in_the_foreground(caller: Caller) -> None:
    """Its client hears of the end; the next life's output goes to the log."""
    with caller.daemon.popen(
        "run", "--name", "it", *sh(LIVES), user=caller.user, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up 1\n"
        assert dkrctl(caller, "restart", "it").returncode == 0
        assert client.wait(SHELL_SECONDS) == 5
        assert client.stdout.read() == "term\n"
    logged(caller.daemon, "it", "up 2\n")


def test_what_cannot_be_started_again_runs_on(caller: Caller) -> None:
    with caller.start("--name", "it", *sh("echo up; read x"), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        status, problem = restart(caller, "it", {"timeout": 0})
        assert (status, problem["rule"]) == (409, "rm")
        assert client.communicate("x\n")[0] == ""
        assert client.returncode == 0
    line = "exec dkrctl run --name it --preserve-fds 1 /bin/sh -c 'echo up; read x' 3</dev/null"
    with caller.popen_shell(line, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        status, problem = restart(caller, "it", {"timeout": 0})
        assert (status, problem["rule"]) == (409, "descriptors")
        assert client.communicate("x\n")[0] == ""
        assert client.returncode == 0
    status, problem = restart(caller, "it")
    assert (status, problem["rule"]) == (409, "descriptors")


def test_a_start_that_fails_is_told(root: Caller) -> None:
    line = "rm /bin/sh; echo up; exec /bin/busybox sleep 600"
    for words in (("create", "--name", "it", "busybox", *sh(line)), ("start", "it")):
        assert dkrctl(root, *words).returncode == 0
    logged(root.daemon, "it", "up\n")
    done = dkrctl(root, "restart", "-t", "0", "it")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot run" in done.stderr
    assert shown(root.daemon, "it")["exit"]["cause"] == "stopped"


def test_after_the_daemon_was_restarted(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", LIVES)
    logged(root.daemon, "it", "up 1\n")
    root.daemon.kill()
    root.daemon.start()
    assert restart(root, "it") == (204, None)
    logged(root.daemon, "it", "up 2\n")
    remove(root.daemon, "it")


def test_without_a_guardian(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", "echo up; exec sleep 600")
    sleeper = root.command("sleep")
    kill_and_wait(the_shim(root.daemon))
    status, problem = restart(root, "it", {"timeout": 0})
    assert (status, problem["rule"]) == (409, "unguarded")
    host.kill(sleeper)
    eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "its end is found out")
    assert restart(root, "it") == (204, None)
    remove(root.daemon, "it")


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    started(root, "theirs", LIVES)
    before = shown(daemon, "theirs")
    assert dkrctl(Caller(daemon, tenant), "restart", "theirs").returncode == 1
    assert restart(Caller(daemon, tenant), before["id"])[0] == 404
    assert shown(daemon, "theirs")["pid"] == before["pid"]


@pytest.mark.parametrize(
    ("body", "path"), [({"signal": "NO"}, "signal"), ({"timeout": -3}, "timeout"), ({"x": 1}, "x")]
)
def test_a_restart_that_is_none(root: Caller, body: Any, path: str) -> None:
    status, problem = restart(root, "x", body)
    assert (status, problem["fields"][0]["path"]) == (400, path)


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        before = (await dkr.inspect("it")).pid
        await dkr.restart("it", timeout=5)
        assert (await dkr.inspect("it")).pid != before
        await dkr.stop("it")
        await dkr.restart("it", signal=1)

    started(caller, "it", LIVES)
    drive(caller, scenario)
