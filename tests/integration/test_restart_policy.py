"""Containers with a restart policy: `create|run -d|update --restart`, and what is seen of it."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, lines, logged, remove, sh, shown
from tests.reliability.support import ask, ask_bytes, eventually, kill_and_wait
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

FAST = {"first_seconds": 0.02}
FAILS = "echo up; exit 3"
SLEEPS = "echo up; exec sleep 600"


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


@pytest.fixture
def patient(caller: Caller, slow: Daemon) -> Caller:
    """Who calls, there."""
    return Caller(slow, caller.user)


@contextmanager
def detached(caller: Caller, policy: str, line: str, *options: str) -> Iterator[None]:
    """A container `it`, of which nothing is left behind the block."""
    done = dkrctl(caller, "run", "-d", "--name", "it", "--restart", policy, *options, *sh(line))
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        remove(caller.daemon, "it")


def status(caller: Caller) -> str:
    return str(shown(caller.daemon, "it")["status"])


def ups(daemon: Daemon) -> int:
    """How often it has run."""
    return [line["log"] for line in lines(daemon, "it")].count("up\n")


def waits(caller: Caller) -> None:
    """Until it is between two runs."""
    eventually(lambda: status(caller) == "restarting", "it waits to be restarted")


def actions(daemon: Daemon, *options: str) -> list[str]:
    words = ("events", "--since", "1h", "--until", "0s", "--format", "{{.action}}", *options)
    return str(daemon.dkrctl(*words, check=True).stdout).split()


def test_on_failure_so_often(caller: Caller) -> None:
    with detached(caller, "on-failure:2", FAILS):
        assert dkrctl(caller, "wait", "it").stdout == "3\n"
        found = shown(caller.daemon, "it")
        assert (found["status"], found["restart"], found["restarts"]) == (
            "stopped",
            {"policy": "on-failure", "retries": 2},
            2,
        )
        assert [line["log"] for line in lines(caller.daemon, "it")] == ["up\n"] * 3
        told = dkrctl(caller, "ps", "-a", "--format", "{{.RestartPolicy}} {{.RestartCount}}").stdout
        assert told == "on-failure:2 2\n"


def test_success_is_no_failure(caller: Caller) -> None:
    with detached(caller, "on-failure", "echo up"):
        assert dkrctl(caller, "wait", "it").stdout == "0\n"
        assert (shown(caller.daemon, "it")["restarts"], ups(caller.daemon)) == (0, 1)


def test_always_until_somebody_stops_it(caller: Caller) -> None:
    with detached(caller, "always", "echo up"):
        eventually(lambda: ups(caller.daemon) >= 3, "it was restarted twice")
        assert dkrctl(caller, "stop", "it").returncode == 0
        found, ran = shown(caller.daemon, "it"), ups(caller.daemon)
        # One that was stopped may not have come to its word.
        starts = actions(caller.daemon, "--filter", f"container={found['id']}").count("start")
        assert (found["status"], found["restarts"]) == ("stopped", starts - 1)
        assert ran in (starts - 1, starts)
        # Who starts it has it restarted again, and counted anew.
        assert dkrctl(caller, "start", "it").returncode == 0
        eventually(lambda: ups(caller.daemon) >= ran + 2, "its policy counts again")


@pytest.mark.parametrize("words", [("stop",), ("kill",), ("kill", "-s", "TERM"), ("kill", "-s", "INT")])
def test_one_that_runs_is_ended_by_a_user(caller: Caller, words: tuple[str, ...]) -> None:
    with detached(caller, "always", SLEEPS):
        logged(caller.daemon, "it", "up\n")
        assert dkrctl(caller, *words, "it").returncode == 0
        dkrctl(caller, "wait", "it")
        assert (status(caller), ups(caller.daemon)) == ("stopped", 1)


def test_a_signal_that_means_something_to_it_does_not_end_that(root: Caller) -> None:
    with detached(root, "always", "trap 'exit 4' HUP; echo up; while :; do sleep 600 & wait; done"):
        logged(root.daemon, "it", "up\n")
        assert dkrctl(root, "kill", "-s", "HUP", "it").returncode == 0
        eventually(lambda: ups(root.daemon) == 2, "it is restarted")


def test_what_is_between_two_runs(patient: Caller) -> None:
    with detached(patient, "always", FAILS):
        waits(patient)
        assert dkrctl(patient, "ps", "--format", "{{.Status}}").stdout.startswith("Restarting (3) ")
        assert dkrctl(patient, "ps", "-q", "--filter", "status=restarting").stdout != ""
        assert dkrctl(patient, "info", "--format", "{{.containers.restarting}}").stdout == "1\n"
        for method, what in (("POST", "pause"), ("GET", "top"), ("POST", "exec")):
            body = {"args": ["/bin/true"]} if what == "exec" else None
            code, problem = asked(patient, method, f"/v1/containers/it/{what}", body)
            assert (code, problem["rule"]) == (409, "restarting"), what
        code, problem = asked(patient, "POST", "/v1/containers/it/kill", {"signal": "HUP"})
        assert (code, problem["rule"]) == (409, "restarting")
        assert "restarting" in dkrctl(patient, "ps", "--format", "{{.State}}").stdout
        assert "waits to be restarted" in dkrctl(patient, "rm", "it").stderr
        assert dkrctl(patient, "prune", "-f").returncode == 0
        assert dkrctl(patient, "rename", "it", "other").returncode == 0
        assert dkrctl(patient, "rename", "other", "it").returncode == 0
        assert (status(patient), ups(patient.daemon)) == ("restarting", 1)


def test_it_can_be_started_meanwhile(patient: Caller) -> None:
    with detached(patient, "always", FAILS):
        waits(patient)
        assert dkrctl(patient, "start", "it").returncode == 0
        eventually(lambda: ups(patient.daemon) == 2, "it was started")
        waits(patient)
        assert shown(patient.daemon, "it")["restarts"] == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_can_be_ended_meanwhile(patient: Caller, end: str) -> None:
    with detached(patient, "always", FAILS):
        waits(patient)
        waiting = patient.daemon.popen("wait", "it", user=patient.user, stdout=subprocess.PIPE, text=True)
        done = dkrctl(patient, end, "it")
        assert (done.returncode, done.stdout) == (0, "it\n"), done.stderr
        assert status(patient) == "stopped"
        assert waiting.communicate(timeout=SHELL_SECONDS)[0] == "3\n"
        assert dkrctl(patient, "rm", "it").returncode == 0


def test_removed_by_force_while_it_waits(patient: Caller) -> None:
    with detached(patient, "always", "exit 1"):
        waits(patient)
        assert dkrctl(patient, "rm", "-f", "it").returncode == 0
        assert asked(patient, "GET", "/v1/containers/it")[0] == 404


def test_removed_by_force_while_it_runs(caller: Caller) -> None:
    with detached(caller, "always", SLEEPS):
        logged(caller.daemon, "it", "up\n")
        assert dkrctl(caller, "rm", "-f", "it").returncode == 0
        assert asked(caller, "GET", "/v1/containers/it")[0] == 404


def test_restart_the_verb(caller: Caller) -> None:
    with detached(caller, "unless-stopped", SLEEPS):
        logged(caller.daemon, "it", "up\n")
        assert dkrctl(caller, "restart", "-t", "0", "it").returncode == 0
        eventually(lambda: ups(caller.daemon) == 2, "it runs anew")
        found = shown(caller.daemon, "it")
        assert (found["status"], found["restarts"]) == ("running", 0)


def test_update_has_one_that_runs_restarted(caller: Caller) -> None:
    with detached(caller, "no", SLEEPS):
        logged(caller.daemon, "it", "up\n")
        assert "restart" not in shown(caller.daemon, "it")
        assert dkrctl(caller, "update", "--restart", "always", "--pids-limit", "50", "it").returncode == 0
        assert shown(caller.daemon, "it")["restart"] == {"policy": "always"}
        host.kill(caller.command("sleep"))
        eventually(lambda: ups(caller.daemon) == 2, "it is restarted")
        assert dkrctl(caller, "update", "--restart", "no", "it").returncode == 0
        host.kill(caller.command("sleep"))
        assert dkrctl(caller, "wait", "it").stdout == "137\n"
        assert (status(caller), ups(caller.daemon)) == ("stopped", 2)
        assert dkrctl(caller, "update", "--restart", "on-failure:1", "it").returncode == 0
        assert shown(caller.daemon, "it")["restart"] == {"policy": "on-failure", "retries": 1}


def test_update_of_one_that_waits(patient: Caller) -> None:
    with detached(patient, "always", FAILS):
        waits(patient)
        assert dkrctl(patient, "update", "--restart", "on-failure:2", "it").returncode == 0
        assert (status(patient), shown(patient.daemon, "it")["restart"]["policy"]) == (
            "restarting",
            "on-failure",
        )
        assert dkrctl(patient, "update", "--restart", "no", "it").returncode == 0
        found = shown(patient.daemon, "it")
        assert (found["status"], "restart" in found) == ("stopped", False)
        assert dkrctl(patient, "wait", "it").stdout == "3\n"


def test_update_of_one_that_does_not_run_holds_at_its_next_start(caller: Caller) -> None:
    assert dkrctl(caller, "create", "--name", "it", *sh(SLEEPS)).returncode == 0
    try:
        assert (
            dkrctl(caller, "update", "--restart", "on-failure:2", "--pids-limit", "50", "it").returncode == 0
        )
        for _ in range(2):
            assert shown(caller.daemon, "it")["restart"] == {"policy": "on-failure", "retries": 2}
            assert dkrctl(caller, "restart", "-t", "0", "it").returncode == 0
    finally:
        assert dkrctl(caller, "rm", "-f", "it").returncode == 0


def test_an_update_that_is_refused_changes_nothing(root: Caller) -> None:
    with detached(root, "no", SLEEPS):
        logged(root.daemon, "it", "up\n")
        body = {"restart": {"policy": "always"}, "swap": 5_000_000}
        assert asked(root, "POST", "/v1/containers/it/update", body)[0] == 409
        assert "restart" not in shown(root.daemon, "it")
        dkrctl(root, "stop", "-t", "0", "it")
        assert asked(root, "POST", "/v1/containers/it/update", body)[0] == 409
        assert dkrctl(root, "start", "it").returncode == 0
        assert "restart" not in shown(root.daemon, "it")


def test_what_cannot_be_restarted(caller: Caller) -> None:
    for words, told in (
        (("run", "--restart", "always", "/bin/true"), "add --detach"),
        (("run", "-d", "--rm", "--restart", "always", "/bin/true"), "--rm and --restart"),
        (("create", "--restart", "sometimes", "/bin/true"), "no such policy"),
        (("update", "--restart", "always:2", "x"), "no such policy"),
    ):
        done = dkrctl(caller, *words)
        assert done.returncode != 0
        assert told in done.stderr
    with caller.start("--name", "it", *sh("echo up; read x"), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        code, problem = asked(caller, "POST", "/v1/containers/it/update", {"restart": {"policy": "always"}})
        assert (code, problem["rule"]) == (409, "rm")
        client.communicate("x\n")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"restart": {"policy": "never"}}, "restart.policy"),
        ({"restart": {"policy": "always", "retries": 1}}, "restart.retries"),
        ({"restart": None}, "restart"),
        ({"restart": {"policy": "always"}, "rm": True}, "restart"),
        ({"restart": "always"}, "restart"),
    ],
)
def test_a_policy_that_is_none(root: Caller, body: Any, path: str) -> None:
    code, problem = ask(root.daemon, "POST", "/v1/containers", {"args": ["/bin/true"], **body})
    assert (code, problem["fields"][0]["path"]) == (400, path)


@pytest.mark.parametrize("target", ["/v1/run"])
def test_a_run_has_none(root: Caller, target: str) -> None:
    code, problem = ask(root.daemon, "POST", target, {"args": ["/bin/true"], "restart": {"policy": "always"}})
    assert (code, problem["fields"][0]["path"]) == (400, "restart")


def test_a_command_that_cannot_be_had_any_more_is_given_up(root: Caller) -> None:
    words = ("run", "-d", "--name", "it", "--restart", "always", "busybox", "sh", "-c", "rm /bin/sh")
    assert dkrctl(root, *words).returncode == 0
    try:
        eventually(lambda: status(root) == "stopped", "it is given up")
        assert shown(root.daemon, "it")["exit"]["code"] == 0
    finally:
        remove(root.daemon, "it")


def test_a_crash_loop_is_bounded(make_daemon: MakeDaemon) -> None:
    """Events and metrics tell each restart; the longest wait is the settings'."""
    daemon = make_daemon(restart={**FAST, "max_seconds": 0.04})
    root = Caller(daemon, None)
    with detached(root, "on-failure:6", "exit 1"):
        dkrctl(root, "wait", "it")
        found = actions(daemon)
        assert found == ["create", "start", "die", *("restart", "start", "die") * 6]
        _, metrics = ask_bytes(daemon, "GET", "/metrics")
        assert b'dkr_restarts_total{reason="policy"} 6.0' in metrics
        assert b'dkr_restarts_total{reason="health"} 0.0' in metrics
        line = dkrctl(root, "events", "--since", "1h", "--until", "0s", "--filter", "event=restart").stdout
        assert "(restarts=6, reason=policy, " in line.splitlines()[-1]


