"""`dkrctl cp` from and to a container that does not run: made and not started yet, or ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dkrctl.client import Client, NotFound
from tests import host, trees
from tests.integration.kept import asked as http
from tests.integration.kept import made
from tests.integration.test_cp import copied, refused
from tests.integration.test_cp_http import archive, asked
from tests.reliability.support import assert_same, count, eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

# Says what it finds in /srv/in, and makes something in /srv/out.
COMMAND = (
    *("/bin/sh", "-c"),
    "cd /srv; stat -c '%n %a %u:%g' $(find in | sort); cat in/f; "
    "mkdir -p out; echo result >out/r; chmod 640 out/r; ln -sf /etc/passwd out/l",
)
FOUND = ["in 755 0:0", "in/f 640 0:0", "in/l 777 0:0", "words"]


def started(caller: Caller) -> list[str]:
    """The container's run to its end: the lines that it wrote."""
    done = caller.daemon.dkrctl("start", "-a", "web", user=caller.user, check=True)
    return str(done.stdout).splitlines()


@contextlib.contextmanager
def resting(caller: Caller, *args: str, name: str = "web") -> Iterator[str]:
    """A container that is made for the block, and nothing of it or of what copied is left afterwards."""
    daemon = caller.daemon
    before = count(daemon)
    done = daemon.dkrctl("create", "--name", name, *(args or COMMAND), user=caller.user, check=True)
    try:
        yield str(done.stdout).strip()
    finally:
        daemon.dkrctl("rm", "-f", name, user=caller.user, check=True)
    assert_same(daemon, before)
    assert not os.listdir(daemon.run_dir / "copies")
    assert not [process for process in daemon.processes() if process.comm in PROCESSES]
    assert "Traceback" not in daemon.log
    assert "a porter died" not in daemon.log


PROCESSES = ("dkr-copy", "dkr-porter", "dkr-rest")


def processes(caller: Caller, comm: str) -> list[host.Process]:
    """The daemon's of this name: who copies, who holds containers open, who holds their namespaces."""
    return [process for process in caller.daemon.processes() if process.comm == comm]


@pytest.fixture
def here(caller: Caller, open_tmp: Path) -> Path:
    """A directory of the caller's with a tree in it."""
    tree = open_tmp / "in"
    tree.mkdir(0o755)
    (tree / "f").write_text("words\n")
    (tree / "f").chmod(0o640)
    (tree / "l").symlink_to("/etc/shadow")
    if caller.user is not None:
        for path in (open_tmp, tree, tree / "f"):
            os.chown(path, caller.user.uid, caller.user.gid)
    return open_tmp


