"""The setting `default_root` as a directory: a tree that an administrator has filled, for everybody who names no other."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from tests import trees
from tests.reliability.support import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture
def tree(open_tmp: Path) -> Path:
    tree = trees.plant(open_tmp / "alpine-root")
    (tree / "etc/secret").write_text("root's\n")
    (tree / "etc/secret").chmod(0o600)
    for name, (uid, gid) in {"five": (5, 6), "beyond": (70000, 70000)}.items():
        (tree / name).touch()
        os.chown(tree / name, uid, gid)
    return tree


def warning(daemon: Daemon) -> str:
    """What is said of it at the start, which comes beside the serving."""
    while not (found := [line for line in daemon.log.splitlines() if "default root cannot be used" in line]):
        select.select([], [], [], 0.01)
    [line] = found
    return line


def test_everybody_runs_in_it(make_daemon: MakeDaemon, tree: Path, tenant: User, admin: User) -> None:
    daemon = make_daemon(default_root=str(tree))
    before = trees.listing(tree)
    line = "id -u; cat /etc/motd /etc/secret; stat -c %u:%g /bin /five /beyond; echo x >>/etc/secret; rm /five; ls /proc/1/exe"
    for user in (None, tenant, admin):
        done = daemon.run("/bin/sh", "-c", line, user=user)
        assert done.stdout.split("\n") == [
            *("0", "a tree", "root's", "0:0", "5:6", "65534:65534", "/proc/1/exe", ""),
        ]
        # Other roots are there as ever.
        assert daemon.run("busybox", "echo", "x", user=user).stdout == "x\n"
        assert "ID=" in daemon.run("host", "cat", "/etc/os-release", user=user).stdout
        own = trees.plant(tree.parent / f"own-{0 if user is None else user.uid}", user)
        (own / "etc/motd").write_text("own\n")
        assert daemon.run("--rootfs", str(own), "cat", "/etc/motd", user=user).stdout == "own\n"
    assert trees.listing(tree) == before
    assert "the default root cannot be used" not in daemon.log


def test_a_container_is_started_in_it_again(make_daemon: MakeDaemon, tree: Path, tenant: User) -> None:
    daemon = make_daemon(default_root=str(tree))
    daemon.dkrctl(
        "create",
        "--name",
        "again",
        "/bin/sh",
        "-c",
        "echo x >>/kept; cat /etc/motd /kept",
        user=tenant,
        check=True,
    )
    for turn in (1, 2, 3):
        done = daemon.dkrctl("start", "-a", "again", user=tenant, check=True)
        assert done.stdout == "a tree\n" + "x\n" * turn
    daemon.dkrctl("rm", "again", user=tenant, check=True)


def test_it_is_looked_at_for_each_run(make_daemon: MakeDaemon, tree: Path, tenant: User) -> None:
    """A tree that was exchanged for another counts at once; so does one that nobody can use any more."""
    daemon = make_daemon(default_root=str(tree))
    tree.rename(tree.parent / "old")
    done = daemon.dkrctl("run", "--rm", "/bin/cat", "/etc/motd", user=tenant)
    assert done.stderr.startswith(f"dkrctl: cannot use {tree} as the root: {tree} does not exist\n")
    trees.plant(tree)
    (tree / "etc/motd").write_text("a new tree\n")
    assert daemon.run("/bin/cat", "/etc/motd", user=tenant).stdout == "a new tree\n"
    tree.chmod(0o775)
    os.chown(tree, 0, tenant.gid)
    done = daemon.dkrctl("run", "--rm", "/bin/cat", "/etc/motd", user=tenant)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"others than root may write to {tree}" in done.stderr
    eventually(lambda: not os.listdir(daemon.state_dir / "containers"), "nothing is left of those that ran")


def _symlink(tree: Path, user: User) -> None:
    tree.rename(tree.parent / "real")
    tree.symlink_to("real")


def _file(tree: Path, user: User) -> None:
    tree.rename(tree.parent / "old")
    tree.touch()


def _group(tree: Path, user: User) -> None:
    os.chown(tree, 0, user.gid)
    tree.chmod(0o770)


UNFIT: dict[str, tuple[Callable[[Path, User], object], str]] = {
    "missing": (lambda tree, user: tree.rename(tree.parent / "old"), "{tree} does not exist"),
    "a file": (_file, "{tree} is not a directory"),
    "a link": (_symlink, "{tree} is a symbolic link"),
    "another's": (
        lambda tree, user: os.chown(tree, user.uid, 0),
        "{tree} belongs to uid {uid}, not to root",
    ),
    "writable by all": (lambda tree, user: tree.chmod(0o777), "others than root may write to {tree}"),
    "writable and sticky": (lambda tree, user: tree.chmod(0o1777), "others than root may write to {tree}"),
    "writable by a group": (_group, "others than root may write to {tree}"),
    "below another's": (
        lambda tree, user: os.chown(tree.parent, user.uid, 0),
        "{parent} belongs to uid {uid}, not to root",
    ),
    "below what all may write to": (
        lambda tree, user: tree.parent.chmod(0o777),
        "others than root may write to {parent}",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_one_that_is_unfit_is_told_at_the_start_and_at_each_run(
    make_daemon: MakeDaemon, tree: Path, tenant: User, kind: str
) -> None:
    spoil, cause = UNFIT[kind]
    spoil(tree, tenant)
    said = f"cannot use {tree} as the root: " + cause.format(tree=tree, parent=tree.parent, uid=tenant.uid)
    daemon = make_daemon(default_root=str(tree))
    line = warning(daemon)
    assert " warning " in line
    assert said in line
    for user in (None, tenant):
        done = daemon.dkrctl("run", "--rm", "/bin/echo", "ran", user=user)
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith(f"dkrctl: {said}\n  hint: ")
        assert daemon.run("busybox", "echo", "x", user=user).stdout == "x\n"


def test_a_link_on_the_way_is_refused(make_daemon: MakeDaemon, open_tmp: Path, tree: Path) -> None:
    """Whoever may change it could lead everybody's root elsewhere, and all of that would be theirs."""
    (open_tmp / "way").symlink_to(open_tmp)
    daemon = make_daemon(default_root=f"{open_tmp}/way/alpine-root")
    done = daemon.dkrctl("run", "--rm", "/bin/echo", "ran")
    assert f"as the root: {open_tmp}/way is a symbolic link" in done.stderr
    assert f"hint: have the setting default_root name {tree}" in done.stderr


