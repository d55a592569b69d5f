"""Other bounds for containers that stand: now, and at their next starts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.runtime import cgroups
from tests import host
from tests.integration.conftest import Caller
from tests.integration.kept import asked, logged, remove, sh, shown
from tests.integration.test_limits import MEMORY, SWAP, V2, cgroup_of
from tests.integration.verbs import sweep
from tests.reliability.support import eventually, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

PLAIN = "echo up; exec sleep 600"
M = 1 << 20


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, *options: str, line: str = PLAIN) -> None:
    for words in (("create", "--name", name, *options, *sh(line)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0
    logged(caller.daemon, name, "up\n")


def again(caller: Caller, name: str) -> None:
    """Its next life."""
    for words in (("stop", "-t", "0", name), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0


def update(caller: Caller, name: str, body: Any) -> tuple[int, Any]:
    """POST …/update as the caller: status, and the rule of a problem."""
    status, answer = asked(caller, "POST", f"/v1/containers/{name}/update", body)
    return status, answer and answer.get("rule", answer["code"])


def bounds(daemon: Daemon) -> dict[str, Any]:
    """What bounds the one container that runs: memory, swap beside it, processors, processes; None: nothing does."""
    found = cgroup_of(daemon)

    def number(name: str) -> int | None:
        text = found[name]
        return None if text == "max" or int(text) < 0 or int(text) > 1 << 60 else int(text)

    memory, swap = number(MEMORY), number(SWAP)
    if not V2 and swap is not None:
        swap -= memory or 0
    quota, period = (
        found["cpu.max"].split() if V2 else (found["cpu.cfs_quota_us"], found["cpu.cfs_period_us"])
    )
    cpus = None if quota in ("max", "-1") else int(quota) / int(period)
    return {"memory": memory, "swap": swap, "cpus": cpus, "pids": number("pids.max")}


# what changes


def test_now_and_at_the_next_start(caller: Caller) -> None:
    own = None if caller.user is None else 4096
    started(caller, "it")
    assert bounds(caller.daemon) == {"memory": None, "swap": None, "cpus": None, "pids": own}
    done = dkrctl(caller, "update", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "it\n", "")
    expected = {"memory": 64 * M, "swap": 64 * M, "cpus": 0.5, "pids": 20}
    for _ in range(2):
        assert bounds(caller.daemon) == expected
        again(caller, "it")
    # One thing alone, up and down.
    for words, key, value in (
        (("--cpus", "1.5"), "cpus", 1.5),
        (("--pids-limit", "10"), "pids", 10),
        (("-m", "128m"), "memory", 128 * M),
        (("-m", "32m"), "memory", 32 * M),
    ):
        assert dkrctl(caller, "update", *words, "it").returncode == 0
        expected[key] = value
        expected["swap"] = expected["memory"]
        assert bounds(caller.daemon) == expected
    again(caller, "it")
    assert bounds(caller.daemon) == expected


def test_a_bound_that_is_taken_away(caller: Caller) -> None:
    own = None if caller.user is None else 4096
    started(caller, "it")
    bare = cgroup_of(caller.daemon)
    nothing = {"memory": None, "swap": None, "cpus": None, "pids": own}
    for body, expected in (
        ({"memory": 64 * M, "cpus": 0.5}, {**nothing, "memory": 64 * M, "swap": 64 * M, "cpus": 0.5}),
        ({"cpus": -1}, {**nothing, "memory": 64 * M, "swap": 64 * M}),
        ({"memory": -1}, nothing),
        ({"memory": -1, "cpus": -1, "swap": -1}, nothing),  # as it is
        ({"memory": 64 * M, "swap": 0}, {**nothing, "memory": 64 * M, "swap": 0}),
        ({"memory": -1, "swap": -1, "cpus": 2}, {**nothing, "cpus": 2}),
    ):
        assert update(caller, "it", body) == (204, None)
        assert bounds(caller.daemon) == expected
    assert dkrctl(caller, "update", "-m", "64m", "it").returncode == 0
    assert dkrctl(caller, "update", "-m", "0", "--cpus", "0", "it").returncode == 0
    for _ in range(2):
        assert bounds(caller.daemon) == nothing
        assert shown(caller.daemon, "it")["limits"] == ({} if own is None else {"pidsLimit": own})
        again(caller, "it")
    now = cgroup_of(caller.daemon)
    files = {name for name in bare if "limit" in name or name.endswith((".max", "quota_us", "oom.group"))}
    assert {name: now[name] for name in files} == {name: bare[name] for name in files}


def test_one_that_is_taken_away_of_what_does_not_run(caller: Caller) -> None:
    made = ("create", "--name", "it", "-m", "64m", "--memory-swap", "80m", "--cpus", "0.5", *sh(PLAIN))
    assert dkrctl(caller, *made).returncode == 0
    assert dkrctl(caller, "update", "--memory-swap", "-1", "--cpus", "0", "it").returncode == 0
    own = {} if caller.user is None else {"pidsLimit": 4096}
    assert shown(caller.daemon, "it")["limits"] == {"memory": 64 * M, **own}
    assert dkrctl(caller, "update", "-m", "-1", "it").returncode == 0
    assert shown(caller.daemon, "it")["limits"] == own
    assert dkrctl(caller, "start", "it").returncode == 0
    found = bounds(caller.daemon)
    assert (found["memory"], found["swap"], found["cpus"]) == (None, None, None)


def test_swap(root: Caller) -> None:
    started(root, "it", "-m", "64m", "--memory-swap", "80m")
    for body, memory, swap in (
        ({"memory": 128 * M}, 128, 16),  # which was asked for, and stays
        ({"swap": 8 * M}, 128, 8),
        ({"memory": 32 * M, "swap": 0}, 32, 0),
        ({"swap": -1}, 32, None),
        ({"memory": 64 * M}, 64, None),
        ({"swap": 64 * M}, 64, 64),
    ):
        assert update(root, "it", body) == (204, None)
        found = bounds(root.daemon)
        assert (found["memory"], found["swap"]) == (memory * M, swap if swap is None else swap * M)
    again(root, "it")
    assert bounds(root.daemon)["swap"] == 64 * M


def test_of_what_does_not_run(caller: Caller) -> None:
    assert dkrctl(caller, "create", "--name", "it", "-m", "64m", *sh(PLAIN)).returncode == 0
    assert update(caller, "it", {"memory": 32 * M, "pidsLimit": 7}) == (204, None)
    assert dkrctl(caller, "rename", "it", "other").returncode == 0
    assert dkrctl(caller, "start", "other").returncode == 0
    assert bounds(caller.daemon) == {"memory": 32 * M, "swap": 32 * M, "cpus": None, "pids": 7}
    assert dkrctl(caller, "stop", "-t", "0", "other").returncode == 0
    assert update(caller, "other", {"cpus": 2}) == (204, None)
    assert dkrctl(caller, "start", "other").returncode == 0
    assert bounds(caller.daemon)["cpus"] == 2


def test_with_another_name_and_after_a_restart(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it")
    assert update(root, "it", {"memory": 64 * M}) == (204, None)
    assert dkrctl(root, "rename", "it", "other").returncode == 0
    root.daemon.kill()
    root.daemon.start()
    assert dkrctl(root, "pause", "other").returncode == 0
    assert update(root, "other", {"cpus": 0.5}) == (204, None)
    again(root, "other")
    found = bounds(root.daemon)
    assert (found["memory"], found["cpus"]) == (64 * M, 0.5)
    assert shown(root.daemon, "other")["name"] == "other"
    remove(root.daemon, "other")


def test_a_run_in_the_foreground(caller: Caller) -> None:
    with caller.start("--name", "it", *sh("echo up; read x"), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert update(caller, "it", {"memory": 64 * M}) == (204, None)
        assert bounds(caller.daemon)["memory"] == 64 * M
        client.communicate("x\n")


def test_it_is_felt(root: Caller) -> None:
    started(root, "it", "-i", line="echo up; read x; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo all")
    assert update(root, "it", {"memory": 16 * M, "swap": 0}) == (204, None)
    with root.daemon.popen(
        "attach", "it", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        client.communicate("x\n")
    assert dkrctl(root, "wait", "it").returncode == 0
    assert "all\n" not in dkrctl(root, "logs", "it").stdout


# how it is shown


def test_what_bounds_it_is_shown(caller: Caller) -> None:
    daemon = caller.daemon
    own = {} if caller.user is None else {"pidsLimit": 4096}

    def limits() -> Any:
        return shown(daemon, "it")["limits"]

    assert dkrctl(caller, "create", "--name", "it", *sh(PLAIN)).returncode == 0
    assert limits() == own
    assert update(caller, "it", {"memory": 64 * M, "cpus": 1.5}) == (204, None)
    found = {"memory": 64 * M, "swap": 64 * M, "cpus": 1.5, **own}
    assert limits() == found
    assert dkrctl(caller, "start", "it").returncode == 0
    logged(daemon, "it", "up\n")
    assert limits() == found
    assert update(caller, "it", {"swap": 0, "pidsLimit": 9, "restart": {"policy": "always"}}) == (204, None)
    found |= {"swap": 0, "pidsLimit": 9}
    assert limits() == found
    assert bounds(daemon) == {"memory": 64 * M, "swap": 0, "cpus": 1.5, "pids": 9}
    # What is refused has changed nothing; in a list it is the same.
    assert update(caller, "it", {"memory": 64 * M, "pidsLimit": -1})[0] == 403
    assert limits() == found
    assert [one["limits"] for one in asked(caller, "GET", "/v1/containers")[1]] == [found]
    done = dkrctl(caller, "inspect", "-f", "{{.limits.memory}} {{.limits.cpus}} {{json .limits.swap}}", "it")
    assert done.stdout == f"{64 * M} 1.5 0\n"
    assert update(caller, "it", {"swap": -1}) == (204, None)
    done = dkrctl(caller, "inspect", "-f", "{{.limits.pidsLimit}} {{json .limits.swap}}", "it")
    assert done.stdout == "9 null\n"


def test_what_bounds_a_run_is_shown_and_known_to_the_next_daemon(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", "-m", "64m", "--memory-swap", "-1", "--pids-limit", "10")
    with root.start("--rm", "--name", "run", "--cpus", "2", *sh("echo up; read x"), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        for _ in range(2):
            assert shown(root.daemon, "it")["limits"] == {"memory": 64 * M, "pidsLimit": 10}
            assert shown(root.daemon, "run")["limits"] == {"cpus": 2}
            root.daemon.kill()
            root.daemon.start()
        client.communicate("x\n")
    again(root, "it")
    assert shown(root.daemon, "it")["limits"] == {"memory": 64 * M, "pidsLimit": 10}
    remove(root.daemon, "it")


# what does not


def test_all_or_nothing(root: Caller) -> None:
    """Its cgroup takes the memory, and not the processors, of which the one above has less."""
    if V2:
        pytest.skip("v2 takes more than the cgroup above has")
    layout = cgroups.read_layout()
    started(root, "it", "-m", "64m", "--cpus", "0.5")
    before = bounds(root.daemon)
    above = Path(dict(layout.controllers)["cpu"]) / root.daemon.cgroup / "cpu.cfs_quota_us"
    above.write_text("100000")
    try:
        for memory in (32, 128):
            assert update(root, "it", {"memory": memory * M, "cpus": 3, "pidsLimit": 9}) == (409, "conflict")
            assert bounds(root.daemon) == before
    finally:
        above.write_text("-1")
    again(root, "it")
    assert bounds(root.daemon) == before


def test_less_memory_than_it_uses(root: Caller) -> None:
    started(root, "it", "-i", line="x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo up; read x")
    assert update(root, "it", {"memory": 8 * M, "pidsLimit": 9}) == (409, "memory-in-use")
    assert bounds(root.daemon)["memory"] is None
    assert bounds(root.daemon)["pids"] is None
    assert shown(root.daemon, "it")["status"] == "running"


def test_who_may_have_more_processes(daemon: Daemon, root: Caller, tenant: User) -> None:
    them = Caller(daemon, tenant)
    started(them, "it")
    assert update(them, "it", {"pidsLimit": 4097, "memory": 64 * M}) == (403, "pids-limit")
    assert update(them, "it", {"pidsLimit": -1}) == (403, "pids-limit")
    # An admin, too: nothing proves over plain HTTP that they have asked for it.
    assert update(root, "it", {"pidsLimit": -1}) == (403, "http")
    assert bounds(daemon) == {"memory": None, "swap": None, "cpus": None, "pids": 4096}
    assert update(them, "it", {"pidsLimit": 5}) == (204, None)
    assert update(them, "it", {"pidsLimit": 4096}) == (204, None)


def test_an_admins_may_be_bounded_and_not_unbounded_again(root: Caller) -> None:
    started(root, "it")
    for body, expected in (
        ({"pidsLimit": -1}, (204, None)),  # as it is
        ({"pidsLimit": 5000}, (204, None)),
        ({"pidsLimit": 4999}, (204, None)),
        ({"pidsLimit": 5000}, (403, "http")),
        ({"pidsLimit": -1}, (403, "http")),
    ):
        assert update(root, "it", body) == expected
    assert bounds(root.daemon)["pids"] == 4999
    assert dkrctl(root, "stop", "-t", "0", "it").returncode == 0
    assert update(root, "it", {"pidsLimit": 5000}) == (403, "http")


def test_where_the_settings_let_admins(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(http_lifts=True)
    root, them = Caller(daemon, None), Caller(daemon, tenant)
    started(them, "it")
    assert update(them, "it", {"pidsLimit": 4097}) == (403, "pids-limit")
    assert update(root, "it", {"pidsLimit": -1}) == (204, None)
    assert bounds(daemon)["pids"] is None
    # It stays so, for its owner's starts as well.
    again(them, "it")
    assert bounds(daemon)["pids"] is None
    remove(daemon, "it")


def test_swap_without_memory(caller: Caller) -> None:
    started(caller, "it")
    assert update(caller, "it", {"swap": M}) == (409, "swap")
    assert update(caller, "it", {"swap": -1}) == (204, None)  # as it is
    assert dkrctl(caller, "stop", "-t", "0", "it").returncode == 0
    assert update(caller, "it", {"swap": M}) == (409, "swap")
    assert update(caller, "it", {"memory": -1, "swap": M}) == (409, "swap")


def test_without_a_guardian(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it")
    sleeper = root.command("sleep")
    kill_and_wait(the_shim(root.daemon))
    assert update(root, "it", {"memory": 64 * M}) == (409, "unguarded")
    host.kill(sleeper)
    eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "its end is found out")
    assert update(root, "it", {"memory": 64 * M}) == (204, None)
    assert dkrctl(root, "start", "it").returncode == 0
    assert bounds(root.daemon)["memory"] == 64 * M
    remove(root.daemon, "it")


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    started(root, "theirs")
    assert update(Caller(daemon, tenant), shown(daemon, "theirs")["id"], {"cpus": 1})[0] == 404
    assert bounds(daemon)["cpus"] is None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"memory": 1}, "memory"),
        ({"memory": -2}, "memory"),
        ({"memory": 0}, "memory"),
        ({"memory": None}, "memory"),
        ({"swap": -2}, "swap"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": -0.5}, "cpus"),
        ({"cpus": None}, "cpus"),
        ({"cpus": "1"}, "cpus"),
        ({"pidsLimit": 0}, "pidsLimit"),
        ({"pids": 1}, "pids"),
        ({"name": "x"}, "name"),
    ],
)
def test_an_update_that_is_none(root: Caller, body: Any, path: str) -> None:
    status, problem = asked(root, "POST", "/v1/containers/x/update", body)
    assert (status, problem["fields"][0]["path"]) == (400, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("it",), "nothing is given that could be changed"),
        ((), "no container is named"),
        (("-m", "x", "it"), "it is no size"),
        (("--memory-swap", "1g", "it"), "it needs --memory"),
        (("--cpus", "1", "nosuch"), 'cannot find container "nosuch"'),
    ],
)
def test_a_call_that_is_none(root: Caller, words: tuple[str, ...], said: str) -> None:
    done = dkrctl(root, "update", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.update("it", memory=64 * M, cpus=0.5, pids_limit=9)
        [one] = await dkr.stats()
        assert (one.memory_limit, one.pids_limit) == (64 * M, 9)
        found = (await dkr.inspect("it")).limits
        assert found is not None
        assert (found.memory, found.swap, found.cpus, found.pids_limit) == (64 * M, 64 * M, 0.5, 9)

    started(caller, "it")
    drive(caller, scenario)


def test_what_is_written_down(root: Caller) -> None:
    started(root, "it")
    assert update(root, "it", {"memory": 64 * M, "pidsLimit": 9}) == (204, None)
    place = root.daemon.state_dir / "containers" / shown(root.daemon, "it")["id"]
    assert json.loads((place / "grant.json").read_text())["pids"] == 9
    linux = json.loads((place / "config.json").read_text())["spec"]["linux"]
    assert linux["resources"] == {"memory": {"limit": 64 * M}, "pids": {"limit": 9}}


def test_what_cannot_be_written_down_is_undone(root: Caller) -> None:
    """As on a full disk: of the two files the second cannot be."""
    started(root, "it", "-m", "64m")
    place = root.daemon.state_dir / "containers" / shown(root.daemon, "it")["id"]
    before = bounds(root.daemon), (place / "config.json").read_bytes(), (place / "grant.json").read_bytes()
    (place / "grant.json.new").mkdir()
    assert update(root, "it", {"memory": 128 * M, "cpus": 0.5, "pidsLimit": 9}) == (429, "limit-reached")
    after = bounds(root.daemon), (place / "config.json").read_bytes(), (place / "grant.json").read_bytes()
    assert after == before
    (place / "grant.json.new").rmdir()
    assert update(root, "it", {"memory": 128 * M}) == (204, None)
