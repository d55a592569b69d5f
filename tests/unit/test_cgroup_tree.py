"""The tree of cgroup v2 on the real one, with whatever controllers this machine has there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import HostUnfit
from dkrd.runtime import cgroup_tree, cgroups
from tests import host

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

NAME = f"dkr-test-tree-{os.getpid()}"


def words(path: Path) -> set[str]:
    """The words of a file of the cgroup filesystem."""
    return set(path.read_text().split())


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The v2 root. Where the controllers that bound containers are v1's, what is there stands in for them."""
    [line] = [line for line in host.mounts() if " - cgroup2 " in line]
    root = Path(line.split()[4])
    there = words(root / "cgroup.controllers")
    wanted = there & cgroup_tree.CONTROLLERS or there & {"hugetlb"}
    assert wanted, f"{root} has no controller to test with"
    monkeypatch.setattr(cgroup_tree, "CONTROLLERS", frozenset(wanted))
    # What the root passes on is changed and set back: one at a time on a machine.
    with open("/run/lock/dkr-test-cgroup-tree", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = words(root / "cgroup.subtree_control")
        try:
            yield root
        finally:
            for path in host.cgroups(NAME):
                path.rmdir()
            for controller in words(root / "cgroup.subtree_control") - before:
                (root / "cgroup.subtree_control").write_text(f"-{controller}")


def passed_on(path: Path) -> set[str]:
    """The controllers that a directory's children have."""
    return words(path / "cgroup.subtree_control")


def pass_nothing_on(path: Path) -> None:
    """As a directory is when it has just been made."""
    for controller in cgroup_tree.CONTROLLERS:
        (path / "cgroup.subtree_control").write_text(f"-{controller}")


def make(parent: Path, *names: str) -> Path:
    """A leaf `c`."""
    return Path(cgroup_tree.make_leaf(str(parent), names, "c", own=True))


def test_every_directory_down_to_the_leaf_passes_the_controllers_on(top: Path) -> None:
    leaf = make(top / NAME, "u5", "one")
    assert leaf == top / NAME / "u5/one/c"
    assert words(leaf / "cgroup.controllers") >= cgroup_tree.CONTROLLERS
    assert passed_on(leaf) == set()
    for inner in (NAME, f"{NAME}/u5", f"{NAME}/u5/one"):
        assert passed_on(top / inner) == cgroup_tree.CONTROLLERS


def test_a_second_leaf_is_made_beside_the_first(top: Path) -> None:
    make(top / NAME, "u5", "one")
    shim = cgroup_tree.make_leaf(str(top / NAME), ("u5", "one"), "shim", own=True)
    assert words(Path(shim) / "cgroup.controllers") >= cgroup_tree.CONTROLLERS
    with pytest.raises(FileExistsError):
        cgroup_tree.make_leaf(str(top / NAME), ("u5", "one"), "shim", own=True)
    assert Path(shim).parent.is_dir()


def test_a_directory_that_passes_nothing_on_is_repaired(top: Path) -> None:
    """Another process has made it and has not come further yet; or its owner, systemd, has made the parent anew."""
    make(top / NAME, "u5", "one").rmdir()
    (top / NAME / "u5/one").rmdir()
    pass_nothing_on(top / NAME / "u5")
    pass_nothing_on(top / NAME)
    leaf = make(top / NAME, "u5", "two")
    assert words(leaf / "cgroup.controllers") >= cgroup_tree.CONTROLLERS


def test_processes_of_the_parent_are_moved_into_a_leaf_first(top: Path) -> None:
    cgroup_tree.prepare(str(top / NAME), own=True)
    pass_nothing_on(top / NAME)
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            (top / NAME / "cgroup.procs").write_text(str(process.pid))
            assert cgroup_tree.prepare(str(top / NAME), own=False) == cgroup_tree.CONTROLLERS
            assert words(top / NAME / "holder/cgroup.procs") == {str(process.pid)}
            assert words(top / NAME / "cgroup.procs") == set()
        finally:
            process.kill()


def test_a_parent_that_is_not_ours_is_not_made(top: Path) -> None:
    with pytest.raises(HostUnfit, match="does not exist") as caught:
        cgroup_tree.make_leaf(str(top / NAME), ("u5", "one"), "c", own=False)
    assert caught.value.hint is not None
    assert "dkr-containers.service" in caught.value.hint
    assert not (top / NAME).exists()


def test_what_cannot_be_made_leaves_nothing(top: Path) -> None:
    cgroup_tree.prepare(str(top / NAME), own=True)
    (top / NAME / "cgroup.max.descendants").write_text("2")
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        make(top / NAME, "u5", "one")
    assert [path for path in (top / NAME).iterdir() if path.is_dir()] == []


def test_pruning_takes_what_is_empty_and_nothing_else(top: Path) -> None:
    first, second = make(top / NAME, "u5", "one"), make(top / NAME, "u5", "two")
    shim = Path(cgroup_tree.make_leaf(str(top / NAME), ("u5", "one"), "shim", own=True))
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            (shim / "cgroup.procs").write_text(str(process.pid))
            first.rmdir()
            cgroup_tree.prune(str(first))
            assert shim.is_dir()
        finally:
            process.kill()
    cgroup_tree.prune(str(first))
    assert not first.parent.exists()
    assert second.is_dir()
    second.rmdir()
    cgroup_tree.prune(str(second))
    assert [path for path in (top / NAME).iterdir() if path.is_dir()] == []
    assert (top / NAME).is_dir()


def test_making_and_pruning_at_the_same_time(top: Path) -> None:
    """One makes leaves below a user's directory, another process removes it as soon as it is empty."""
    removing = f"import os\nos.write(1, b'.')\nwhile True:\n  try: os.rmdir({str(top / NAME / 'u5')!r})\n  except OSError: pass"
    # Not a thread: each would wait for the other's turn with the interpreter, for minutes on a busy machine.
    with subprocess.Popen([sys.executable, "-S", "-c", removing], stdout=subprocess.PIPE) as remover:
        try:
            assert remover.stdout is not None
            assert remover.stdout.read(1) == b"."
            for number in range(300):
                leaf = make(top / NAME, "u5", f"n{number}")
                assert words(leaf / "cgroup.controllers") >= cgroup_tree.CONTROLLERS
                leaf.rmdir()
                cgroup_tree.prune(str(leaf))
        finally:
            remover.kill()


def test_create_and_remove_know_the_v2_shape(top: Path) -> None:
    layout = cgroups.Layout(str(top), ())
    assert layout.kind == "v2"
    cgroup = cgroups.create(layout, NAME, "one", "u7")
    try:
        assert cgroup.paths == (str(top / NAME / "u7/one/c"),)
        assert os.fstat(cgroup.leaf).st_ino == os.stat(cgroup.paths[0]).st_ino
    finally:
        cgroup.close()
    assert cgroups.remove(cgroup.paths) == ()
    assert [path for path in (top / NAME).iterdir() if path.is_dir()] == []
    cgroups.remove_parent(layout, f"/{NAME}")
    assert (top / NAME).is_dir()
    cgroups.remove_parent(layout, NAME)
    assert not (top / NAME).exists()


def test_the_layout_is_read_from_mountinfo(tmp_path: Path) -> None:
    v2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    v1 = "33 23 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    # Anybody who may mount can give a mount such a name; the kernel does not escape it.
    odd = "35 23 0:30 /a\rb /c\rd rw - tmpfs none rw\n"
    path = tmp_path / "mountinfo"
    for text, kind in ((odd + v2, "v2"), (v2, "v2"), (v1, "v1"), (v1 + v2, "hybrid"), ("", "none")):
        path.write_text(text, newline="")
        assert cgroups.read_layout(str(path)).kind == kind
