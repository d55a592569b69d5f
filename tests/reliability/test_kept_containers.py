"""Containers that are made first and started later: SIGKILL of whoever makes, starts or guards one leaves nothing half done."""

from __future__ import annotations

import base64
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    WAITS,
    ask,
    ask_bytes,
    assert_same,
    count,
    eventually,
    inits,
    kill_and_wait,
    listed,
    shims,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

BUILD = {"start_seconds": 1}  # a build of before must be over one second after a start


def create(daemon: Daemon, *args: str, **request: Any) -> str:
    status, made = ask(daemon, "POST", "/v1/containers", {"args": args, **request})
    assert status == 201, made
    return str(made["id"])


def start(daemon: Daemon, name: str) -> int:
    return ask(daemon, "POST", f"/v1/containers/{name}/start")[0]


def wait(daemon: Daemon, name: str) -> dict[str, Any]:
    status, answer = ask(daemon, "POST", f"/v1/containers/{name}/wait?timeout=20")
    assert status == 200, answer
    return dict(answer["exit"])


def logs(daemon: Daemon, name: str) -> str:
    status, data = ask_bytes(daemon, "GET", f"/v1/containers/{name}/logs")
    assert status == 200, data
    lines = [json.loads(line) for line in data.splitlines()]
    return "".join(
        entry["log"] if "log" in entry else base64.b64decode(entry["logBase64"]).decode() for entry in lines
    )


def status_of(daemon: Daemon, name: str) -> str | None:
    found, value = ask(daemon, "GET", f"/v1/containers/{name}")
    return str(value["status"]) if found == 200 else None


def remove(daemon: Daemon, name: str) -> None:
    assert ask(daemon, "DELETE", f"/v1/containers/{name}")[0] == 204


def test_it_keeps_what_it_wrote_from_start_to_start(daemon: Daemon) -> None:
    before = count(daemon)
    create(daemon, "/bin/sh", "-c", "echo again >> /root/file; cat /root/file", name="kept")
    for times in (1, 2, 3):
        assert start(daemon, "kept") == 204
        assert wait(daemon, "kept") == {"code": 0, "signal": None, "cause": "exited"}
        # Started again at once: what its guardian is still at is waited for.
        assert logs(daemon, "kept").count("again\n") == sum(range(times + 1))
    remove(daemon, "kept")
    assert_same(daemon, before)


def test_a_start_that_fails_leaves_it_as_it_was(daemon: Daemon) -> None:
    before = count(daemon)
    create(daemon, "/bin/nosuch", name="wrong")
    for _ in range(2):
        status, problem = ask(daemon, "POST", "/v1/containers/wrong/start")
        assert (status, problem["code"]) == (422, "command-not-found")
        eventually(lambda: status_of(daemon, "wrong") == "created", "it is as it was")
    eventually(lambda: not shims(daemon), "no guardian is left")
    remove(daemon, "wrong")
    assert_same(daemon, before)