def test_one_with_mounts_in_it_or_that_cannot_be_mapped(make_daemon: MakeDaemon, tenant: User) -> None:
    for name, said in (("/", "is mounted there"), ("/proc/sys", "proc is a view of the kernel's")):
        daemon = make_daemon(default_root=name)
        assert said in warning(daemon)
        done = daemon.dkrctl("run", "--rm", "/bin/echo", "ran", user=tenant)
        assert (done.returncode, done.stdout) == (125, "")
        assert said in done.stderr


def test_a_reload_leaves_it(make_daemon: MakeDaemon, tree: Path) -> None:
    daemon = make_daemon(default_root=str(tree))
    other = trees.plant(tree.parent / "other")
    file = daemon.directory / "dkrd.toml"
    file.write_text(file.read_text().replace(str(tree), str(other)))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    while "need a restart of dkrd" not in daemon.log:
        select.select([], [], [], 0.01)
    assert 'settings=["default_root"]' in daemon.log
    assert daemon.run("/bin/cat", "/etc/secret").stdout == "root's\n"
    daemon.restart()
    assert daemon.dkrctl("run", "--rm", "/bin/cat", "/etc/secret").returncode == 1


def test_who_lists_containers_sees_its_path(make_daemon: MakeDaemon, tree: Path) -> None:
    daemon = make_daemon(default_root=str(tree))
    assert daemon.dkrctl("run", "--name", "kept", "/bin/echo", "x").stdout == "x\n"
    told = daemon.dkrctl("inspect", "kept").stdout
    assert f'"image": "{tree}"' in told
    assert daemon.dkrctl("rm", "kept").returncode == 0


def test_a_relative_path_is_no_setting(make_daemon: MakeDaemon) -> None:
    with pytest.raises(
        AssertionError,
        match="default_root must be a string, the name of a built-in root or the absolute path",
    ):
        make_daemon(default_root="./alpine-root")
