"""Copies from and to a container that does not run, when whoever has a part in them is killed, stops, or does not read: nothing is left of
them, and the container is there as before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dkrd.runtime import cgroups
from tests import host
from tests.reliability.support import (
    ask,
    assert_same,
    count,
    eventually,
    inits,
    kill_and_wait,
    listed,
    the_shim,
)
from tests.reliability.test_cgroup_v2 import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

NAMES = ("dkr-porter", "dkr-copy", "dkr-rest")  # in this order they are killed: who would tell of it, first


def processes(daemon: Daemon, comm: str) -> list[host.Process]:
    """The daemon's of this name."""
    return [process for process in daemon.processes() if process.comm == comm]


def nobody(daemon: Daemon) -> bool:
    """Whether nobody copies any more, and no container is held open."""
    left = [process for process in daemon.processes() if process.comm in NAMES]
    return not left and not os.listdir(daemon.run_dir / "copies")


@contextlib.contextmanager
def made(daemon: Daemon, *, again: bool = True) -> Iterator[str]:
    """A container that says what it finds in /srv/f."""
    done = daemon.dkrctl("create", "--name", "web", "/bin/sh", "-c", "cat /srv/f || echo none", check=True)
    yield done.stdout.strip()
    if again:
        done = daemon.dkrctl("start", "-a", "web", check=True)
        assert done.stdout == "none\n"
    daemon.dkrctl("rm", "web", check=True)


@contextlib.contextmanager
def stalled(daemon: Daemon) -> Iterator[subprocess.Popen[str]]:
    """A copy from standard input, which does not come, once it has begun."""
    read, write = os.pipe()
    before = len(processes(daemon, "dkr-copy"))
    try:
        with daemon.popen("cp", "-", "web:/srv", stdin=read, stderr=-1, text=True) as client:
            try:
                eventually(lambda: len(processes(daemon, "dkr-copy")) > before, "it has begun")
                yield client
            finally:
                client.kill()
    finally:
        os.close(read)
        os.close(write)


def said(client: subprocess.Popen[str]) -> str:
    """What the client says at its end, which is an error's."""
    _, err = client.communicate()
    assert client.returncode == 1, err
    return err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dkr-copy", "the process that copies was killed"),
        ("dkr-rest", "what held it open was killed"),
        ("dkr-porter", "lost the guardian"),
    ],
)
def test_one_of_its_processes_is_killed(daemon: Daemon, name: str, words: str) -> None:
    before = count(daemon)
    with made(daemon), stalled(daemon) as client:
        [process] = processes(daemon, name)
        client.send_signal(signal.SIGSTOP)  # it holds the pipe on which is waited
        kill_and_wait(process)
        eventually(lambda: nobody(daemon), "nothing is left of it")
        client.send_signal(signal.SIGCONT)
        assert words in said(client)
    assert_same(daemon, before)
    assert "Traceback" not in daemon.log


def test_a_guardian_that_is_killed_takes_the_copies_along(daemon: Daemon) -> None:
    """Of a container that runs: else they would have its files when it is started again."""
    before = count(daemon)
    daemon.dkrctl("run", "-d", "--name", "web", "/bin/sleep", "600", check=True)
    with stalled(daemon) as client:
        client.send_signal(signal.SIGSTOP)  # it holds the pipe on which is waited
        kill_and_wait(the_shim(daemon))
        eventually(lambda: not processes(daemon, "dkr-copy"), "nobody copies any more")
        client.send_signal(signal.SIGCONT)
        assert "lost the guardian" in said(client)
    done = daemon.dkrctl("cp", "web:/etc", "-")
    assert "its guardian was killed" in done.stderr
    for init in inits(daemon):
        host.kill(init)
    daemon.dkrctl("wait", "web", check=True)
    assert daemon.dkrctl("cp", "web:/etc/hostname", "-", check=True).stdout
    daemon.dkrctl("rm", "web", check=True)
    assert_same(daemon, before)


def test_who_starts_it_at_once_waits_for_what_a_killed_porter_leaves(daemon: Daemon) -> None:
    before = count(daemon)
    with made(daemon), stalled(daemon):
        [porter] = processes(daemon, "dkr-porter")
        host.kill(porter)
    assert_same(daemon, before)


@pytest.mark.parametrize("words", [("start", "-a", "web"), ("cp", "web:/etc/hostname", "-")])
def test_what_nobody_could_remove_goes_with_who_comes_next(daemon: Daemon, words: tuple[str, ...]) -> None:
    before = count(daemon)
    with made(daemon) as container:
        (daemon.run_dir / "copies" / container).mkdir()
        cgroup = cgroups.create(cgroups.read_layout(), daemon.cgroup, container, "u0")
        cgroup.close()
        with subprocess.Popen(["/bin/sleep", "600"]) as left:
            for path in cgroup.paths:
                Path(path, "cgroup.procs").write_text(str(left.pid))
            daemon.dkrctl(*words, check=True)
            assert left.wait() == -signal.SIGKILL
        eventually(lambda: nobody(daemon), "nothing is left of it")
    assert_same(daemon, before)


def test_a_client_that_is_killed(daemon: Daemon) -> None:
    before = count(daemon)
    with made(daemon), stalled(daemon) as client:
        client.kill()
        eventually(lambda: nobody(daemon), "nothing is left of it")
    assert_same(daemon, before)


