"""When something runs out: a clear error, nothing half done, and all is well once there is room again."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    LOOK_SECONDS,
    SMALL,
    Manager,
    RawClient,
    Waiting,
    ask,
    assert_same,
    count,
    eventually,
    inits,
    kill_and_wait,
    listed,
    running,
    settle,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root
EVENTS = (
    "events",
    "--since",
    "1h",
    "--filter",
    "container=kept",
    "--filter",
    "event=start",
    "--filter",
    "event=die",
)


@contextlib.contextmanager
def _few_descriptors(pid: int, more: int) -> Iterator[None]:
    """Process `pid` may open `more` descriptors, counted from the highest number it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(host.descriptors(pid)) + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _at_rest(pid: int) -> None:
    """Until it lets go of nothing more: what it still had of a client's connection would be room later."""
    seen, same = -1, 0
    while same < 5:
        before, seen = seen, len(host.descriptors(pid))
        same = same + 1 if seen == before else 0
        time.sleep(LOOK_SECONDS)


def _wait_for_descriptors(daemon: Daemon, held: int) -> None:
    """Until the launcher has let go of what the last run needed."""
    eventually(
        lambda: len(host.descriptors(daemon.pid)) <= held, f"the launcher is down to {held} descriptors"
    )


def test_a_launcher_short_of_descriptors_refuses_and_recovers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.run("/bin/true")
    before = count(daemon)
    api = daemon.child("dkr-api")
    with contextlib.ExitStack() as stack, _few_descriptors(daemon.pid, 32):
        runs: list[Waiting] = []
        while len(runs) < 20:
            eventually(lambda: len(running(daemon)) == len(runs), "the run before is gone from the index")
            held = len(host.descriptors(daemon.pid))
            refused = daemon.dkrctl("run", "--rm", "/bin/true")
            if refused.returncode:
                break
            _wait_for_descriptors(daemon, held)
            runs.append(stack.enter_context(waiting(daemon, "--rm")))
        assert 2 <= len(runs) < 20
        assert refused.returncode == 125
        assert "almost out of descriptors" in refused.stderr
        # What is kept for the daemon itself is enough for a new api.
        kill_and_wait(api)
        assert ask(daemon, "GET", "/v1/version")[0] == 200
        assert runs.pop().end("on", 6) == 6
        eventually(lambda: daemon.dkrctl("run", "--rm", "/bin/true").returncode == 0, "there is room again")
        for run in runs:
            assert run.end("on", 0) == 0
    daemon.run("/bin/true")
    assert_same(daemon, before)


