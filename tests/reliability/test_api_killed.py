"""SIGKILL of the api: runs go on, nobody is refused, a new api knows what stands and what has ended meanwhile."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    Manager,
    RawClient,
    ask,
    assert_same,
    count,
    eventually,
    kill_and_wait,
    listed,
    null_stdio,
    running,
    settle,
    start_raw,
    waiting,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root


def _successor(daemon: Daemon, old: host.Process) -> host.Process:
    """The api that takes the place of `old`."""
    found: list[host.Process] = []

    def there() -> bool:
        found[:] = [p for p in host.children(daemon.pid) if p.comm == "dkr-api" and p.pid != old.pid]
        return bool(found)

    eventually(there, "the launcher starts a new api")
    return found[0]


def _kill_api(daemon: Daemon) -> host.Process:
    """SIGKILL to the api; the new one."""
    old = daemon.child("dkr-api")
    kill_and_wait(old)
    return _successor(daemon, old)


def test_a_run_with_pipes_goes_on_and_its_exit_arrives(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--rm", "--name", "goes-on") as run:
        (before,) = running(daemon)
        _kill_api(daemon)
        (after,) = running(daemon)
        assert (after["id"], after["name"], after["status"]) == (before["id"], "goes-on", "running")
        assert after["args"] == before["args"]
        second = daemon.dkrctl("run", "--rm", "--name", "goes-on", "/bin/true")
        assert second.returncode == 125
        assert "goes-on" in second.stderr
        assert run.end("still", 7) == 7
    settle(daemon)
    daemon.run("--name", "goes-on", "/bin/true")


def test_a_run_ends_while_there_is_no_api(make_daemon: MakeDaemon) -> None:
    """Stopped, the old api keeps its successor from being started: nobody is there when the run ends."""
    daemon = make_daemon()
    with waiting(daemon, "--name", "kept") as kept, waiting(daemon, "--rm") as removed:
        old = daemon.child("dkr-api")
        host.kill(old, signal.SIGSTOP)
        assert kept.end("alone", 9) == 9
        assert removed.end("alone", 4) == 4
        kill_and_wait(old)
        _successor(daemon, old)

    # `removed` goes off the hot path, by its guardian; the index follows.
    # That the other one has ended its own guardian tells, in its own time.
    eventually(
        lambda: [(one["name"], one["status"]) for one in listed(daemon, every=True)] == [("kept", "stopped")],
        "what was run with --rm is gone, the other one has stopped",
    )
    (found,) = listed(daemon, every=True)
    assert found["exit"] == {"code": 9, "signal": None, "cause": "exited"}
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_nobody_is_refused_while_apis_die(make_daemon: MakeDaemon) -> None:
    """A connection that no api has accepted yet waits for the next one; only an accepted request may be cut off."""
    daemon = make_daemon()
    daemon.run("/bin/true")
    before = count(daemon)
    cut_off: list[str] = []
    refused: list[str] = []
    answered = [0]
    ending = threading.Event()

    def storm() -> None:
        while not ending.is_set():
            try:
                status, _ = ask(daemon, "GET", "/v1/version")
                answered[0] += status == 200
            except (ConnectionRefusedError, FileNotFoundError, TimeoutError) as err:
                refused.append(repr(err))
            except (OSError, ValueError) as err:  # reset, or hung up before the answer (http.client)
                cut_off.append(repr(err))

    clients = [threading.Thread(target=storm) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            goal = answered[0] + 50
            eventually(lambda goal=goal: answered[0] >= goal, "requests are answered")  # type: ignore[misc]
            _kill_api(daemon)
        goal = answered[0] + 50
        eventually(lambda: answered[0] >= goal, "requests are answered")
    finally:
        ending.set()
        for client in clients:
            client.join()

    assert refused == []
    assert len(cut_off) <= 3 * len(clients), cut_off
    assert_same(daemon, before)


def test_connections_made_without_an_api_are_served_by_the_next(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    old = daemon.child("dkr-api")
    host.kill(old, signal.SIGSTOP)
    with null_stdio() as stdio:
        clients = [RawClient(daemon) for _ in range(300)]
        request = {"args": ["/bin/true"], "rm": True}
        for client in clients[:5]:
            client.post(request)
        kill_and_wait(old)
        for client in clients[:5]:
            assert client.head() == 101
            assert client.record()["type"] == "session"
            client.first(request, stdio)
        for client in clients[:5]:
            frames = [client.frame(), client.frame()]
            assert [frame["type"] for frame in frames if frame] == ["started", "exited"]
        for client in clients:
            client.close()
    settle(daemon)


def test_an_api_killed_at_any_moment_of_starts_leaves_nothing(make_daemon: MakeDaemon) -> None:
    """Each client gets its exit or an error, none hangs; each container that came to be is cleaned up."""
    daemon = make_daemon()
    daemon.run("/bin/true")
    before = count(daemon)
    outcomes: list[str] = []

    def start_one(stdio: tuple[int, int, int]) -> None:
        try:
            with start_raw(daemon, stdio, args=["/bin/sh", "-c", "exit 3"], rm=True) as client:
                while (frame := client.frame()) and frame["type"] == "started":
                    pass
                outcomes.append("lost" if frame is None else str(frame.get("exit", frame)))
        except (AssertionError, ConnectionResetError, BrokenPipeError):
            outcomes.append("cut off")

    with null_stdio() as stdio:
        for _ in range(3):
            clients = [threading.Thread(target=start_one, args=(stdio,)) for _ in range(8)]
            for client in clients:
                client.start()
            _kill_api(daemon)
            for client in clients:
                client.join(GUARD_SECONDS)
                assert not client.is_alive()

    exited = str({"code": 3, "signal": None, "cause": "exited"})
    assert set(outcomes) <= {exited, "cut off"}, outcomes
    assert len(outcomes) == 24
    assert_same(daemon, before)


def test_a_frozen_api_is_replaced_when_systemd_watches(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start(WATCHDOG_USEC="4000000")
        manager.hear("WATCHDOG=1")
        old = daemon.child("dkr-api")
        with waiting(daemon, "--rm") as run:
            host.kill(old, signal.SIGSTOP)
            assert host.wait_gone(old.pid, GUARD_SECONDS)
            manager.hear("READY=1")
            manager.hear("WATCHDOG=1")
            assert run.end("on", 5) == 5
        settle(daemon)
    finally:
        manager.close()
