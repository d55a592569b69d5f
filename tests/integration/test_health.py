"""Health checks: what is probed, how it is told, and what a container that is unwell, or means harm, cannot do by them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from common.clock import now
from tests import host
from tests.integration.kept import Lines, asked, sh, shown
from tests.integration.verbs import sweep
from tests.reliability.support import assert_same, eventually, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrctl.client import Client
    from tests.daemon import Daemon
    from tests.integration.conftest import Caller
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root

QUICK: dict[str, Any] = {"interval": 0.1, "startInterval": 0.1, "retries": 2}
WELL = "test -e /tmp/well"
# Answers each connection to this address and port with these bytes, and keeps it open.
SERVER = """
import socket, sys
host, port, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape").encode("latin-1")
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, port), family=family)
held = []
while True:
    held.append(listener.accept()[0])
    held[-1].recv(4096)
    held[-1].sendall(answer)
"""


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    yield
    sweep(daemon)
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def check(**wanted: Any) -> dict[str, Any]:
    return {**QUICK, **wanted}


def server(answer: str, host_: str = "127.0.0.1", port: int = 8080) -> list[str]:
    return ["/usr/bin/python3", "-IS", "-c", SERVER, host_, str(port), answer]


def health(caller: Caller, name: str) -> dict[str, Any]:
    """What is told of it."""
    status, found = asked(caller, "GET", f"/v1/containers/{name}")
    assert status == 200, found
    value = found["health"]
    assert isinstance(value, dict)
    return value


def until(caller: Caller, name: str, status: str) -> dict[str, Any]:
    """What is told of it once it is so."""
    eventually(lambda: health(caller, name)["status"] == status, f"{name} is {status}")
    return health(caller, name)


def probed(caller: Caller, name: str, times: int = 1) -> list[dict[str, Any]]:
    """Its results, once there are so many."""
    eventually(lambda: len(health(caller, name)["log"]) >= times, f"{name} was probed {times} times")
    found = health(caller, name)["log"]
    assert isinstance(found, list)
    return found


@contextmanager
def standing(caller: Caller, command: list[str], **wanted: Any) -> Iterator[str]:
    """A container `it` with this health check that runs for the block."""
    status, found = asked(
        caller, "POST", "/v1/containers", {"args": command, "name": "it", "health": check(**wanted)}
    )
    assert status == 201, found
    status, problem = asked(caller, "POST", "/v1/containers/it/start")
    assert status == 204, problem
    yield "it"
    assert asked(caller, "DELETE", "/v1/containers/it?force=true")[0] == 204


def answered(caller: Caller, name: str, code: int, output: str) -> None:
    """Waits until the last probe ended so, with output that begins so: the first ones may come before the server listens."""

    def last() -> tuple[int, str]:
        found = probed(caller, name)[-1]
        return found["exitCode"], found["output"][: len(output)]

    eventually(lambda: last() == (code, output), f"a probe ends with {code}: {output}")


def inside(caller: Caller, line: str) -> None:
    done = caller.exec("it", "/bin/sh", "-c", line)
    assert done.returncode == 0, done.stderr


SLEEPS = ["/bin/sleep", "600"]


# --- what is told


def test_a_command_that_fails_and_ends_well_again(caller: Caller) -> None:
    since = now()
    with (
        Lines(
            caller.daemon, f"/v1/events?since={since}&filter=event%3Dhealth_status", user=caller.user
        ) as events,
        standing(caller, SLEEPS, args=sh(f"echo looked; {WELL}"), startPeriod=600, retries=1),
    ):
        first = probed(caller, "it")
        assert health(caller, "it")["status"] == "starting"
        assert health(caller, "it")["failingStreak"] == 0  # it does not count yet
        assert (first[0]["exitCode"], first[0]["output"]) == (1, "looked\n")
        assert since < first[0]["start"] < first[0]["end"]
        assert "(health: starting)" in caller.daemon.dkrctl("ps", user=caller.user).stdout
        inside(caller, "touch /tmp/well")
        event = events.line()
        assert event is not None
        assert (event["action"], event["name"]) == ("health_status: healthy", "it")
        assert health(caller, "it")["status"] == "healthy"
        inside(caller, "rm /tmp/well")
        event = events.line()
        assert event is not None
        assert event["action"] == "health_status: unhealthy"
        found = until(caller, "it", "unhealthy")
        assert found["failingStreak"] >= 1
        assert len(probed(caller, "it", 5)) == 5


def test_who_lists_sees_it(caller: Caller) -> None:
    def ps(*words: str) -> str:
        done = caller.daemon.dkrctl("ps", "--format", "{{.Names}} {{.Status}}", *words, user=caller.user)
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    run = ("run", "-d", "--health-interval", "100ms", "--health-retries", "1")
    for name, command in (("well", "true"), ("unwell", "echo no; false")):
        done = caller.daemon.dkrctl(*run, "--name", name, "--health-cmd", command, *SLEEPS, user=caller.user)
        assert done.returncode == 0, done.stderr
    caller.daemon.dkrctl("run", "-d", "--name", "plain", *SLEEPS, user=caller.user, check=True)
    until(caller, "well", "healthy")
    until(caller, "unwell", "unhealthy")
    eventually(lambda: "unhealthy" in ps("--filter", "name=unwell"), "the list tells it")
    eventually(lambda: ps("--filter", "health=healthy"), "and of the other")
    assert [line.split()[0] for line in ps("--filter", "health=healthy").splitlines()] == ["well"]
    assert ps("--filter", "health=healthy").endswith("(healthy)\n")
    assert [line.split()[0] for line in ps("--filter", "health=unhealthy").splitlines()] == ["unwell"]
    assert [line.split()[0] for line in ps("--filter", "health=none").splitlines()] == ["plain"]
    done = caller.daemon.dkrctl("ps", "--filter", "health=ill", user=caller.user)
    assert done.returncode == 1
    assert "known: starting, healthy, unhealthy, none" in done.stderr
    form = "{{.health.status}} {{json .health.log}}"
    done = caller.daemon.dkrctl("inspect", "--format", form, "unwell", user=caller.user)
    assert done.stdout.startswith('unhealthy [{"'), done.stderr
    assert '"output":"no\\n"' in done.stdout.replace(": ", ":")
    # A list tells the status alone.
    status, found = asked(caller, "GET", "/v1/containers")
    assert status == 200
    assert {one["name"]: one.get("health") for one in found} == {
        "well": {"status": "healthy"},
        "unwell": {"status": "unhealthy"},
        "plain": None,
    }


def test_what_was_found_is_kept_and_a_new_start_begins_anew(caller: Caller) -> None:
    with standing(caller, SLEEPS, args=["/bin/true"]):
        probed(caller, "it", 2)
        assert asked(caller, "POST", "/v1/containers/it/kill", {"signal": "KILL"})[0] == 204
        assert asked(caller, "POST", "/v1/containers/it/wait")[0] == 200
        found = health(caller, "it")
        assert (found["status"], found["failingStreak"]) == ("healthy", 0)
        assert all(one["exitCode"] == 0 for one in found["log"])
        ended_at = found["log"][-1]["end"]
        assert asked(caller, "POST", "/v1/containers/it/start")[0] == 204
        eventually(lambda: probed(caller, "it")[0]["start"] > ended_at, "nothing is told of the life before")


def test_the_python_client_tells_it(caller: Caller) -> None:
    async def work(dkr: Client) -> None:
        await dkr.create(*SLEEPS, name="it", health={"args": ["/bin/true"], "interval": 0.1})
        assert (await dkr.inspect("it")).health is None
        await dkr.start("it")
        while (found := (await dkr.inspect("it")).health) is None or found.status != "healthy":
            pass
        assert found.log is not None
        assert found.log[0].exit_code == 0

    drive(caller, work)


# --- probes without a command


@pytest.mark.parametrize(
    ("answer", "code", "output"),
    [
        (r"HTTP/1.1 200 OK\r\n\r\n", 0, "GET http://127.0.0.1:8080/up?x=1: status 200"),
        (r"HTTP/1.0 302\r\n", 0, "GET http://127.0.0.1:8080/up?x=1: status 302"),
        (r"HTTP/1.1 503 no\r\n", 1, "GET http://127.0.0.1:8080/up?x=1: status 503"),
        (r"SSH-2.0\x1b[31m\xff\n", 1, r"what is answered is no HTTP: b'SSH-2.0\x1b[31m\xff'"),
        (r"HTTP/1.1 +20\r\n", 1, r"what is answered is no HTTP: b'HTTP/1.1 +20'"),
    ],
)
def test_a_url(caller: Caller, answer: str, code: int, output: str) -> None:
    with standing(caller, server(answer), http="http://localhost:8080/up?x=1"):
        answered(caller, "it", code, output)
        until(caller, "it", "unhealthy" if code else "healthy")
        assert health(caller, "it")["log"][-1]["output"] == output  # no more than that


def test_an_answer_without_end_or_none_at_all(caller: Caller) -> None:
    """A little of it is read; one that does not come is waited for until the time is over."""
    with standing(caller, server("x" * 100_000), http="http://127.0.0.1:8080", retries=1):
        answered(caller, "it", 1, "what is answered is no HTTP")
        until(caller, "it", "unhealthy")
    with standing(caller, server(""), http="http://127.0.0.1:8080", retries=1, timeout=0.2):
        eventually(
            lambda: any(one["exitCode"] == -1 for one in health(caller, "it")["log"]),
            "one was not done in time",
        )
        assert "the probe was not done within 0.2 s" in [one["output"] for one in health(caller, "it")["log"]]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port(caller: Caller, address: str) -> None:
    with standing(caller, server("", address), tcp=8080):
        until(caller, "it", "healthy")
        assert health(caller, "it")["log"][-1]["output"] == "port 8080 takes connections"
    with standing(caller, SLEEPS, tcp=8080):
        assert until(caller, "it", "unhealthy")["log"][-1]["output"] == "port 8080: connection refused"


def test_who_looks_has_nothing(root: Caller) -> None:
    """The probe of a port: in the container's network, as its user, without a right or a descriptor; not in its other namespaces."""
    with standing(root, server(""), http="http://127.0.0.1:8080", interval=600, timeout=600, startPeriod=600):
        shim = the_shim(root.daemon)

        def found() -> list[host.Process]:
            return [process for process in host.children(shim.pid) if process.comm == "dkr-probe"]

        # One that came before the server listened ends at once.
        eventually(lambda: any(_waits(probe.pid) for probe in found()), "it looks")
        [probe] = found()
        [init] = [p for p in host.children(shim.pid) if p.comm != "dkr-probe"]
        assert _namespace(probe.pid, "net") == _namespace(init.pid, "net")
        for other in ("mnt", "pid", "user"):
            assert _namespace(probe.pid, other) == _namespace(shim.pid, other)
        status = _status(probe.pid)
        assert status["Uid"].split() == _status(init.pid)["Uid"].split()
        assert status["Groups"].split() == []
        assert {status[key] for key in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert _descriptors(probe.pid) <= {"0", "1", "2", "3"}  # its output thrice, and the connection
        # Its guardian's end is its own.
        kill_and_wait(shim)
        assert host.wait_gone(probe.pid, 10)
        kill_and_wait(init)
        eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "that it has ended is known")


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _descriptors(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _waits(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/wchan", encoding="utf-8") as file:
            return "poll" in file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- what is done about it


@pytest.mark.parametrize(("wish", "signal"), [("stop", 15), ("kill", 9)])
def test_one_that_is_unwell_is_ended(caller: Caller, wish: str, signal: int) -> None:
    done = caller.run(
        *("--health-interval", "100ms", "--health-retries", "2", "--health-cmd", "false"),
        *("--health-on-failure", wish, "--name", "it", "/bin/sleep", "600"),
    )
    assert (done.returncode, done.stdout) == (128 + signal, "")
    assert "the container was unhealthy: --health-on-failure ended it" in done.stderr
    since = now()
    with standing(caller, SLEEPS, tcp=1, onFailure=wish):
        status, answer = asked(caller, "POST", "/v1/containers/it/wait")
        assert (status, answer["exit"]) == (200, {"code": None, "signal": signal, "cause": "unhealthy"})
        assert health(caller, "it")["failingStreak"] == 2
        assert "(unhealthy)" in caller.daemon.dkrctl("ps", "-a", user=caller.user).stdout
        where = f"/v1/events?since={since}&until={now()}&filter=container%3Dit"
        with Lines(caller.daemon, where, user=caller.user) as events:
            told = []
            while (event := events.line()) is not None:
                told.append(event["action"])
        assert [action for action in told if action in ("die", "health_status: unhealthy")] == [
            "health_status: unhealthy",
            "die",
        ]


def test_one_that_is_being_stopped_is_left_to_that(caller: Caller) -> None:
    """Unwell while it ends, it is not killed for that."""
    line = "trap 'rm /tmp/well; echo bye; sleep 1; exit 3' TERM; touch /tmp/well; while :; do sleep 600 & wait; done"
    with standing(caller, sh(line), args=sh(WELL), retries=1, startPeriod=600, onFailure="kill"):
        until(caller, "it", "healthy")
        assert asked(caller, "POST", "/v1/containers/it/stop")[0] == 204
        status, answer = asked(caller, "POST", "/v1/containers/it/wait")
        assert (status, answer["exit"]) == (200, {"code": 3, "signal": None, "cause": "stopped"})


def test_one_that_is_paused_is_not_probed(caller: Caller) -> None:
    """Another one that is probed as often is the clock. What is asked is its network, which does not stand still with it."""
    with standing(caller, SLEEPS, tcp=1):
        until(caller, "it", "unhealthy")
        assert asked(caller, "POST", "/v1/containers/it/pause")[0] == 204
        before = health(caller, "it")
        clock = ("run", "-d", "--rm", "--name", "clock", "--health-interval", "100ms", "--health-cmd", "true")
        caller.daemon.dkrctl(*clock, *SLEEPS, user=caller.user, check=True)
        probed(caller, "clock", 5)
        assert health(caller, "it") == before
        assert asked(caller, "POST", "/v1/containers/it/unpause")[0] == 204
        eventually(lambda: health(caller, "it")["log"][-1] != before["log"][-1], "it is probed again")


def test_a_probe_under_way_when_it_is_paused_does_not_count(caller: Caller) -> None:
    with standing(caller, SLEEPS, args=sh("test -e /tmp/quick || sleep 600"), timeout=5):
        eventually(lambda: _runs(caller, "sleep") == 2, "it is probed")
        inside(caller, "touch /tmp/quick")
        for verb in ("pause", "unpause"):
            assert asked(caller, "POST", f"/v1/containers/it/{verb}")[0] == 204
        assert {one["exitCode"] for one in until(caller, "it", "healthy")["log"]} == {0}


def _runs(caller: Caller, comm: str) -> int:
    return sum(process.comm == comm for process in caller.daemon.processes())


# --- what means harm


def test_a_probe_that_does_not_end_is_killed_with_what_it_has_started(caller: Caller) -> None:
    line = "test -e /tmp/enough && exit; echo begun; sleep 700 & trap '' TERM; sleep 800"
    with standing(caller, SLEEPS, args=sh(line), timeout=0.3, interval=600, startPeriod=600):
        # Of several: its shell may not come to its first word in that time.
        answered(caller, "it", -1, "the probe was not done within 0.3 s: begun\n")
        inside(caller, "touch /tmp/enough")
        until(caller, "it", "healthy")
        eventually(lambda: _runs(caller, "sleep") == 1, "nothing of the probe is left")


def test_what_a_probe_leaves_in_its_group_ends_with_it(caller: Caller) -> None:
    with standing(caller, SLEEPS, args=sh("sleep 700 & sleep 700 & exit 0"), interval=600, startPeriod=1):
        until(caller, "it", "healthy")
        eventually(lambda: _runs(caller, "sleep") == 1, "nothing of the probe is left")


def test_what_a_probe_writes_is_bounded(caller: Caller) -> None:
    line = "printf '\\377'; yes '\\001' | head -c 600000"
    with standing(caller, SLEEPS, args=sh(line)):
        found = until(caller, "it", "healthy")["log"][-1]
        assert found["exitCode"] == 0  # all of it was taken
        assert len(found["output"]) == 4096
        assert found["output"].startswith("\ufffd\\001")
        probed(caller, "it", 5)
        assert asked(caller, "POST", "/v1/containers/it/kill", {})[0] == 204
        assert asked(caller, "POST", "/v1/containers/it/wait")[0] == 200
        assert len(health(caller, "it")["log"]) == 5


def test_a_command_that_is_not_there_and_one_for_which_there_is_no_room(caller: Caller) -> None:
    with standing(caller, SLEEPS, args=["/no/such"]):
        found = until(caller, "it", "unhealthy")["log"][-1]
        assert found["exitCode"] == 127
        assert "/no/such" in found["output"]
    status, problem = asked(
        caller,
        "POST",
        "/v1/containers",
        {"args": SLEEPS, "name": "it", "pidsLimit": 1, "health": check(args=["/bin/true"])},
    )
    assert status == 201, problem
    assert asked(caller, "POST", "/v1/containers/it/start")[0] == 204
    found = until(caller, "it", "unhealthy")["log"][-1]
    assert (found["exitCode"], "as many processes as it may have" in found["output"]) == (-1, True)


def test_a_probe_is_bounded_as_its_container(caller: Caller) -> None:
    """The same user, rights, filter and cgroup; nothing of the guardian's."""
    line = "id -u; grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; ls /proc/self/fd; cat /proc/self/cgroup"
    own = f"{{ {line}; }} >/tmp/new 2>&1; mv /tmp/new /tmp/own; exec sleep 600"
    with standing(caller, sh(own), args=sh(f"cat /tmp/own && {{ {line}; }}"), startPeriod=600):
        output = until(caller, "it", "healthy")["log"][-1]["output"]
        half = output.splitlines()
        assert half[: len(half) // 2] == half[len(half) // 2 :]
        assert output.startswith("0\nCap")


# --- what is refused


@pytest.mark.parametrize(
    ("wanted", "path", "message"),
    [
        ({}, "health", "one of args, http and tcp is wanted"),
        ({"args": ["x"], "tcp": 1}, "health.tcp", "cannot be given with args"),
        ({"args": []}, "health.args", "is empty"),
        ({"args": [""]}, "health.args[0]", "is empty"),
        ({"tcp": 0}, "health.tcp", "is less than 1"),
        ({"tcp": None}, "health.tcp", "null is no value"),
        ({"http": "https://127.0.0.1/"}, "health.http", "begins with http://"),
        ({"http": "http://169.254.169.254/"}, "health.http", "an address of the container's loopback"),
        ({"http": "http://example.org/"}, "health.http", "an address of the container's loopback"),
        ({"http": "http://127.0.0.1@192.0.2.1/"}, "health.http", "an address of the container's loopback"),
        ({"http": "http://127.0.0.1:0/"}, "health.http", "has the port '0'"),
        ({"http": "http://127.0.0.1/\r\nX: y"}, "health.http", "a character that no URL can"),
        ({"tcp": 1, "interval": 0.01}, "health.interval", "is less than 0.1 seconds"),
        ({"tcp": 1, "timeout": 0}, "health.timeout", "is less than 0.1 seconds"),
        ({"tcp": 1, "retries": 0}, "health.retries", "is less than 1"),
        ({"tcp": 1, "onFailure": "reboot"}, "health.onFailure", "one of"),
        ({"tcp": 1, "start_period": 1}, "health.start_period", "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    root: Caller, wanted: dict[str, Any], path: str, message: str
) -> None:
    status, problem = asked(root, "POST", "/v1/containers", {"args": ["/bin/true"], "health": wanted})
    assert status == 400
    assert problem["fields"][0]["path"] == path, problem
    assert message in problem["fields"][0]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--health-interval", "1"], "nothing says how the container's health is found out"),
        (["--health-cmd", "true", "--health-tcp", "80"], "found out in one way"),
        (["--health-cmd", ""], "cannot take --health-cmd: it is empty"),
        (["--health-tcp", "0"], "that is no port"),
        (["--health-tcp", "65536"], "from 0 to 65535"),
        (["--health-cmd", "true", "--health-retries", "0"], "cannot take --health-retries 0"),
        (["--health-cmd", "true", "--health-on-failure", "reboot"], "it takes none or stop or kill"),
        (["--no-healthcheck"], "there is no such option"),
    ],
)
def test_options_that_say_nothing_or_too_much(root: Caller, words: list[str], message: str) -> None:
    done = root.run(*words, "/bin/true")
    assert done.returncode == 125
    assert message in done.stderr
