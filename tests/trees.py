"""Directories to be roots: trees with a busybox in them, programs for trees that have none, and clients in mount namespaces of
their own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests import host
    from tests.daemon import Daemon

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    "cat chmod chown cp dd echo env find grep head id kill ln ls mkdir mknod mount mv pwd readlink rm sh sleep stat test touch"
).split()
SECONDS = guard(30.0)

# --- trees


def plant(place: Path, user: host.User | None = None) -> Path:
    """A tree at `place`, which is made: busybox and its applets in /bin, a passwd in /etc; all of it `user`'s (None: root's)."""
    (place / "bin").mkdir(parents=True)
    (place / "etc").mkdir()
    shutil.copy(BUSYBOX, place / "bin/busybox")
    for name in APPLETS:
        (place / "bin" / name).symlink_to("busybox")
    (place / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nguest:x:7:7:guest:/:/bin/sh\n")
    (place / "etc/motd").write_text("a tree\n")
    if user is not None:
        give(place, user.uid, user.gid)
    return place


def give(place: Path, uid: int, gid: int) -> None:
    """chown -hR."""
    for path in (place, *place.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


def listing(place: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a run must not change in a tree: what is where, of whom, since when, with what in it."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in (place, *sorted(place.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
        about = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_ino,
            status.st_mtime_ns,
        )
        found[str(path.relative_to(place))] = (*about, status.st_ctime_ns, target, content)
    return found


def image(tree: Path, kind: str) -> Path:
    """A file with a filesystem of this kind on it that holds `tree`, to be mounted with -o loop."""
    file = tree.parent / f"{tree.name}.{kind}"
    if kind == "erofs":
        subprocess.run(["mkfs.erofs", "--quiet", str(file), str(tree)], check=True, capture_output=True)
    else:
        make_image(file, kind, {"ext4": "-d", "btrfs": "-r"}[kind], str(tree))
    return file


def make_image(file: Path, kind: str, *options: str) -> None:
    """A file of 128 MiB with a filesystem on it."""
    file.touch()
    os.truncate(file, 128 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", *options, str(file)], check=True, capture_output=True)


IDMAP = """
import os, sys
sys.path.insert(0, {packages!r})
from dkrd.runtime import syscalls, trees
mapping = trees.user_namespace(({uid}, {gid}), {base})
clone = syscalls.open_tree(syscalls.AT_FDCWD, {tree!r}, syscalls.OPEN_TREE_CLONE)
syscalls.mount_setattr(clone, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=mapping)
syscalls.move_mount(clone, syscalls.AT_FDCWD, {place!r})
"""


def idmapped(daemon: Daemon, tree: Path, place: Path, user: host.User) -> str:
    """The line of sh(1) that mounts `tree` at `place` with the ids of `user` mapped to others."""
    [packages] = (daemon.prefix / "lib").glob("python3*/site-packages")
    words = {"packages": str(packages), "tree": str(tree), "place": str(place)}
    program = IDMAP.format(uid=user.uid, gid=user.gid, base=user.uid + 1, **words)
    return f"/usr/bin/python3 -IS -c {shlex.quote(program)}"


# --- programs that need no library and no name

_STARTER = {
    # execve("/proc/self/fd/4", argv + 1, envp); exit(126)
    "x86_64": "b83b000000 488d3d1c000000 488b0c24 488d742410 488d54cc10 0f05 b83c000000 bf7e000000 0f05",
    "aarch64": "e30340f9 e1430091 220c038b c0000010 a81b80d2 010000d4 c00f80d2 a80b80d2 010000d4",
}
_IDENTITY = {
    # exit(geteuid() | getegid() << 4)
    "x86_64": "b86b000000 0f05 89c3 b86c000000 0f05 c1e004 09d8 89c7 b83c000000 0f05",
    "aarch64": "e81580d2 010000d4 f30300aa 281680d2 010000d4 601200aa a80b80d2 010000d4",
}
_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of elf(5)


def _program(codes: dict[str, str], data: bytes = b"") -> bytes:
    """An ELF file of one segment: this machine's code, and `data` behind it."""
    machine = os.uname().machine
    body = bytes.fromhex(codes[machine]) + data
    base, head = 0x400000, 0x78
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += b"\x02\0" + _MACHINES[machine].to_bytes(2, "little") + b"\x01\0\0\0"
    elf += b"".join(n.to_bytes(8, "little") for n in (base + head, 0x40, 0)) + b"\0\0\0\0"
    elf += b"".join(n.to_bytes(2, "little") for n in (0x40, 0x38, 1, 0x40, 0, 0))
    size = head + len(body)
    load = b"\x01\0\0\0\x05\0\0\0"
    load += b"".join(n.to_bytes(8, "little") for n in (0, base, base, size, size, 0x1000))
    return elf + load + body


