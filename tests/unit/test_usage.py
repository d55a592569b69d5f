"""What a tree takes of the disk: by descriptors, each file once, no link followed, no other filesystem, and an end."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from dkrctl.sizes import human
from dkrd.shim import usage

if TYPE_CHECKING:
    from pathlib import Path


def measured(tree: Path, seconds: float = 60.0) -> tuple[int, bool]:
    """As du(1) measures it, and whether that is all."""
    parent = os.open(tree.parent, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        by = usage._Measure(seconds)
        found = by.tree(tree.name, parent), by.whole
        assert len(os.listdir("/proc/self/fd")) == before
        return found
    finally:
        os.close(parent)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "upper"
    (made / "a/b").mkdir(parents=True)
    (made / "file").write_bytes(b"x" * 100_000)
    (made / "a/again").hardlink_to(made / "file")
    (made / "a/b/hole").touch()
    os.truncate(made / "a/b/hole", 10_000_000_000)
    os.mkfifo(made / "fifo")
    (tmp_path / "beside").write_bytes(b"x" * 5_000_000)
    (made / "link").symlink_to(tmp_path / "beside")
    (made / "a/up").symlink_to("/usr")
    return made


def test_it_is_what_du_tells(tree: Path) -> None:
    du = subprocess.run(["du", "-sx", "-B1", tree], capture_output=True, text=True, check=True).stdout
    assert measured(tree) == (int(du.split()[0]), True)


def test_a_link_in_its_place_is_not_followed(tree: Path) -> None:
    (tree.parent / "swapped").symlink_to(tree)
    assert measured(tree.parent / "swapped") == (0, True)
    assert measured(tree.parent / "nosuch") == (0, True)


def test_there_is_an_end(tree: Path) -> None:
    size, whole = measured(tree, -1.0)
    assert (size < 100_000, whole) == (True, False)


def test_a_tree_may_be_as_deep_as_it_likes(tmp_path: Path) -> None:
    deep = tmp_path / "upper"
    deep.mkdir()
    place = os.open(deep, os.O_RDONLY)
    for _ in range(usage.MAX_DEPTH + 50):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    assert measured(deep)[1] is False


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (4096, "4.1kB"),
        (123_456, "123kB"),
        (999_600, "1MB"),
        (10**18, "1000PB"),
    ],
)
def test_sizes_for_people(size: int, told: str) -> None:
    assert human(size) == told
