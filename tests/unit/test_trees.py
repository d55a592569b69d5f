"""A directory becomes a lower layer: clone, map and attach it with the runtime alone, in a mount namespace of the test's own.

What the guardian looks at before is passed by here, so that what holds without it is seen.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import BadRequest, DkrError, NotPermitted
from dkrd.runtime import syscalls, trees
from dkrd.runtime.operations import LAYERS, MountOverlay, Stage
from dkrd.runtime.tree_root import AttachTree
from tests.security.callers import as_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

BASE = 0x5FFF0000  # just below the ids of the tests' daemons
LIBC = ctypes.CDLL(None, use_errno=True)
OWNER = 4321


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    (place / "etc").mkdir(parents=True)
    (place / "file").write_text("x")
    for path in (place, place / "etc", place / "file"):
        os.chown(path, OWNER, OWNER)
    return place


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As the container's own."""
    place = tmp_path / "container"
    for name in ("upper/etc", "work"):
        (place / name).mkdir(parents=True)
    return place


def mount(source: str, place: Path, kind: str = "") -> None:
    words = (source.encode(), os.fsencode(place), kind.encode() or None)
    assert LIBC.mount(*words, ctypes.c_ulong(0 if kind else 0x1000), None) == 0


def alone(work: Callable[[], Any]) -> Any:
    """What `work` returns in a mount namespace of its own; what an error of ours says, in words."""

    def there() -> Any:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount_setattr(syscalls.AT_FDCWD, "/", propagation=syscalls.MS_PRIVATE, recursive=True)
        try:
            return work()
        except DkrError as err:
            return f"{err.code}: {err.message}"

    return as_user(0, there)


def clone(tree: Path) -> int:
    return syscalls.open_tree(syscalls.AT_FDCWD, str(tree), syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)


def attach(tree: int, directory: Path, ids: tuple[int, int] = (OWNER, OWNER)) -> Stage:
    stage = Stage(BASE, -1, tree=trees.Tree(tree, trees.user_namespace(ids, BASE), ids[0]))
    os.chdir(directory)
    AttachTree("/tree", "", LAYERS).execute(stage)
    return stage


def test_owners_and_what_can_be_done_about_them(tree: Path, directory: Path) -> None:
    (tree / "other").write_text("y")

    def work() -> Any:
        attach(clone(tree), directory)
        owners = [os.stat(directory / LAYERS / name).st_uid for name in ("", "file", "other")]
        with pytest.raises(OSError, match="Read-only"):
            (directory / LAYERS / "file").write_text("z")
        return owners

    assert alone(work) == [BASE, BASE, 65534]


def test_a_clone_that_brings_mounts_is_refused_however_it_came_by_them(tree: Path, directory: Path) -> None:
    """The wall behind the look at mountinfo: something was mounted between that and the clone, by whatever name."""

    def work() -> Any:
        mount("tmpfs", tree / "etc", "tmpfs")
        attach(clone(tree), directory)

    said = "start-failed: cannot use /tree as the root: /tree/etc is mounted there, and what that covers must stay covered"
    assert alone(work) == said


def test_a_directory_that_is_deleted_meanwhile_is_refused(tree: Path, directory: Path) -> None:
    def work() -> Any:
        held = clone(tree / "etc")
        (tree / "etc").rmdir()
        attach(held, directory)

    assert alone(work) == "start-failed: cannot use /tree as the root: the directory was deleted"


def test_the_overlay_takes_the_flags_over(tree: Path, directory: Path) -> None:
    def work() -> Any:
        mount(str(tree), tree)
        syscalls.mount_setattr(syscalls.AT_FDCWD, str(tree), attr_set=syscalls.MOUNT_ATTR_NOEXEC)
        stage = attach(clone(tree), directory)
        before = stage.flags
        MountOverlay((), True, "/tree").execute(stage)
        flags = os.fstatvfs(stage.root).f_flag
        return [before, bool(flags & os.ST_NOEXEC), bool(flags & os.ST_NODEV), bool(flags & os.ST_NOSUID)]

    assert alone(work) == [syscalls.MOUNT_ATTR_NOEXEC, True, True, False]


def test_what_the_kernel_refuses_to_overlay_is_told_by_name(tree: Path, directory: Path) -> None:
    def work() -> Any:
        stage = attach(clone(tree), directory)
        os.rename(directory / "work", directory / "gone")
        MountOverlay((), True, "/tree").execute(stage)

    assert "cannot use /tree as the root: no overlay can stand on it: " in alone(work)


@pytest.fixture
def held(tree: Path) -> Iterator[int]:
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_nothing_is_left_open(held: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    source = trees.Source("/tree", held, ids=(OWNER, OWNER))
    with trees.taken(source, BASE, time.monotonic() + 10) as tree:
        assert len({tree.mount, tree.mapping, held}) == 3
        assert tree.owner == OWNER
    with trees.taken(trees.Source("/tree", held), BASE, time.monotonic() + 10) as tree:
        assert (tree.mapping, tree.owner) == (-1, -1)
    for bad in (
        trees.Source("/tree", held, namespace=held),
        trees.Source("/tree", held, namespace=os.dup(0)),
    ):
        with pytest.raises(BadRequest), trees.taken(bad, BASE, time.monotonic() + 10):
            pass
        if bad.namespace != held:
            os.close(bad.namespace)
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_id_is_mapped_and_by_root(held: int) -> None:
    fd = trees.user_namespace((OWNER, OWNER + 1), BASE)

    def look() -> Any:
        syscalls.setns(fd, syscalls.CLONE_NEWUSER)
        maps = []
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/self/{name}") as file:
                maps.append([int(word) for word in file.read().split()])
        return maps

    # As seen from inside, the ids outside are those of the host.
    assert as_user(0, look) == [[OWNER, BASE, 1], [OWNER + 1, BASE, 1]]
    os.close(fd)


def test_a_view_of_the_kernels_is_none_for_anybody() -> None:
    for name in ("/proc/self", "/sys/kernel"):
        fd = os.open(name, os.O_PATH | os.O_DIRECTORY)
        with (
            pytest.raises(DkrError, match="a view of the kernel's"),
            trees.taken(trees.Source(name, fd, anywhere=True), BASE, time.monotonic() + 10),
        ):
            pass
        os.close(fd)


def test_every_served_filesystem_is_refused_to_a_tenant(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """This machine has few of them: its own counts as one for the test."""
    monkeypatch.setattr(trees, "SERVED", frozenset(("ext4", "overlay", "tmpfs", "xfs", "btrfs")))
    with (
        pytest.raises(NotPermitted) as caught,
        trees.taken(trees.Source("/tree", held, ids=(OWNER, OWNER)), BASE, time.monotonic() + 10),
    ):
        pass
    assert caught.value.rule == "rootfs-filesystem"
    with trees.taken(trees.Source("/tree", held, anywhere=True), BASE, time.monotonic() + 10):
        pass
