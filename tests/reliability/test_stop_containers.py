"""The orderly end of all containers: `dkrd --stop-containers`, and what a guardian does when it gets SIGTERM."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.runtime import cgroups
from dkrd.shim import state
from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    Waiting,
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
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Says so when it is asked to end, takes its time, ends with 7.
POLITE = "trap 'echo bye; exit 7' TERM; echo up; while :; do read line || :; done"
STUBBORN = "trap '' TERM; echo up; while :; do read line || :; done"


def stop_containers(
    daemon: Daemon, user: host.User | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """What dkr-containers.service runs when it stops. `before`: a command that runs it."""
    options: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid}
    return subprocess.run(
        [
            *before,
            daemon.prefix / "sbin/dkrd",
            "--config",
            daemon.directory / "dkrd.toml",
            "--stop-containers",
        ],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
        **options,
    )


def start(daemon: Daemon, script: str, *options: str, user: host.User | None = None) -> Waiting:
    """A run of `script`, which has said that it is up. Its input stays open: nobody closes it."""
    client = daemon.popen(
        *("run", *options, "/bin/sh", "-c", script),
        user=user,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    run = Waiting(client)
    assert run.line() == "up\n"
    return run


def exit_of(daemon: Daemon, name: str) -> Any:
    """The exit in the index."""
    return ask(daemon, "GET", f"/v1/containers/{name}")[1]["exit"]


@pytest.mark.parametrize("serving", [True, False])
def test_every_container_gets_its_stop_signal_and_is_waited_for(
    make_daemon: MakeDaemon, tenant: host.User, *, serving: bool
) -> None:
    daemon = make_daemon()
    with ExitStack() as stack:
        polite = start(daemon, POLITE, "--name", "polite", user=tenant)
        stubborn = start(daemon, STUBBORN, "--name", "stubborn", "--stop-timeout", "0.5")
        plain = start(daemon, "echo up; exec sleep 1000", "--rm")
        for run in (polite, stubborn, plain):
            stack.enter_context(run.client)
        if not serving:
            daemon.stop()
        done = stop_containers(daemon)
        assert (done.returncode, done.stdout) == (0, "")
        assert "stopping containers containers=3" in done.stderr
        # All are over when it returns, and the clients were told.
        assert inits(daemon) == []
        assert polite.line() == "bye\n"
        assert [run.client.wait(GUARD_SECONDS) for run in (polite, stubborn, plain)] == [7, 137, 143]
    if not serving:
        daemon.start()
    eventually(lambda: not listed(daemon), "nothing runs")
    assert exit_of(daemon, "polite") == {"code": 7, "signal": None, "cause": "stopped"}
    assert exit_of(daemon, "stubborn") == {"code": None, "signal": 9, "cause": "stopped"}
    for name in ("polite", "stubborn"):
        assert ask(daemon, "DELETE", f"/v1/containers/{name}")[0] == 204
    settle(daemon)


def test_a_container_without_a_guardian_is_ended_too(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon) as run:
        kill_and_wait(the_shim(daemon))
        assert len(running(daemon)) == 1
        [init] = inits(daemon)
        done = stop_containers(daemon)
        assert done.returncode == 0, done.stderr
        assert "has lost its guardian" in done.stderr
        assert host.wait_gone(init.pid, GUARD_SECONDS)
        assert run.client.wait(GUARD_SECONDS) == 125
    eventually(lambda: not listed(daemon), "nothing runs")
    [left] = listed(daemon, every=True)
    assert ask(daemon, "DELETE", f"/v1/containers/{left['id']}")[0] == 204


def test_where_nothing_runs_it_ends_at_once(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    assert stop_containers(daemon).returncode == 0
    daemon.stop()
    assert stop_containers(daemon).returncode == 0
    (daemon.run_dir / "containers").rmdir()
    assert stop_containers(daemon).returncode == 0


def test_an_ordinary_user_is_refused(daemon: Daemon, tenant: host.User) -> None:
    with waiting(daemon, "--rm", user=tenant) as run:
        done = stop_containers(daemon, user=tenant)
        assert done.returncode == 1
        assert done.stderr.startswith("dkrd: cannot stop the containers: only root may\n  hint: ")
        assert run.end("x", 0) == 0
    settle(daemon)


def test_a_guardian_that_is_told_twice_stops_its_container_once(daemon: Daemon) -> None:
    run = start(daemon, POLITE, "--rm")
    with run.client:
        shim = the_shim(daemon)
        host.kill(shim, signal.SIGTERM)
        host.kill(shim, signal.SIGTERM)
        assert run.line() == "bye\n"
        assert run.client.wait(GUARD_SECONDS) == 7
        assert host.wait_gone(shim.pid, GUARD_SECONDS)
    settle(daemon)


@contextlib.contextmanager
def told_of(daemon: Daemon, number: int, **state: object) -> Iterator[str]:
    """A container of the daemon's, which must have ended, as its directory tells of it; the directory."""
    container = f"{number:064x}"
    directory = daemon.run_dir / "containers" / container
    directory.mkdir()
    (directory / "state.json").write_text(json.dumps({"id": container, "status": "running", **state}))
    try:
        yield container
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the test's, which only the test reaps."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def ended(make_daemon: MakeDaemon) -> Daemon:
    """A daemon that has ended in order."""
    daemon = make_daemon()
    daemon.stop()
    return daemon


