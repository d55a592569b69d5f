"""SIGKILL of the launcher: runs go on without a daemon, and the next dkrd finds each of them or its end."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    eventually,
    inits,
    kill_and_wait,
    listed,
    running,
    settle,
    the_shim,
    waiting,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


def _kill_daemon(daemon: Daemon) -> None:
    """SIGKILL to the launcher; the api ends with it."""
    api = daemon.child("dkr-api")
    daemon.kill()
    assert host.wait_gone(api.pid, GUARD_SECONDS), "the api has outlived its launcher"


def _only(daemon: Daemon, status: str) -> dict[str, Any]:
    """The one container there is, once it is `status`."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = listed(daemon, every=True)
        return [container["status"] for container in found] == [status]

    eventually(there, f"there is one container, {status}")
    return found[0]


def test_runs_go_on_and_are_adopted_by_each_next_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with (
        waiting(daemon, "--rm", "--name", "removed", "--label", "a=b") as removed,
        waiting(daemon, "--name", "kept") as kept,
        waiting(daemon, "--rm") as signalled,
    ):
        before = running(daemon)
        for _ in range(2):
            _kill_daemon(daemon)
            daemon.start()
            assert running(daemon) == before
        _kill_daemon(daemon)
        refused = daemon.dkrctl("run", "--rm", "/bin/true")
        assert refused.returncode == 125
        assert "nobody listens there" in refused.stderr
        daemon.start()
        daemon.restart()
        assert running(daemon) == before
        signalled.client.send_signal(signal.SIGTERM)
        assert signalled.client.wait(GUARD_SECONDS) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert removed.end("adopted", 7) == 7
        assert kept.end("adopted", 200) == 200
    assert _only(daemon, "stopped")["exit"] == {"code": 200, "signal": None, "cause": "exited"}
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_a_run_ends_without_any_daemon(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--name", "kept") as kept, waiting(daemon, "--rm") as removed:
        _kill_daemon(daemon)
        guardians = [process.pid for process in daemon.processes() if process.comm == "dkr-shim"]
        assert kept.end("alone", 3) == 3
        assert removed.end("alone", 4) == 4
        assert all(host.wait_gone(pid, GUARD_SECONDS) for pid in guardians)
    daemon.start()
    found = _only(daemon, "stopped")
    assert (found["name"], found["exit"]) == ("kept", {"code": 3, "signal": None, "cause": "exited"})
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_an_adopted_shim_may_be_killed(make_daemon: MakeDaemon) -> None:
    """Its container is no child of any daemon's: the exit is read all the same."""
    daemon = make_daemon()
    with waiting(daemon, "--name", "kept") as run:
        _kill_daemon(daemon)
        daemon.start()
        kill_and_wait(the_shim(daemon))
        run.say("on 6")
        assert run.line() == "got on\n"
        assert _only(daemon, "stopped")["exit"] == {"code": 6, "signal": None, "cause": "exited"}
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_launcher_and_shim_killed_the_container_runs_on_and_is_collected(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--name", "kept") as kept, waiting(daemon, "--rm") as removed:
        _kill_daemon(daemon)
        for process in daemon.processes():
            if process.comm == "dkr-shim":
                kill_and_wait(process)
        daemon.start()
        assert len(running(daemon)) == 2
        for run, code in ((kept, 21), (removed, 22)):
            run.say(f"on {code}")
            assert run.line() == "got on\n"
        found = _only(daemon, "stopped")
    assert (found["name"], found["exit"]) == ("kept", {"code": 21, "signal": None, "cause": "exited"})
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_launcher_shim_and_init_killed_nothing_is_left_and_no_exit_invented(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--name", "kept"), waiting(daemon, "--rm"):
        _kill_daemon(daemon)
        for process in daemon.processes():
            if process.comm == "dkr-shim":
                kill_and_wait(process)
        for process in inits(daemon):
            kill_and_wait(process)
        daemon.start()
        found = _only(daemon, "stopped")
    # Read, where the kernel still had it when the new launcher looked; else lost. Nothing else.
    assert found["exit"] in (
        {"code": None, "signal": 9, "cause": "signalled"},
        {"code": None, "signal": None, "cause": "shim-lost"},
    )
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_a_second_daemon_on_the_same_directories_is_refused(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    second = subprocess.run(
        [daemon.prefix / "sbin/dkrd", "--config", daemon.directory / "dkrd.toml"],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert second.returncode == 1
    assert f"another one (pid {daemon.pid})" in second.stderr
    daemon.run("/bin/true")


def test_two_daemons_run_side_by_side(make_daemon: MakeDaemon) -> None:
    one, other = make_daemon(), make_daemon()
    with waiting(one, "--rm", "--name", "same") as first, waiting(other, "--rm", "--name", "same") as second:
        assert len(listed(one)) == len(listed(other)) == 1
        assert listed(one)[0]["id"] != listed(other)[0]["id"]
        _kill_daemon(one)
        assert second.end("here", 2) == 2
        one.start()
        assert first.end("there", 1) == 1
    settle(one)
    settle(other)


def test_sigterm_ends_the_daemon_and_no_run(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--rm") as run:
        api = daemon.child("dkr-api")
        assert daemon.stop() == 0
        assert host.read_process(api.pid) is None
        assert not daemon.socket.exists()
        assert run.end("after", 8) == 8
    daemon.start()
    settle(daemon)
