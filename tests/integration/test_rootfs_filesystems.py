"""Which filesystems a rootfs may be on, tried on real ones: mounted in a mount namespace of the client's own."""

from __future__ import annotations

import grp
from typing import TYPE_CHECKING

import pytest

from tests import trees

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

HINT = "hint: copy the tree to a directory on ext4, xfs, btrfs or tmpfs"


@pytest.fixture(params=["tenant", "admin", "root"])
def user(request: pytest.FixtureRequest) -> User | None:
    """Who asks, whatever the rights."""
    return None if request.param == "root" else request.getfixturevalue(request.param)


def is_admin(user: User) -> bool:
    return grp.getgrnam("dkr-admin").gr_gid in user.groups


@pytest.fixture
def tree(open_tmp: Path, user: User | None) -> Path:
    return trees.plant(open_tmp / "tree", user)


@pytest.fixture
def place(open_tmp: Path) -> Path:
    (open_tmp / "place").mkdir()
    return open_tmp / "place"


LINE = "cat /etc/motd; stat -c %u /bin/busybox; echo x >>/etc/motd; grep -c . /etc/motd; touch /bin/new && echo made"


@pytest.mark.parametrize(
    "kind", ["ext4", "btrfs", "erofs", "tmpfs", "bind", "read-only bind", "bind of a bind", "moved"]
)
def test_a_root_is_on(root: Caller, tree: Path, place: Path, user: User | None, kind: str) -> None:
    """The tree is found at another place than it came from, and what is written lies above it."""
    if kind in ("ext4", "btrfs", "erofs"):
        setup = f"mount -o loop {trees.image(tree, kind)} {place}"
    else:
        setup = {
            "tmpfs": f"mount -t tmpfs tmpfs {place}; cp -a {tree}/. {place}",
            "bind": f"mount --bind {tree} {place}",
            "read-only bind": f"mount --bind {tree} {place}; mount -o remount,bind,ro {place}",
            "bind of a bind": f"mount --bind {tree} {place}; mount --bind {place} {place}",
            "moved": f"mkdir {place}/x; mount --bind {tree} {place}/x; mkdir {place}/y; mount --move {place}/x {place}/y",
        }[kind]
    where = f"{place}/y" if kind == "moved" else str(place)
    before = trees.listing(tree)
    owner = user.uid if user is not None and is_admin(user) else 0
    done = trees.run(root.daemon, "--rootfs", where, "sh", "-c", LINE, user=user, setup=setup)
    assert (done.stdout, done.stderr) == (f"a tree\n{owner}\n2\nmade\n", "")
    assert trees.listing(tree) == before


KERNELS = {
    "proc": ("mount -t proc proc {place}", "proc"),
    "proc itself": ("", "proc", "/proc/sys"),
    "sysfs": ("mount -t sysfs sysfs {place}", "sysfs"),
    "cgroup": ("mount -t cgroup2 cgroup2 {place}", "cgroup2"),
    "devpts": ("mount -t devpts -o newinstance devpts {place}", "devpts"),
    "devtmpfs": ("mount -t devtmpfs devtmpfs {place}", "devtmpfs"),
    "mqueue": ("mount -t mqueue mqueue {place}", "mqueue"),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_a_root_is_not_a_view_of_the_kernels(root: Caller, place: Path, user: User | None, kind: str) -> None:
    setup, name, *where = KERNELS[kind]
    rootfs = where[0] if where else str(place)
    options = ("--userns", "host") if user is None else ()
    done = trees.run(
        root.daemon, *options, "--rootfs", rootfs, "x", user=user, setup=setup.format(place=place) or "true"
    )
    assert (done.returncode, done.stdout) == (125, "")
    said = f"cannot use {rootfs} as the root: {name} is a view of the kernel's, not a filesystem for files"
    assert done.stderr.startswith(f"dkrctl: {said}\n")


def overlay(tree: Path) -> str:
    for name in ("upper", "work"):
        (tree.parent / name).mkdir()
    return f"lowerdir={tree},upperdir={tree.parent}/upper,workdir={tree.parent}/work"


def test_what_cannot_map_ids_is_refused_and_had_without_a_map(
    root: Caller, tree: Path, place: Path, user: User | None
) -> None:
    setup = f"mount -t overlay -o {overlay(tree)} overlay {place}"
    words = ("--rootfs", str(place), "cat", "/etc/motd")
    done = trees.run(root.daemon, *words, user=user, setup=setup)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(
        f"dkrctl: cannot use {place} as the root: its filesystem cannot map ids\n  {HINT}; administrators"
    )
    done = trees.run(root.daemon, "--userns", "host", *words, user=user, setup=setup)
    if user is not None and not is_admin(user):
        assert "rule: user-host" in done.stderr
    else:
        assert (done.stdout, done.stderr) == ("a tree\n", "")


def test_what_overlay_does_not_take_is_refused(root: Caller, open_tmp: Path, place: Path) -> None:
    """An overlay on an overlay is as deep as they can stand."""
    tree = trees.plant(open_tmp / "tree")
    for name in ("1", "2"):
        (place / name).mkdir()
    setup = (
        f"mount -t overlay -o {overlay(tree)} overlay {place}/1; "
        f"mount -t overlay -o lowerdir={place}/1:{tree}/etc overlay {place}/2"
    )
    words = ("--userns", "host", "--rootfs", f"{place}/2", "cat", "/etc/motd")
    done = trees.run(root.daemon, *words, setup=setup)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(
        f"dkrctl: cannot use {place}/2 as the root: no overlay can stand on it: invalid argument\n  {HINT}; dmesg(1)"
    )


@pytest.mark.parametrize("where", ["/", "/dev", "/sys"])
def test_what_has_mounts_below_names_one(root: Caller, user: User | None, where: str) -> None:
    done = trees.run(root.daemon, "--rootfs", where, "x", user=user)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"cannot use {where} as the root: /" in done.stderr
    assert "is mounted there, and what that covers must stay covered" in done.stderr
    assert "hint: name a directory with nothing mounted below it" in done.stderr
