"""The built-in root `host`: nothing of it tells or takes more than "other" may outside."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.security.inside import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

SECRET = "a secret of the host's root"
BOUND = "sorted(line[4] for line in mountinfo() if line[4].split('/')[1] not in ('', 'proc', 'sys', 'dev'))"


@pytest.fixture
def planted() -> Iterator[Path]:
    """In /usr/local: files and directories that "other" may not read, of owners that mean something."""
    directory = Path(tempfile.mkdtemp(prefix="dkr-test-", dir="/usr/local/lib"))
    try:
        directory.chmod(0o755)
        for name, mode, owner in (
            ("root", 0o600, 0),
            ("group", 0o640, 0),
            ("first", 0o600, 0x60000000),
            ("user", 0o400, 1000),
            ("setuid", 0o4750, 0),
        ):
            path = directory / name
            path.write_text(SECRET)
            os.chown(path, owner, owner)
            path.chmod(mode)
        closed = directory / "closed"
        closed.mkdir()
        (closed / "inside").write_text(SECRET)
        closed.chmod(0o700)
        (directory / "open").write_text("for all")
        (directory / "open").chmod(0o644)
        (directory / "writable").write_text("for all")
        (directory / "writable").chmod(0o666)
        (directory / "everybodys").mkdir()
        (directory / "everybodys").chmod(0o1777)
        yield directory
    finally:
        shutil.rmtree(directory)


def _closed_to_other(top: str) -> list[str]:
    """What lies at or below `top` that "other" may not read: files, and directories whose content is then hidden."""
    found = []
    for directory, below, names in os.walk(top):
        for name in (*names, *below):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            wanted = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & wanted != wanted:
                found.append(path)
    return found


READ = """
def read(path):
    try:
        if os.path.isdir(path):
            return os.listdir(path)
        with open(path, "rb") as file:
            return len(file.read(1))
    except OSError:
        return None
"""


@pytest.mark.parametrize("who", ["root", "tenant"])
def test_what_other_may_not_read_is_not_read_inside(
    daemon: Daemon, tenant: User, planted: Path, who: str
) -> None:
    user = tenant if who == "tenant" else None
    bound = ask(daemon, f"tell({BOUND})", user=user)
    assert "/usr" in bound
    closed = [path for top in bound for path in _closed_to_other(top)]
    assert str(planted / "root") in closed
    assert str(planted / "closed") in closed
    closed.append(str(planted / "closed" / "inside"))
    probe = READ + "tell([p for p in json.loads(sys.stdin.read()) if read(p) is not None])"
    assert ask(daemon, probe, user=user, input=json.dumps(closed)) == []
    open_one = READ + f"tell(read({str(planted / 'open')!r}))"
    assert ask(daemon, open_one, user=user) == 1


def test_with_the_hosts_ids_root_reads_them(daemon: Daemon, planted: Path) -> None:
    """Where the wall (the ids) is lowered, by who may, the same reading succeeds."""
    probe = READ + f"tell([read('{planted}/' + n) for n in ('root', 'group', 'closed')])"
    assert ask(daemon, probe, "--userns", "host") == [1, 1, ["inside"]]


def test_every_bound_path_is_roots_and_for_all_to_read(daemon: Daemon) -> None:
    for path in ask(daemon, f"tell({BOUND})"):
        status = os.stat(path)
        wanted = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
        assert (status.st_uid, status.st_mode & wanted) == (0, wanted), path


def test_the_rest_of_etc_is_the_containers_own(daemon: Daemon) -> None:
    """No file of the host's /etc shows unless it is bound; passwd and shadow name nobody of the host."""
    probe = f"""
bound = {BOUND}
files = {{}}
for directory, _, names in os.walk("/etc"):
    for name in names:
        path = f"{{directory}}/{{name}}"
        if not os.path.islink(path) and not any(path == b or path.startswith(b + "/") for b in bound):
            files[path] = [os.lstat(path).st_uid, os.lstat(path).st_mode & 0o7777, text(path)]
tell(files)
"""
    files = ask(daemon, probe)
    assert {"/etc/passwd", "/etc/group", "/etc/shadow"} <= set(files)
    assert {owner for owner, _, _ in files.values()} == {0}
    for path, (_, _, text) in files.items():
        outside = Path(path)
        if outside.is_file() and text:
            assert text != outside.read_text(errors="replace"), path
    for entry in Path("/etc/shadow").read_text().splitlines():
        digest = entry.split(":")[1]
        assert len(digest) < 4 or digest not in files["/etc/shadow"][2]
    inside = {line.split(":")[0] for line in files["/etc/passwd"][2].splitlines()}
    host = {
        line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines() if ":x:1" in line[:40]
    }
    assert "dkr-api" not in inside
    assert not any(name.startswith("dkrtest") for name in inside)
    assert host  # the premise: the host has users


@pytest.mark.parametrize("options", [(), ("--userns", "host")])
def test_nothing_of_it_is_writable(daemon: Daemon, planted: Path, options: tuple[str, ...]) -> None:
    probe = f"""
bound = {BOUND}
found = {{}}
for path in [*bound, {str(planted)!r}, {str(planted / "everybodys")!r}]:
    if os.path.isdir(path):
        made = path + "/dkr-test-made-inside"
        found[path + " mkdir"] = refusal(os.mkdir, made)
        if found[path + " mkdir"] is None:
            os.rmdir(made)
    else:
        found[path + " open"] = refusal(os.open, path, os.O_WRONLY)
writable = {str(planted / "writable")!r}
for name, call in (("open", lambda: os.open(writable, os.O_WRONLY)), ("append", lambda: os.open(writable, os.O_WRONLY | os.O_APPEND)),
                   ("truncate", lambda: os.truncate(writable, 0)), ("chmod", lambda: os.chmod(writable, 0o777)),
                   ("chown", lambda: os.chown(writable, 0, 0)), ("unlink", lambda: os.unlink(writable)),
                   ("rename", lambda: os.rename(writable, writable + "x")), ("link", lambda: os.link(writable, writable + "x")),
                   ("xattr", lambda: os.setxattr(writable, "user.x", b"x"))):
    found[name] = refusal(call)
tell(found)
"""
    found = ask(daemon, probe, *options)
    assert {how for how in found.values() if how not in ("EROFS", "EACCES", "EPERM")} == set()
    # Where nothing but the mount stands in the way, it is the mount that refuses.
    for name in (f"{planted / 'everybodys'} mkdir", "open", "append", "truncate", "unlink"):
        assert found[name] == "EROFS", name
    assert (planted / "writable").read_text() == "for all"


def test_a_setuid_program_of_the_hosts_gives_nothing(daemon: Daemon, tenant: User) -> None:
    """nosuid on every bind: not even to an id of the container."""
    found = [
        path
        for directory in ("/usr/bin", "/usr/sbin")
        for path in map(str, Path(directory).iterdir())
        if not os.path.islink(path) and os.stat(path).st_mode & stat.S_ISUID
    ]
    if not found:
        pytest.skip("the host has no setuid program")
    probe = "tell([[line[4], 'nosuid' in line[5].split(',')] for line in mountinfo() if line[4] != '/'])"
    assert all(nosuid for _, nosuid in ask(daemon, probe, user=tenant))
