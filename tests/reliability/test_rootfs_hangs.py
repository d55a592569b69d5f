"""A root on a filesystem whose server does not answer: the start ends with a word, nobody else is held up, nothing stays.

The server is a FUSE one (tests/fuse.py), mounted by root in the client's mount namespace. Tenants are refused before anything
is asked of it; an administrator may use one, and may be unlucky.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host, trees

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

SERVER = Path(trees.__file__).with_name("fuse.py")
START_SECONDS = 2
HOST = ("--userns", "host")  # FUSE maps no ids: only without a map an overlay can stand on it
LATE = "its filesystem did not answer in time"


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(limits={"start_seconds": START_SECONDS})


@pytest.fixture
def place(open_tmp: Path) -> Path:
    (open_tmp / "place").mkdir()
    return open_tmp / "place"


@contextmanager
def client(
    daemon: Daemon, place: Path, how: str, *options: str, user: host.User | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A client that asks for a container on such a filesystem; the server is ended after the block."""
    ready = place.parent / "ready"
    setup = f"/usr/bin/python3 -IS {SERVER} {place} {how} {ready}"
    with trees.start(daemon, *options, "--rootfs", str(place), "/x", user=user, setup=setup) as process:
        try:
            yield process
        finally:
            process.kill()
            server = int(ready.read_text())
            os.kill(server, signal.SIGKILL)
            assert host.wait_gone(server, 10)
            ready.unlink()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status, and what it complained of. The bound is a guard: ten times what is promised."""
    _, complaint = process.communicate(timeout=10 * START_SECONDS)
    return process.returncode, complaint


@pytest.mark.parametrize("how", ["alive", "silent", "deaf"])
def test_a_tenant_is_refused_before_it_is_asked(
    daemon: Daemon, place: Path, tenant: host.User, how: str
) -> None:
    with client(daemon, place, how, user=tenant) as process:
        status, complaint = end_of(process)
    assert status == 125
    assert (
        f"cannot use {place} as the root: it is on a filesystem of type fuse, which waits for a server"
        in complaint
    )
    assert "rule: rootfs-filesystem" in complaint
    assert "hint: copy the tree" in complaint


def test_one_that_answers_is_a_root_where_no_ids_are_mapped(daemon: Daemon, place: Path) -> None:
    with client(daemon, place, "alive") as process:
        status, complaint = end_of(process)
    assert (status, "its filesystem cannot map ids" in complaint) == (125, True)
    with client(daemon, place, "alive", *HOST) as process:
        status, complaint = end_of(process)
    assert (status, "cannot run '/x': no such file or directory" in complaint) == (127, True)


@pytest.mark.parametrize("how", ["silent", "deaf", "deaf-later"])
def test_one_that_does_not_answer_ends_the_start_and_holds_up_nobody(
    daemon: Daemon, place: Path, tenant: host.User, how: str
) -> None:
    begun = time.monotonic()
    with client(daemon, place, how, *HOST) as process:
        # While the start waits, and when it has ended, all else goes on.
        others = 0
        while process.poll() is None:
            assert daemon.run("/bin/echo", "other", user=tenant).stdout == "other\n"
            others += 1
        status, complaint = end_of(process)
        assert others > 1
        assert time.monotonic() - begun >= START_SECONDS
        assert status == 125
        assert complaint.startswith(f"dkrctl: cannot use {place} as the root: {LATE}\n  hint: ")
        assert daemon.run("/bin/echo", "other", user=tenant).stdout == "other\n"
        [line] = [line for line in daemon.log.splitlines() if "not started" in line]
        container = line.partition(" id=")[2].split()[0]
        for top in (daemon.run_dir, daemon.state_dir):
            assert not (top / "containers" / container).exists()
        assert [path for path in host.cgroups(daemon.cgroup) if container in path.parts] == []
        stuck = _stuck(daemon)
        assert bool(stuck) == how.startswith("deaf")  # as the kernel has it: they cannot be killed
        assert all(_holds_nothing(p.pid, process) for p in stuck)
        if how == "deaf":
            # It was found out before there was a container: whoever is stuck has nobody with it.
            assert [p.comm for p in stuck] == ["dkr-errand"]
    # With its server the filesystem is gone, and with it whoever waited. The daemon's own end looks for what is left.
    for process_ in daemon.processes():
        if process_.comm in ("dkr-errand", "dkr-shim", "dkr-init"):
            assert host.wait_gone(process_.pid, 10), process_


def _stuck(daemon: Daemon) -> list[host.Process]:
    """The daemon's processes that are in D for good: whoever waits for a disk is there for a moment as well."""
    found = list(daemon.processes())
    for _ in range(10):
        found = [process for process in found if _state(process.pid) == "D"]
        select.select([], [], [], 0.05)
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _holds_nothing(pid: int, client: subprocess.Popen[Any]) -> bool:
    """Whether a process has none of the pipes that the client gave the command."""
    pipes = {
        os.readlink(f"/proc/self/fd/{file.fileno()}")
        for file in (client.stdout, client.stderr)
        if file and not file.closed
    }
    return not pipes & set(host.descriptors(pid))


def test_a_dead_default_root_is_told_and_the_rest_is_served(
    make_daemon: MakeDaemon, place: Path, tenant: host.User
) -> None:
    """The daemon lives in a mount namespace of the test's, where the directory of its setting is dead."""
    ready = place.parent / "ready"
    place.chmod(0o755)
    daemon = make_daemon(limits={"start_seconds": START_SECONDS})
    daemon.stop()
    file = daemon.directory / "dkrd.toml"
    file.write_text(f'default_root = "{place}"\n' + file.read_text())
    lines = f'{sys.executable} -IS {SERVER} {place} silent {ready} && exec "$@"'
    daemon.wrapper = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", lines, "sh")
    daemon.start()
    try:
        for user in (None, tenant):
            done = daemon.dkrctl("run", "--rm", "/bin/echo", "ran", user=user)
            assert (done.returncode, done.stdout) == (125, "")
            assert f"cannot use {place} as the root: {LATE}" in done.stderr
            assert daemon.run("host", "/bin/echo", "x", user=user).stdout == "x\n"
        while (
            f'warning launcher: the default root cannot be used cause="cannot use {place}' not in daemon.log
        ):
            select.select([], [], [], 0.05)
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)
