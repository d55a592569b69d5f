"""What a container has changed of its root, over HTTP, by `dkrctl diff` and from Python, against a real daemon."""

from __future__ import annotations

import asyncio
import base64
import shutil
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import Client, NotFound
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, logged, made, remove, sh, start, wait
from tests.reliability.support import ask, assert_same, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    """What launcher, api and machine hold is the same behind each test."""
    yield
    for container in listed(daemon, every=True):
        remove(daemon, container["id"])
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def changed(caller: Caller, name: str) -> list[str]:
    status, found = asked(caller, "GET", f"/v1/containers/{name}/diff")
    assert status == 200, found
    return [f"{change['kind']} {change['path']}" for change in found]


def ran(caller: Caller, name: str, line: str, **wanted: object) -> None:
    status, container = asked(caller, "POST", "/v1/containers", {"args": sh(line), "name": name, **wanted})
    assert status == 201, container
    assert asked(caller, "POST", f"/v1/containers/{name}/start")[0] == 204
    assert asked(caller, "POST", f"/v1/containers/{name}/wait")[1]["exit"]["code"] == 0


def test_what_was_added_changed_and_deleted(caller: Caller) -> None:
    line = (
        "mkdir -p /new/deep; echo x >/new/deep/file; ln -s /etc/passwd /new/link; echo y >>/etc/hosts; rm /etc/hostname; "
        "rm /etc/resolv.conf; echo z >/etc/resolv.conf; mknod /new/fifo p"
    )
    ran(caller, "changes", line)
    found = changed(caller, "changes")
    assert found == [
        "C /etc",
        "D /etc/hostname",
        "C /etc/hosts",
        "C /etc/resolv.conf",
        "A /new",
        "A /new/deep",
        "A /new/deep/file",
        "A /new/fifo",
        "A /new/link",
    ]
    done = caller.daemon.dkrctl("diff", "changes", user=caller.user)
    assert (done.returncode, done.stdout, done.stderr) == (0, "".join(f"{one}\n" for one in found), "")


def test_nothing_was_changed(caller: Caller) -> None:
    """What the daemon has laid down is not the container's doing."""
    ran(caller, "none", "true")
    assert changed(caller, "none") == []
    ran(caller, "named", "cat /etc/hosts", hostname="another")
    assert changed(caller, "named") == []
    assert asked(caller, "POST", "/v1/containers", {"args": sh("true"), "name": "never"})[0] == 201
    assert changed(caller, "never") == []


def test_a_directory_made_anew_hides_what_was_in_it(caller: Caller) -> None:
    ran(caller, "anew", "rm -r /etc; mkdir /etc; echo x >/etc/hosts; echo y >/etc/mine")
    found = changed(caller, "anew")
    assert found[0] == "C /etc"
    assert "D /etc/passwd" in found
    assert "C /etc/hosts" in found
    assert "A /etc/mine" in found
    assert not [one for one in found if one.startswith("A") and one != "A /etc/mine"]


def test_one_that_runs_and_is_not_kept(caller: Caller) -> None:
    line = "echo x >/mine; echo y >>/etc/group; rm /etc/passwd; echo up; exec sleep 600"
    status, container = asked(
        caller, "POST", "/v1/containers", {"args": sh(line), "name": "runs", "rm": True}
    )
    assert status == 201, container
    assert asked(caller, "POST", "/v1/containers/runs/start")[0] == 204
    logged(caller.daemon, "runs", "up\n")
    assert changed(caller, "runs") == ["C /etc", "C /etc/group", "D /etc/passwd", "A /mine"]


def test_names_that_are_no_text(root: Caller) -> None:
    ran(root, "odd", r"touch $(printf '/a\377b') $(printf '/c\033[31m')")
    _, found = ask(root.daemon, "GET", "/v1/containers/odd/diff")
    assert found == [
        {"kind": "A", "pathBase64": base64.b64encode(b"/a\xffb").decode()},
        {"kind": "A", "path": "/c\x1b[31m"},
    ] or found == [
        {"kind": "A", "path": "/c\x1b[31m"},
        {"kind": "A", "pathBase64": base64.b64encode(b"/a\xffb").decode()},
    ]
    done = root.daemon.dkrctl("diff", "odd", text=False)
    assert sorted(done.stdout.splitlines()) == [b"A /a\xffb", b"A /c\x1b[31m"]


def test_links_of_the_containers_lead_nowhere(root: Caller) -> None:
    ran(root, "links", "ln -s / /all; ln -s /proc/self/root /self; mkdir /d; ln -s ../.. /d/up")
    assert changed(root, "links") == ["A /all", "A /d", "A /d/up", "A /self"]


def test_more_than_can_be_told(root: Caller) -> None:
    ran(root, "deep", "i=0; while [ $i -lt 260 ]; do mkdir d && cd d; i=$((i+1)); done")
    status, problem = asked(root, "GET", "/v1/containers/deep/diff")
    assert (status, problem["code"]) == (429, "limit-reached")
    assert "deeper than can be looked at" in problem["detail"]


def test_others_are_not_there(daemon: Daemon, tenant: User, other_tenant: User, admin: User) -> None:
    ran(Caller(daemon, tenant), "mine", "touch /x")
    status, problem = asked(Caller(daemon, other_tenant), "GET", "/v1/containers/mine/diff")
    assert (status, problem["code"]) == (404, "not-found")
    assert changed(Caller(daemon, admin), "mine") == ["A /x"]
    done = daemon.dkrctl("diff", "mine", user=other_tenant)
    assert done.returncode == 1
    assert "no container has this id or name" in done.stderr
    assert daemon.dkrctl("diff").returncode == 1
    assert "diff takes one container" in daemon.dkrctl("diff", "mine", "mine").stderr


def test_another_root(make_daemon: MakeDaemon, open_tmp: Path) -> None:
    """One whose layer below is not the daemon's own: what was copied up before it was changed says so itself."""
    daemon = make_daemon()
    line = "echo x >/new; echo y >>/etc/group; rm /etc/passwd; echo up; exec sleep 600"
    root = open_tmp / "root"
    caller = Caller(daemon, None)
    (root / "etc").mkdir(parents=True)
    for name in ("group", "passwd"):
        (root / "etc" / name).write_text("root:x:0:\n")
    for name in ("bin", "lib", "lib64", "usr"):
        (root / name).mkdir()
    shutil.copy("/usr/bin/busybox", root / "bin/sh")
    with caller.popen("--rootfs", str(root), "--name", "own", "/bin/sh", "-c", line) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        found = changed(caller, "own")
        client.kill()
    assert [one for one in found if "/etc/" in one or "new" in one] == [
        "C /etc/group",
        "D /etc/passwd",
        "A /new",
    ]


async def test_from_python(daemon: Daemon) -> None:
    with made(daemon, *sh("touch /x"), begin=False) as name:
        start(daemon, name)
        wait(daemon, name)
        async with Client(daemon.socket) as dkr, asyncio.timeout(SHELL_SECONDS):
            assert [(one.kind, one.path) for one in await dkr.diff(name)] == [("A", "/x")]
            with pytest.raises(NotFound):
                await dkr.diff("nosuch")