def test_one_whose_guardian_is_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart=FAST)
    root = Caller(daemon, None)
    with detached(root, "always", SLEEPS):
        logged(daemon, "it", "up\n")
        sleeper = root.command("sleep")
        [shim] = [
            one for one in host.processes() if one.comm == "dkr-shim" and str(daemon.directory) in one.command
        ]
        kill_and_wait(shim)
        host.kill(sleeper)
        eventually(lambda: ups(daemon) == 2, "it is restarted", 40)
        assert shown(daemon, "it")["restarts"] == 1


def test_others_do_not_change_it(slow: Daemon, tenant: User) -> None:
    root, other = Caller(slow, None), Caller(slow, tenant)
    with detached(root, "always", "exit 0"):
        waits(root)
        container = shown(slow, "it")["id"]
        for what, body in (
            ("update", {"restart": {"policy": "no"}}),
            ("stop", None),
            ("kill", {}),
            ("start", None),
        ):
            assert asked(other, "POST", f"/v1/containers/{container}/{what}", body)[0] == 404
        assert status(root) == "restarting"


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        made = await dkr.create(*sh(FAILS), name="it", restart="on-failure:1")
        assert made.restart == {"policy": "on-failure", "retries": 1}
        await dkr.start("it")
        await dkr.wait("it")
        assert (await dkr.inspect("it")).restarts == 1
        await dkr.update("it", restart="always")
        assert (await dkr.inspect("it")).restart == {"policy": "always"}

    try:
        drive(caller, scenario)
    finally:
        remove(caller.daemon, "it")
