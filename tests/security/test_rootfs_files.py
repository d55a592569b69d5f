"""`--rootfs` as a tenant: the container's root is the caller on the caller's own files, and nobody on all others.

The directory is opened by the caller, so most of the host can be named. What is in it that the caller could not read must not
be read inside, nor written, copied up, renamed, linked, or brought to be executed with somebody else's rights.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import trees

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

SHADOW = Path("/etc/shadow")
# Each line tries to come by NAME, a file of the root's top that belongs to somebody else; the last words are for those that fail.
ATTEMPTS = {
    "read": "cat {name}",
    "read through another way": "cat /proc/self/root/{name}",
    "read by a link": "ln -s {name} link; cat link",
    "copied": "cp {name} copy && cat copy",
    "copied up by writing": "echo x >>{name} && cat {name}",
    "copied up by truncating": ": >{name} && cat {name}",
    "copied up by its mode": "chmod 644 {name} && cat {name}",
    "copied up by its owner": "chown 0:0 {name} && cat {name}",
    "copied up by its time": "touch {name} && cat {name}",
    "renamed": "mv {name} other && cat other",
    "linked": "ln {name} other && cat other",
    "removed": "rm -f {name} && echo removed",
    "mounted elsewhere": "mkdir there && mount --bind {name} there && cat there",
}


def state(path: Path) -> tuple[object, ...]:
    status = path.stat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_ctime_ns,
        digest,
    )


def secret(text: str) -> bool:
    """Whether a line of the host's shadow(5) is in `text`."""
    return any(line in text for line in SHADOW.read_text().splitlines() if line)


@pytest.mark.parametrize("how", ATTEMPTS)
def test_the_hosts_passwords_are_not_had_through_rootfs_etc(
    daemon: Daemon, tenant: host.User, open_tmp: Path, how: str
) -> None:
    before = state(SHADOW)
    line = ATTEMPTS[how].format(name="shadow")
    done = trees.anywhere(daemon, "/etc", f"cat passwd && echo began; {line}", user=tenant, place=open_tmp)
    # What everybody may read is there: the tree is the host's /etc, and the probe has run.
    assert "root:x:0:0:" in done.stdout
    assert "began" in done.stdout
    assert not secret(done.stdout + done.stderr)
    assert "removed" not in done.stdout
    assert done.returncode != 0
    assert state(SHADOW) == before


def test_an_administrator_reads_them_so_the_probe_is_one(
    daemon: Daemon, admin: host.User, open_tmp: Path
) -> None:
    for user in (admin, None):
        done = trees.anywhere(daemon, "/etc", "cat shadow", user=user, place=open_tmp)
        assert secret(done.stdout), done.stderr


def test_the_hosts_root_is_refused_to_everybody(
    daemon: Daemon, tenant: host.User, admin: host.User, open_tmp: Path
) -> None:
    for user in (tenant, admin, None):
        for name in ("/", "//", "/proc/self/root", "/proc/self/root/."):
            done = trees.anywhere(daemon, name, "cat etc/shadow; echo ran", user=user, place=open_tmp)
            assert (done.returncode, done.stdout) == (125, "")
            assert "is mounted there, and what that covers must stay covered" in done.stderr


# --- a tree with other people's files in it


@pytest.fixture
def tree(open_tmp: Path, tenant: host.User, other_tenant: host.User) -> Path:
    """A tenant's tree with files of others: root's, another user's, of a group that the tenant is in."""
    place = trees.plant(open_tmp / "tree", tenant)
    shared = next(gid for gid in tenant.groups if gid != tenant.gid)
    files = {
        # name: owner, group, mode
        "roots": (0, 0, 0o600),
        "roots-readable": (0, 0, 0o644),
        "roots-writable": (0, 0, 0o666),
        "others": (other_tenant.uid, other_tenant.gid, 0o600),
        "shared": (0, shared, 0o660),
        "mine": (tenant.uid, tenant.gid, 0o600),
        "our-groups": (0, tenant.gid, 0o660),
    }
    for name, (uid, gid, mode) in files.items():
        path = place / name
        path.write_text(f"content of {name}\n")
        os.chown(path, uid, gid)
        path.chmod(mode)
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("content of closed\n")
    (closed / "file").chmod(0o644)
    return place


