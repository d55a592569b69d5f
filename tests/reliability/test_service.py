"""dkrd as a service: the socket that the manager passes, what the manager is told, reload, end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    LOOK_SECONDS,
    Manager,
    RawClient,
    ask,
    eventually,
    inits,
    null_stdio,
    settle,
    start_raw,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


@pytest.fixture
def managed(make_daemon: MakeDaemon) -> Iterator[Manager]:
    """A daemon that is not running, and its service manager."""
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        yield manager
    finally:
        manager.close()


@contextlib.contextmanager
def _listener(daemon: Daemon) -> Iterator[socket.socket]:
    """The socket of a dkrd.socket unit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(daemon.socket))
        sock.listen(4096)
        try:
            yield sock
        finally:
            daemon.socket.unlink()


def test_the_socket_that_is_passed_is_used_and_stays(managed: Manager) -> None:
    daemon = managed.daemon
    with _listener(daemon) as listener:
        inode = daemon.socket.stat().st_ino
        managed.start(listener)
        assert daemon.run("/bin/echo", "here").stdout == "here\n"
        assert daemon.stop() == 0
        assert daemon.socket.stat().st_ino == inode


def test_clients_wait_from_before_the_start_to_after_a_restart(managed: Manager) -> None:
    """As with systemd: the socket is there first, and while dkrd is exchanged nobody is refused."""
    daemon = managed.daemon
    outputs: list[str] = []

    def one(word: str) -> None:
        outputs.append(daemon.run("/bin/echo", word).stdout)

    with _listener(daemon) as listener:
        early = threading.Thread(target=one, args=("early",))
        early.start()
        managed.start(listener)
        early.join(GUARD_SECONDS)
        assert daemon.stop() == 0
        between = threading.Thread(target=one, args=("between",))
        between.start()
        managed.start(listener)
        between.join(GUARD_SECONDS)
        daemon.stop()
    assert outputs == ["early\n", "between\n"]


def test_no_program_that_dkrd_executes_has_what_the_manager_passed(managed: Manager) -> None:
    daemon = managed.daemon
    with _listener(daemon) as listener:
        managed.start(listener)
        with waiting(daemon, "--rm") as run:
            for process in (daemon.child("dkr-api"), *inits(daemon)):
                data = Path(f"/proc/{process.pid}/environ").read_bytes()
                assert b"PATH=" in data
                assert b"LISTEN_" not in data
                assert b"NOTIFY_SOCKET" not in data
            assert run.end("x", 0) == 0
        daemon.stop()


@pytest.mark.parametrize("kind", ["datagram", "not listening", "two"])
def test_sockets_that_do_not_fit_are_refused(managed: Manager, kind: str) -> None:
    daemon = managed.daemon
    type_ = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, type_) as sock:
        sock.bind(str(daemon.directory / "wrong"))
        if kind == "two":
            sock.listen()
        with pytest.raises(AssertionError, match="was not said"):
            managed.start(sock, LISTEN_FDS="2" if kind == "two" else "1")
        assert daemon.process is not None
        assert daemon.process.wait(GUARD_SECONDS) == 1
    assert "cannot use systemd's socket" in daemon.log
    daemon.process = None


def test_the_manager_is_told_of_start_and_end(managed: Manager) -> None:
    daemon = managed.daemon
    managed.start()
    assert ask(daemon, "GET", "/v1/version")[0] == 200
    assert managed.heard[0] == "READY=1"
    assert daemon.stop() == 0
    managed.hear("STOPPING=1")
    assert "WATCHDOG=1" in managed.heard  # harmless where nobody watches, and said with READY
    assert managed.heard.count("READY=1") == 1


def test_the_watchdog_is_fed_while_the_api_answers(managed: Manager) -> None:
    managed.start(WATCHDOG_USEC="4000000")  # half of it has an api to answer, on a busy machine as well
    api = managed.daemon.child("dkr-api")
    for _ in range(3):
        managed.hear("WATCHDOG=1")
    assert managed.daemon.child("dkr-api") == api
    managed.daemon.stop()


def test_the_watchdog_of_another_process_is_not_ours(managed: Manager) -> None:
    managed.start(WATCHDOG_USEC="200000", WATCHDOG_PID=str(os.getpid()))
    api = managed.daemon.child("dkr-api")
    host.kill(api, signal.SIGSTOP)
    assert not host.wait_gone(api.pid, 0.5)
    host.kill(api, signal.SIGCONT)
    managed.daemon.stop()


