"""The real launcher, with a stand-in api and a stand-in shim around it: supervision, evidence, budgets, adoption."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.unit.launcher_process import DEADLINE, Daemon, as_user, gone, launcher, reaped

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the launcher runs as root")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with launcher() as made:
        yield made


def test_api_runs_without_rights(daemon: Daemon) -> None:
    daemon.start(environ={"SECRET": "x"})
    who = daemon.ask(do="who")
    assert who["uids"] == ["65534"] * 4
    assert who["groups"] == []
    assert [int(mask, 16) for mask in who["caps"]] == [0] * 5
    assert who["nnp"] == "1"
    assert who["fds"] == [0, 1, 2, 3, 4]
    known = {"PATH", "LANG", "HOME", "LC_CTYPE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    assert set(who["environ"]) <= known
    assert who["cwd"] == "/"
    assert who["parentSession"] is False


def test_hello_tells_the_settings_and_the_host(daemon: Daemon) -> None:
    daemon.start()
    hello = daemon.told("hello")[0]
    assert hello["version"] == 2
    assert hello["host"]["cgroups"] in ("v1", "v2", "hybrid")
    assert hello["host"]["features"]["seccomp"] is True
    assert "host" not in hello["host"]["missingRoots"]
    assert hello["settings"]["stateDir"] == str(daemon.state)
    assert hello["containers"] == []


def test_directories_and_socket_have_their_modes(daemon: Daemon) -> None:
    daemon.start()
    modes = {
        "state": 0o711,
        "state/layers": 0o700,
        "state/containers": 0o700,
        "state/seccomp": 0o755,
        "state/api": 0o700,
        "ids": 0o700,
        "run": 0o755,
        "run/containers": 0o700,
        "run/dkr.sock": 0o666,
    }
    assert {name: (daemon.place / name).stat().st_mode & 0o7777 for name in modes} == modes
    assert (daemon.state / "api").stat().st_uid == 65534


def test_killed_api_comes_back_and_no_connection_is_refused(daemon: Daemon) -> None:
    daemon.start()
    pids = [daemon.ask(do="pid")["pid"]]
    refused: list[OSError] = []
    done = threading.Event()

    def connect_always() -> None:
        while not done.is_set():
            try:
                daemon.connect().close()
            except OSError as err:
                refused.append(err)

    # The connections of this thread carry no command; the stand-in api dies of the first, which is more deaths.
    for _ in range(3):
        os.kill(pids[-1], signal.SIGKILL)
        gone(pids[-1])
        daemon.connect().close()
        answer: dict[str, Any] = {}
        while not answer:
            with contextlib.suppress(ConnectionError):
                answer = daemon.ask(do="pid")
        pids.append(answer["pid"])
        daemon.notified("READY=1")  # else it would be taken for the last one's
    thread = threading.Thread(target=connect_always)
    thread.start()
    os.kill(pids[-1], signal.SIGKILL)
    daemon.notified("READY=1")
    done.set()
    thread.join()
    assert refused == []
    assert len(set(pids)) == 4
    assert daemon.process is not None
    assert daemon.process.poll() is None


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        ("not json", 0),
        ("[]", 0),
        ('{"type": "nonsense"}', 0),
        ('{"type": "pong", "more": 1}', 0),
        ('{"type": "pong"}', 1),
        ('{"type": "start", "seq": 1}\n{}', 0),
        ('{"type": "start", "seq": 1}\n{}', 3),
        ('{"type": "start", "seq": 1}\n{}', 9),
        ('{"type": "start", "seq": "1"}\n{}', 1),
        ('{"type": "start", "seq": true}\n{}', 1),
        ('{"type": "start", "seq": 1}', 1),
        ('{"type": "remove", "seq": 1}', 1),
    ],
)
def test_malformed_message_ends_the_api_only(daemon: Daemon, data: str, descriptors: int) -> None:
    daemon.start()
    before = daemon.ask(do="pid")["pid"]
    daemon.ask(do="raw", data=data, descriptors=descriptors)
    gone(before)
    daemon.notified("READY=1")
    assert daemon.ask(do="pid")["pid"] != before
    assert daemon.process is not None
    # One is the launcher's own standard input; what came with the message is closed.
    assert host.descriptors(daemon.process.pid).count("/dev/null") <= 1


def test_start_forks_a_shim_with_nothing_of_the_launcher(daemon: Daemon) -> None:
    daemon.start()
    record = daemon.run_container()
    assert record["type"] == "session"
    assert len(record["id"]) == 64
    assert record["session"] is True
    assert record["name"] == "dkr-shim"
    assert len([fd for fd in record["fds"] if fd > 2]) == 3  # connection, reports, the directory being listed
    assert record["layers"] == {"host": "host-layer", "busybox": "busybox-layer"}
    gone(record["pid"])
    assert daemon.told("gone", record["id"])
    assert f"accepted seq=1 uid=0 id={record['id']}" in daemon.log()


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("listener", "evidence-listening"),
        ("channel", "evidence-type"),
        ("pair", "evidence-origin"),
        ("connecting", "evidence-origin"),
        ("self", "evidence-api"),
        ("file", "evidence-type"),
    ],
)
def test_forged_evidence_is_refused(daemon: Daemon, what: str, rule: str) -> None:
    daemon.start()
    answer = daemon.ask(do="forge", what=what)
    assert answer["type"] == "refused"
    assert answer["error"]["code"] == "not-permitted"
    assert answer["error"]["rule"] == rule
    assert f"rule={rule}" in daemon.log()


def test_budget_of_a_user(daemon: Daemon) -> None:
    daemon.configure(**{"limits.containers_per_user": 2})
    daemon.start()
    records = [as_user(3001, lambda: daemon.run_container(do="run")) for _ in range(3)]
    assert [record["type"] for record in records] == ["session", "session", "error"]
    assert records[2]["error"]["code"] == "limit-reached"
    assert as_user(3002, lambda: daemon.run_container(do="run"))["type"] == "session"
    assert [daemon.run_container(do="run")["type"] for _ in range(3)] == ["session"] * 3
    # One ends, and there is room again.
    first = daemon.told("state", records[0]["id"])[0]["state"]
    os.kill(first["pid"], signal.SIGUSR1)
    daemon.told("gone", records[0]["id"])
    assert as_user(3001, lambda: daemon.run_container(do="run"))["type"] == "session"


def test_peer_inside_the_pool_is_nobody(daemon: Daemon) -> None:
    daemon.start()

    def ask() -> object:
        with daemon.connect() as sock:
            sock.sendall(json.dumps({"do": "start", "bundle": {"x": 1}}).encode())
            return sock.recv(100).decode()

    assert as_user(2013265925, ask) == ""
    assert "rule=evidence-pool" in daemon.log()


def test_remove_is_answered_by_a_job(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.ask(do="remove", id="00" * 32)["type"] == "done"
    assert daemon.told("gone", "00" * 32)
    refused = daemon.ask(do="remove", id="11" * 32)
    assert refused["error"]["code"] == "not-found"
    assert daemon.ask(do="remove", id="../../etc")["error"]["code"] == "bad-request"


def test_second_daemon_is_refused_by_name(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    second = daemon.spawn()
    assert second.wait(DEADLINE) == 1
    assert f"another one (pid {daemon.process.pid}) uses {daemon.state}" in daemon.log()
    assert daemon.ask(do="pid")


def test_socket_in_use_is_not_taken(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        daemon.run.mkdir()
        other.bind(str(daemon.socket))
        other.listen()
        assert daemon.spawn().wait(DEADLINE) == 1
        assert "another process listens there" in daemon.log()
    # Now nobody listens there: what is left is stale, and replaced.
    daemon.start()
    assert daemon.ask(do="pid")


def test_other_file_at_the_sockets_place_stays(daemon: Daemon) -> None:
    daemon.run.mkdir()
    daemon.socket.write_text("precious")
    assert daemon.spawn().wait(DEADLINE) == 1
    assert daemon.socket.read_text() == "precious"


def test_orderly_end_leaves_containers_and_adoption_finds_them(daemon: Daemon) -> None:
    daemon.start()
    container, _, init = daemon.running()
    api = daemon.ask(do="pid")["pid"]
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    gone(api)
    os.kill(init, 0)
    daemon.start()
    states = [state["id"] for state in daemon.told("hello")[0]["containers"]]
    assert states == [container]
    # The adopted shim reports over its own socket.
    os.kill(init, signal.SIGUSR1)
    assert daemon.told("gone", container)
    exits = [m["state"].get("exit") for m in daemon.told("state", container)]
    assert exits[-1] == {"code": 7, "signal": None, "cause": "exited"}


def test_launcher_killed_with_its_containers_running(daemon: Daemon) -> None:
    daemon.start()
    container, shim, init = daemon.running()
    api = daemon.ask(do="pid")["pid"]
    daemon.stop(signal.SIGKILL)
    gone(api)
    os.kill(shim, signal.SIGKILL)
    gone(shim)
    daemon.start()
    assert [state["id"] for state in daemon.told("hello")[0]["containers"]] == [container]
    os.kill(init, signal.SIGUSR1)
    assert daemon.told("gone", container)
    collected = json.loads((daemon.state / "collected").read_text())
    assert collected == {"id": container, "exit": {"code": 7, "signal": None, "cause": "exited"}}


def test_exit_is_read_from_the_init_when_its_shim_died(daemon: Daemon) -> None:
    daemon.start()
    container, shim, init = daemon.running()
    os.kill(shim, signal.SIGKILL)
    gone(shim)
    os.kill(init, 0)
    os.kill(init, signal.SIGUSR1)
    assert daemon.told("gone", container)
    exits = [m["state"].get("exit") for m in daemon.told("state", container)]
    assert exits[-1] == {"code": 7, "signal": None, "cause": "exited"}


def test_container_without_any_process_is_collected_as_lost(daemon: Daemon) -> None:
    daemon.start()
    container, shim, init = daemon.running()
    daemon.stop(signal.SIGKILL)
    for pid in (shim, init):
        os.kill(pid, signal.SIGKILL)
        reaped(pid)
    daemon.start()
    assert daemon.told("gone", container)
    assert json.loads((daemon.state / "collected").read_text())["exit"]["cause"] == "shim-lost"


def test_pid_with_another_start_time_is_not_believed(daemon: Daemon) -> None:
    daemon.start()
    container, shim, init = daemon.running()
    daemon.stop(signal.SIGKILL)
    for pid in (shim, init):
        os.kill(pid, signal.SIGKILL)
        gone(pid)
    file = daemon.run / "containers" / container / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"pid": os.getpid(), "shimPid": os.getpid()}))
    daemon.start()
    assert daemon.told("gone", container)
    assert json.loads((daemon.state / "collected").read_text())["exit"]["cause"] == "shim-lost"


def test_remains_of_a_build_are_collected_once_it_must_be_over(daemon: Daemon) -> None:
    daemon.configure(**{"limits.start_seconds": 1})
    daemon.start()
    (daemon.run / "containers" / ("ab" * 32)).mkdir()
    (daemon.state / "containers" / ("cd" * 32)).mkdir()
    (daemon.state / "containers" / "not-an-id").mkdir()
    assert daemon.told("gone", "ab" * 32)
    assert daemon.told("gone", "cd" * 32)
    assert (daemon.state / "containers" / "not-an-id").exists()


def test_settings_are_read_again(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    daemon.configure(**{"limits.containers_per_user": 1, "log_level": "warning", "default_root": "busybox"})
    daemon.process.send_signal(signal.SIGHUP)
    assert "RELOADING=1" in daemon.notified("READY=1")
    assert 'need a restart of dkrd settings=["default_root"]' in daemon.log()
    changed = daemon.told("changed")[0]
    assert changed["settings"]["containersPerUser"] == 1
    assert changed["settings"]["defaultRoot"] == "host"
    records = [as_user(3001, lambda: daemon.run_container(do="run")) for _ in range(2)]
    assert [record["type"] for record in records] == ["session", "error"]
    daemon.file.write_text("nonsense = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    assert f"settings stay as they are: {daemon.file}:1: unknown key nonsense" in daemon.log()


def test_a_root_that_the_host_lacks_is_looked_for_again(daemon: Daemon) -> None:
    lacking = daemon.place / "no-busybox"
    lacking.write_text("cannot use the root busybox: there is none")
    daemon.start()
    assert 'there is no root busybox cause="cannot use the root busybox: there is none"' in daemon.log()
    assert daemon.run_container()["layers"] == {
        "host": "host-layer",
        "busybox": "cannot use the root busybox: there is none",
    }
    missing = {"busybox": {"code": "host-unfit", "message": lacking.read_text(), "hint": "install it"}}
    assert daemon.told("hello")[0]["host"]["missingRoots"] == missing
    assert daemon.process is not None
    lacking.unlink()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    assert daemon.told("changed")[0]["host"]["missingRoots"] == {}
    assert "the root busybox is there layer=busybox-layer" in daemon.log()
    assert daemon.run_container()["layers"] == {"host": "host-layer", "busybox": "busybox-layer"}
    lacking.write_text("gone")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.notified("READY=1")
    assert daemon.run_container()["layers"]["busybox"] == "gone"


def test_without_the_root_host_there_is_no_start(daemon: Daemon) -> None:
    (daemon.place / "no-host").write_text("cannot make the layer")
    process = daemon.spawn()
    assert process.wait(DEADLINE) == 1
    assert "dkrd: cannot make the layer\n  hint: install it" in daemon.log()
    assert not daemon.socket.exists()
    api = re.search(r"api started pid=(\d+)", daemon.log())
    assert api is not None  # it was started first, and is reaped
    assert not Path(f"/proc/{api[1]}").exists()


def test_service_manager_is_told(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.stop() == 0
    assert "STOPPING=1" in daemon.notified("STOPPING=1")


def test_watchdog_replaces_an_api_that_hangs(daemon: Daemon) -> None:
    daemon.start(environ={"WATCHDOG_USEC": "2000000"})
    daemon.notified("WATCHDOG=1")
    before = daemon.ask(do="pid")["pid"]
    daemon.ask(do="deaf")
    gone(before)
    daemon.notified("READY=1")
    daemon.notified("WATCHDOG=1")


def test_socket_of_systemd_is_used_and_stays(daemon: Daemon) -> None:
    daemon.run.mkdir()
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(daemon.socket))
        passed.listen(1)
        daemon.socket.chmod(0o666)
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        environ = {"LISTEN_FDS": "1"}
        arguments = [sys.executable, "-c", program, str(passed.fileno())]
        daemon.process = daemon.spawn(arguments, environ=environ, pass_fds=[passed.fileno()])
        daemon.notified("READY=1")
        assert daemon.run_container()["type"] == "session"
        assert daemon.stop() == 0
        assert daemon.socket.exists()


def test_api_that_cannot_be_executed_is_named(daemon: Daemon) -> None:
    daemon.argv(["/nonexistent/python"])
    process = daemon.spawn()
    assert process.wait(DEADLINE) == 1
    assert "cannot start the api: execute /nonexistent/python: No such file or directory" in daemon.log()
    assert not daemon.socket.exists()


def test_api_that_always_dies_ends_the_start(daemon: Daemon) -> None:
    daemon.argv(["/bin/false"])
    process = daemon.spawn()
    assert process.wait(DEADLINE) == 1
    assert "cannot start the api: it ended 3 times before it was ready" in daemon.log()


def test_place_that_others_can_write_to_is_refused(daemon: Daemon) -> None:
    daemon.state.mkdir()
    daemon.state.chmod(0o777)
    other = daemon.place / "open"
    other.mkdir()
    other.chmod(0o777)
    daemon.configure(socket=str(other / "dkr.sock"))
    assert daemon.spawn().wait(DEADLINE) == 1
    assert f"others than root may write to {other}" in daemon.log()
    # The state directory is the daemon's own: it sets the mode itself.
    assert daemon.state.stat().st_mode & 0o777 == 0o711