def test_a_client_that_reads_nothing_holds_nobody_up(daemon: Daemon, open_tmp: Path) -> None:
    before = count(daemon)
    (open_tmp / "big").write_bytes(os.urandom(8 * 1024 * 1024))
    with made(daemon, again=False):
        daemon.dkrctl("cp", str(open_tmp / "big"), "web:/srv/f", check=True)
        eventually(lambda: nobody(daemon), "the copy before is over")
        read, write = os.pipe()
        with daemon.popen("cp", "web:/srv/f", "-", stdout=write, stderr=-1, text=True) as client:
            os.close(write)
            eventually(lambda: processes(daemon, "dkr-copy"), "it has begun")
            assert daemon.dkrctl("start", "web").returncode == 0
            assert daemon.dkrctl("wait", "web", check=True).stdout.strip() == "0"
            os.close(read)
            client.kill()
        eventually(lambda: nobody(daemon), "nothing is left of it")
    assert_same(daemon, before)


@pytest.mark.parametrize("name", ["dkr-porter", "dkr-copy"])
def test_one_that_is_stopped_holds_nobody_up_for_ever(daemon: Daemon, name: str) -> None:
    before = count(daemon)
    with made(daemon), stalled(daemon):
        [process] = processes(daemon, name)
        host.kill(process, signal.SIGSTOP)
    assert_same(daemon, before)


def test_the_api_is_killed(daemon: Daemon, open_tmp: Path) -> None:
    before = count(daemon)
    (open_tmp / "f").write_text("words\n")
    with made(daemon, again=False):
        with stalled(daemon) as client:
            api = daemon.child("dkr-api")
            kill_and_wait(api)
            eventually(lambda: listed(daemon, every=True), "there is another one")
            assert client.poll() is None, "a copy needs no api"
            daemon.dkrctl("cp", str(open_tmp / "f"), "web:/srv", check=True)
            assert len(processes(daemon, "dkr-porter")) == 1
        eventually(lambda: nobody(daemon), "nothing is left of it")
        assert daemon.dkrctl("start", "-a", "web", check=True).stdout == "words\n"
    assert_same(daemon, before)


@pytest.mark.parametrize("too", [(), ("dkr-porter",), NAMES])
def test_the_launcher_is_killed(make_daemon: MakeDaemon, too: tuple[str, ...]) -> None:
    """And with it, or not, others who have a part in it."""
    daemon = make_daemon()
    with made(daemon):
        with stalled(daemon) as client:
            others = [process for name in too for process in processes(daemon, name)]
            daemon.kill()
            for process in others:
                with contextlib.suppress(ProcessLookupError):
                    host.kill(process)
            err = said(client)
            assert "it is being started or removed, or the daemon ends" in err or "lost the guardian" in err
        daemon.start()
        eventually(lambda: nobody(daemon), "nothing is left of it")


def test_the_daemon_ends_in_order(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with made(daemon):
        with stalled(daemon) as client:
            assert daemon.stop() == 0
            assert nobody(daemon)
            assert "the daemon ends" in said(client)
        daemon.start()


def test_starts_removals_and_copies_all_at_once(daemon: Daemon, open_tmp: Path) -> None:
    """Each comes to its end or is refused by name; and no two had the files at once."""
    before = count(daemon)
    (open_tmp / "f").write_text("words\n")
    refused: list[str] = []
    with made(daemon, again=False):

        def do(*words: str, times: int = 6) -> None:
            for _ in range(times):
                done = daemon.dkrctl(*words)
                if done.returncode not in (0, 137):
                    refused.append(done.stderr)

        deeds = [
            threading.Thread(target=do, args=words)
            for words in (
                ("cp", str(open_tmp / "f"), "web:/srv/f"),
                ("cp", "web:/etc", str(open_tmp / "out")),
                ("start", "-a", "web"),
                ("rename", "web", "web"),
                ("update", "--memory", "64m", "web"),
            )
        ]
        for deed in deeds:
            deed.start()
        for deed in deeds:
            deed.join()
        eventually(lambda: nobody(daemon), "nothing is left of it")
        status, _ = ask(daemon, "GET", "/v1/containers/web")
        assert status == 200
        assert not [line for line in refused if "internal" in line or "it may still happen" in line], refused
    assert_same(daemon, before)
    assert "Traceback" not in daemon.log


def test_where_there_is_cgroup_v2_alone(prefix: Path) -> None:
    tree = Tree(prefix)
    daemon = tree.daemon

    def killed() -> None:
        host.kill(daemon.child("dkr-porter"))

    try:
        daemon.start()
        for end in (list, daemon.kill, killed):
            with made(daemon) as container:
                with stalled(daemon):
                    assert {f"u0/{container}/shim", f"u0/{container}/c"} <= tree.directories()
                    eventually(
                        lambda own=f"u0/{container}/c": (  # type: ignore[misc]
                            [tree.place(copy) for copy in processes(daemon, "dkr-copy")] == [own]
                        ),
                        "it has joined",
                    )
                    end()
                if daemon.process is not None and daemon.process.poll() is not None:
                    daemon.start()
                eventually(lambda: nobody(daemon), "nothing is left of it")
            eventually(lambda: not tree.groups(), "no cgroup is left")
    finally:
        tree.close()
