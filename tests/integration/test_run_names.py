"""A container's name, id, labels, and what stays of it with and without --rm."""

from __future__ import annotations

import re
import select
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import Caller, request
from tests.patience import guard
from tests.sessions import gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

GUARD = guard(20.0)


def alive(caller: Caller) -> list[dict[str, Any]]:
    """What has not ended: with --rm it is cleaned up behind its client's exit, and listed until then."""
    return [container for container in caller.containers() if container["status"] != "stopped"]


@pytest.fixture
def running(caller: Caller) -> Iterator[dict[str, Any]]:
    """A container that runs as long as the test, as GET /v1/containers tells it."""
    labels = ("-l", "purpose=test", "--label", "empty", "-l", "a=b=c")
    with caller.popen("--name", "standing", *labels, "/bin/sh", "-c", "echo ready; read go") as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        while True:
            [container] = alive(caller)
            if container["status"] != "creating":
                break  # the news of the start may be later than the command's word
            select.select([], [], [], 0.01)
        yield container
        client.communicate(b"\n", GUARD)
    assert client.returncode == 0


def test_a_running_container_is_told(caller: Caller, running: dict[str, Any]) -> None:
    assert re.fullmatch("[0-9a-f]{64}", running["id"])
    assert running["labels"] == {"purpose": "test", "empty": "", "a": "b=c"}
    assert (running["name"], running["uid"], running["image"]) == ("standing", caller.uid, "host")
    assert running["args"] == ["/bin/sh", "-c", "echo ready; read go"]
    assert (running["status"], running["rm"]) == ("running", True)


def test_a_name_in_use_is_refused(caller: Caller, running: dict[str, Any]) -> None:
    done = caller.run("--name", "standing", "/bin/true")
    assert done.returncode == 125
    assert done.stderr.startswith(
        f'dkrctl: cannot use the name "standing": container {running["id"][:12]} has it'
    )


def test_a_name_is_each_users_own(root: Caller, tenant: Any, running: dict[str, Any]) -> None:
    other = Caller(root.daemon, tenant if running["uid"] == 0 else None)
    assert other.output("--name", "standing", "/bin/echo", "mine") == "mine\n"


def test_without_a_name_one_is_made(root: Caller) -> None:
    with root.popen("/bin/sh", "-c", "echo ready; read go") as client:
        assert client.stdout
        client.stdout.readline()
        [container] = alive(root)
        client.communicate(b"\n", GUARD)
    assert re.fullmatch("[a-z]+_[a-z]+[0-9]{4}", container["name"])


def test_with_rm_the_name_is_free_when_the_client_ends(caller: Caller) -> None:
    """Twenty, each right after the other: no test's own work in between."""
    line = 'for i in {1..20}; do dkrctl run --rm --name again "$@" $i || exit; done'
    done = caller.shell(line, "/bin/echo")
    assert (done.stdout.split(), done.stderr, done.returncode) == ([str(i) for i in range(1, 21)], "", 0)
    done = caller.shell(f'dkrctl() {{ command dkrctl "$@"; [ $? = 127 ]; }}; {line}', "/bin/nosuch")
    assert (done.stderr.count("cannot run '/bin/nosuch'"), done.returncode) == (20, 0)


def test_without_rm_it_stays(caller: Caller) -> None:
    name = (
        f"stays-{caller.uid}"  # the last one, with --rm, may be listed when the next caller's turn has come
    )
    words = ("run", "--name", name, "-l", "x=y", "/bin/sh", "-c", "echo note >/srv/note; exit 3")
    done = caller.daemon.dkrctl(*words, user=caller.user)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    container = caller.ended(name)
    try:
        assert (container["rm"], container["labels"]) == (False, {"x": "y"})
        assert container["exit"] == {"code": 3, "signal": None, "cause": "exited"}
        assert container["created"] < container["started"] < container["finished"]
        directory = caller.daemon.state_dir / "containers" / container["id"]
        assert (directory / "upper/srv/note").read_text() == "note\n"
        again = caller.daemon.dkrctl(*words, user=caller.user)
        assert again.returncode == 125
        assert f"container {container['id'][:12]} has it" in again.stderr
    finally:
        request(caller.daemon, "DELETE", f"/v1/containers/{container['id']}")
    assert not directory.exists()
    assert caller.output("--name", name, "/bin/echo", "free") == "free\n"


def test_a_stopped_container_can_be_removed_at_once(root: Caller) -> None:
    for _ in range(5):
        assert root.daemon.dkrctl("run", "--name", "brief", "/bin/true").returncode == 0
        request(root.daemon, "DELETE", "/v1/containers/brief")
        assert "brief" not in [container["name"] for container in root.containers()]


def test_with_rm_nothing_stays(make_daemon: Any) -> None:
    daemon = make_daemon()
    for _ in range(3):
        daemon.run("/bin/true")
    daemon.stop()
    gone(daemon)
    assert [path.name for path in (daemon.state_dir / "containers").iterdir()] == []


def test_the_id_is_written_to_a_file(caller: Caller, open_tmp: Path) -> None:
    open_tmp.chmod(0o777)
    file = open_tmp / "id"
    with caller.popen(
        "--cidfile", str(file), "--name", "written", "/bin/sh", "-c", "echo ready; read go"
    ) as client:
        assert client.stdout
        client.stdout.readline()
        # The client hears of the start on another way than the command's first word takes.
        client.communicate(b"\n", GUARD)
    assert client.returncode == 0
    assert re.fullmatch("[0-9a-f]{64}", file.read_text())
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (caller.uid, 0o644)


def test_the_id_is_the_containers(root: Caller, open_tmp: Path) -> None:
    done = root.daemon.dkrctl("run", "--cidfile", f"{open_tmp}/id", "--name", "written", "/bin/true")
    assert done.returncode == 0
    assert request(root.daemon, "GET", "/v1/containers/written")["id"] == (open_tmp / "id").read_text()
    request(root.daemon, "DELETE", f"/v1/containers/{(open_tmp / 'id').read_text()}")


def test_a_file_for_the_id_that_exists_is_kept(root: Caller, open_tmp: Path) -> None:
    (open_tmp / "id").write_text("somebody's")
    done = root.run("--cidfile", f"{open_tmp}/id", "/bin/echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"dkrctl: cannot write the id to {open_tmp}/id: the file exists")
    assert (open_tmp / "id").read_text() == "somebody's"


@pytest.mark.parametrize("args", [("/bin/nosuch",), ("nosuch-image", "x"), ("--name", "-", "/bin/true")])
def test_without_a_start_there_is_no_file_for_the_id(
    root: Caller, open_tmp: Path, args: tuple[str, ...]
) -> None:
    assert root.run("--cidfile", f"{open_tmp}/id", *args).returncode in (125, 127)
    assert not (open_tmp / "id").exists()


def test_many_at_once(caller: Caller) -> None:
    clients = [caller.start("/bin/echo", str(i), stdin=subprocess.DEVNULL) for i in range(12)]
    try:
        for i, client in enumerate(clients):
            assert client.communicate(timeout=GUARD) == (b"%d\n" % i, b"")
            assert client.returncode == 0
    finally:
        for client in clients:
            client.kill()
            client.communicate()
