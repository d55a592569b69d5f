"""What is copied from and to a container that does not run, whose tree is as hostile: links and pipes that it has laid before; and
what holds it open for that.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host, trees
from tests.reliability.support import eventually
from tests.security.inside import status_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Laid in /srv, with the host's directory as $1.
PLANT = """
cd /srv; [ -d dir ] && exit; mkdir dir
ln -s $1 abs; ln -s ../../../../../../../..$1 rel; ln -s abs chain; ln -s $1/new dangling; ln -s loop loop
ln -s /proc/1/root proc; ln -s /proc/self/fd fds; ln -s /proc/self/cwd/../../../.. cwd
mkfifo pipe dir/pipe; ln -s ../pipe dir/up
echo mine >dir/file; chown 1234:1234 dir/file
for f in /etc/nsswitch.conf /etc/passwd /etc/group; do rm -f $f; mkfifo $f; done
true
"""
USERS = ["root", "tenant"]


@pytest.fixture
def canary(open_tmp: Path) -> Path:
    """A directory of the host's that everybody could read, with a file that nobody shall have."""
    place = open_tmp / "host"
    place.mkdir()
    (place / "canary").write_text("outside")
    place.chmod(0o777)
    return place


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest, tenant: host.User) -> host.User | None:
    return tenant if request.param == "tenant" else None


@contextmanager
def planted(daemon: Daemon, canary: Path, user: host.User | None) -> Iterator[str]:
    """The id of a container `web` that has laid PLANT and ended."""
    done = daemon.dkrctl(
        *("create", "--name", "web", "/bin/sh", "-c", PLANT, "sh", str(canary)),
        user=user,
        check=True,
    )
    try:
        daemon.dkrctl("start", "-a", "web", user=user, check=True)
        yield done.stdout.strip()
    finally:
        daemon.dkrctl("rm", "-f", "web", user=user, check=True)


def look(canary: Path) -> list[tuple[str, int, int, bytes]]:
    found = []
    for path in sorted([canary, *canary.iterdir()]):
        one = path.stat()
        found.append(
            (path.name, one.st_mtime_ns, one.st_ctime_ns, path.read_bytes() if path.is_file() else b"")
        )
    return found


def test_no_link_leads_out_of_it(
    daemon: Daemon, canary: Path, open_tmp: Path, user: host.User | None
) -> None:
    before = look(canary)
    mine = open_tmp / "mine"
    mine.write_text("mine")
    with planted(daemon, canary, user):
        for name in ("abs", "rel", "chain", "loop", "proc", "fds", "cwd"):
            out = open_tmp / f"out-{name}"
            out.mkdir()
            out.chmod(0o777)
            for path in (
                f"/srv/{name}/canary",
                f"/srv/{name}{canary}/canary",
                f"/srv/{name}/../..{canary}/canary",
            ):
                daemon.dkrctl("cp", "-L", f"web:{path}", str(out), user=user)
            assert not [path for path in out.rglob("canary") if path.is_file()]
            for path in (
                f"/srv/{name}/in",
                f"/srv/{name}{canary}/in",
                f"/srv/{name}/../../../../..{canary}/in",
            ):
                daemon.dkrctl("cp", str(mine), f"web:{path}", user=user)
        daemon.dkrctl("cp", str(mine), "web:/srv/dangling", user=user)
        daemon.dkrctl("cp", str(mine), f"web:/../../..{canary}/in", user=user)
    assert look(canary) == before


def test_what_it_has_planted_is_not_waited_for(
    daemon: Daemon, canary: Path, open_tmp: Path, user: host.User | None
) -> None:
    """Who opened one of its FIFOs would wait for ever: those among them that a library would look names up in (CVE-2019-14271)."""
    back = open_tmp / "back"
    back.mkdir()
    if user is not None:
        os.chown(back, user.uid, user.gid)
    with planted(daemon, canary, user):
        daemon.dkrctl("cp", "web:/srv", str(back), user=user, check=True)
        assert (back / "srv/dir/file").read_text() == "mine\n"
        assert stat.S_ISFIFO((back / "srv/pipe").lstat().st_mode)
        assert (back / "srv/abs").is_symlink()
        assert (back / "srv/dir/file").stat().st_uid == (user.uid if user else 0)
        (back / "pipe").write_text("a file")
        daemon.dkrctl("cp", str(back / "pipe"), "web:/srv/dir", user=user, check=True)
        daemon.dkrctl("cp", "web:/srv/dir/pipe", str(back / "again"), user=user, check=True)
        assert (back / "again").read_text() == "a file"


