"""What every container has, in a tree that may have it otherwise: /dev, /proc, /sys, and /etc with its three files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests import trees

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

NAMES = ("dev", "proc", "sys", "etc")


@pytest.fixture
def tree(open_tmp: Path, caller: Caller) -> Path:
    return trees.plant(open_tmp / "tree", caller.user)


def test_what_is_missing_is_made_and_not_in_the_tree(caller: Caller, tree: Path) -> None:
    for path in (tree / "etc").iterdir():
        path.unlink()
    (tree / "etc").rmdir()
    before = trees.listing(tree)
    line = "ls /; ls /etc; stat -c '%u:%g %a' /etc /dev /etc/hosts; cat /proc/self/comm; ls -d /sys/kernel; echo x >/dev/null"
    assert caller.output("--rootfs", str(tree), "sh", "-c", line).splitlines() == [
        *("bin", "dev", "etc", "proc", "sys", "hostname", "hosts", "resolv.conf"),
        *("0:0 755", "0:0 755", "0:0 644", "cat", "/sys/kernel"),
    ]
    assert trees.listing(tree) == before


def test_what_is_there_is_used_as_it_is(caller: Caller, tree: Path) -> None:
    for name, mode in (("dev", 0o700), ("proc", 0o555), ("sys", 0o500)):
        (tree / name).mkdir(mode=mode)
        (tree / name / "covered").touch()
    if caller.user is not None:
        trees.give(tree, caller.user.uid, caller.user.gid)
    before = trees.listing(tree)
    line = "ls /dev | grep -cE '^(null|zero|tty|pts|shm)$'; ls /proc/1/status /sys/kernel/mm >/dev/null && echo there"
    assert caller.output("--rootfs", str(tree), "-u", "7:7", "sh", "-c", line) == "5\nthere\n"
    assert trees.listing(tree) == before


OTHERWISE: dict[str, Callable[[Path, Path], None]] = {
    "an absolute link": lambda place, target: place.symlink_to(target),
    "a relative link": lambda place, target: place.symlink_to(f"../{target.name}"),
    "an upward link": lambda place, target: place.symlink_to(f"../../../../../../../..{target}"),
    "a link to a directory beside it": lambda place, target: place.symlink_to("bin"),
    "a dangling link": lambda place, target: place.symlink_to("nothing"),
    "a link into proc": lambda place, target: place.symlink_to("/proc/1/root"),
    "a file": lambda place, target: place.touch(),
    "a pipe": lambda place, target: os.mkfifo(place),
    "a socket's name": lambda place, target: os.mknod(place, 0o140644),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_is_no_plain_directory_is_refused(caller: Caller, tree: Path, name: str, kind: str) -> None:
    target = tree.parent / "target"
    target.mkdir()
    target.chmod(0o777)
    (target / "file").write_text("kept\n")
    if name == "etc":
        for path in (tree / "etc").iterdir():
            path.unlink()
        (tree / "etc").rmdir()
    OTHERWISE[kind](tree / name, target)
    if caller.user is not None:
        trees.give(tree, caller.user.uid, caller.user.gid)
    before, aside = trees.listing(tree), trees.listing(target)
    done = caller.run("--rootfs", str(tree), "/bin/busybox", "true")
    assert (done.returncode, done.stdout) == (125, "")
    link = "link" in kind
    if name == "etc":
        what = "a symbolic link" if link else "no directory"
        said = f"cannot use {tree} as the root: /etc in it is {what}"
    elif link:
        said = f"cannot mount on /{name}: it is, or lies behind, a symbolic link in the root"
    else:
        said = f"cannot mount on /{name}: it is not a directory in the root"
    assert done.stderr.splitlines()[0] == f"dkrctl: {said}"
    assert "hint: the root must have a plain directory there, or nothing" in done.stderr
    assert trees.listing(tree) == before
    assert trees.listing(target) == aside


def test_the_three_files_of_etc_are_ours(caller: Caller, tree: Path) -> None:
    """Whatever the tree has of that name: a file, a link that leads out, a directory."""
    (tree / "etc/hostname").symlink_to("/nosuch/place")
    (tree / "etc/resolv.conf").symlink_to("../run/resolv.conf")
    (tree / "etc/hosts").mkdir()
    if caller.user is not None:
        trees.give(tree, caller.user.uid, caller.user.gid)
    before = trees.listing(tree)
    line = "cat /etc/hostname; grep -c localhost /etc/hosts; stat -c '%F %u' /etc/resolv.conf; cat /etc/motd; ls /etc"
    assert caller.output("--rootfs", str(tree), "--hostname", "box", "sh", "-c", line).splitlines() == [
        *("box", "2", "regular file 0", "a tree"),
        *("hostname", "hosts", "motd", "passwd", "resolv.conf"),
    ]
    assert trees.listing(tree) == before


def test_etc_keeps_its_mode_and_owner(caller: Caller, tree: Path) -> None:
    (tree / "etc").chmod(0o2750)
    assert caller.output("--rootfs", str(tree), "stat", "-c", "%a %u:%g", "/etc") == "2750 0:0\n"
    done = caller.run("--rootfs", str(tree), "-u", "7:7", "cat", "/etc/hosts")
    assert "Permission denied" in done.stderr


def test_etc_of_somebody_else_can_be_read_and_written_above(
    root: Caller, tenant: User, open_tmp: Path
) -> None:
    """A tree that root has unpacked, in a tenant's hands: what is laid over its /etc is the container's."""
    tree = trees.plant(open_tmp / "tree")
    before = trees.listing(tree)
    line = "stat -c %u:%g /etc /etc/motd; cat /etc/motd /etc/hostname; echo x >/etc/new && cat /etc/new; rm /etc/motd || echo kept"
    done = root.daemon.run("--rootfs", str(tree), "--hostname", "box", "sh", "-c", line, user=tenant)
    assert done.stdout == "0:0\n65534:65534\na tree\nbox\nx\nkept\n"
    assert trees.listing(tree) == before


def test_the_owner_of_etc_is_told_as_any_other(root: Caller, open_tmp: Path) -> None:
    tree = trees.plant(open_tmp / "tree")
    os.chown(tree / "etc", 5, 6)
    for options in ((), ("--userns", "host")):
        assert root.output(*options, "--rootfs", str(tree), "stat", "-c", "%u:%g", "/etc") == "5:6\n"


def test_sockets_and_pipes_of_the_tree_lead_nowhere(caller: Caller, tree: Path) -> None:
    """A name of the tree's is another object inside: a pipe is not the host's, whoever listens there is not reached."""
    os.mkfifo(tree / "pipe", 0o666)
    (tree / "pipe").chmod(0o666)
    if caller.user is not None:
        trees.give(tree, caller.user.uid, caller.user.gid)
    held = os.open(tree / "pipe", os.O_RDWR)
    os.write(held, b"from the host\n")
    done = caller.output("--rootfs", str(tree), "sh", "-c", "exec 3<>/pipe; echo inside >&3; head -n 1 <&3")
    os.close(held)
    assert done == "inside\n"
