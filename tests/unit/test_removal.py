"""A tree goes, and nothing else does."""

from __future__ import annotations

import os
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest

from dkrd.removal import remove_tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    place = tmp_path / "beside"
    place.mkdir()
    (place / "file").write_text("x")
    return place


def test_all_of_it_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/closed").mkdir(mode=0o000)
    (tree / "a/b/file").write_text("x")
    (tree / os.fsdecode(b"\xff\n")).write_text("x")
    os.mkfifo(tree / "fifo")
    remove_tree(str(tree))
    assert list(tmp_path.iterdir()) == []


def test_what_links_lead_to_stays(tmp_path: Path, beside: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "directory").symlink_to(beside)
    (tree / "file").symlink_to(beside / "file")
    (tree / "nowhere").symlink_to("nothing")
    os.link(beside / "file", tree / "hard")
    remove_tree(str(tree))
    assert not tree.exists()
    assert (beside / "file").read_text() == "x"


def test_a_link_is_no_tree(tmp_path: Path, beside: Path) -> None:
    (tmp_path / "link").symlink_to(beside)
    with pytest.raises(NotADirectoryError):
        remove_tree(str(tmp_path / "link"))
    assert (beside / "file").exists()


def test_a_directory_that_becomes_a_link_is_not_entered(
    tmp_path: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    scan = os.scandir

    def swapped(directory: int) -> object:
        found = list(scan(directory))
        if any(entry.is_dir(follow_symlinks=False) for entry in found):
            (tree / "inner").rmdir()
            (tree / "inner").symlink_to(beside)
        return _Scanned(found)

    monkeypatch.setattr(os, "scandir", swapped)
    with pytest.raises(NotADirectoryError):
        remove_tree(str(tree))
    assert (beside / "file").exists()


class _Scanned(list[os.DirEntry[str]]):
    def __enter__(self) -> _Scanned:
        return self

    def __exit__(self, *_: object) -> None:
        return


def test_below_a_directory(tmp_path: Path, beside: Path) -> None:
    (tmp_path / "tree/inner").mkdir(parents=True)
    above = os.open(tmp_path, os.O_PATH)
    try:
        remove_tree("tree", above)
        with pytest.raises(FileNotFoundError):
            remove_tree("tree", above)
    finally:
        os.close(above)
    assert [path.name for path in tmp_path.iterdir()] == ["beside"]


def test_a_tree_of_any_depth_goes(tmp_path: Path) -> None:
    """Deeper than calls may be, longer than a path may be, and with fewer descriptors than it has levels."""
    (tmp_path / "tree").mkdir()
    place = os.open(tmp_path / "tree", os.O_RDONLY)
    for level in range(3000):
        name = "deep" * 60
        os.mkdir(name, dir_fd=place)
        below = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        remove_tree(str(tmp_path / "tree"))
        assert not (tmp_path / "tree").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # What shutil cannot remove either would end every later run of pytest.
        subprocess.run(["rm", "-rf", tmp_path / "tree"], check=True)
