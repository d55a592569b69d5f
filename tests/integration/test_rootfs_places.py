"""Clients in a mount namespace of their own: what only they see can be their root."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import trees

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

MOTD = ("cat", "/etc/motd")


@pytest.fixture
def tree(open_tmp: Path, tenant: User) -> Path:
    return trees.plant(open_tmp / "tree", tenant)


def within(
    root: Caller, user: User, *command: str, words: tuple[str, ...] = MOTD, rootfs: str
) -> tuple[int, str, str]:
    """`dkrctl run --rm --rootfs ROOTFS WORDS...`, started by `command` as `user`."""
    run = [str(root.daemon.prefix / "bin/dkrctl"), "run", "--rm", "--rootfs", rootfs, *words]
    done = subprocess.run(
        [*trees.as_user(user), *command, *run],
        env=root.daemon.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=trees.SECONDS,
    )
    return done.returncode, done.stdout, done.stderr


SANDBOXES = {
    "all shared": ("--dev-bind", "/", "/"),
    "read-only": ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    "nothing shared": ("--dev-bind", "/", "/", "--unshare-all", "--as-pid-1"),
    "as another uid": ("--dev-bind", "/", "/", "--unshare-user", "--uid", "4711", "--gid", "4712"),
    "as root": ("--dev-bind", "/", "/", "--unshare-user", "--uid", "0", "--gid", "0"),
    "without proc": ("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
                     "--ro-bind", "/var/lib", "/var/lib", "--ro-bind", "/opt", "/opt", "--dev", "/dev"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SANDBOXES)
def test_in_a_sandbox_of_bubblewrap(root: Caller, tenant: User, tree: Path, kind: str) -> None:
    command = ("bwrap", *SANDBOXES[kind], "--bind", str(tree), "/mnt")
    code, out, err = within(root, tenant, *command, rootfs="/mnt")
    if kind == "without proc":
        assert (code, out) == (125, "")
        assert "cannot use /mnt as the root: its mount is " in err
        assert "hint: run dkrctl where the directory is mounted" in err
    else:
        assert (code, out, err) == (0, "a tree\n", "")


def test_in_a_sandbox_a_mounts_flags_are_kept(root: Caller, tenant: User, tree: Path) -> None:
    """bwrap's binds are nosuid and nodev, and locked so."""
    command = ("bwrap", "--dev-bind", "/", "/", "--bind", str(tree), "/mnt")
    line = "while read -r a b c d point options rest; do [ $point = / ] && echo $options; done </proc/self/mountinfo; true"
    code, out, err = within(root, tenant, *command, words=("sh", "-c", line), rootfs="/mnt")
    assert (code, err) == (0, "")
    assert {"nosuid", "nodev"} <= set(out.strip().split(","))


def test_with_a_private_tmp(root: Caller, tenant: User, open_tmp: Path) -> None:
    """As systemd's PrivateTmp= has it: a directory of another name bound over /tmp, or a filesystem of its own."""
    for setup in (
        f"mkdir -p {open_tmp}/private; mount --bind {open_tmp}/private /tmp",
        "mount -t tmpfs -o mode=1777 tmpfs /tmp",
    ):
        made = trees.plant(open_tmp / "made", tenant)
        done = trees.run(
            root.daemon,
            *("--rootfs", "/tmp/private-tree", *MOTD),
            user=tenant,
            setup=f"{setup}; cp -a {made} /tmp/private-tree",
        )
        assert (done.stdout, done.stderr) == ("a tree\n", "")
        subprocess.run(["rm", "-r", str(made)], check=True)


def test_the_same_name_means_what_the_client_sees(
    root: Caller, tenant: User, tree: Path, open_tmp: Path
) -> None:
    other = trees.plant(open_tmp / "other", tenant)
    (other / "etc/motd").write_text("another tree\n")
    done = trees.run(
        root.daemon, "--rootfs", str(tree), *MOTD, user=tenant, setup=f"mount --bind {other} {tree}"
    )
    assert (done.stdout, done.stderr) == ("another tree\n", "")


OWN = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


def test_in_a_tenants_own_user_namespace(root: Caller, tenant: User, tree: Path) -> None:
    """They are root there, and nobody more than they are outside."""
    setup = f'mount --bind {tree} /mnt; exec "$@"'
    code, out, err = within(root, tenant, *OWN, "/bin/sh", "-ec", setup, "sh", rootfs="/mnt")
    assert (code, out, err) == (0, "a tree\n", "")
    code, out, err = within(root, tenant, *OWN, rootfs="/etc", words=("--preserve-fds", "0", "/passwd"))
    assert (code, "cannot run '/passwd': permission denied" in err) == (126, True)


def test_in_a_user_namespace_that_has_not_even_their_uid(root: Caller, tenant: User, tree: Path) -> None:
    """Nothing says there whose a socket is, so the session is not trusted."""
    code, out, err = within(root, tenant, "unshare", "--user", rootfs=str(tree))
    assert (code, out) == (125, "")
    assert "cannot trust the session: the session was not made by root" in err


def test_a_filesystem_mounted_in_a_user_namespace_is_refused(root: Caller, tenant: User, tree: Path) -> None:
    """On it the owner is another number than outside: mapped as the caller's, it would be nobody's."""
    setup = f'mount -t tmpfs tmpfs /mnt; cp -a {tree} /mnt/tree; exec "$@"'
    code, out, err = within(root, tenant, *OWN, "/bin/sh", "-ec", setup, "sh", rootfs="/mnt/tree")
    assert (code, out) == (125, "")
    said = "cannot use /mnt/tree as the root: its filesystem was mounted in a user namespace and counts ids by it"
    assert err.startswith(f"dkrctl: {said}\n  hint: put the tree on a filesystem of the host's")


def test_in_a_chroot(root: Caller, open_tmp: Path) -> None:
    """The client's root is not its namespace's: its mounts are found all the same."""
    inner = open_tmp / "inner"
    tree = trees.plant(inner / "tree")
    (inner / "mnt").mkdir()
    binds = ("usr", "lib", "lib64", "bin", "proc", "var", "opt", "dev")
    setup = "; ".join(f"mkdir {inner}/{name}; mount --rbind /{name} {inner}/{name}" for name in binds)
    client = f"{root.daemon.prefix}/bin/dkrctl run --rm --rootfs /mnt cat /etc/motd"
    lines = f"set -e; {setup}; mount --bind {tree} {inner}/mnt; exec chroot {inner} {client}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "/bin/bash", "-c", lines],
        env=root.daemon.environment(),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.stdout, done.stderr) == ("a tree\n", "")
