"""What bounds a container: seen in its cgroup, and felt inside. On cgroup v1, v2 and the hybrid of both alike."""

from __future__ import annotations

import errno
import json
import select
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client
from dkrd.runtime import cgroups
from tests import host
from tests.integration.conftest import Caller, request
from tests.reliability.support import ask, running
from tests.security.callers import as_user

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

LAYOUT = cgroups.read_layout()
V2 = LAYOUT.kind == "v2"
MEMORY, SWAP = (
    ("memory.max", "memory.swap.max") if V2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
)
PYTHON = ("/usr/bin/python3", "-Sc")
# Takes 256 MiB and not a byte more, should nothing bound it.
HOG = "b = [bytearray(1 << 20) for _ in range(256)]; print('all')"
# Forks 60 children that live until their parent ends, and says how many came to be, and what was said of the next.
FORKS = """
import os, signal, sys
read, write = os.pipe()
made, why = 0, 0
try:
    while made < 60:
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        made += 1
except OSError as err:
    why = err.errno
print(made, why, flush=True)
sys.stdin.read()
"""


def cgroup_of(daemon: Daemon) -> dict[str, str]:
    """Every file of the one running container's cgroup that bounds something, by name."""
    [path] = daemon.run_dir.glob("containers/*/state.json")
    found = {}
    for directory in json.loads(path.read_text())["cgroup"]:
        for file in Path(directory).iterdir():
            if file.name.startswith(("memory.", "cpu.", "pids.")):
                try:
                    found[file.name] = file.read_text().strip()
                except OSError:
                    continue  # one that is only written
    return found


class Held:
    """A container that runs as long as the block."""

    def __init__(
        self, caller: Caller, *options: str, script: str = "print(flush=True); __import__('sys').stdin.read()"
    ) -> None:
        self.client = caller.start(*options, *PYTHON, script, text=True)
        assert self.client.stdout is not None
        self.line = self.client.stdout.readline().split()
        self.daemon = caller.daemon

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *why: object) -> None:
        self.client.communicate()
        while list(self.daemon.run_dir.glob("containers/*")):
            select.select([], [], [], 0.01)


@pytest.fixture
def quiet(daemon: Daemon) -> Daemon:
    """The daemon, once what went before is cleaned up."""
    while list(daemon.run_dir.glob("containers/*")):
        select.select([], [], [], 0.01)
    return daemon


@pytest.fixture
def only(quiet: Daemon, caller: Caller) -> Caller:
    """Root, then a tenant, with no container beside theirs."""
    assert caller.daemon is quiet
    return caller


def plain(daemon: Daemon, body: dict[str, Any], user: host.User | None = None) -> tuple[int, Any]:
    """POST /v1/run as one plain request."""

    def post() -> tuple[int, Any]:
        status, answer = ask(daemon, "POST", "/v1/run", body)
        return status, answer

    return post() if user is None else as_user(user, post)


# In the cgroup


def test_each_limit_is_in_the_containers_cgroup(only: Caller) -> None:
    with Held(only, "-m", "64m", "--cpus", "0.5", "--pids-limit", "20"):
        there = cgroup_of(only.daemon)
    assert there[MEMORY] == str(64 * 2**20)
    assert there[SWAP] == str((64 if V2 else 128) * 2**20)  # as Docker: as much again
    assert there["pids.max"] == "20"
    if V2:
        assert (there["cpu.max"], there["memory.oom.group"]) == ("50000 100000", "1")
    else:
        assert (there["cpu.cfs_quota_us"], there["cpu.cfs_period_us"]) == ("50000", "100000")


@pytest.mark.parametrize(("both", "v1", "v2"), [("64m", 64, 0), ("96m", 96, 32)])
def test_swap(only: Caller, both: str, v1: int, v2: int) -> None:
    with Held(only, "--memory", "64m", "--memory-swap", both):
        assert cgroup_of(only.daemon)[SWAP] == str((v2 if V2 else v1) * 2**20)


def test_swap_without_bound(only: Caller) -> None:
    with Held(only):
        without = cgroup_of(only.daemon)[SWAP]
    with Held(only, "--memory", "64m", "--memory-swap", "-1"):
        assert cgroup_of(only.daemon)[SWAP] == without


def test_without_options_nothing_is_bounded_but_a_tenants_processes(only: Caller) -> None:
    with Held(only):
        there = cgroup_of(only.daemon)
    assert there["pids.max"] == ("max" if only.user is None else "4096")
    if V2:
        assert (there["memory.max"], there["cpu.max"]) == ("max", "max 100000")
    else:
        assert int(there[MEMORY]) > 2**60
        assert there["cpu.cfs_quota_us"] == "-1"


