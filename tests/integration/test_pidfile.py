"""`--pidfile`: the host's number of process 1, in a file of the caller's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.verbs import sweep
from tests.reliability.support import eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


@pytest.fixture
def place(caller: Caller, open_tmp: Path) -> Path:
    """A directory of the caller's."""
    found = open_tmp / f"of-{caller.uid}"
    found.mkdir()
    if caller.user is not None:
        import os

        os.chown(found, caller.user.uid, caller.user.gid)
    return found


def pid_of(caller: Caller, name: str) -> int:
    done = caller.daemon.dkrctl("inspect", "--format", "{{.pid}}", name, user=caller.user, check=True)
    return int(done.stdout)


def test_of_a_run_it_is_there_until_the_end(caller: Caller, place: Path) -> None:
    path = place / "pid"
    path.write_text("old\n")  # of a run before that was killed
    with caller.start(
        "--pidfile", str(path), "--name", "it", "/bin/sh", "-c", "echo up; read x; exit 3"
    ) as run:
        assert run.stdout is not None
        assert run.stdin is not None
        assert run.stdout.readline() == b"up\n"
        running(caller.daemon)  # its pid is told when its command runs already
        pid = pid_of(caller, "it")
        eventually(lambda: path.read_text() == f"{pid}\n", "its client has heard of it")
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (caller.uid, 0o644)
        run.stdin.close()
        assert run.wait() == 3
    assert list(place.iterdir()) == []


def test_of_one_that_has_no_client_it_stays(caller: Caller, place: Path) -> None:
    path = place / "pid"
    run = ("run", "-d", "--name", "it", "--pidfile", str(path), "/bin/sleep", "600")
    done = caller.daemon.dkrctl(*run, user=caller.user)
    assert (done.returncode, done.stderr) == (0, "")
    first = int(path.read_text())
    assert first == pid_of(caller, "it")
    assert caller.daemon.dkrctl("stop", "-t", "0", "it", user=caller.user).returncode == 0
    assert caller.daemon.dkrctl("start", "--pidfile", str(path), "it", user=caller.user).stdout == "it\n"
    assert int(path.read_text()) == pid_of(caller, "it") != first
    assert list(place.iterdir()) == [path]


def test_of_one_that_is_started_attached(caller: Caller, place: Path) -> None:
    line = ("/bin/sh", "-c", "read x; exit 4")
    caller.daemon.dkrctl("create", "-i", "--name", "it", *line, user=caller.user, check=True)
    path = place / "pid"
    start = ("start", "-ai", "--pidfile", str(path), "it")
    with caller.daemon.popen(*start, user=caller.user, stdin=-1, stdout=-1, stderr=-1) as client:
        while not path.exists():
            assert client.poll() is None
        assert int(path.read_text()) == pid_of(caller, "it")
        assert client.stdin is not None
        client.stdin.close()
        assert client.wait() == 4
    assert list(place.iterdir()) == []


def test_what_cannot_be_written_starts_nothing(caller: Caller, place: Path) -> None:
    for path, cause in (
        ("/proc/pid", "no such file"),
        (f"{place}/none/pid", "no such file"),
        (f"{place}/", "it is a directory"),
    ):
        for how in ((), ("-d",)):
            words = ("run", *how, "--pidfile", path, "/bin/sleep", "600")
            done = caller.daemon.dkrctl(*words, user=caller.user)
            assert done.returncode == 125
            assert f"cannot write the pid to {path}: {cause}" in done.stderr
    assert caller.daemon.dkrctl("ps", "-aq", user=caller.user).stdout == ""
    assert list(place.iterdir()) == []


def test_a_start_that_fails_leaves_no_file(caller: Caller, place: Path) -> None:
    path = place / "pid"
    path.write_text("old\n")
    for how in ((), ("-d",)):
        done = caller.daemon.dkrctl("run", *how, "--pidfile", str(path), "/no/such", user=caller.user)
        assert done.returncode != 0
        assert path.read_text() == "old\n"
        assert list(place.iterdir()) == [path]


def test_a_link_in_its_place_is_replaced_not_followed(caller: Caller, place: Path) -> None:
    (place / "other").write_text("mine\n")
    (place / "pid").symlink_to("other")
    assert caller.run("--pidfile", str(place / "pid"), "/bin/true").returncode == 0
    assert [path.name for path in place.iterdir()] == ["other"]
    assert (place / "other").read_text() == "mine\n"


def test_it_is_for_one_that_starts(caller: Caller) -> None:
    done = caller.daemon.dkrctl("start", "--pidfile", "/tmp/x", "a", "b", user=caller.user)
    assert "cannot write the pids of 2 containers to one file" in done.stderr
    done = caller.daemon.dkrctl("create", "--pidfile", "/tmp/x", "/bin/true", user=caller.user)
    assert done.returncode == 1
    assert "dkrctl start --pidfile FILE CONTAINER" in done.stderr
