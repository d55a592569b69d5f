"""What a dkrd finds at its start that no process stands for: a power cut's remains are finished, garbage is survived."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.reliability.support import (
    GUARD_SECONDS,
    ask,
    eventually,
    inits,
    kill_and_wait,
    listed,
    running,
    settle,
    shims,
    waiting,
)

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

BUILD = {"start_seconds": 1}  # a build of before must be over one second after a start


def _power_cut(daemon: Daemon) -> None:
    """Everything that runs is gone, and what lies in memory: run_dir, cgroups. state_dir stays as it is."""
    daemon.kill()
    for process in (*shims(daemon), *inits(daemon)):
        kill_and_wait(process)
    shutil.rmtree(daemon.run_dir)
    eventually(lambda: not inits(daemon), "the containers are dead")
    for path in host.cgroups(daemon.cgroup):
        path.rmdir()


def _stopped(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def told() -> bool:
        status, value = ask(daemon, "GET", f"/v1/containers/{name}")
        found.update(value)
        return bool(status == 200 and value.get("exit"))

    eventually(told, f"how {name} ended is told")
    return found


def test_after_a_power_cut_what_was_kept_is_kept_and_the_rest_is_gone(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits=BUILD)
    daemon.run("/bin/true")
    with waiting(daemon, "--name", "kept", "--label", "a=b") as kept, waiting(daemon, "--rm"):
        identity = {container["name"]: container["id"] for container in running(daemon)}["kept"]
        upper = daemon.state_dir / "containers" / identity / "upper"
        (upper / "precious").write_text("data")
        _power_cut(daemon)
        kept.client.wait(GUARD_SECONDS)
    daemon.start()
    found = _stopped(daemon, "kept")
    assert found["status"] == "stopped"
    assert found["labels"] == {"a": "b"}
    assert found["exit"] == {"code": None, "signal": None, "cause": "shim-lost"}
    assert (upper / "precious").read_text() == "data"
    eventually(lambda: len(listed(daemon, every=True)) == 1, "what was run with --rm is gone")
    places = (daemon.state_dir / "containers", daemon.directory / "ids")
    eventually(
        lambda: [len(list(place.iterdir())) for place in places] == [1, 1], "only what is kept has files"
    )
    assert (daemon.state_dir / "containers" / identity).is_dir()

    daemon.restart()
    assert _stopped(daemon, "kept")["exit"]["cause"] == "shim-lost"
    assert ask(daemon, "DELETE", "/v1/containers/kept")[0] == 204
    settle(daemon)


def test_a_damaged_index_is_made_anew(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with waiting(daemon, "--rm", "--name", "mine") as run:
        running(daemon)
        daemon.stop()
        for path in (daemon.state_dir / "api").glob("dkr.db*"):
            path.write_bytes(b"no database" * 1000)
        daemon.start()
        (found,) = running(daemon)
        assert found["name"] == "mine"
        assert run.end("on", 2) == 2
    settle(daemon)


def test_a_zombie_that_had_ids_of_the_pool_is_in_nobodys_way(make_daemon: MakeDaemon) -> None:
    """The init of a container whose guardian was killed stays one until PID 1 has reaped it, which may take a while."""
    daemon = make_daemon()
    daemon.stop()
    command = ["unshare", "--user", "sh", "-c", "echo; read x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = daemon.settings["ids"]["first"]
        Path(f"/proc/{process.pid}/uid_map").write_text(f"0 {first} 65536\n")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert str(first) in Path(f"/proc/{process.pid}/uid_map").read_text()
        daemon.start()
        daemon.run("/bin/true")


# Each puts something below run_dir/containers or state_dir/containers that no dkrd of ours would leave so.


def _stray_file(place: Path) -> Path:
    path = place / "README"
    path.write_text("?")
    return path


def _file_named_like_one(place: Path) -> Path:
    path = place / ("a" * 64)
    path.write_text("?")
    return path


def _link_named_like_one(place: Path) -> Path:
    path = place / ("b" * 64)
    path.symlink_to("/etc")
    return path


def _directory(place: Path, state: bytes | None) -> Path:
    path = place / os.urandom(32).hex()
    path.mkdir()
    if state is not None:
        (path / "state.json").write_bytes(state)
    return path


def _another_name(place: Path) -> Path:
    path = place / "not-an-id"
    (path / "deep").mkdir(parents=True)
    return path


BAD_STATES = (
    None,
    b"",
    b"\0" * 4096,
    b"[]",
    b'{"id": "',
    b'{"id": "' + b"c" * 64 + b'"}',
    b"[" * 60000,
)
BAD_VALUES: tuple[dict[str, object], ...] = (
    {},
    {"status": 5, "pid": "x", "pidStartTime": None, "shimPid": -1, "uid": "root", "cgroup": 3, "rm": "yes"},
    {"status": "running", "pid": 1, "pidStartTime": 0, "shimPid": 1, "shimStartTime": 0, "rm": True},
    {"status": "stopped", "exit": "none", "rm": False, "cgroup": [1, None, "/nonexistent"]},
)


def _garbage(place: Path) -> list[Path]:
    """What was put there and belongs to nobody: it may go or stay."""
    made = [
        _stray_file(place),
        _file_named_like_one(place),
        _link_named_like_one(place),
        _another_name(place),
    ]
    made += [_directory(place, state) for state in BAD_STATES]
    for values in BAD_VALUES:
        path = _directory(place, None)
        (path / "state.json").write_text(json.dumps({"id": path.name, **values}))
        made.append(path)
    return made


def test_garbage_is_survived(make_daemon: MakeDaemon) -> None:
    """Others' containers are adopted all the same, and whatever the garbage says, nothing outside is touched."""
    daemon = make_daemon(limits=BUILD)
    places = [directory / "containers" for directory in (daemon.run_dir, daemon.state_dir)]
    with waiting(daemon, "--rm", "--name", "real") as run:
        running(daemon)
        daemon.kill()
        made = [_garbage(place) for place in places]
        daemon.start()
        assert [container["name"] for container in running(daemon)] == ["real"]
        # The second look, when a build of before must be over, takes what it can.
        empty = [paths[4] for paths in made]
        eventually(
            lambda: not any(path.exists() for path in empty), "empty directories with an id's name are gone"
        )
        daemon.restart()
        assert run.end("on", 3) == 3
    daemon.run("/bin/true")
    assert "Traceback" not in daemon.log
    assert Path("/etc/passwd").exists()
    for path in (*made[0], *made[1]):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def test_starts_and_removals_that_were_cut_off_are_finished(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(limits=BUILD)
    assert daemon.dkrctl("run", "--name", "half", "/bin/true").returncode == 0
    (half,) = listed(daemon, every=True)
    eventually(lambda: not shims(daemon), "its guardian writes nothing any more")
    above = [path for path in host.cgroups(daemon.cgroup) if path.name == daemon.cgroup]
    daemon.stop()

    # A removal, in the middle.
    for name in ("state.json", "config.json"):
        (daemon.state_dir / "containers" / half["id"] / name).unlink()
    # A start, between its first two steps, and the slot that it had claimed.
    identity = os.urandom(32).hex()
    (daemon.state_dir / "containers" / identity).mkdir(mode=0o700)
    slot = daemon.directory / "ids" / str(daemon.settings["ids"]["first"] // 65536)
    slot.write_text(json.dumps({"uid": 0, "id": identity, "stateDir": str(daemon.state_dir)}))
    # A start whose guardian died after it had made the cgroups, and before it wrote anything.
    third = os.urandom(32).hex()
    (daemon.run_dir / "containers" / third).mkdir(mode=0o700)
    groups = [path / third for path in above]
    for path in groups:
        path.mkdir(parents=True)

    daemon.start()
    settle(daemon)
    assert groups
    assert not [path for path in groups if path.exists()]