@pytest.mark.parametrize("name", ["roots", "others", "shared", "closed/file"])
@pytest.mark.parametrize("how", ATTEMPTS)
def test_others_files_give_nothing(
    daemon: Daemon, tenant: host.User, tree: Path, name: str, how: str
) -> None:
    before = trees.listing(tree)
    line = ATTEMPTS[how].format(name=name)
    done = trees.run(daemon, "--rootfs", str(tree), "sh", "-c", f"echo began; {line}", user=tenant)
    assert done.stdout == "began\n"
    assert done.returncode != 0
    assert trees.listing(tree) == before


def test_what_all_users_may_read_is_read_and_not_written(
    daemon: Daemon, tenant: host.User, tree: Path
) -> None:
    before = trees.listing(tree)
    line = "cat roots-readable roots-writable; echo x >>roots-writable || echo kept; rm -f roots-readable || echo kept"
    done = trees.run(daemon, "--rootfs", str(tree), "sh", "-c", line, user=tenant)
    assert done.stdout == "content of roots-readable\ncontent of roots-writable\nkept\nkept\n"
    assert "Value too large" in done.stderr  # EOVERFLOW: an owner who is nobody there cannot be written down
    assert trees.listing(tree) == before


def test_the_callers_own_files_are_the_roots(daemon: Daemon, tenant: host.User, tree: Path) -> None:
    before = trees.listing(tree)
    line = "stat -c %u:%g mine our-groups roots; cat mine our-groups; echo changed >mine; cat mine; chown 5:6 mine; stat -c %u:%g mine"
    done = trees.run(daemon, "--rootfs", str(tree), "sh", "-c", line, user=tenant)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("0:0", "65534:0", "65534:65534"),
        *("content of mine", "content of our-groups", "changed", "5:6"),
    ]
    assert trees.listing(tree) == before


def test_another_user_inside_has_no_more(daemon: Daemon, tenant: host.User, tree: Path) -> None:
    line = "cat roots-readable; cat mine || cat roots || cat shared || echo none"
    done = trees.run(daemon, "--rootfs", str(tree), "-u", "7:7", "sh", "-c", line, user=tenant)
    assert done.stdout == "content of roots-readable\nnone\n"


def test_a_directory_that_lets_nobody_in_is_refused(
    daemon: Daemon, tenant: host.User, other_tenant: host.User, open_tmp: Path
) -> None:
    """It can be opened with O_PATH, which asks for no right to the directory itself."""
    for uid, gid in ((0, 0), (other_tenant.uid, other_tenant.gid)):
        place = trees.plant(open_tmp / f"closed-{uid}")
        trees.give(place, uid, gid)
        place.chmod(0o700)
        done = trees.run(daemon, "--rootfs", str(place), "cat", "/etc/motd", user=tenant)
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith(
            f"dkrctl: cannot use {place} as the root: its owner lets nobody else in\n  hint: "
        )
    done = trees.run(daemon, "--rootfs", "/root", "cat", "/etc/motd", user=tenant)
    assert "cannot use /root as the root: its owner lets nobody else in" in done.stderr


# --- programs


def test_set_ids_of_others_give_nothing(
    daemon: Daemon, tenant: host.User, other_tenant: host.User, tree: Path
) -> None:
    programs = {
        # owner, group, mode; uid and gid of a process of 7:7 that has executed it
        "own": (tenant.uid, tenant.gid, 0o6755, (0, 0)),
        "of-root": (0, 0, 0o6755, (7, 7)),
        "of-another": (other_tenant.uid, other_tenant.gid, 0o6755, (7, 7)),
        "of-the-group-root": (tenant.uid, 0, 0o6755, (7, 7)),
        "of-another-group": (tenant.uid, other_tenant.gid, 0o2755, (7, 7)),
    }
    for name, (uid, gid, mode, _) in programs.items():
        path = tree / "bin" / name
        path.write_bytes(trees.identity())
        os.chown(path, uid, gid)
        path.chmod(mode)
    line = "for name in {}; do $name; echo $?; done".format(" ".join(programs))
    done = trees.run(daemon, "--rootfs", str(tree), "-u", "7:7", "sh", "-c", line, user=tenant)
    found = [(int(status) % 16, int(status) // 16) for status in done.stdout.split()]
    assert found == [after for *_, after in programs.values()]