def starter() -> bytes:
    """A static program that executes descriptor 4 with its own arguments but the first: busybox goes by its name there."""
    return _program(_STARTER, b"/proc/self/fd/4\0")


def identity() -> bytes:
    """A static program whose exit status is its effective uid and, times 16, gid; busybox would give both up."""
    return _program(_IDENTITY)


def as_user(user: host.User | None) -> list[str]:
    """The words before a command that is to run as `user`."""
    if user is None:
        return []
    ids = ["--reuid", str(user.uid), "--regid", str(user.gid), "--groups", ",".join(map(str, user.groups))]
    return ["setpriv", *ids, "--inh-caps=-all", "--"]


def run(
    daemon: Daemon, *words: str, user: host.User | None = None, setup: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """`dkrctl run --rm WORDS...` as `user`; see `start`."""
    with start(daemon, *words, user=user, setup=setup, **options) as client:
        try:
            out, err = client.communicate(timeout=SECONDS)
        except BaseException:
            client.kill()
            raise
    return subprocess.CompletedProcess(words, client.returncode, out, err)


def start(
    daemon: Daemon, *words: str, user: host.User | None = None, setup: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Starts `dkrctl run --rm WORDS...` as `user`.

    setup  lines of bash(1) that root runs before, in a mount namespace of the client's own, which ends with it
    """
    command = [*as_user(user), str(daemon.prefix / "bin/dkrctl"), "run", "--rm", *words]
    if setup:
        lines = f'set -e\n{setup}\nexec "$@"'
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "/bin/bash",
            "-c",
            lines,
            "bash",
            *command,
        ]
    for name in ("stdout", "stderr"):
        options.setdefault(name, subprocess.PIPE)
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(command, env=daemon.environment(), text=True, cwd="/", **options)


@contextmanager
def shell_anywhere(place: Path) -> Iterator[tuple[int, int]]:
    """Descriptors 3 and 4 for `anywhere`, open for the block; `place`: an empty directory."""
    program = place / "starter"
    program.write_bytes(starter())
    program.chmod(0o755)
    try:
        with program.open("rb") as first, BUSYBOX.open("rb") as second:
            yield first.fileno(), second.fileno()
    finally:
        program.unlink()


def anywhere(
    daemon: Daemon, rootfs: str | Path, line: str, *options: str, user: host.User | None = None, place: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a line of busybox's shell with `rootfs` as the root, whatever is in it; builtins, and applets by their names."""
    with shell_anywhere(place) as (first, second):
        words = [
            "--rootfs",
            str(rootfs),
            "--preserve-fds",
            "2",
            *options,
            "/proc/self/fd/3",
            "sh",
            "-c",
            line,
        ]
        command = [*as_user(user), str(daemon.prefix / "bin/dkrctl"), "run", "--rm", *words]
        return subprocess.run(
            ["/bin/bash", "-c", f'exec "$@" 3<&{first} 4<&{second}', "bash", *command],
            env=daemon.environment(),
            pass_fds=(first, second),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=SECONDS,
        )