def test_devices_of_its_root_are_left_out(make_daemon: MakeDaemon, open_tmp: Path, tenant: host.User) -> None:
    tree = trees.plant(open_tmp / "tree")
    (tree / "srv").mkdir()
    os.mknod(tree / "srv/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "srv/disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    daemon = make_daemon(default_root=str(tree))
    for user in (None, tenant):
        daemon.dkrctl("create", "--name", "web", "/bin/true", user=user, check=True)
        place = open_tmp / f"back-{user}"
        place.mkdir()
        place.chmod(0o777)
        done = daemon.dkrctl("cp", "web:/srv", str(place), user=user, check=True)
        assert "left out 2 of devices" in done.stderr
        assert not list((place / "srv").iterdir())
        daemon.dkrctl("cp", "/etc/hostname", "web:/srv/null", user=user, check=True)
        assert stat.S_ISCHR((tree / "srv/null").stat().st_mode)
        daemon.dkrctl("rm", "web", user=user, check=True)


def _status(process: host.Process) -> dict[str, str]:
    return status_fields(Path(f"/proc/{process.pid}/status").read_text())


@contextmanager
def held_open(daemon: Daemon, user: host.User | None) -> Iterator[dict[str, host.Process]]:
    """The processes of a copy that waits for its input, by name."""
    read, write = os.pipe()
    try:
        with daemon.popen("cp", "-", "web:/srv", user=user, stdin=read) as client:
            try:
                found: dict[str, host.Process] = {}

                def there() -> bool:
                    found.clear()  # of the test before one may end meanwhile
                    found.update((process.comm, process) for process in daemon.processes())
                    copy = found.get("dkr-copy")
                    # Its last step before it reads is to be a user of the container's, with few rights.
                    return copy is not None and _status(copy)["CapEff"] != _status(copy)["CapBnd"]

                eventually(there, "it has begun")
                yield found
            finally:
                client.kill()
    finally:
        os.close(read)
        os.close(write)


def test_who_copies_has_nothing_but_the_container(
    daemon: Daemon, canary: Path, user: host.User | None
) -> None:
    with planted(daemon, canary, user), held_open(daemon, user) as found:
        copy, rest, porter = (found[f"dkr-{name}"] for name in ("copy", "rest", "porter"))
        inside, held = _status(copy), _status(rest)
        assert (inside["Uid"], inside["Gid"]) == (held["Uid"], held["Gid"])
        assert "0" not in inside["Uid"].split()
        assert inside["Groups"].strip() == held["Groups"].strip() == ""
        assert int(inside["CapEff"], 16) == int(inside["CapPrm"], 16)
        assert int(inside["CapEff"], 16) & ~0b11111 == 0
        # What holds it open can do nothing at all, and is filtered besides.
        assert [int(held[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
        assert held["Seccomp"] == "2"
        for name in ("mnt", "user", "net", "ipc", "uts", "cgroup"):
            own = os.readlink(f"/proc/{copy.pid}/ns/{name}")
            assert own == os.readlink(f"/proc/{rest.pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        assert os.readlink(f"/proc/{rest.pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        assert os.readlink(f"/proc/{porter.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        # No directory of the host is open in either, and their root is the container's.
        for process in (copy, rest):
            opened = [os.stat(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
            root = os.stat(f"/proc/{process.pid}/root/")
            assert {one.st_dev for one in opened if stat.S_ISDIR(one.st_mode)} <= {root.st_dev}
            assert root.st_dev != os.stat("/").st_dev
            assert process.parent == porter.pid
            assert not os.path.lexists(f"/proc/{process.pid}/root{canary}")
        kinds = [name.partition(":[")[0] for name in host.descriptors(rest.pid)]
        assert kinds == ["pipe"]


def test_what_is_hidden_of_one_that_runs_is_hidden_here(
    daemon: Daemon, canary: Path, user: host.User | None
) -> None:
    with planted(daemon, canary, user), held_open(daemon, user) as found:
        lines = Path(f"/proc/{found['dkr-rest'].pid}/mountinfo").read_text().splitlines()
        hidden = {line.split()[4] for line in lines}
        assert {"/proc/keys", "/proc/sys"} <= hidden
        mounts = {line.split()[4]: line.split()[5].split(",") for line in lines}
        assert [point for point, options in mounts.items() if "rw" in options] == ["/"]
        assert str(daemon.directory) not in "\n".join(lines)


def test_the_files_are_mounted_once(daemon: Daemon, canary: Path, user: host.User | None) -> None:
    """The kernel says so where an upper layer gets a second mount, and goes on: ovl_report_in_use() in fs/overlayfs/super.c."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(log, 0, os.SEEK_END)
        with planted(daemon, canary, user):
            for _ in range(3):
                with held_open(daemon, user) as found:
                    daemon.dkrctl("start", "-a", "web", user=user, check=True)
                    assert not Path(f"/proc/{found['dkr-rest'].pid}").exists()
                    assert not Path(f"/proc/{found['dkr-copy'].pid}").exists()
        assert "in-use as upperdir" not in _said(log)
    finally:
        os.close(log)


def _said(log: int) -> str:
    text = ""
    while True:
        try:
            text += os.read(log, 8192).decode(errors="replace")
        except BlockingIOError:
            return text
