"""Where containers and guardians are on cgroup v2: the daemon sees a v2 tree alone, whatever the machine has besides.

What needs controllers is tested in tests/unit/test_cgroup_tree.py and tests/vm: the v2 tree of a hybrid machine has none of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.daemon import Daemon
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    eventually,
    inits,
    kill_and_wait,
    listed,
    settle,
    shims,
    the_shim,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

# Executes the words that follow where the v2 tree is the only cgroup filesystem.
V2_ALONE = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'umount --recursive /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"',
    "sh",
)


def v2_root() -> Path:
    """Where this machine has the v2 tree."""
    [line] = [line for line in host.mounts() if " - cgroup2 " in line]
    return Path(line.split()[4])


class Tree:
    """A daemon whose containers live in the v2 tree, and what is there of them."""

    def __init__(self, prefix: Path, **settings: Any) -> None:
        self.daemon = Daemon.create(prefix, **settings)
        self.daemon.wrapper = V2_ALONE
        self.top = v2_root() / self.daemon.cgroup

    def directories(self) -> set[str]:
        """Every cgroup below the daemon's, as a path from there."""
        # os.walk passes over what is removed meanwhile.
        return {os.path.relpath(path, self.top) for path, _, _ in os.walk(self.top)} - {"."}

    def groups(self) -> set[str]:
        """The users' directories."""
        return {name for name in self.directories() if "/" not in name}

    def place(self, process: host.Process) -> str:
        """The cgroup of a process, as a path from the daemon's."""
        [line] = [line for line in process.cgroups.splitlines() if line.startswith("0::")]
        return line.removeprefix("0::").removeprefix(f"/{self.daemon.cgroup}/")

    def close(self) -> None:
        """Ends the daemon; nothing may be left."""
        try:
            settle(self.daemon)
            eventually(lambda: not self.groups(), "no user's directory is left")
        finally:
            self.daemon.close()
            with contextlib.suppress(FileNotFoundError):
                self.top.rmdir()


@pytest.fixture
def tree(prefix: Path) -> Iterator[Tree]:
    made = Tree(prefix)
    try:
        made.daemon.start()
        yield made
    finally:
        made.close()


def test_guardian_and_container_are_in_leaves_of_their_own(tree: Tree, tenant: host.User) -> None:
    daemon = tree.daemon
    with waiting(daemon, "--rm", user=tenant) as run:
        shim = the_shim(daemon)
        [init] = inits(daemon)
        [state] = [json.loads(path.read_text()) for path in daemon.run_dir.glob("containers/*/state.json")]
        own = f"u{tenant.uid}/{state['id']}"
        assert tree.place(shim) == f"{own}/shim"
        assert tree.place(init) == f"{own}/c"
        assert tree.directories() == {f"u{tenant.uid}", own, f"{own}/shim", f"{own}/c"}
        assert state["cgroup"] == [f"/sys/fs/cgroup/{daemon.cgroup}/{own}/c"]
        # Neither launcher nor api is in there: a service manager can start them again in the cgroup that it gave them.
        for pid in (daemon.pid, daemon.child("dkr-api").pid):
            assert daemon.cgroup not in Path(f"/proc/{pid}/cgroup").read_text()
        for inner in ("", f"u{tenant.uid}", own):
            assert (tree.top / inner / "cgroup.procs").read_text() == ""
        assert run.end("x", 0) == 0
    settle(daemon)
    eventually(lambda: not tree.directories(), "nothing is left")


def test_what_is_executed_is_where_the_container_is(tree: Tree, tenant: host.User, tmp_path: Path) -> None:
    """Born there; also while a thread of its guardian's closes a file, beside which it cannot be."""
    daemon = tree.daemon
    words = tmp_path / "words"
    words.write_text("words\n")
    with waiting(daemon, "--rm", "--name", "web", user=tenant) as run:
        [init] = inits(daemon)
        for _ in range(5):
            with words.open() as given:
                line = "cat; cat /proc/self/cgroup; sleep 0.1"
                done = daemon.dkrctl("exec", "web", "/bin/sh", "-c", line, user=tenant, stdin=given)
            assert done.stdout.startswith("words\n")
            assert "0::/\n" in done.stdout
        client = daemon.popen("exec", "web", "/bin/cat", user=tenant, stdin=subprocess.PIPE)
        with client:
            eventually(lambda: [p for p in daemon.processes() if p.comm == "cat"], "it runs")
            [cat] = [process for process in daemon.processes() if process.comm == "cat"]
            assert tree.place(cat) == tree.place(init)
            assert client.stdin is not None
            client.stdin.close()
        assert run.end("x", 0) == 0
    settle(daemon)
    eventually(lambda: not tree.directories(), "nothing is left")


