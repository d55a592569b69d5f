"""Restart policies while processes of the daemon are away, over reboots, and for who may no longer have what they had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    ask,
    assert_same,
    count,
    eventually,
    inits,
    kill_and_wait,
    listed,
    shims,
)
from tests.reliability.test_stop_containers import stop_containers

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon, MakeUser
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

FAST = {"first_seconds": 0.02, "max_seconds": 0.1}
ALWAYS = {"policy": "always"}
UNLESS = {"policy": "unless-stopped"}
FAILURE = {"policy": "on-failure"}
SLEEPS = "echo up; exec sleep 600"


def create(daemon: Daemon, name: str, restart: dict[str, Any], line: str = SLEEPS) -> str:
    body = {"args": ["/bin/sh", "-c", line], "name": name, "restart": restart}
    status, made = ask(daemon, "POST", "/v1/containers", body)
    assert status == 201, made
    return str(made["id"])


def act(daemon: Daemon, name: str, what: str, body: Any = None) -> None:
    status, problem = ask(daemon, "POST", f"/v1/containers/{name}/{what}", body)
    assert status == 204, problem


def begin(daemon: Daemon, name: str, restart: dict[str, Any], line: str = SLEEPS) -> str:
    """A container that has said `up` once."""
    container = create(daemon, name, restart, line)
    act(daemon, name, "start")
    eventually(lambda: ups(daemon, container) >= 1, f"{name} has run")
    return container


def ups(daemon: Daemon, container: str) -> int:
    """How often it has run; its log is asked, not the daemon."""
    path = daemon.state_dir / "containers" / container / "container.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(1 for line in lines if json.loads(line).get("log") == "up\n")


def status_of(daemon: Daemon, name: str) -> str | None:
    return next((one["status"] for one in listed(daemon, every=True) if one["name"] == name), None)


def becomes(daemon: Daemon, name: str, status: str) -> None:
    eventually(lambda: status_of(daemon, name) == status, f"{name} is {status}")


def clear(daemon: Daemon) -> None:
    for one in listed(daemon, every=True):
        assert ask(daemon, "DELETE", f"/v1/containers/{one['id']}?force=true")[0] == 204


def actions(daemon: Daemon) -> list[str]:
    words = ("events", "--since", "1h", "--until", "0s", "--format", "{{.action}}")
    return str(daemon.dkrctl(*words, check=True).stdout).split()


def test_it_goes_on_while_the_api_is_away(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart=FAST)
    before = count(daemon)
    container = begin(daemon, "it", {"policy": "on-failure", "retries": 4}, "echo up; exit 1")
    api = daemon.child("dkr-api")
    os.kill(api.pid, signal.SIGSTOP)
    eventually(lambda: ups(daemon, container) == 5, "it was restarted without an api")
    kill_and_wait(api)
    becomes(daemon, "it", "stopped")
    found = actions(daemon)
    assert found == ["create", "start", "die", *["restart", "start", "die"] * 4]
    clear(daemon)
    assert_same(daemon, before)


def test_the_launcher_is_killed_between_an_end_and_the_restart(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart={"first_seconds": 3})
    container = begin(daemon, "it", ALWAYS, "echo up")
    becomes(daemon, "it", "restarting")
    daemon.kill()
    assert ups(daemon, container) == 1
    daemon.start()
    assert status_of(daemon, "it") == "restarting"
    eventually(lambda: ups(daemon, container) == 2, "it is restarted by the next launcher")
    clear(daemon)


def test_it_ends_while_there_is_no_launcher(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart=FAST)
    container = begin(daemon, "it", UNLESS)
    [guardian] = shims(daemon)
    daemon.kill()
    [init] = inits(daemon)
    host.kill(init)
    assert host.wait_gone(guardian.pid, 20)
    daemon.start()
    eventually(lambda: ups(daemon, container) == 2, "it is restarted")
    becomes(daemon, "it", "running")
    clear(daemon)


def test_its_guardian_is_killed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart=FAST)
    before = count(daemon)
    restarted, stopped = begin(daemon, "it", ALWAYS), begin(daemon, "no", {"policy": "no"})
    for guardian in shims(daemon):
        kill_and_wait(guardian)
    for init in inits(daemon):
        host.kill(init)
    eventually(lambda: ups(daemon, restarted) == 2, "it is restarted", 40)
    becomes(daemon, "no", "stopped")
    assert ups(daemon, stopped) == 1
    eventually(lambda: ask(daemon, "GET", "/v1/containers/it")[1].get("restarts") == 1, "it was, once")
    clear(daemon)
    assert_same(daemon, before)


def reboot(daemon: Daemon, *, in_order: bool) -> None:
    """What lies in memory is gone: run_dir, cgroups, processes."""
    if in_order:
        assert stop_containers(daemon).returncode == 0
        daemon.stop()
    else:
        daemon.kill()
        for process in (*shims(daemon), *inits(daemon)):
            kill_and_wait(process)
    shutil.rmtree(daemon.run_dir)
    eventually(lambda: not inits(daemon), "the containers are dead")
    for path in host.cgroups(daemon.cgroup):
        path.rmdir()
    daemon.start()


def stand(daemon: Daemon) -> dict[str, str]:
    """One of each kind, by name."""
    found = {name: begin(daemon, name, policy) for name, policy in (("always", ALWAYS), ("unless", UNLESS))}
    found["failure"] = begin(daemon, "failure", FAILURE)
    found["none"] = begin(daemon, "none", {"policy": "no"})
    for name, policy in (("always-stopped", ALWAYS), ("unless-stopped", UNLESS)):
        found[name] = begin(daemon, name, policy)
        act(daemon, name, "stop", {"timeout": 0})
        # Its guardian writes that down where a power cut leaves it behind the answer.
        place = daemon.run_dir / "containers" / found[name]
        eventually(lambda place=place: not place.exists(), f"{name} is put by")  # type: ignore[misc]
    found["made"] = create(daemon, "made", ALWAYS)
    return found


@pytest.mark.parametrize("in_order", [True, False], ids=["shutdown", "power cut"])
def test_a_reboot(make_daemon: MakeDaemon, in_order: bool) -> None:
    daemon = make_daemon(restart=FAST)
    there = stand(daemon)
    reboot(daemon, in_order=in_order)
    for name in ("always", "unless", "always-stopped"):
        eventually(lambda name=name: ups(daemon, there[name]) == 2, f"{name} is started")  # type: ignore[misc]
        becomes(daemon, name, "running")
    for name, status in (("failure", "stopped"), ("none", "stopped"), ("unless-stopped", "stopped")):
        becomes(daemon, name, status)
        assert ups(daemon, there[name]) == 1
    assert (status_of(daemon, "made"), ups(daemon, there["made"])) == ("created", 0)
    clear(daemon)


def test_what_waits_when_the_machine_reboots(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart={"first_seconds": 600, "max_seconds": 600})
    there = {
        name: begin(daemon, name, policy, "echo up; exit 1")
        for name, policy in (("a", ALWAYS), ("f", FAILURE))
    }
    for name in there:
        becomes(daemon, name, "restarting")
    reboot(daemon, in_order=True)
    eventually(lambda: ups(daemon, there["a"]) == 2, "it does not wait for the old time")
    becomes(daemon, "f", "stopped")
    assert ups(daemon, there["f"]) == 1
    clear(daemon)


def test_a_restart_of_the_daemon_is_no_reboot(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(restart=FAST)
    there = stand(daemon)
    daemon.restart()
    assert {name: status_of(daemon, name) for name in there} == {
        **dict.fromkeys(("always", "unless", "failure", "none"), "running"),
        **dict.fromkeys(("always-stopped", "unless-stopped"), "stopped"),
        "made": "created",
    }
    # What the unit has stopped, and no user, comes back with the daemon.
    assert stop_containers(daemon).returncode == 0
    daemon.restart()
    for name in ("always", "unless"):
        becomes(daemon, name, "running")
        eventually(lambda name=name: ups(daemon, there[name]) >= 2, f"{name} has said so")  # type: ignore[misc]
    assert [ups(daemon, there[name]) for name in there] == [2, 2, 1, 1, 1, 1, 0]
    clear(daemon)


def leave(user: host.User, group: str) -> None:
    subprocess.run(["gpasswd", "-d", user.name, group], check=True, capture_output=True)


def run_as(daemon: Daemon, user: host.User, *options: str) -> str:
    words = ("run", "-d", "--restart", "always", *options, "/bin/sh", "-c", SLEEPS)
    container = str(daemon.dkrctl(*words, user=user, check=True).stdout).strip()
    eventually(lambda: ups(daemon, container) == 1, "it runs")
    return container


def test_who_may_not_use_the_socket_any_more(make_daemon: MakeDaemon, make_user: MakeUser) -> None:
    daemon = make_daemon(restart=FAST)
    before = count(daemon)
    user = make_user("dkr")
    container = run_as(daemon, user, "--name", "it")
    host.kill(inits(daemon)[0])
    eventually(lambda: ups(daemon, container) == 2, "it is restarted")
    leave(user, "dkr")
    host.kill(inits(daemon)[0])
    eventually(lambda: "rule=socket" in daemon.log, "the launcher has tried to restart it")
    becomes(daemon, "it", "stopped")
    assert ups(daemon, container) == 2
    daemon.restart()
    eventually(lambda: daemon.log.count("rule=socket") == 2, "the next launcher has tried once more")
    assert status_of(daemon, "it") == "stopped"
    clear(daemon)
    assert_same(daemon, before)


def test_who_is_no_admin_any_more(make_daemon: MakeDaemon, make_user: MakeUser) -> None:
    daemon = make_daemon(restart=FAST)
    user = make_user("dkr", "dkr-admin")
    ordinary = run_as(daemon, user, "--name", "ordinary")
    lifted = run_as(daemon, user, "--name", "lifted", "--pid", "host")
    leave(user, "dkr-admin")
    for init in inits(daemon):
        host.kill(init)
    eventually(lambda: ups(daemon, ordinary) == 2, "what anybody may have is restarted")
    eventually(lambda: "rule=pid-host" in daemon.log, "the launcher has tried to restart the other")
    becomes(daemon, "lifted", "stopped")
    assert ups(daemon, lifted) == 1
    clear(daemon)


def test_what_has_no_room_waits_and_is_in_nobodys_way(make_daemon: MakeDaemon, tenant: host.User) -> None:
    daemon = make_daemon(restart={"first_seconds": 0.5}, limits={"containers_per_user": 1})
    words = ("--restart", "always", "/bin/sh", "-c")
    waiting = daemon.dkrctl(
        "run", "-d", "--name", "waits", *words, "echo up", user=tenant, check=True
    ).stdout.strip()
    becomes(daemon, "waits", "restarting")

    def lives() -> bool:
        """It has the only room there is, between two lives of the other."""
        return daemon.dkrctl("run", "-d", "--name", "lives", *words, SLEEPS, user=tenant).returncode == 0

    eventually(lives, "it is started")
    other = begin(daemon, "roots", ALWAYS, "echo up")
    eventually(lambda: "cannot restart a container now" in daemon.log, "there is no room for it")
    ran = ups(daemon, waiting)
    eventually(lambda: ups(daemon, other) >= 2, "another's is restarted")
    assert ups(daemon, waiting) == ran
    assert ask(daemon, "DELETE", "/v1/containers/lives?force=true")[0] == 204
    eventually(lambda: ups(daemon, waiting) > ran, "there is room now")
    clear(daemon)