def test_the_children_of_an_init_that_has_ended_are_killed(ended: Daemon) -> None:
    """Without a pid namespace of its own a container's processes do not end with its init."""
    cgroup = cgroups.create(cgroups.read_layout(), ended.cgroup, "orphan")
    cgroup.close()
    with sleeping() as gone:
        start_time = state.start_time(gone.pid)
    known = {"pid": gone.pid, "pidStartTime": start_time, "cgroup": cgroup.paths}
    try:
        with told_of(ended, 1, **known), sleeping() as child:
            for path in cgroup.paths:
                Path(path, "cgroup.procs").write_text(str(child.pid))
            assert stop_containers(ended).returncode == 0
            assert child.wait(GUARD_SECONDS) == -signal.SIGKILL
    finally:
        assert cgroups.remove(cgroup.paths) == ()
        cgroups.remove_parent(cgroups.read_layout(), ended.cgroup)


def test_an_orphan_that_nobody_collects_is_killed_once(ended: Daemon) -> None:
    with sleeping() as guardian, sleeping() as init:
        known = {
            "shimPid": guardian.pid,
            "shimStartTime": state.start_time(guardian.pid),
            "pid": init.pid,
            "pidStartTime": state.start_time(init.pid),
        }
        with told_of(ended, 1, **known):
            # The guardian dies of being told, and nobody reaps: for who asks by its number, init is still there.
            done = stop_containers(ended)
        assert done.returncode == 0
        assert done.stderr.count("has lost its guardian") == 1
        assert init.wait(GUARD_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("limit", ["1024:4096", "1024:1024"])
def test_more_containers_than_files_may_be_open(ended: Daemon, tmp_path: Path, limit: str) -> None:
    # Into a file: of what a pipe does not take at once the log drops some.
    into_file = ("/bin/sh", "-c", 'exec "$@" 2>"$0"', str(tmp_path / "said"))
    with ExitStack() as stack:
        guardian = stack.enter_context(sleeping())
        known = {"shimPid": guardian.pid, "shimStartTime": state.start_time(guardian.pid)}
        for number in range(1100):
            stack.enter_context(told_of(ended, number, **known))
        done = stop_containers(ended, before=(*into_file, "prlimit", f"--nofile={limit}"))
    assert done.returncode == 0
    assert (tmp_path / "said").read_text().count("stopped id=") == 1100


def test_where_there_is_no_descriptor_at_all_it_says_so(ended: Daemon) -> None:
    with sleeping() as guardian:
        known = {"shimPid": guardian.pid, "shimStartTime": state.start_time(guardian.pid)}
        with told_of(ended, 1, **known):
            # One more than stdio: enough to read a state, too few to be sure of a process.
            done = stop_containers(ended, before=("prlimit", "--nofile=4:4"))
        assert done.returncode == 1
        assert "dkrd: cannot stop the containers: Too many open files" in done.stderr
        assert guardian.poll() is None
