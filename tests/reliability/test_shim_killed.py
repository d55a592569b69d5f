"""SIGKILL of a shim: its container runs on, its exit is read by the launcher, what is left of it is cleaned up."""

from __future__ import annotations

import contextlib
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    assert_same,
    count,
    eventually,
    inits,
    kill_and_wait,
    listed,
    null_stdio,
    running,
    settle,
    shims,
    start_raw,
    the_shim,
    waiting,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


def _stopped(daemon: Daemon, name: str) -> dict[str, Any]:
    """Container `name`, once it has stopped."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(ask(daemon, "GET", f"/v1/containers/{name}")[1])
        return bool(found["status"] == "stopped")

    eventually(there, f"{name} stops")
    return found


def test_the_containers_run_on_and_their_exits_are_read(daemon: Daemon) -> None:
    settle(daemon)
    codes = (0, 1, 255)
    with ExitStack() as stack:
        runs = {code: stack.enter_context(waiting(daemon, "--name", f"lost-{code}")) for code in codes}
        for shim in shims(daemon):
            kill_and_wait(shim)
        for run in runs.values():
            assert run.client.wait(GUARD_SECONDS) == 125
            assert run.client.stderr is not None
            assert "lost the container's guardian" in run.client.stderr.readline()
        assert len(running(daemon)) == len(codes)
        for code, run in runs.items():
            run.say(f"still {code}")
            assert run.line() == "got still\n"
        for code in codes:
            assert _stopped(daemon, f"lost-{code}")["exit"] == {
                "code": code,
                "signal": None,
                "cause": "exited",
            }
            assert ask(daemon, "DELETE", f"/v1/containers/lost-{code}")[0] == 204
    settle(daemon)


def test_however_the_command_ends_without_its_guardian(daemon: Daemon) -> None:
    before = count(daemon)
    with (
        waiting(daemon, "--name", "lost") as lost,
        waiting(daemon, "--rm", "--name", "signalled") as signalled,
        waiting(daemon, "--rm", "--name", "exits") as exits,
        waiting(daemon, "--rm", "--name", "together"),
    ):
        pids = {container["name"]: container["pid"] for container in running(daemon)}
        processes = {process.pid: process for process in (*inits(daemon), *shims(daemon))}
        for name, pid in pids.items():
            guardian = processes[processes[pid].parent]
            host.kill(guardian)
            if name != "together":
                assert host.wait_gone(guardian.pid, GUARD_SECONDS)
            if name != "exits":
                host.kill(processes[pid])
        exits.say("on 0")
        assert exits.line() == "got on\n"
        assert _stopped(daemon, "lost")["exit"] == {"code": None, "signal": 9, "cause": "signalled"}
        assert ask(daemon, "DELETE", "/v1/containers/lost")[0] == 204
        assert_same(daemon, before)
        assert {run.client.wait(GUARD_SECONDS) for run in (lost, signalled, exits)} == {125}


def test_its_owner_can_end_it(make_daemon: MakeDaemon, tenant: host.User, other_tenant: host.User) -> None:
    """All of it, for good whatever its policy is, and nobody else can."""
    daemon = make_daemon()
    before = count(daemon)
    line = "sleep 600 & exec sleep 601"
    words = ("run", "-d", "--restart", "always", "--name", "lost", "/bin/sh", "-c", line)
    container = daemon.dkrctl(*words, user=tenant, check=True).stdout.strip()
    kill_and_wait(the_shim(daemon))
    done = daemon.dkrctl("kill", container, user=other_tenant)
    assert "no container has this id or name" in done.stderr
    done = daemon.dkrctl("stop", "lost", user=tenant)
    assert "or by SIGKILL: dkrctl kill, or rm --force" in done.stderr
    assert len(inits(daemon)) == 1
    daemon.dkrctl("kill", "lost", user=tenant, check=True)
    assert _stopped(daemon, "lost")["exit"] == {"code": None, "signal": 9, "cause": "signalled"}
    assert "killed without its guardian" in daemon.log
    assert f"uid={tenant.uid} id={container}" in daemon.log.partition("killed without its guardian")[2]
    assert not [process for process in daemon.processes() if process.comm == "sleep"]
    daemon.kill()
    daemon.start()
    assert _stopped(daemon, "lost")["status"] == "stopped"
    daemon.dkrctl("start", "lost", user=tenant, check=True)
    kill_and_wait(the_shim(daemon))
    daemon.dkrctl("rm", "-f", "lost", user=tenant, check=True)
    assert not listed(daemon, every=True)
    assert_same(daemon, before)


def test_many_at_once(daemon: Daemon) -> None:
    before = count(daemon)
    with null_stdio() as stdio:
        clients = [start_raw(daemon, stdio, args=["/bin/sleep", "600"], rm=True) for _ in range(8)]
        for client in clients:
            frame = client.frame()
            assert frame is not None
            assert frame["type"] == "started"
        for shim in shims(daemon):
            host.kill(shim)
        for client in clients:
            assert client.frame() is None
            client.close()
    eventually(lambda: not shims(daemon), "the guardians are dead")
    # The client's end counts for nothing any more: nobody is there to see it.
    assert len(inits(daemon)) == 8
    for init in inits(daemon):
        host.kill(init)
    assert_same(daemon, before)


def test_killed_at_any_moment_of_the_build_or_the_end(daemon: Daemon) -> None:
    """Whatever stands at that moment is found and taken off; only a command that had started may have to be ended."""
    before = count(daemon)
    chance = random.Random(1)
    with null_stdio() as stdio:
        for turn in range(40):
            client = start_raw(daemon, stdio, args=["/bin/true"], rm=bool(turn % 2), name="short")
            found = shims(daemon)
            assert client.session is not None
            client.session.settimeout(chance.uniform(0.0005, 0.045))
            with contextlib.suppress(TimeoutError):
                while client.frame():
                    pass
            for shim in found:
                host.kill(shim)
            client.close()
            eventually(lambda: not shims(daemon), "the guardian is dead")
            # With rm it is gone by itself, perhaps this moment; without it is there, unless it never ran.
            eventually(lambda: not listed(daemon), "it is over")
            for container in listed(daemon, every=True):
                assert ask(daemon, "DELETE", f"/v1/containers/{container['id']}")[0] in (204, 404)
            eventually(lambda: not listed(daemon, every=True), "it is gone")
    assert_same(daemon, before)
