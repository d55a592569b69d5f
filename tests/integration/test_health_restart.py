"""`--health-on-failure restart`: what is unhealthy is stopped and started again, whatever its policy, unless a user says otherwise."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon
from tests.integration.conftest import Caller
from tests.integration.kept import asked, lines, remove, sh, shown
from tests.reliability.support import ask, ask_bytes, assert_same, count, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

# It says `up` in each life, and `bye` when it is asked to end.
LIVES = "trap 'echo bye; exit 0' TERM; echo up; echo x >>/lives; touch /dev/shm/up; while :; do sleep 600 & wait; done"
DEAF = "trap '' TERM; echo up; touch /dev/shm/up; while :; do sleep 600; done"
# A probe says nothing before the life is up: the first one may come before the command has done anything. /dev/shm is new in each.
IS_UP = "until test -e /dev/shm/up; do sleep 0.01; done"
THIRD = f"{IS_UP}; test $(wc -l </lives) -ge 3"  # well from its third life on
NEVER = f"{IS_UP}; false"
OPTIONS = ("--health-interval", "100ms", "--health-retries", "1", "--health-on-failure", "restart")


@pytest.fixture(scope="module")
def quick(prefix: Path) -> Iterator[Daemon]:
    """A daemon that puts a restart off for a moment."""
    own = Daemon.create(prefix, restart={"first_seconds": 0.02})
    try:
        yield own.start()
    finally:
        own.close()


@contextmanager
def detached(caller: Caller, line: str, probe: str, *options: str) -> Iterator[None]:
    """A container `it`, of which nothing is left behind the block."""
    before = count(caller.daemon)
    words = ("run", "-d", "--name", "it", *OPTIONS, "--health-cmd", probe, *options, *sh(line))
    done = caller.daemon.dkrctl(*words, user=caller.user)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        remove(caller.daemon, "it")
        assert_same(caller.daemon, before)


def said(caller: Caller) -> list[str]:
    return [line["log"] for line in lines(caller.daemon, "it")]


def becomes(caller: Caller, status: str) -> dict[str, Any]:
    eventually(lambda: shown(caller.daemon, "it")["status"] == status, f"it is {status}")
    return shown(caller.daemon, "it")


def actions(daemon: Daemon) -> list[str]:
    words = (
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=it",
        "--format",
        "{{.action}}",
    )
    told = str(daemon.dkrctl(*words, check=True).stdout).splitlines()
    return told[len(told) - told[::-1].index("create") :]


@pytest.mark.parametrize("policy", ["", "no", "on-failure:1", "unless-stopped"])
def test_it_is_started_again_whatever_its_policy(caller: Caller, quick: Daemon, policy: str) -> None:
    it = Caller(quick, caller.user)
    with detached(it, LIVES, THIRD, *(("--restart", policy) if policy else ())):
        eventually(lambda: shown(quick, "it").get("health") == _healthy(quick), "it is well")
        found = shown(quick, "it")
        assert (found["status"], found["restarts"], "restart" in found) == (
            "running",
            2,
            policy not in ("", "no"),
        )
        assert said(it) == ["up\n", "bye\n", "up\n", "bye\n", "up\n"]
        life = ["health_status: unhealthy", "kill", "die", "restart", "start"]
        eventually(lambda: "health_status: healthy" in actions(quick), "that it is well is told")
        assert actions(quick) == ["start", *life, *life, "health_status: healthy"]
        shape = ("ps", "--format", "{{.RestartPolicy}} {{.RestartCount}}")
        assert quick.dkrctl(*shape, user=it.user).stdout == f"{policy or 'no'} 2\n"


def _healthy(daemon: Daemon) -> Any:
    found = shown(daemon, "it").get("health")
    return found if found and found["status"] == "healthy" else "not yet"


def test_the_metrics_count_it(quick: Daemon) -> None:
    def restarts() -> float:
        text = ask_bytes(quick, "GET", "/metrics")[1].decode()
        [line] = [
            line for line in text.splitlines() if line.startswith('dkr_restarts_total{reason="health"}')
        ]
        return float(line.split()[1])

    before = restarts()
    with detached(Caller(quick, None), LIVES, THIRD):
        eventually(lambda: shown(quick, "it").get("restarts") == 2, "it was restarted")
        eventually(lambda: restarts() == before + 2, "that is counted")


def test_another_end_is_no_reason(caller: Caller, quick: Daemon) -> None:
    it = Caller(quick, caller.user)
    with detached(it, "echo up; exit 3", "true"):
        found = becomes(it, "stopped")
        assert (found["exit"]["code"], found["restarts"]) == (3, 0)


@pytest.mark.parametrize(
    "words",
    [("stop", "-t", "0"), ("kill",), ("kill", "-s", "KILL"), ("rm", "-f")],
    ids=lambda words: " ".join(words),
)
def test_a_user_ends_it_while_it_is_being_stopped(
    caller: Caller, quick: Daemon, words: tuple[str, ...]
) -> None:
    it = Caller(quick, caller.user)
    with detached(it, DEAF, NEVER, "--stop-timeout", "600"):
        eventually(lambda: "kill" in actions(quick), "it is asked to end")
        done = quick.dkrctl(*words, "it", user=it.user)
        assert done.returncode == 0, done.stderr
        if words[0] != "rm":
            assert becomes(it, "stopped")["exit"]["cause"] == "unhealthy"
            assert said(it) == ["up\n"]
        assert "restart" not in actions(quick)


def test_its_stop_timeout_counts(caller: Caller, quick: Daemon) -> None:
    it = Caller(quick, caller.user)
    with detached(it, DEAF, NEVER, "--stop-timeout", "0.1"):
        eventually(lambda: said(it).count("up\n") >= 2, "it was killed, and started again")


@pytest.mark.parametrize(
    "words", [("stop",), ("kill",), ("rm", "-f"), ("start",)], ids=lambda words: words[0]
)
def test_a_user_has_the_last_word_while_it_waits(
    caller: Caller, slow: Daemon, words: tuple[str, ...]
) -> None:
    it = Caller(slow, caller.user)
    with detached(it, LIVES, THIRD):
        waits = becomes(it, "restarting")
        assert (waits["exit"]["cause"], waits["health"]["status"]) == ("unhealthy", "unhealthy")
        # No policy wants it, and none is asked.
        assert slow.dkrctl("update", "--restart", "no", "it", user=it.user).returncode == 0
        assert shown(slow, "it")["status"] == "restarting"
        done = slow.dkrctl(*words, "it", user=it.user)
        assert done.returncode == 0, done.stderr
        if words[0] == "start":
            eventually(lambda: said(it).count("up\n") == 2, "it runs anew")
            assert shown(slow, "it")["restarts"] == 0
        elif words[0] != "rm":
            assert shown(slow, "it")["status"] == "stopped"


def test_what_cannot_be_restarted_is_refused_by_name(root: Caller) -> None:
    health = {"tcp": 1, "onFailure": "restart"}
    for target, more in (("/v1/run", {}), ("/v1/containers", {"rm": True})):
        status, problem = ask(root.daemon, "POST", target, {"args": ["/bin/true"], "health": health, **more})
        assert (status, problem["fields"][0]["path"]) == (400, "health.onFailure"), problem
        assert "restart" in problem["fields"][0]["message"]
    for words, message in (
        (("run",), "add --detach"),
        (("run", "-d", "--rm"), "cannot run with --rm and --health-on-failure restart"),
        (("create", "--rm"), "cannot create with --rm and --health-on-failure restart"),
    ):
        done = root.daemon.dkrctl(*words, *OPTIONS, "--health-tcp", "1", "/bin/true")
        assert done.returncode == 125 if words[0] == "run" else done.returncode
        assert message in done.stderr
    assert asked(root, "GET", "/v1/containers?all=true")[1] == []