def test_a_launcher_out_of_descriptors_survives(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    launcher = host.read_process(daemon.pid)
    for more in (0, 2, 5):
        daemon.run("/bin/true")
        settle(daemon)
        with waiting(daemon, "--rm") as run, contextlib.ExitStack() as stack:
            running(daemon)
            _at_rest(daemon.pid)
            stack.enter_context(_few_descriptors(daemon.pid, more))
            assert daemon.dkrctl("run", "--rm", "/bin/true").returncode == 125
            for api in host.children(daemon.pid):
                if api.comm == "dkr-api":  # there may be none: it could not be started again
                    kill_and_wait(api)
            assert run.end("on", 1) == 1
        assert launcher == host.read_process(daemon.pid)
        settle(daemon)


def test_an_api_out_of_descriptors_recovers(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start(descriptors=80)
        daemon.run("/bin/true")
        api = daemon.child("dkr-api")
        before = count(daemon)
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(RawClient(daemon))
            eventually(
                lambda: "Too many open files" in daemon.log, "the api finds that it is out of descriptors"
            )
        assert ask(daemon, "GET", "/v1/version")[0] == 200
        daemon.run("/bin/true")
        assert daemon.child("dkr-api") == api
        assert_same(daemon, before)
        daemon.stop()
        # asyncio would tell it thousands of times.
        assert daemon.log.count("Too many open files") < 20
    finally:
        manager.close()


def test_a_pool_of_one_slot(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.stop()
    config = daemon.directory / "dkrd.toml"
    first = daemon.settings["ids"]["first"]
    last = daemon.settings["ids"]["last"]
    config.write_text(config.read_text().replace(f"last = {last}", f"last = {first + 65535}"))
    daemon.start()
    with waiting(daemon, "--rm") as run:
        for _ in range(3):
            refused = daemon.dkrctl("run", "--rm", "/bin/true")
            assert refused.returncode == 125
            assert "all 1 of the pool are taken" in refused.stderr
            assert "widen [ids]" in refused.stderr
        eventually(lambda: len(listed(daemon)) == 1, "what was refused is not listed")
        assert run.end("on", 0) == 0
    settle(daemon)
    daemon.run("/bin/true")

    # One that is kept keeps its ids: its files carry them.
    settle(daemon)
    assert daemon.dkrctl("run", "--name", "kept", "/bin/true").returncode == 0
    assert daemon.dkrctl("run", "--rm", "/bin/true").returncode == 125
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    daemon.run("/bin/true")
    settle(daemon)


def test_the_bound_of_a_user_is_freed_by_each_end(make_daemon: MakeDaemon, tenant: host.User) -> None:
    daemon = make_daemon(limits={"containers_per_user": 2})
    with waiting(daemon, "--rm", user=tenant) as one, waiting(daemon, "--rm", user=tenant) as two:
        refused = daemon.dkrctl("run", "--rm", "/bin/true", user=tenant)
        assert refused.returncode == 125
        assert "has 2 already" in refused.stderr
        daemon.run("/bin/true")  # root has no bound
        # Adopted ones count as well.
        daemon.kill()
        daemon.start()
        assert daemon.dkrctl("run", "--rm", "/bin/true", user=tenant).returncode == 125
        assert one.end("on", 0) == 0
        eventually(lambda: len(listed(daemon)) == 1, "the first has ended")
        daemon.run("/bin/true", user=tenant)
        assert two.end("on", 0) == 0
    settle(daemon)


@contextlib.contextmanager
def _small(daemon: Daemon, place: Path, kilobytes: int) -> Iterator[None]:
    """Has the daemon run with a small filesystem at `place`, and ends it."""
    daemon.stop()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0755", SMALL, place], check=True)
    try:
        daemon.start()
        try:
            yield
        finally:
            daemon.stop()
    finally:
        subprocess.run(["umount", place], check=True)


def _fill(place: Path) -> Path:
    """Takes what room is left."""
    path = place / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


def test_a_full_run_directory(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with _small(daemon, daemon.run_dir, 256):
        daemon.run("/bin/true")
        before = count(daemon)
        with (
            waiting(daemon, "--rm") as removed,
            waiting(daemon, "--name", "kept") as kept,
            waiting(daemon, "--name", "lost") as lost,
        ):
            assert len(running(daemon)) == 3
            filler = _fill(daemon.run_dir)
            for _ in range(3):
                refused = daemon.dkrctl("run", "--rm", "/bin/true")
                assert refused.returncode == 125
                assert "no space left on device" in refused.stderr
            shim = _shim_of(daemon, "lost")
            kill_and_wait(shim)
            lost.say("on 9")
            assert removed.end("on", 7) == 7
            assert kept.end("on", 8) == 8
        for name, code in (("kept", 8), ("lost", 9)):
            assert _exit_of(daemon, name)["code"] == code
            assert ask(daemon, "DELETE", f"/v1/containers/{name}")[0] == 204
        filler.unlink()
        daemon.run("/bin/true")
        assert_same(daemon, before)
    assert "Traceback" not in daemon.log


def _exit_of(daemon: Daemon, name: str) -> dict[str, Any]:
    """How container `name` ended, once it has."""
    found: dict[str, Any] = {}

    def stopped() -> bool:
        found.update(ask(daemon, "GET", f"/v1/containers/{name}")[1])
        return bool(found["status"] == "stopped")

    eventually(stopped, f"{name} stops")
    exit_: dict[str, Any] = found["exit"]
    return exit_


def _shim_of(daemon: Daemon, name: str) -> host.Process:
    """The guardian of container `name`: the parent of its init."""
    (pid,) = (container["pid"] for container in running(daemon) if container["name"] == name)
    (init,) = (process for process in inits(daemon) if process.pid == pid)
    shim = host.read_process(init.parent)
    assert shim is not None
    return shim


def test_a_full_state_directory(make_daemon: MakeDaemon) -> None:
    """The upper layers are full as well: the commands see ENOSPC, the daemon goes on."""
    daemon = make_daemon()
    with _small(daemon, daemon.state_dir, 4096):
        daemon.run("/bin/true")
        before = count(daemon)
        with waiting(daemon, "--rm") as removed, waiting(daemon, "--name", "kept") as kept:
            filler = _fill(daemon.state_dir)
            for _ in range(3):
                refused = daemon.dkrctl("run", "/bin/true")
                assert refused.returncode == 125
                assert "no space left on device" in refused.stderr
                daemon.run("/bin/true")  # of what goes at its end nothing is written down there
            assert removed.end("on", 7) == 7
            assert kept.end("on", 8) == 8
            # What makes room must work without any.
            assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
        filler.unlink()
        settle(daemon)
        daemon.run("/bin/true")
        assert_same(daemon, before)
    assert "Traceback" not in daemon.log


def test_an_index_without_room_catches_up(make_daemon: MakeDaemon) -> None:
    """Runs need no index; what it could not write down is written once it can."""
    daemon = make_daemon()
    with _small(daemon, daemon.state_dir / "api", 1024):
        with waiting(daemon, "--rm") as removed, waiting(daemon, "--name", "kept") as kept:
            running(daemon)
            filler = _fill(daemon.state_dir / "api")
            for _ in range(10):
                daemon.run("/bin/true")
            assert removed.end("on", 7) == 7
            assert kept.end("on", 8) == 8
            eventually(lambda: "a transaction of the index failed" in daemon.log, "the index has no room")
        assert len(listed(daemon)) == 2  # as far as it knows
        assert ask(daemon, "POST", "/v1/containers/kept/wait")[1]["exit"]["code"] == 8
        with daemon.popen(*EVENTS, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            assert "start" in events.stdout.readline()
            filler.unlink()
            assert "die" in events.stdout.readline()  # though nobody asks for anything
            events.terminate()
        assert _exit_of(daemon, "kept") == {"code": 8, "signal": None, "cause": "exited"}
        eventually(lambda: len(listed(daemon, every=True)) == 1, "the others are gone from it")
        assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
        settle(daemon)


def test_a_full_disk_inside_is_the_commands_error(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    done = daemon.dkrctl(
        *("run", "--rm", "--tmpfs", "/small:size=64k", "/bin/sh", "-c"),
        "head -c 100000 /dev/zero > /small/file",
        timeout=GUARD_SECONDS,
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    settle(daemon)
