"""Lines of proc(5) mountinfo, read as they are on this machine and as they may be elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dkrd.runtime import mountinfo, syscalls

if TYPE_CHECKING:
    from pathlib import Path

LINES = {
    "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue": mountinfo.Mounted(
        36, 35, "/mnt2", ("rw", "noatime"), False, "ext3", os.makedev(98, 0)
    ),
    "7 1 0:5 / / ro - tmpfs none rw": mountinfo.Mounted(7, 1, "/", ("ro",), False, "tmpfs", os.makedev(0, 5)),
    r"9 7 0:6 / /a\040b\134c\011d rw shared:3 master:2 unbindable - fuse.ssh\043fs x\040y rw": mountinfo.Mounted(
        9, 7, "/a b\\c\td", ("rw",), True, "fuse.ssh#fs", os.makedev(0, 6)
    ),
    "8 7 0:6 /a\rb /c\rd rw - tmpfs none rw": mountinfo.Mounted(
        8, 7, "/c\rd", ("rw",), False, "tmpfs", os.makedev(0, 6)
    ),
    "9 7 0:6 //deleted /x rw unbindable - ext4  rw": mountinfo.Mounted(
        9, 7, "/x", ("rw",), True, "ext4", os.makedev(0, 6)
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(f"{line}\n", newline="")
    assert list(mountinfo.read(f"../{tmp_path}")) == [LINES[line]]


def test_this_machines_lines() -> None:
    found = {mounted.id: mounted for mounted in mountinfo.read("self")}
    root = os.open("/", os.O_PATH)
    number = syscalls.statx(root).mount
    os.close(root)
    assert found[number].point == "/"
    assert found[number].parent not in found
    assert all(
        mounted.point.startswith("/") and mounted.options and mounted.type for mounted in found.values()
    )


@pytest.mark.parametrize(
    ("point", "path", "covers"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/a/b/c", "/a", True),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
    ],
)
def test_what_a_mount_hides(point: str, path: str, *, covers: bool) -> None:
    assert mountinfo.covers(point, path) is covers