def _rewrite(daemon: Daemon, old: str, new: str) -> None:
    path = daemon.directory / "dkrd.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_reload_takes_what_can_change_and_names_the_rest(make_daemon: MakeDaemon, tenant: host.User) -> None:
    daemon = make_daemon(limits={"containers_per_user": 1}, log_level="info")
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start()
        with waiting(daemon, "--rm", user=tenant) as run:
            refused = daemon.dkrctl("run", "--rm", "/bin/true", user=tenant)
            assert refused.returncode == 125
            assert "has 1 already" in refused.stderr
            _rewrite(daemon, "containers_per_user = 1", "containers_per_user = 2\nstart_seconds = 20")
            _rewrite(daemon, "[cgroup]\n", "[cgroup]\n# moved\n")
            _rewrite(daemon, f'parent = "{daemon.cgroup}"', 'parent = "elsewhere"')
            daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            manager.hear("READY=1")
            assert "RELOADING=1" in manager.heard
            assert any(said.startswith("MONOTONIC_USEC=") for said in manager.heard)
            daemon.run("/bin/true", user=tenant)
            assert run.end("same", 4) == 4
        assert "need a restart of dkrd" in daemon.log
        assert "cgroup_parent" in daemon.log
        assert host.cgroups("elsewhere") == []
        _rewrite(daemon, 'parent = "elsewhere"', f'parent = "{daemon.cgroup}"')
        daemon.stop()
    finally:
        manager.close()


def test_reload_of_a_broken_file_keeps_the_settings(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start()
        config = daemon.directory / "dkrd.toml"
        good = config.read_text()
        for broken in ("[", "nosuch = 1\n", None):
            if broken is None:
                config.unlink()
            else:
                config.write_text(good + broken)
            daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            manager.hear("READY=1")
            daemon.run("/bin/true")
        assert daemon.log.count("settings stay as they are") == 3
        config.write_text(good)
        daemon.stop()
    finally:
        manager.close()


def test_sigterm_while_runs_start_and_end(make_daemon: MakeDaemon) -> None:
    """Each client has a session or an error; what runs goes on, what came to be ends by itself."""
    daemon = make_daemon()
    ending = threading.Event()
    wrong: list[str] = []

    def work(stdio: tuple[int, int, int]) -> None:
        while not ending.is_set():
            try:
                with start_raw(daemon, stdio, args=["/bin/sh", "-c", "exit 3"], rm=True) as client:
                    frames = []
                    while frame := client.frame():
                        frames.append(frame)
                    if not frames or frames[-1].get("exit", {}).get("code") != 3:
                        wrong.append(str(frames))
            except (AssertionError, ConnectionError, FileNotFoundError):
                ending.wait(LOOK_SECONDS)  # no daemon, or it ended before there was a session

    with null_stdio() as stdio:
        workers = [threading.Thread(target=work, args=(stdio,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        try:
            for _ in range(2):
                begun = daemon.log.count(" ended id=")
                eventually(lambda begun=begun: daemon.log.count(" ended id=") > begun + 3, "runs end")  # type: ignore[misc]
                assert daemon.stop() == 0
                daemon.start()
        finally:
            ending.set()
            for worker in workers:
                worker.join(GUARD_SECONDS)
    assert wrong == []
    settle(daemon)


def test_sigint_ends_it_as_well(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(GUARD_SECONDS) == 0
    assert not daemon.socket.exists()


@pytest.mark.soak
def test_an_api_that_is_frozen_does_not_hold_up_the_end(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    api = daemon.child("dkr-api")
    host.kill(api, signal.SIGSTOP)
    assert daemon.stop() == 0
    assert host.wait_gone(api.pid, GUARD_SECONDS)


def test_a_stale_socket_is_replaced_one_in_use_is_not(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.kill()
    assert daemon.socket.is_socket()
    daemon.start()
    with RawClient(daemon):
        pass
    daemon.stop()
    with _listener(daemon):
        second = subprocess.run(
            [daemon.prefix / "sbin/dkrd", "--config", daemon.directory / "dkrd.toml"],
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )
        assert second.returncode == 1
        assert "another process listens there" in second.stderr
    daemon.start()