def test_they_hold_from_the_command_on_not_for_the_guardian(only: Caller) -> None:
    with Held(only, "-m", "64m", "--pids-limit", "3"):
        running(only.daemon)  # its pid is written down when its command runs already
        [path] = only.daemon.run_dir.glob("containers/*/state.json")
        state = json.loads(path.read_text())
        for directory in state["cgroup"]:
            assert (Path(directory) / "cgroup.procs").read_text().split() == [str(state["pid"])]


# Memory


def test_who_takes_more_is_ended_by_the_kernel_and_it_is_told(only: Caller) -> None:
    done = only.run("-m", "32m", *PYTHON, HOG)
    assert (done.returncode, done.stdout) == (137, "")
    assert "the command ran out of memory: the kernel ended it" in done.stderr
    assert only.run("-m", "512m", *PYTHON, HOG).stdout == "all\n"
    exit_ = {"code": None, "signal": 9, "cause": "oom"}
    status, answer = plain(only.daemon, {"args": [*PYTHON, HOG], "memory": 32 * 2**20}, only.user)
    assert (status, answer["exit"]) == (200, exit_)


def test_a_kept_one_tells_it_later(quiet: Daemon) -> None:
    caller = Caller(quiet, None)
    try:
        quiet.dkrctl("run", "--name", "starved", "-m", "32m", *PYTHON, HOG)
        assert caller.ended("starved")["exit"] == {"code": None, "signal": 9, "cause": "oom"}
    finally:
        request(quiet, "DELETE", "/v1/containers/starved")


# A shell that stays beside its child, and says how that ended.
FAMILY = ("/bin/sh", "-c", f'/usr/bin/python3 -Sc "{HOG}"; echo $?; exit 3')


def test_a_child_that_is_killed_is_not_the_end(quiet: Daemon) -> None:
    """On v2 all or none of a container's processes are killed."""
    status, answer = plain(quiet, {"args": [*FAMILY], "memory": 32 * 2**20})
    assert status == 200
    if V2:
        assert answer["exit"] == {"code": None, "signal": 9, "cause": "oom"}
    else:
        assert answer["exit"] == {"code": 3, "signal": None, "cause": "exited"}
        assert answer["stdout"] == "137\n"


def test_with_init_it_is_the_command_that_counts(quiet: Daemon) -> None:
    status, answer = plain(quiet, {"args": [*PYTHON, HOG], "memory": 32 * 2**20, "init": True})
    assert status == 200
    assert answer["exit"]["cause"] == "oom"
    assert (answer["exit"]["code"], answer["exit"]["signal"]) == ((None, 9) if V2 else (137, None))


