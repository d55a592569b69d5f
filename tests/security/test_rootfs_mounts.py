"""What the mount of a rootfs forbids stays forbidden, and what mounts cover in it stays covered.

The mounts are made in a mount namespace of the client's own, which ends with it.
"""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import trees

if TYPE_CHECKING:
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

DISK = os.stat("/").st_dev


@pytest.fixture
def tree(open_tmp: Path, tenant: host.User) -> Path:
    return trees.plant(open_tmp / "tree", tenant)


@pytest.fixture
def place(open_tmp: Path) -> Path:
    (open_tmp / "place").mkdir()
    return open_tmp / "place"


def identity(tree: Path, user: host.User) -> None:
    """A set-id program of the caller's: inside it makes anybody the container's root."""
    program = tree / "bin/identity"
    program.write_bytes(trees.identity())
    os.chown(program, user.uid, user.gid)
    program.chmod(0o6755)


# --- flags


@pytest.mark.parametrize("options", ["loop", "loop,nodev", "loop,ro,nodev,nosuid"])
def test_a_device_node_of_the_callers_does_not_open(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path, options: str
) -> None:
    """On a stick that they brought along, say; without nodev they could open it on the host, and still not inside."""
    for name, kind, device in (("null", stat.S_IFCHR, os.makedev(1, 3)), ("disk", stat.S_IFBLK, DISK)):
        os.mknod(tree / name, kind | 0o666, device)
        os.chown(tree / name, tenant.uid, tenant.gid)
        (tree / name).chmod(0o666)
    image = trees.image(tree, "ext4")
    line = "stat -c '%F %u' /null /disk; cat /null || cat /disk || echo x >/null || echo closed"
    done = trees.run(
        daemon,
        *("--rootfs", str(place), "sh", "-c", line),
        user=tenant,
        setup=f"mount -o {options} {image} {place}",
    )
    assert done.stdout == "character special file 0\nblock special file 0\nclosed\n"
    assert done.stderr.count("Permission denied") == 3


@pytest.mark.parametrize(("options", "becomes"), [("loop", 0), ("loop,nosuid", 0x77)])
def test_set_id_programs_of_a_nosuid_source_stay_powerless(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path, options: str, becomes: int
) -> None:
    identity(tree, tenant)
    image = trees.image(tree, "ext4")
    words = ("--rootfs", str(place), "-u", "7:7", "identity")
    done = trees.run(daemon, *words, user=tenant, setup=f"mount -o {options} {image} {place}")
    assert (done.returncode, done.stderr) == (becomes, "")


def test_nothing_of_a_noexec_source_is_executed(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path
) -> None:
    for options, ran in (("loop", True), ("loop,noexec", False)):
        image = trees.image(tree, "ext4")
        words = ("--rootfs", str(place), "echo", "ran")
        done = trees.run(daemon, *words, user=tenant, setup=f"mount -o {options} {image} {place}")
        image.unlink()
        if ran:
            assert (done.returncode, done.stdout) == (0, "ran\n")
        else:
            assert (done.returncode, done.stdout) == (126, "")
            assert "cannot run '/bin/echo': permission denied" in done.stderr


def test_links_of_a_nosymfollow_source_lead_nowhere(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path
) -> None:
    words = ("--rootfs", str(place), "/bin/busybox", "cat", "/link")
    (tree / "link").symlink_to("etc/motd")
    for options, ended in (("bind", (0, "a tree\n")), ("bind,nosymfollow", (1, ""))):
        setup = f"mount --bind {tree} {place}; mount -o remount,{options} {place}"
        done = trees.run(daemon, *words, user=tenant, setup=setup)
        assert (done.returncode, done.stdout) == ended, done.stderr


FLAGS = ("ro", "nosuid", "nodev", "noexec", "nosymfollow")


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("user", ["tenant", "root"])
def test_the_roots_own_mount_has_them_and_is_locked(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path, open_tmp: Path, flag: str, user: str
) -> None:
    """Seen from inside, where the container's root tries to take the flag away."""
    setup = f"mount --bind {tree} {place}; mount -o remount,bind,{flag} {place}"
    line = "while read -r a b c d point options rest; do [ $point = / ] && echo $options; done </proc/self/mountinfo"
    with trees.shell_anywhere(open_tmp) as (first, second):
        done = trees.run(
            daemon,
            *("--rootfs", str(place), "--preserve-fds", "2", "/proc/self/fd/3", "sh", "-c"),
            f"{line}; busybox mount -o remount,bind,rw,suid,dev,exec / 2>/dev/null && echo lifted",
            user=tenant if user == "tenant" else None,
            setup=f"{setup}; exec 3<&{first} 4<&{second}",
            pass_fds=(first, second),
        )
    options = set(done.stdout.strip().split(","))
    expected = {
        "nodev",
        *({flag} - {"ro"}),
    }  # the overlay itself can be written: what is written lies above the tree
    assert options & set(FLAGS) == expected, done.stderr


# --- what is mounted in it