def test_what_the_container_sees_is_its_own_top(tree: Tree) -> None:
    assert "0::/\n" in tree.daemon.run("/bin/cat", "/proc/self/cgroup").stdout


LIMITS = {"memory": ("-m", "64m"), "cpu": ("--cpus", "0.5"), "pids": ("--pids-limit", "20")}


@pytest.mark.parametrize("controller", LIMITS)
def test_a_limit_is_held_or_refused_by_name(tree: Tree, tenant: host.User, controller: str) -> None:
    """By what this machine's v2 tree has: on a hybrid one none of them."""
    daemon = tree.daemon
    there = controller in (v2_root() / "cgroup.controllers").read_text().split()
    for options in ((), ("--dry-run",)):
        done = daemon.dkrctl("run", "--rm", *options, *LIMITS[controller], "/bin/true", user=tenant)
        assert done.returncode == (0 if there else 125)
        assert (f"containers have no cgroup controller {controller} on this host" in done.stderr) != there
        assert ("Delegate=yes" in done.stderr) != there
    assert ask(daemon, "GET", "/v1/info")[1]["host"]["controllers"].count(controller) == there
    settle(daemon)
    eventually(lambda: not tree.directories(), "nothing is left")


def test_the_default_bound_is_no_condition(tree: Tree, tenant: host.User) -> None:
    there = "pids" in (v2_root() / "cgroup.controllers").read_text().split()
    done = tree.daemon.run("--explain", "--format", "json", "/bin/true", user=tenant)
    [call] = [step["call"] for step in json.loads(done.stderr)["steps"] if step["name"] == "limits"]
    assert call.startswith('write("/sys/fs/cgroup/')
    assert call.endswith('/c/pids.max", "4096")' if there else '/c/pids.max", "4096") = -1 ENOENT')
    plan = json.loads(tree.daemon.run("--dry-run", "--format", "json", "/bin/true", user=tenant).stdout)
    assert any("pids.max" in call for call in plan["cgroup"]) == there


def test_a_users_directory_stays_until_the_last_container_has_gone(tree: Tree, tenant: host.User) -> None:
    daemon = tree.daemon
    group = f"u{tenant.uid}"
    with waiting(daemon, "--rm", user=tenant) as first, waiting(daemon, "--rm", user=tenant) as second:
        daemon.run("/bin/true")
        assert first.end("x", 0) == 0
        eventually(lambda: tree.groups() == {group}, "root's directory is gone, the tenant's is not")
        eventually(lambda: len(shims(daemon)) == 1, "the first guardian ends")
        assert group in tree.groups()
        assert second.end("x", 0) == 0
    eventually(lambda: not tree.groups(), "the tenant's directory is gone")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_container_outlives_the_daemon_in_its_place(tree: Tree, end: str) -> None:
    daemon = tree.daemon
    with waiting(daemon, "--rm") as run:
        [before] = [tree.place(process) for process in inits(daemon)]
        daemon.stop() if end == "stop" else daemon.kill()
        daemon.start()
        assert [tree.place(process) for process in inits(daemon)] == [before]
        daemon.run("/bin/true")
        assert run.end("x", 4) == 4


def test_what_ended_without_a_daemon_is_swept_up(tree: Tree) -> None:
    daemon = tree.daemon
    with waiting(daemon, "--rm") as run, waiting(daemon, "--rm") as other:
        shim, _ = shims(daemon)
        daemon.kill()
        assert {run.end("x", 0), other.end("x", 0)} == {0}
        for guardian in shims(daemon):
            assert host.wait_gone(guardian.pid, GUARD_SECONDS)
        assert tree.directories()  # a guardian cannot remove the cgroup that it is in
    assert host.wait_gone(shim.pid, GUARD_SECONDS)
    daemon.start()
    eventually(lambda: not tree.directories(), "the next daemon removes it")