def test_the_daemon_killed_and_back(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    create(daemon, "/bin/sh", "-c", "echo one", name="made")
    create(daemon, "/bin/sh", "-c", WAITS, name="runs", openStdin=True)
    create(daemon, "/bin/sh", "-c", "echo done; exit 5", name="ended")
    assert start(daemon, "runs") == start(daemon, "ended") == 204
    assert wait(daemon, "ended")["code"] == 5
    eventually(lambda: logs(daemon, "runs") == "up\n", "it is up")
    daemon.kill()
    daemon.start()
    assert {name: status_of(daemon, name) for name in ("made", "runs", "ended")} == {
        "made": "created",
        "runs": "running",
        "ended": "stopped",
    }
    assert (logs(daemon, "runs"), logs(daemon, "ended")) == ("up\n", "done\n")
    assert start(daemon, "made") == 204
    assert wait(daemon, "made")["code"] == 0
    assert ask(daemon, "POST", "/v1/containers/runs/kill", {"signal": "KILL"})[0] == 204
    assert wait(daemon, "runs")["signal"] == 9
    for name in ("made", "runs", "ended"):
        remove(daemon, name)


def test_its_guardian_killed(daemon: Daemon) -> None:
    """The command runs on, its exit is read by the launcher, its log stands, and it can be started again."""
    before = count(daemon)
    create(daemon, "/bin/sh", "-c", "echo said; exec sleep 600", name="lost")
    assert start(daemon, "lost") == 204
    eventually(lambda: logs(daemon, "lost") == "said\n", "it has said something")
    for shim in shims(daemon):
        kill_and_wait(shim)
    assert status_of(daemon, "lost") == "running"
    assert logs(daemon, "lost") == "said\n"
    assert ask(daemon, "POST", "/v1/containers/lost/start")[0] == 204  # it runs
    for init in inits(daemon):
        host.kill(init)
    assert wait(daemon, "lost") == {"code": None, "signal": 9, "cause": "signalled"}
    assert start(daemon, "lost") == 204
    eventually(lambda: logs(daemon, "lost") == "said\nsaid\n", "it has said it again")
    assert ask(daemon, "POST", "/v1/containers/lost/kill", {"signal": "KILL"})[0] == 204
    wait(daemon, "lost")
    remove(daemon, "lost")
    assert_same(daemon, before)


def test_killed_at_any_moment_of_its_making(daemon: Daemon) -> None:
    """What was made is there and can be started, or nothing is."""
    before = count(daemon)
    chance = random.Random(2)
    seen = set()
    for _ in range(25):
        asking = threading.Thread(
            target=ask, args=(daemon, "POST", "/v1/containers", {"args": ["/bin/true"], "name": "made"})
        )
        asking.start()
        asking.join(chance.uniform(0.001, 0.02))
        for shim in shims(daemon):
            host.kill(shim)
        asking.join()
        eventually(lambda: not shims(daemon), "the guardian is dead")
        ask(daemon, "POST", "/v1/containers/made/start")
        eventually(lambda: not shims(daemon), "it has ended")
        eventually(lambda: not listed(daemon), "its end is known")
        found = [container["status"] for container in listed(daemon, every=True)]
        seen.add(tuple(found))
        if found:
            remove(daemon, "made")
        eventually(lambda: not listed(daemon, every=True), "it is gone")
    assert seen <= {(), ("stopped",)}
    assert_same(daemon, before)


def test_killed_at_any_moment_of_its_start(daemon: Daemon) -> None:
    """It is as it was, or it ran; it can be started again in any case."""
    before = count(daemon)
    chance = random.Random(3)
    create(daemon, "/bin/true", name="tried")
    for _ in range(40):
        asking = threading.Thread(target=ask, args=(daemon, "POST", "/v1/containers/tried/start"))
        asking.start()
        asking.join(chance.uniform(0.001, 0.06))
        for shim in shims(daemon):
            host.kill(shim)
        asking.join()
        eventually(lambda: not shims(daemon), "the guardian is dead")
        eventually(lambda: status_of(daemon, "tried") in ("created", "stopped"), "it rests")
    assert start(daemon, "tried") == 204
    assert wait(daemon, "tried")["code"] == 0
    remove(daemon, "tried")
    assert_same(daemon, before)


def test_many_starts_of_one_are_one(daemon: Daemon) -> None:
    before = count(daemon)
    create(daemon, "/bin/sh", "-c", "echo here; exec sleep 600", name="one")
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(start(daemon, "one"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {204}
    assert len(inits(daemon)) == len(shims(daemon)) == 1
    assert ask(daemon, "DELETE", "/v1/containers/one?force=true")[0] == 204
    assert_same(daemon, before)


def test_started_and_removed_at_once(daemon: Daemon) -> None:
    """One of them is first; nothing half removed runs, nothing that runs is removed."""
    before = count(daemon)
    for turn in range(12):
        create(daemon, "/bin/sleep", "600", name="both", rm=bool(turn % 2))
        with ThreadPoolExecutor() as pool:
            begin = pool.submit(start, daemon, "both") if turn % 3 else None
            end = pool.submit(ask, daemon, "DELETE", "/v1/containers/both")
            begin = begin or pool.submit(start, daemon, "both")
        started, removed = begin.result(), end.result()[0]
        if started == 204:
            assert removed == 409
            assert ask(daemon, "DELETE", "/v1/containers/both?force=true")[0] == 204
        else:
            assert (started, removed) in {(404, 204), (409, 204)}
    assert_same(daemon, before)


def test_how_many_a_user_may_keep(
    make_daemon: MakeDaemon, tenant: host.User, other_tenant: host.User
) -> None:
    """Made ones count and ended ones, also after a restart; others have their own."""
    daemon = make_daemon(limits={"kept_per_user": 2})

    def made(user: host.User | None, name: str) -> str:
        done = daemon.dkrctl("create", "--name", name, "/bin/true", user=user, check=False)
        return done.stderr if done.returncode else ""

    assert made(tenant, "one") == ""
    daemon.dkrctl("run", "--name", "two", "/bin/true", user=tenant)
    eventually(lambda: status_of(daemon, "two") == "stopped", "it has ended")
    daemon.restart()
    refused = made(tenant, "three")
    assert f"uid {tenant.uid} has 2 that do not run" in refused
    assert "hint: remove some" in refused
    assert made(other_tenant, "three") == made(None, "root-1") == made(None, "root-2") == ""
    assert made(None, "root-3") == ""
    daemon.dkrctl("start", "one", user=tenant)  # what stands may be started
    eventually(lambda: status_of(daemon, "one") == "stopped", "it has ended")
    daemon.dkrctl("rm", "one", user=tenant)
    assert made(tenant, "three-again") == ""
    for container in listed(daemon, every=True):
        remove(daemon, str(container["id"]))


def test_a_power_cut(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits=BUILD)
    create(daemon, "/bin/true", name="made")
    create(daemon, "/bin/sleep", "600", name="ran")
    volatile = create(daemon, "/bin/sleep", "600", name="volatile", rm=True)
    assert start(daemon, "ran") == start(daemon, "volatile") == 204
    daemon.kill()
    for process in (*shims(daemon), *inits(daemon)):
        kill_and_wait(process)
    for directory in (daemon.run_dir / "containers").iterdir():
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    eventually(lambda: not inits(daemon), "the containers are dead")
    for path in host.cgroups(daemon.cgroup):
        path.rmdir()
    daemon.start()
    eventually(lambda: status_of(daemon, "ran") == "stopped", "what ran has stopped")
    assert status_of(daemon, "made") == "created"
    assert start(daemon, "made") == start(daemon, "ran") == 204
    assert wait(daemon, "made")["code"] == 0
    for name in ("made", "ran"):
        assert ask(daemon, "DELETE", f"/v1/containers/{name}?force=true")[0] == 204
    left = daemon.state_dir / "containers" / volatile
    eventually(lambda: not left.exists(), "what was to be removed is")
    assert status_of(daemon, "volatile") is None
