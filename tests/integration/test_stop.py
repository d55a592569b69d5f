"""Stopping containers: by dkrctl, by HTTP, by Python; whatever they are, and whoever is killed meanwhile."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client, Conflict
from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, create, lines, logged, remove, sh, shown
from tests.integration.verbs import sweep
from tests.reliability.support import ask, eventually, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

POLITE = (
    "trap 'echo term; exit 5' TERM; trap 'echo hup; exit 6' HUP; echo up; while :; do sleep 600 & wait; done"
)
STUBBORN = "trap 'echo term' TERM; trap 'exit 7' USR1; echo up; while :; do sleep 600 & wait; done"
PLAIN = "echo up; exec sleep 600"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line, and has said `up`."""
    for words in (("create", "--name", name, *options, *sh(line)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0
    logged(caller.daemon, name, "up\n")


def stop(caller: Caller, name: str, body: Any = None) -> tuple[int, Any]:
    """POST …/stop as the caller."""
    return asked(caller, "POST", f"/v1/containers/{name}/stop", body)


def exit_of(caller: Caller, name: str) -> Any:
    """How it ended, which is known once a stop has been answered."""
    found = shown(caller.daemon, name)
    assert found["status"] == "stopped"
    return found["exit"]


def sent(caller: Caller, name: str) -> list[str]:
    """The signals that it was told to end by."""
    identity = shown(caller.daemon, name)["id"]
    words = ("events", "--since", "1m", "--until", "0s", "--filter", "event=kill", "--format", "{{.signal}}")
    return dkrctl(caller, *words, "--filter", f"container={identity}").stdout.split()


# what becomes of it


def test_it_is_asked_to_end(caller: Caller) -> None:
    started(caller, "polite", POLITE)
    done = dkrctl(caller, "stop", "polite")
    assert (done.returncode, done.stdout, done.stderr) == (0, "polite\n", "")
    assert exit_of(caller, "polite") == {"code": 5, "signal": None, "cause": "stopped"}
    assert dkrctl(caller, "ps", "-a", "--format", "{{.Status}}").stdout.startswith("Exited (5) ")
    # It is as any that has ended: to be started once more, and removed.
    assert dkrctl(caller, "start", "polite").returncode == 0
    assert stop(caller, "polite") == (204, None)
    assert dkrctl(caller, "rm", "polite").returncode == 0


@pytest.mark.parametrize(
    ("line", "body", "ended"),
    [
        (POLITE, {"signal": "hup"}, {"code": 6, "signal": None}),
        (POLITE, {"signal": "1", "timeout": -1}, {"code": 6, "signal": None}),
        (POLITE, {"timeout": 0}, {"code": None, "signal": 9}),
        (STUBBORN, {"timeout": 0.05}, {"code": None, "signal": 9}),
        (STUBBORN, {"signal": "KILL", "timeout": -1}, {"code": None, "signal": 9}),
        (PLAIN, {}, {"code": None, "signal": 15}),
        (PLAIN, {"signal": "INT"}, {"code": None, "signal": 2}),
    ],
)
def test_by_which_signal_and_when(root: Caller, line: str, body: Any, ended: dict[str, Any]) -> None:
    started(root, "it", line)
    assert stop(root, "it", body) == (204, None)
    assert exit_of(root, "it") == {**ended, "cause": "stopped"}


def test_its_own_signal_and_time(root: Caller) -> None:
    started(root, "own", POLITE, "--stop-signal", "HUP")
    assert dkrctl(root, "stop", "own").returncode == 0
    assert exit_of(root, "own")["code"] == 6
    started(root, "short", STUBBORN, "--stop-timeout", "50ms")
    assert dkrctl(root, "stop", "short").returncode == 0
    assert exit_of(root, "short")["signal"] == 9


def test_the_options_of_the_verb(caller: Caller) -> None:
    for name, words in (
        ("a", ("-s", "HUP", "-t", "1m")),
        ("b", ("--time=-1", "--signal=1")),
        ("c", ("-t0",)),
    ):
        started(caller, name, POLITE)
        assert dkrctl(caller, "stop", *words, name).stdout == f"{name}\n"
    assert [exit_of(caller, name)["code"] for name in "abc"] == [6, 6, None]


@pytest.mark.parametrize(("seconds", "signals"), [("0", ["9"]), ("0.05", ["15", "9"])])
def test_each_signal_is_told_once(root: Caller, seconds: str, signals: list[str]) -> None:
    started(root, "stubborn", STUBBORN)
    assert dkrctl(root, "stop", "-t", seconds, "stubborn").returncode == 0
    assert sent(root, "stubborn") == signals


def test_what_does_not_run_is_stopped_already(caller: Caller) -> None:
    made = dkrctl(caller, "create", "--name", "made", "/bin/true").stdout.strip()
    for _ in range(2):
        assert stop(caller, made) == (204, None)
        assert dkrctl(caller, "stop", "made").stdout == "made\n"
        assert dkrctl(caller, "start", "made").returncode == 0
        assert dkrctl(caller, "wait", "made").stdout == "0\n"


def test_one_that_goes_when_it_ends(caller: Caller) -> None:
    started(caller, "brief", POLITE, "--rm")
    assert dkrctl(caller, "stop", "brief").returncode == 0
    eventually(lambda: not caller.containers(), "it is gone")


def test_a_run_in_the_foreground(caller: Caller) -> None:
    with caller.start("--name", "run", *sh(POLITE), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert dkrctl(caller, "stop", "run").returncode == 0
        assert client.wait(SHELL_SECONDS) == 5
        assert client.stdout.read() == "term\n"


def test_what_forks_without_end_ends(root: Caller) -> None:
    """Also where process 1 is none of a namespace: its children are found by the cgroup."""
    bomb = "trap '' TERM; (while :; do sleep 600 & done) 2>/dev/null & echo up; while :; do wait; done"
    for name, options in (("own", ()), ("hosts", ("--pid", "host"))):
        words = ("run", "-d", "--name", name, "--pids-limit", "60", *options, *sh(bomb))
        assert dkrctl(root, *words).returncode == 0
        eventually(lambda: len(sleepers(root.daemon)) > 50, "it has forked")
        assert dkrctl(root, "stop", "-t", "0.05", name).returncode == 0
        eventually(lambda: not sleepers(root.daemon), "nothing of it is left")
        assert dkrctl(root, "rm", name).returncode == 0


def sleepers(daemon: Daemon) -> list[host.Process]:
    return [process for process in daemon.processes() if process.comm in ("sleep", "sh")]


# several stops


def test_a_second_stop_waits_for_the_same_end(caller: Caller) -> None:
    started(caller, "it", STUBBORN)
    with stopping(caller, "-t", "-1", "it") as first:
        logged(caller.daemon, "it", "term\n")
        with stopping(caller, "-t", "-1", "it") as second:
            # Neither is answered, and the signal is not sent again.
            assert dkrctl(caller, "kill", "-s", "USR1", "it").returncode == 0
            assert [one.communicate()[0] for one in (first, second)] == ["it\n", "it\n"]
    assert exit_of(caller, "it") == {"code": 7, "signal": None, "cause": "stopped"}
    assert [line["log"] for line in lines(caller.daemon, "it")].count("term\n") == 1


def test_a_second_stop_may_shorten_the_time_and_not_lengthen_it(root: Caller) -> None:
    for first, second in (("-1", "0.05"), ("600", "0.05"), ("0.3", "-1"), ("0.3", "600")):
        started(root, "it", STUBBORN)
        with stopping(root, "-t", first, "it") as client:
            # No word of the command's: 0.3 s may be too short for one.
            eventually(lambda: sent(root, "it"), "the first has begun")
            assert dkrctl(root, "stop", "-t", second, "it").returncode == 0
            assert client.communicate()[0] == "it\n"
        assert exit_of(root, "it")["signal"] == 9
        assert dkrctl(root, "rm", "it").returncode == 0


def test_several_at_the_same_time(caller: Caller) -> None:
    for name in "ab":
        started(caller, name, STUBBORN)
    with stopping(caller, "-t", "-1", "a", "nosuch", "b") as client:
        for name in "ab":
            logged(caller.daemon, name, "term\n")
        for name in "ba":
            assert dkrctl(caller, "kill", "-s", "USR1", name).returncode == 0
        out, err = client.communicate()
    assert (client.returncode, out) == (1, "a\nb\n")
    assert 'cannot find container "nosuch"' in err


def stopping(caller: Caller, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return caller.daemon.popen("stop", *words, user=caller.user, text=True, stdout=pipe, stderr=pipe)


# who is not there, or goes away


def test_who_goes_away_has_begun_it(root: Caller) -> None:
    started(root, "it", STUBBORN)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(root.daemon.socket))
        body = json.dumps({"timeout": 0.2}).encode()
        head = f"POST /v1/containers/it/stop HTTP/1.1\r\nHost: dkr\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        eventually(lambda: sent(root, "it"), "it has begun")
    assert dkrctl(root, "wait", "it").stdout == "137\n"
    assert exit_of(root, "it")["cause"] == "stopped"


def test_after_the_daemon_was_restarted(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", POLITE)
    root.daemon.kill()
    root.daemon.start()
    assert stop(root, "it") == (204, None)
    assert exit_of(root, "it")["code"] == 5
    remove(root.daemon, "it")


def test_a_daemon_that_is_killed_meanwhile(make_daemon: MakeDaemon) -> None:
    """It was begun, and goes on; who waited is told that there is no answer."""
    root = Caller(make_daemon(), None)
    started(root, "it", STUBBORN)
    with stopping(root, "-t", "-1", "it") as client:
        logged(root.daemon, "it", "term\n")
        root.daemon.kill()
        assert client.wait(SHELL_SECONDS) == 1
    root.daemon.start()
    # By its end, which is told as that of a stop: a time within which it had to end could be over before the daemon is killed.
    assert dkrctl(root, "kill", "-s", "USR1", "it").returncode == 0
    assert dkrctl(root, "wait", "it").stdout == "7\n"
    assert exit_of(root, "it") == {"code": 7, "signal": None, "cause": "stopped"}
    remove(root.daemon, "it")


def test_without_a_guardian(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    root = Caller(daemon, None)
    started(root, "it", STUBBORN)
    sleeper = root.command("sleep")
    with stopping(root, "-t", "-1", "it") as client:
        logged(daemon, "it", "term\n")
        kill_and_wait(the_shim(daemon))
        assert client.wait(SHELL_SECONDS) == 1
        assert client.stderr is not None
        assert "cannot stop it: its guardian was killed while" in client.stderr.read()
    status, problem = stop(root, "it")
    assert (status, problem["code"], problem["rule"]) == (409, "conflict", "unguarded")
    host.kill(next(p for p in daemon.processes() if p.pid == sleeper.parent))
    eventually(lambda: shown(daemon, "it")["status"] == "stopped", "its end is found out")
    assert stop(root, "it") == (204, None)
    remove(daemon, "it")


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    started(root, "theirs", PLAIN)
    done = daemon.dkrctl("stop", "theirs", user=tenant)
    assert done.returncode == 1
    assert "no container has this id or name" in done.stderr
    whole = shown(daemon, "theirs")["id"]
    assert stop(Caller(daemon, tenant), whole)[0] == 404
    assert shown(daemon, "theirs")["status"] == "running"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"signal": "NOSUCH"}, "signal"),
        ({"signal": None}, "signal"),
        ({"signal": 15}, "signal"),
        ({"timeout": -2}, "timeout"),
        ({"timeout": -0.5}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"time": 1}, "time"),
    ],
)
def test_a_stop_that_is_none(root: Caller, body: Any, path: str) -> None:
    status, problem = stop(root, "x", body)
    assert (status, problem["fields"][0]["path"]) == (400, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-t", "x", "a"), "cannot take --timeout x: it is no length of time"),
        (("-t", "9999999999", "a"), "cannot stop --timeout 9999999999"),
        (("-s", "NOSUCH", "a"), "signal"),
        ((), "cannot stop: no container is named"),
        (("../a",), 'cannot find container "../a"'),
    ],
)
def test_a_call_that_is_none(root: Caller, words: tuple[str, ...], said: str) -> None:
    done = dkrctl(root, "stop", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.stop("it")
        assert (await dkr.inspect("it")).status == "stopped"
        await dkr.stop("it", signal=1, timeout=0)
        await dkr.start("it")
        await dkr.stop("it", signal="KILL", timeout=-1)

    started(caller, "it", POLITE)
    drive(caller, scenario)


def test_by_python_without_a_guardian(make_daemon: MakeDaemon) -> None:
    async def scenario(dkr: Client) -> None:
        with pytest.raises(Conflict) as caught:
            await dkr.stop("it")
        assert caught.value.rule == "unguarded"

    daemon = make_daemon()
    create(daemon, *sh(PLAIN), name="it")
    assert ask(daemon, "POST", "/v1/containers/it/start")[0] == 204
    kill_and_wait(the_shim(daemon))
    drive(Caller(daemon, None), scenario)
    host.kill(Caller(daemon, None).command("sleep"))
    eventually(lambda: shown(daemon, "it")["status"] == "stopped", "its end is found out")
    remove(daemon, "it")