def test_a_dead_guardians_container_runs_on_and_is_collected(tree: Tree) -> None:
    daemon = tree.daemon
    with waiting(daemon) as run:
        kill_and_wait(the_shim(daemon))
        run.say("on 3")
        assert run.line() == "got on\n"
    settle_kept(daemon)
    eventually(lambda: not tree.directories(), "nothing is left in the tree")


def settle_kept(daemon: Daemon) -> None:
    """Waits for the end of all that runs, then removes what is kept."""
    eventually(lambda: not listed(daemon), "nothing runs")
    for container in listed(daemon, every=True):
        # 404: one that is not kept was still being cleaned up when it was listed.
        assert ask(daemon, "DELETE", f"/v1/containers/{container['id']}")[0] in (204, 404)


@pytest.mark.parametrize("kept", [False, True])
def test_a_guardian_that_dies_while_it_builds_leaves_nothing(tree: Tree, kept: bool) -> None:
    daemon = tree.daemon
    options = () if kept else ("--rm",)
    for _ in range(10):
        client = daemon.popen("run", *options, "/bin/true", stderr=subprocess.DEVNULL)
        eventually(lambda client=client: shims(daemon) or client.poll() is not None, "a guardian is there")  # type: ignore[misc]
        for shim in shims(daemon):
            host.kill(shim)
        client.wait(GUARD_SECONDS)
    settle_kept(daemon)


def test_two_daemons_below_one_parent_do_not_take_each_others_directories_away(
    prefix: Path, tenant: host.User
) -> None:
    """The last container's end of one removes the user's directory while the other is about to make a container in it."""
    top = v2_root() / f"dkr-test-shared-{os.getpid()}"
    top.mkdir()
    trees = [Tree(prefix, cgroup={"parent": f"/{top.name}"}) for _ in range(2)]
    wrong: list[str] = []

    def work(daemon: Daemon) -> None:
        for _ in range(25):
            done = daemon.run("/bin/true", user=tenant, check=False)
            if done.returncode:
                wrong.append(done.stderr)

    try:
        for tree in trees:
            tree.daemon.start()
        workers = [threading.Thread(target=work, args=(tree.daemon,)) for tree in trees for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []
    finally:
        # A guardian cannot remove the cgroup that it is in, and ends behind its client's exit: the launcher must see it.
        for tree in trees:
            settle(tree.daemon)
        for tree in trees:
            tree.daemon.stop()
        for tree in trees:
            tree.daemon.close()
        with contextlib.suppress(FileNotFoundError):
            top.rmdir()


@pytest.fixture
def delegated(prefix: Path) -> Iterator[Tree]:
    """A daemon whose parent somebody else makes; it is not there yet."""
    made = Tree(prefix)
    path = made.daemon.directory / "dkrd.toml"
    name = made.daemon.cgroup
    path.write_text(path.read_text().replace(f'parent = "{name}"', f'parent = "/{name}"'))
    try:
        made.daemon.start()
        yield made
    finally:
        made.close()


def test_a_parent_that_is_missing_is_named_and_used_as_soon_as_it_is_there(delegated: Tree) -> None:
    daemon = delegated.daemon
    assert "there is no cgroup for containers" in daemon.log
    refused = daemon.dkrctl("run", "--rm", "/bin/true")
    assert refused.returncode == 125
    assert f"/sys/fs/cgroup/{daemon.cgroup} does not exist" in refused.stderr
    assert "dkr-containers.service" in refused.stderr
    delegated.top.mkdir()
    daemon.run("/bin/true")


def test_the_process_that_holds_the_parent_is_put_into_a_leaf(delegated: Tree) -> None:
    """A service's main process is started in the unit's own cgroup, where none may be once controllers are passed on."""
    daemon = delegated.daemon
    delegated.top.mkdir()
    with subprocess.Popen(["sleep", "infinity"]) as holder:
        try:
            (delegated.top / "cgroup.procs").write_text(str(holder.pid))
            daemon.restart()
            assert (delegated.top / "holder/cgroup.procs").read_text() == f"{holder.pid}\n"
            daemon.run("/bin/true")
            daemon.stop()
            # It is not ours to remove, nor is who is in it ours to end.
            assert holder.poll() is None
            assert delegated.top.is_dir()
            daemon.start()
        finally:
            holder.kill()
            holder.wait()
            (delegated.top / "holder").rmdir()
