"""What a container can do with its guardian's probes: nothing beyond itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import Caller
from tests.integration.kept import asked, logged, made, shown
from tests.reliability.support import ask, eventually

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Traces the first process that runs `sleep 555`, and does not listen.
TRACER = """
import ctypes, os, time
libc = ctypes.CDLL(None)
def found():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read().startswith(b"/bin/sleep\\x00555"):
                    return int(name)
        except OSError:
            pass
while libc.ptrace(0x4206, found() or 0, None, None): pass  # one whose time was up meanwhile is not to be had
print("traced", flush=True)
time.sleep(600)
"""


def test_a_probe_that_somebody_traces_is_the_only_one(daemon: Daemon) -> None:
    """It cannot be reaped, as one that waits in the kernel for good: nothing waits for it, no second one is forked, and a stop ends all."""
    check: dict[str, Any] = {"args": ["/bin/sleep", "555"], "interval": 0.1, "timeout": 0.3, "retries": 3}
    with made(daemon, "/usr/bin/python3", "-IS", "-c", TRACER, name="it", health=check):
        logged(daemon, "it", "traced\n")
        eventually(lambda: shown(daemon, "it")["health"]["status"] == "unhealthy", "that is a failure")
        # Those before it had time to fail, on a busy machine.
        eventually(
            lambda: shown(daemon, "it")["health"]["log"][-1]["output"].startswith(
                "the probe before has not ended"
            ),
            "no second one is forked",
        )
        log = shown(daemon, "it")["health"]["log"]
        assert {one["exitCode"] for one in log} == {-1}
        assert sum(process.comm == "sleep" for process in daemon.processes()) <= 1
        status, _top = ask(daemon, "GET", "/v1/containers/it/top")
        assert status == 200
        assert ask(daemon, "POST", "/v1/containers/it/stop", {"timeout": 0})[0] == 204
        eventually(lambda: shown(daemon, "it")["status"] == "stopped", "it has ended")


def test_names_are_not_looked_up_by_files_of_the_container(daemon: Daemon, tenant: host.User) -> None:
    """`localhost` is a number, whatever the container's hosts file says; the host's own loopback is not reached."""
    check: dict[str, Any] = {"http": "http://localhost:8080/", "interval": 0.1, "timeout": 1, "retries": 1}
    line = "echo '192.0.2.1 localhost' >/etc/hosts; exec sleep 600"
    caller = Caller(daemon, tenant)
    with made(daemon, "/bin/sh", "-c", line, name="it", health=check):
        eventually(lambda: shown(daemon, "it")["health"]["status"] == "unhealthy", "nobody listens there")
        assert shown(daemon, "it")["health"]["log"][-1]["output"] == "connection refused"
        # Others' are not there.
        assert asked(caller, "GET", "/v1/containers/it")[0] == 404