@contextlib.contextmanager
def stalled(caller: Caller, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A copy from standard input, which does not come, once it has begun."""
    before = [process.pid for process in processes(caller, "dkr-copy")]
    read, write = os.pipe()
    try:
        with caller.daemon.popen(
            *("cp", "-", "web:/srv", *args), user=caller.user, stdin=read, stderr=-1, text=True
        ) as client:
            try:
                eventually(
                    lambda: [p for p in processes(caller, "dkr-copy") if p.pid not in before], "it has begun"
                )
                yield client
            finally:
                client.kill()
    finally:
        os.close(read)
        os.close(write)


def test_what_is_copied_in_is_there_at_the_start_and_what_was_made_comes_out(
    caller: Caller, here: Path
) -> None:
    with resting(caller):
        copied(caller, here / "in", "web:/srv")
        copied(caller, "web:/srv/in", here / "back")
        assert (here / "back" / "f").read_text() == "words\n"
        assert started(caller) == FOUND
        copied(caller, "web:/srv/out", here)
        copied(caller, "-L", "web:/srv/out/l", here / "passwd")
        found = (here / "out" / "r").stat()
        assert ((here / "out" / "r").read_text(), found.st_mode & 0o7777) == ("result\n", 0o640)
        assert (here / "out" / "l").readlink() == Path("/etc/passwd")
        assert "root:" in (here / "passwd").read_text()
        # And back into one that has ended, for its next start.
        (here / "in" / "f").write_text("other words\n")
        copied(caller, here / "in" / "f", "web:/srv/in")
        assert started(caller)[-1] == "other words"
        assert caller.daemon.dkrctl("logs", "web", user=caller.user).stdout.count("words") == 2


def test_an_archive_by_standard_input_and_output(caller: Caller, here: Path) -> None:
    with resting(caller):
        done = caller.shell(
            f"tar c -C {here} --owner=7 --group=8 in | dkrctl cp -a - web:/srv && dkrctl cp web:/srv/in - | tar tv --numeric-owner"
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["drwxr-xr-x", "7/8"],
            ["-rw-r-----", "7/8"],
            ["lrwxrwxrwx", "7/8"],
        ]
        assert started(caller)[:3] == ["in 755 7:8", "in/f 640 7:8", "in/l 777 7:8"]


def test_what_does_not_fit_is_refused_as_of_one_that_runs(caller: Caller, here: Path) -> None:
    with resting(caller):
        assert "cannot find /none in the container" in refused(caller, "web:/none", here)
        assert "not a directory" in refused(caller, "web:/etc/hostname/.", here)
        assert "cannot find /none" in refused(caller, here / "in", "web:/none/x/y")
        assert "it is cut off" in caller.shell("echo no | dkrctl cp - web:/srv").stderr
        # What is mounted inside is empty and gone again: what was written there would be lost.
        assert "read-only file system" in refused(caller, here / "in", "web:/dev/shm")
        assert copied(caller, "web:/dev/shm/.", here / "shm") == ""
        assert not list((here / "shm").iterdir())
    with resting(caller, "--tmpfs", "/mine", *COMMAND):
        assert "read-only file system" in refused(caller, here / "in", "web:/mine")


@pytest.mark.parametrize(
    "options",
    [
        ("--read-only",),
        ("--read-only", "busybox"),
    ],
)
def test_where_the_root_is_read_only_nothing_is_written(
    caller: Caller, here: Path, options: tuple[str, ...]
) -> None:
    with resting(caller, *options, "/bin/sh", "-c", "true"):
        assert "read-only file system" in refused(caller, here / "in", "web:/etc")
        copied(caller, "web:/etc/hostname", here)
        assert (here / "hostname").read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("-t",),
        ("--rm",),
        ("-i", "--restart", "on-failure", "--health-cmd", "true"),
        ("--pids-limit", "1"),
        ("--memory", "32m", "--pids-limit", "20"),
        ("busybox",),
    ],
)
def test_however_it_is_made(caller: Caller, here: Path, options: tuple[str, ...]) -> None:
    with resting(caller, *options, "/bin/sh", "-c", "cat /etc/f; true"):
        copied(caller, here / "in" / "f", "web:/etc/f")
        copied(caller, "web:/etc/f", here / "back")
        assert (here / "back").read_text() == "words\n"


@pytest.mark.parametrize("caller", ["root"], indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        *(("--userns", "host"), ("--userns", "host", "--read-only")),
        *(("--pid", "host", "--network", "host"), ("--ipc", "host", "--uts", "host")),
    ],
)
def test_whatever_it_shares_with_the_host(root: Caller, here: Path, options: tuple[str, ...]) -> None:
    with resting(root, *options, "/bin/sh", "-c", "cat /srv/f"):
        copied(root, "web:/etc/hostname", here)
        if "--read-only" in options:
            assert "read-only file system" in refused(root, here / "in", "web:/srv")
            return
        copied(root, here / "in" / "f", "web:/srv")
        assert started(root) == ["words"]


@pytest.fixture
def root(caller: Caller) -> Caller:
    """What only root may have; `here` is its own then."""
    return caller


def test_in_a_directory_as_the_default_root(
    make_daemon: MakeDaemon, open_tmp: Path, tenant: host.User
) -> None:
    tree = trees.plant(open_tmp / "tree")
    before = trees.listing(tree)
    daemon = make_daemon(default_root=str(tree))
    for user in (None, tenant):
        daemon.dkrctl("create", "--name", "web", "/bin/sh", "-c", "cat /etc/motd", user=user, check=True)
        daemon.dkrctl("cp", "/etc/hostname", "web:/etc/motd", user=user, check=True)
        done = daemon.dkrctl("start", "-a", "web", user=user, check=True)
        with open("/etc/hostname") as name:
            assert done.stdout == name.read()
        assert daemon.dkrctl("cp", "web:/etc/motd", "-", user=user, check=True).stdout
        daemon.dkrctl("rm", "web", user=user, check=True)
    assert trees.listing(tree) == before


def test_a_directory_of_its_callers_is_kept_by_nobody(caller: Caller, here: Path) -> None:
    own = trees.plant(here / "own", caller.user)
    daemon = caller.daemon
    daemon.dkrctl(
        "run", "--name", "web", "--rootfs", str(own), "/bin/sh", "-c", "true", user=caller.user, check=True
    )
    try:
        caller.ended("web")
        assert "its root was a directory of its caller's" in refused(caller, "web:/etc", here / "x")
        status, problem = http(caller, "GET", "/v1/containers/web/archive?path=/etc")
        assert (status, problem["rule"]) == (409, "descriptors")
    finally:
        daemon.dkrctl("rm", "web", user=caller.user, check=True)


def test_over_http_and_from_python(caller: Caller, here: Path) -> None:
    with resting(caller):
        assert asked(caller, "PUT", "path=/srv&copyUIDGID=true", archive(f="words\n"))[0].status == 204
        assert asked(caller, "HEAD", "path=/srv/f")[0].status == 200
        assert asked(caller, "HEAD", "path=/srv/none")[0].status == 404
        answer, data = asked(caller, "GET", "path=/srv/f")
        assert (answer.status, b"words\n" in data) == (200, True)
        answer, data = asked(caller, "PUT", "path=/srv", b"no archive" * 100)
        assert (answer.status, "it is none" in json.loads(data)["detail"]) == (400, True)
    if caller.user is None:
        asyncio.run(_from_python(caller, here))


async def _from_python(caller: Caller, here: Path) -> None:
    async with Client(caller.daemon.socket) as dkr:
        with resting(caller):
            assert await dkr.copy_to("web", here / "in", "/srv") == []
            assert started(caller) == FOUND
            assert await dkr.copy_from("web", "/srv/out/.", here / "back") == []
            with pytest.raises(NotFound):
                await dkr.copy_from("web", "/none", here)
    assert (here / "back" / "r").read_text() == "result\n"


@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_over_plain_http_nothing_is_written_where_more_was_granted(root: Caller) -> None:
    with resting(root, "--network", "host", *COMMAND):
        answer, data = asked(root, "PUT", "path=/srv", archive(f="x"))
        assert (answer.status, json.loads(data)["rule"]) == (403, "http")
        assert asked(root, "GET", "path=/etc/hostname")[0].status == 200


def test_several_copies_share_what_holds_it_open(caller: Caller, here: Path) -> None:
    with resting(caller):
        with stalled(caller), stalled(caller):
            [porter] = processes(caller, "dkr-porter")
            copied(caller, here / "in", "web:/srv")
            copied(caller, "web:/srv/in", here / "back")
            assert [one.pid for one in processes(caller, "dkr-porter")] == [porter.pid]
        eventually(lambda: not processes(caller, "dkr-porter"), "nobody copies, nobody holds it open")
        assert started(caller) == FOUND


def test_a_start_and_a_removal_end_what_is_not_done(caller: Caller, here: Path) -> None:
    with resting(caller):
        copied(caller, here / "in", "web:/srv")
        with stalled(caller) as client:
            assert started(caller) == FOUND
            assert "it is being started or removed" in client.communicate()[1]
        with stalled(caller) as client:
            caller.daemon.dkrctl("rm", "web", user=caller.user, check=True)
            assert "it is being started or removed" in client.communicate()[1]
            assert client.returncode == 1
        caller.daemon.dkrctl("create", "--name", "web", *COMMAND, user=caller.user, check=True)


def test_what_is_said_of_it_changes_while_it_is_copied(caller: Caller) -> None:
    with resting(caller), stalled(caller) as client:
        daemon, user = caller.daemon, caller.user
        daemon.dkrctl("update", "--restart", "always", "--memory", "64m", "web", user=user, check=True)
        daemon.dkrctl("rename", "web", "other", user=user, check=True)
        daemon.dkrctl("stop", "other", user=user, check=True)
        daemon.dkrctl("rename", "other", "web", user=user, check=True)
        daemon.dkrctl("update", "--restart", "no", "web", user=user, check=True)
        assert client.poll() is None
        assert len(processes(caller, "dkr-copy")) == 1


def test_anothers_is_not_found_and_nothing_ends_for_its_sake(
    caller: Caller, other_tenant: host.User, here: Path
) -> None:
    daemon = caller.daemon
    with resting(caller) as container, stalled(caller) as client:
        for words in (("cp", f"{container}:/etc", "-"), ("rm", container), ("start", container)):
            done = daemon.dkrctl(*words, user=other_tenant)
            assert done.returncode in (1, 125)
            assert "cannot find" in done.stderr
        assert client.poll() is None
        assert len(processes(caller, "dkr-copy")) == 1


def test_one_that_waits_to_be_restarted_is_refused(slow: Daemon, open_tmp: Path) -> None:
    restart = {"policy": "always"}
    with made(slow, "/bin/false", name="web", restart=restart):
        eventually(
            lambda: "restarting" in slow.dkrctl("ps", "-a", "--format", "{{.Status}}").stdout.lower(),
            "it waits",
        )
        done = slow.dkrctl("cp", "web:/etc", str(open_tmp))
        assert done.returncode == 1
        assert "waits to be restarted" in done.stderr


def test_the_limits_hold_for_what_copies(caller: Caller) -> None:
    with resting(caller, "--memory", "48m", *COMMAND), stalled(caller):
        [rest] = processes(caller, "dkr-rest")
        # It has its name before it is in each of them.
        eventually(
            lambda: [process.cgroups for process in processes(caller, "dkr-copy")] == [rest.cgroups],
            "it is where the container is",
        )
        [line] = [line for line in rest.cgroups.splitlines() if ":memory:" in line or line.startswith("0::")][
            :1
        ]
        assert f"/{caller.daemon.cgroup}/" in line
