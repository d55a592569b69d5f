"""SIGKILL of api, launcher or guardian: what is known of a container's health survives, and each change is told once."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from common.clock import now
from tests import host
from tests.integration.kept import made, sh, shown
from tests.reliability.support import GUARD_SECONDS, ask_bytes, eventually, inits, kill_and_wait, the_shim
from tests.reliability.test_restart_policies import reboot

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Well until SIGUSR1.
COMMAND = sh("trap 'rm /tmp/well' USR1; touch /tmp/well; while :; do sleep 600 & wait; done")
CHECK: dict[str, Any] = {"args": sh("echo looked; test -e /tmp/well"), "interval": 0.1, "retries": 2}


def told(daemon: Daemon, since: str) -> list[str]:
    status, data = ask_bytes(
        daemon, "GET", f"/v1/events?since={since}&until={now()}&filter=event%3Dhealth_status"
    )
    assert status == 200
    return [json.loads(line)["action"] for line in data.splitlines()]


def becomes_unwell(daemon: Daemon, container: str, pid: int) -> None:
    """By its guardian's word on disk: nobody else is there."""
    os.kill(pid, signal.SIGUSR1)
    path = daemon.run_dir / "containers" / container / "state.json"
    eventually(lambda: json.loads(path.read_text())["health"]["status"] == "unhealthy", "its guardian knows")


@pytest.mark.parametrize("who", ["api", "launcher"])
def test_it_goes_on_without_and_is_told_once(make_daemon: MakeDaemon, who: str) -> None:
    daemon, since = make_daemon(), now()
    with made(daemon, *COMMAND, name="it", health=CHECK) as container:
        eventually(lambda: shown(daemon, "it")["health"]["status"] == "healthy", "it is healthy")
        pid = shown(daemon, "it")["pid"]
        api = daemon.child("dkr-api")
        if who == "launcher":
            daemon.kill()
            assert host.wait_gone(api.pid, GUARD_SECONDS)
        else:
            kill_and_wait(api)
        becomes_unwell(daemon, container, pid)
        if who == "launcher":
            daemon.start()
        # Its guardian writes it down first, and reports it then.
        eventually(lambda: shown(daemon, "it")["health"]["status"] == "unhealthy", "the api knows")
        found = shown(daemon, "it")["health"]
        assert len(found["log"]) > 1
        assert found["failingStreak"] >= 2
        assert found["log"][-1]["output"] == "looked\n"
        eventually(lambda: "health_status: unhealthy" in told(daemon, since), "it is told")
        daemon.restart()
        assert shown(daemon, "it")["health"]["status"] == "unhealthy"
        assert told(daemon, since) == ["health_status: healthy", "health_status: unhealthy"]


def test_without_its_guardian_the_last_word_stays(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon, *COMMAND, name="it", health=CHECK):
        eventually(lambda: shown(daemon, "it")["health"]["status"] == "healthy", "it is healthy")
        pid = shown(daemon, "it")["pid"]
        kill_and_wait(the_shim(daemon))
        eventually(lambda: shown(daemon, "it")["health"] == {"status": "healthy"}, "nobody knows more")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: shown(daemon, "it")["status"] == "stopped", "its end is known")
        assert shown(daemon, "it")["health"]["status"] == "healthy"


# Well until SIGUSR1 in its first life, then for good. Of SIGTERM it takes no notice.
DEAF = sh(
    "trap '' TERM; trap 'rm /tmp/well' USR1; echo x >>/lives; touch /tmp/well; while :; do sleep 600 & wait; done"
)
AGAIN: dict[str, Any] = {
    "args": sh("test -e /tmp/well"),
    "interval": 0.1,
    "retries": 1,
    "onFailure": "restart",
}


def restarted(daemon: Daemon, times: int = 1) -> None:
    """Until it was restarted so often, and runs."""
    eventually(
        lambda: (shown(daemon, "it")["status"], shown(daemon, "it").get("restarts")) == ("running", times),
        "it was restarted",
        GUARD_SECONDS,
    )


def healthy(daemon: Daemon) -> int:
    """Until it is well; its process 1."""
    eventually(
        lambda: shown(daemon, "it").get("health", {}).get("status") == "healthy",
        "it is healthy",
        GUARD_SECONDS,
    )
    pid = shown(daemon, "it")["pid"]
    assert isinstance(pid, int)
    return pid


def test_it_is_restarted_for_its_health_while_the_api_is_away(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart={"first_seconds": 0.02})
    with made(daemon, *DEAF, name="it", health=AGAIN, stopTimeout=0.1):
        pid = healthy(daemon)
        api = daemon.child("dkr-api")
        os.kill(api.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGUSR1)
        assert host.wait_gone(pid, GUARD_SECONDS)
        eventually(lambda: [one.pid for one in inits(daemon)] not in ([], [pid]), "it runs without an api")
        kill_and_wait(api)
        restarted(daemon)
        assert healthy(daemon) != pid


@pytest.mark.parametrize("when", ["before", "between"])
def test_it_is_restarted_for_its_health_by_the_next_launcher(make_daemon: MakeDaemon, when: str) -> None:
    """The launcher is away while it becomes unwell and ends, or is killed between that and the restart."""
    daemon = make_daemon(restart={"first_seconds": 3 if when == "between" else 0.02})
    with made(daemon, *DEAF, name="it", health=AGAIN, stopTimeout=0.1):
        pid, guardian = healthy(daemon), the_shim(daemon)
        if when == "before":
            daemon.kill()
        os.kill(pid, signal.SIGUSR1)
        assert host.wait_gone(guardian.pid, GUARD_SECONDS)
        if when == "between":
            daemon.kill()
        assert inits(daemon) == []
        daemon.start()
        restarted(daemon)


def test_it_is_restarted_for_its_health_though_its_guardian_is_killed(make_daemon: MakeDaemon) -> None:
    """While it stopped it: that it was unwell stands in the state."""
    daemon = make_daemon(restart={"first_seconds": 0.02})
    with made(daemon, *DEAF, name="it", health=AGAIN, stopTimeout=600) as container:
        pid = healthy(daemon)
        becomes_unwell(daemon, container, pid)
        kill_and_wait(the_shim(daemon))
        os.kill(pid, signal.SIGKILL)
        restarted(daemon)
        # Of the next life nothing is said yet: who is killed while it is well is not missed.
        pid = healthy(daemon)
        kill_and_wait(the_shim(daemon))
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: shown(daemon, "it")["status"] == "stopped", "it stays as it is", GUARD_SECONDS)


def test_a_reboot_starts_none_for_its_health(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart={"first_seconds": 600, "max_seconds": 600})
    with made(daemon, *DEAF, name="it", health=AGAIN, stopTimeout=0.1):
        os.kill(healthy(daemon), signal.SIGUSR1)
        eventually(lambda: shown(daemon, "it")["status"] == "restarting", "it waits", GUARD_SECONDS)
        reboot(daemon, in_order=False)
        assert shown(daemon, "it")["status"] == "stopped"