@pytest.mark.skipif(V2, reason="on v2 no container goes on without one of its processes")
def test_a_signal_of_ours_is_not_taken_for_the_kernels(quiet: Daemon) -> None:
    script = FAMILY[2].replace("exit 3", "exec sleep 600")
    with Caller(quiet, None).popen(
        "--name", "two", "-m", "32m", "/bin/sh", "-c", script, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "137\n"
        assert ask(quiet, "POST", "/v1/containers/two/kill", {"signal": "KILL"})[0] == 204
        _, said = client.communicate()
    assert client.returncode == 137
    assert "out of memory" not in said


def test_killed_by_hand_within_its_memory(quiet: Daemon) -> None:
    with Caller(quiet, None).popen("-m", "32m", "/bin/sleep", "600", text=True) as client:
        host.kill(Caller(quiet, None).command("sleep"))
        _, said = client.communicate()
    assert (client.returncode, said) == (137, "")


def test_the_least_memory_does_for_a_start(only: Caller) -> None:
    for _ in range(5):
        assert only.output("-m", "6m", "/bin/echo", "here") == "here\n"


# Processors


def test_a_command_is_held_back(only: Caller) -> None:
    """By the kernel's own count: how long anything took says nothing on a busy machine."""
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\n__import__('sys').stdin.read()"
    with Held(only, "--cpus", "0.1", script=busy):
        stat = dict(line.split() for line in cgroup_of(only.daemon)["cpu.stat"].splitlines())
    assert int(stat["nr_throttled"]) >= 5
    with Held(only, script=busy):
        stat = dict(line.split() for line in cgroup_of(only.daemon)["cpu.stat"].splitlines())
    assert int(stat["nr_throttled"]) == 0


# Processes


def test_no_process_beyond_the_limit(only: Caller) -> None:
    with Held(only, "--pids-limit", "10", script=FORKS) as run:
        assert run.line == ["9", str(errno.EAGAIN)]
        assert cgroup_of(only.daemon)["pids.current"] == "10"


def test_threads_count(only: Caller) -> None:
    threads = (
        "import threading as t\ne = t.Event()\nn = 0\ntry:\n while n < 60: t.Thread(target=e.wait).start(); n += 1\n"
        "except RuntimeError: pass\nprint(n, flush=True)\n__import__('sys').stdin.read()\ne.set()"
    )
    with Held(only, "--pids-limit", "10", script=threads) as run:
        assert run.line == ["9"]


def test_a_start_that_needs_more_processes_tells_it(only: Caller) -> None:
    done = only.run("--init", "--pids-limit", "1", "/bin/true")
    assert done.returncode == 125
    assert "with --init at least 2" in done.stderr
    assert only.run("--init", "--pids-limit", "2", "/bin/true").returncode == 0


def test_a_tenant_who_forks_without_end_harms_nobody(
    make_daemon: MakeDaemon, tenant: host.User, other_tenant: host.User
) -> None:
    daemon = make_daemon(limits={"pids_per_container": 30})
    with Held(Caller(daemon, tenant), script=FORKS) as run:
        assert run.line == ["29", str(errno.EAGAIN)]
        assert Caller(daemon, other_tenant).output("/bin/echo", "fine") == "fine\n"
        assert Caller(daemon, tenant).output("/bin/echo", "fine") == "fine\n"  # one for each container


def test_only_admins_may_have_more(make_daemon: MakeDaemon, tenant: host.User, admin: host.User) -> None:
    daemon = make_daemon(limits={"pids_per_container": 30})
    for more in ("31", "-1"):
        done = Caller(daemon, tenant).run("--pids-limit", more, "/bin/true")
        assert done.returncode == 125
        assert "at most 30 are possible" in done.stderr
        assert "rule: pids-limit" in done.stderr
    for caller, option, found in (
        (Caller(daemon, tenant), "--pids-limit=29", "29"),
        (Caller(daemon, admin), "--pids-limit=31", "31"),
        (Caller(daemon, admin), "--pids-limit=-1", "max"),
        (Caller(daemon, admin), "--init", "max"),
        (Caller(daemon, None), "--init", "max"),
    ):
        with Held(caller, option):
            assert cgroup_of(daemon)["pids.max"] == found


def test_over_plain_http_everybody_is_a_tenant(make_daemon: MakeDaemon) -> None:
    count = {"args": [*PYTHON, FORKS]}
    daemon = make_daemon(limits={"pids_per_container": 30})
    assert plain(daemon, count)[1]["stdout"] == f"29 {errno.EAGAIN}\n"
    status, problem = plain(daemon, {**count, "pidsLimit": -1})
    assert (status, problem["rule"]) == (403, "http")
    lifting = make_daemon(http_lifts=True, limits={"pids_per_container": 30})
    assert plain(lifting, {**count, "pidsLimit": 50})[1]["stdout"] == f"49 {errno.EAGAIN}\n"
    assert plain(lifting, count)[1]["stdout"] == "60 0\n"


# What lies above


def test_no_limit_reaches_beyond_those_above(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    root = Caller(daemon, None)
    with Held(root):  # while one is there, so are the cgroups above
        [path] = daemon.run_dir.glob("containers/*/state.json")
        paths = json.loads(path.read_text())["cgroup"]
        place = next(p for p in map(Path, paths) if (p / "pids.max").exists())
        above = place.parent.parent if V2 else place.parent
        (above / "pids.max").write_text("12")
        for more in ("50", "-1"):
            done = root.run("--pids-limit", more, *PYTHON, FORKS, stdin=subprocess.DEVNULL)
            made, why = map(int, done.stdout.split())
            assert (why, 5 < made < 12) == (errno.EAGAIN, True)
        (above / "pids.max").write_text("max")
        if not V2:  # whose files could not be written above a container before it is there
            cpu = Path(dict(LAYOUT.controllers)["cpu"]) / daemon.cgroup
            (cpu / "cpu.cfs_quota_us").write_text("50000")
            done = root.run("--cpus", "2", "/bin/true")
            assert done.returncode == 125
            assert "cannot limit processor time" in done.stderr
            assert "cannot be more than the cgroup above has" in done.stderr
            assert root.run("--cpus", "0.5", "/bin/true").returncode == 0


# Made now, started later


def test_a_created_container_is_bounded_at_each_start(
    make_daemon: MakeDaemon, tenant: host.User, admin: host.User
) -> None:
    daemon = make_daemon(limits={"pids_per_container": 30})
    body = {"args": [*PYTHON, FORKS], "name": "later", "openStdin": True, "memory": 2**26}
    status, _ = as_user(tenant, lambda: ask(daemon, "POST", "/v1/containers", body))
    assert status == 201
    for starter in (tenant, admin):  # the second has no bound of their own
        assert as_user(starter, lambda: ask(daemon, "POST", "/v1/containers/later/start"))[0] == 204
        there = cgroup_of(daemon)
        assert (there["pids.max"], there[MEMORY]) == ("30", str(2**26))
        assert ask(daemon, "POST", "/v1/containers/later/kill", {"signal": "KILL"})[0] == 204
        ask(daemon, "POST", "/v1/containers/later/wait")
        while list(daemon.run_dir.glob("containers/*")):
            select.select([], [], [], 0.01)
    assert ask(daemon, "DELETE", "/v1/containers/later")[0] == 204


def test_an_admins_own_stays_without_bound(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits={"pids_per_container": 30}, http_lifts=True)
    body = {"args": ["/bin/sleep", "600"], "name": "later"}
    assert ask(daemon, "POST", "/v1/containers", body)[0] == 201
    assert ask(daemon, "POST", "/v1/containers/later/start")[0] == 204
    assert cgroup_of(daemon)["pids.max"] == "max"
    assert ask(daemon, "DELETE", "/v1/containers/later?force=true")[0] == 204


# Told


def test_what_is_written_is_told_and_nothing_else(quiet: Daemon, tenant: host.User) -> None:
    options = ("-m", "64m", "--cpus", "1.5", "--pids-limit", "20")
    for user, words, count in (
        (None, (), 0),
        (tenant, (), 1),
        (None, options, 5),
        (tenant, options, 5),
    ):
        caller = Caller(quiet, user)
        told = caller.run("--explain", "--format", "json", *words, "/bin/true")
        steps = {step["name"]: step["call"] for step in json.loads(told.stderr)["steps"]}
        calls = steps.get("limits", "").split("; ") if count else []
        assert ("limits" in steps) == (count > 0)
        assert len(calls) == count
        plan = json.loads(caller.output("--dry-run", "--format", "json", *words, "/bin/true"))
        planned = [call for call in plan["cgroup"] if call.startswith("write(") and "/tasks" not in call]
        assert [call.rpartition("/")[2] for call in planned] == [call.rpartition("/")[2] for call in calls]
        assert all("ENOENT" not in call for call in calls)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("-m", "5m"), "memory"),
        (("-m", "2000000g"), "memory"),
        (("--cpus", "0.001"), "cpus"),
        (("--cpus", "9999"), "cpus"),
    ],
)
def test_bounds_of_the_limits_themselves(only: Caller, words: tuple[str, ...], path: str) -> None:
    done = only.run(*words, "/bin/true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"dkrctl: cannot take --{path} {words[1]}: ")
    assert only.run("--dry-run", *words, "/bin/true").returncode == 125


async def test_from_python(daemon: Daemon) -> None:
    async with Client(str(daemon.socket)) as dkr:
        done = await dkr.run_plain(*PYTHON, HOG, memory=2**25, swap=0, cpus=1.5, pids_limit=5)
        assert (done.exit.signal, done.exit.cause) == (9, "oom")
        info = await dkr.info()
        assert set(info.host.controllers) == {"cpu", "memory", "pids"}
        assert info.limits.pids_per_container is None


def test_nothing_is_left_of_those_that_ran_into_a_limit(make_daemon: MakeDaemon, tenant: host.User) -> None:
    daemon = make_daemon()
    caller = Caller(daemon, tenant)
    with Held(Caller(daemon, None)):
        before = len(host.cgroups(daemon.cgroup))
        for _ in range(3):
            assert caller.run("-m", "32m", *PYTHON, HOG).returncode == 137
            assert caller.run("--pids-limit", "4", *PYTHON, FORKS, stdin=subprocess.DEVNULL).returncode == 0
            assert caller.run("--init", "--pids-limit", "1", "/bin/true").returncode == 125
        while len(list(daemon.run_dir.glob("containers/*"))) > 1:
            select.select([], [], [], 0.01)
        assert len(list((daemon.state_dir / "containers").iterdir())) == 1
        assert len(host.cgroups(daemon.cgroup)) == before