def test_what_a_mount_covers_stays_covered(daemon: Daemon, tenant: host.User, tree: Path) -> None:
    hidden = tree / "etc/hidden"
    hidden.mkdir()
    (hidden / "file").write_text("covered\n")
    words = ("--rootfs", str(tree), "cat", "/etc/hidden/file")
    assert trees.run(daemon, *words, user=tenant).stdout == "covered\n"
    covers = {
        "a filesystem": f"mount -t tmpfs tmpfs {hidden}",
        "a file": f"mount --bind /dev/null {hidden}/file",
        # What a recursive clone leaves out, mount_namespaces(7).
        "an unbindable one": f"mount -t tmpfs tmpfs {hidden}; mount --make-unbindable {hidden}",
        "two": f"mount -t tmpfs tmpfs {hidden}; mount -t tmpfs tmpfs {tree}/bin",
        "a name with blanks": f"mkdir -p '{tree}/a b'; mount -t tmpfs tmpfs '{tree}/a b'",
    }
    for setup in covers.values():
        for user in (tenant, None):
            done = trees.run(daemon, *words, user=user, setup=setup)
            assert (done.returncode, done.stdout) == (125, "")
            assert f"cannot use {tree} as the root: {tree}/" in done.stderr
            assert "is mounted there, and what that covers must stay covered\n  hint: " in done.stderr
        if (tree / "a b").exists():
            (tree / "a b").rmdir()


def test_mounts_beside_the_tree_do_not_matter(
    daemon: Daemon, tenant: host.User, tree: Path, open_tmp: Path
) -> None:
    beside = open_tmp / "tree-2"
    beside.mkdir()
    words = ("--rootfs", str(tree), "cat", "/etc/motd")
    done = trees.run(daemon, *words, user=tenant, setup=f"mount -t tmpfs tmpfs {beside}")
    assert (done.stdout, done.stderr) == ("a tree\n", "")


def test_a_mount_that_must_not_be_cloned_is_refused(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path
) -> None:
    setup = f"mount --bind {tree} {place}; mount --make-unbindable {place}"
    done = trees.run(daemon, "--rootfs", str(place), "cat", "/etc/motd", user=tenant, setup=setup)
    assert (done.returncode, done.stdout) == (125, "")
    assert f"cannot use {place} as the root: its mount is unbindable" in done.stderr


def test_mounts_that_come_later_are_not_seen(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path
) -> None:
    """Nor does what the container mounts reach the host: the tree's mount is shared there, its clone is private."""
    setup = f"mount --bind {tree} {place}; mount --make-shared {place}; mkdir {place}/later"
    with trees.start(
        daemon,
        *("--rootfs", str(place), "sh", "-c", "echo up; read line; ls /later; cat /proc/self/mountinfo"),
        user=tenant,
        setup=setup,
        stdin=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == "up\n"
        enter = ["nsenter", "--mount", "--target", str(client.pid)]
        later = f"mount -t tmpfs tmpfs {place}/later; touch {place}/later/file"
        subprocess.run([*enter, "/bin/sh", "-ec", later], check=True)
        out, _ = client.communicate("\n")
    [root] = [line.split() for line in out.splitlines() if line.split()[4] == "/"]
    assert "file" not in out.split("\n")
    assert " /later " not in out
    assert not [word for word in root[6:] if word.startswith(("shared:", "master:"))]


def test_a_mount_that_maps_ids_already_is_refused(
    daemon: Daemon, tenant: host.User, tree: Path, place: Path
) -> None:
    """It would be mapped by the first map only, which is another's."""
    for user in (tenant, None):
        done = trees.run(
            daemon,
            *("--rootfs", str(place), "cat", "/etc/motd"),
            user=user,
            setup=trees.idmapped(daemon, tree, place, tenant),
        )
        assert (done.returncode, done.stdout) == (125, "")
        assert f"cannot use {place} as the root: its mount maps ids already\n  hint: " in done.stderr


# --- while the tree changes

SWAPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
parent, one = os.getppid(), os.fsencode(sys.argv[2])
sys.stdout.write("swapping\\n")
sys.stdout.flush()
while os.getppid() == parent:
    libc.renameat2(-100, one, -100, one + b".other", 2)  # RENAME_EXCHANGE
"""


@pytest.mark.parametrize(
    ("name", "link"), [("etc", "/target"), ("dev", "../target"), ("proc", "/target"), ("sys", "/etc")]
)
def test_a_directory_swapped_for_a_link_leads_nowhere(
    daemon: Daemon, tenant: host.User, tree: Path, open_tmp: Path, name: str, link: str
) -> None:
    """CVE-2021-30465 and kin, with what a tenant may do to their own tree while containers start on it."""
    target = open_tmp / "target"
    target.mkdir()
    target.chmod(0o777)
    (tree / name).mkdir(exist_ok=True)
    (tree / f"{name}.other").symlink_to(link.replace("/target", str(target)) if link[0] == "/" else link)
    trees.give(tree, tenant.uid, tenant.gid)
    script = open_tmp / "swapper"
    script.write_text(SWAPPER)
    command = [*trees.as_user(tenant), "/usr/bin/python3", "-IS", str(script), str(tree), name]
    line = "/bin/busybox readlink /proc/self/exe; /bin/busybox ls -l /dev/null"
    ended: set[str] = set()
    runs = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == "swapping\n"
        while runs < 25 or (len(ended) < 2 and runs < 200):
            runs += 1
            done = trees.run(daemon, "--rootfs", str(tree), "/bin/sh", "-c", line, user=tenant)
            if done.returncode == 0:
                assert done.stdout.startswith("/bin/busybox\ncrw-rw-rw-")
                ended.add("ran")
            else:
                assert (done.returncode, done.stdout) == (125, ""), done.stderr
                ended.add("refused")
        swapper.kill()
    assert ended == {"ran", "refused"}
    assert list(target.iterdir()) == []
