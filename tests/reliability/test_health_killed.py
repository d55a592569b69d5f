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
from tests.reliability.support import GUARD_SECONDS, ask_bytes, eventually, kill_and_wait, the_shim

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
        found = shown(daemon, "it")["health"]
        assert (found["status"], len(found["log"]) > 1) == ("unhealthy", True)
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
