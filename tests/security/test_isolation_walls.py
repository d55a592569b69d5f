"""What holds when the container's root has every capability and no filter: masks, read-only paths, the kernel's knobs.

Each attack is also made where its wall is lowered, and must succeed there: an attack that cannot succeed proves nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import guard
from tests.security.inside import PRELUDE, PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

DIRECT = Path(__file__).resolve().parent / "direct.py"
# mount(2), umount2(2), unshare(2), and the numbers that x86-64 and arm64 share.
WORDS = """
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 32, 4096, 8192, 16384
NEWNS, NEWUSER, NEWPID, NEWCGROUP = 0x20000, 0x10000000, 0x20000000, 0x02000000
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
def unshare(flags):
    if LIBC.unshare(flags) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
def unlock(path):
    '''Every way to take a mount away or to make it writable; those that the kernel let through.'''
    target = path.encode()
    attributes = struct.pack("4Q", 0, MS_RDONLY, 0, 0)
    before = text("/proc/self/mountinfo")
    tries = {
        "umount": lambda: umount(target),
        "detach": lambda: umount(target, 2),
        "expire": lambda: umount(target, 4),
        "remount": lambda: mount(None, target, None, MS_REMOUNT | MS_BIND),
        "remount superblock": lambda: mount(None, target, None, MS_REMOUNT),
        "move": lambda: mount(target, b"/mnt", None, MS_MOVE),
        "bind without what covers it": lambda: mount(os.path.dirname(target), b"/mnt", None, MS_BIND),
        "clone": lambda: syscall(OPEN_TREE, -100, os.path.dirname(target), 1),
        "setattr": lambda: syscall(MOUNT_SETATTR, -100, target, 0, attributes, len(attributes)),
    }
    through = [name for name, call in tries.items() if refusal(call) is None]
    return through + (["the mounts changed"] if text("/proc/self/mountinfo") != before else [])
"""
COVERED = """
covered = [line[4] for line in mountinfo() if line[4].split("/")[1] in ("proc", "sys") and line[4] not in ("/proc", "/sys")]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one container, on an ordinary filesystem."""
    with tempfile.TemporaryDirectory(prefix="dkr-test-direct-", dir="/var/lib") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def direct(place: Path, probe: str, **job: Any) -> Any:
    """What `probe` tells from a container without policy and filter."""
    wanted = {"directory": str(place), "args": [*PYTHON, PRELUDE + WORDS + probe], **job}
    done = subprocess.run(
        [sys.executable, "-I", DIRECT, json.dumps(wanted)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=guard(20.0),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_root_inside_has_every_capability_and_no_filter(place: Path) -> None:
    """The premise of all others."""
    probe = """
status = dict(line.split(":\\t", 1) for line in text("/proc/self/status").splitlines())
unshare(NEWNS)
tell([status["CapEff"], status["CapBnd"], text("/proc/sys/kernel/cap_last_cap").strip()])
"""
    effective, bounding, last = direct(place, probe)
    assert effective == bounding == f"{(2 << int(last)) - 1:016x}"


def test_no_mask_and_no_read_only_path_can_be_taken_away(place: Path) -> None:
    probe = COVERED + "tell({path: unlock(path) for path in covered})"
    through = direct(place, probe)
    assert {"/proc/sys", "/proc/keys", "/sys/firmware"} <= set(through)
    assert through == {path: [] for path in through}


def test_nor_from_a_nested_user_namespace(place: Path) -> None:
    probe = (
        COVERED
        + """
unshare(NEWUSER | NEWNS)
nested = {path: unlock(path) for path in covered}
tell(nested)
"""
    )
    through = direct(place, probe)
    assert len(through) > 5
    assert through == {path: [] for path in through}


def test_what_root_inside_mounts_itself_it_can_take_away(place: Path) -> None:
    """The same attacks without the wall: a mask that the container's own root has made is none."""
    probe = """
os.mkdir("/mnt/dir")
open("/mnt/dir/secret", "w").write("seen")
mount(b"none", b"/mnt/dir", b"tmpfs", MS_RDONLY)
hidden = os.path.exists("/mnt/dir/secret")
through = refusal(mount, None, b"/mnt/dir", None, MS_REMOUNT | MS_BIND), refusal(umount, b"/mnt/dir", 2)
tell([hidden, through, os.path.exists("/mnt/dir/secret")])
"""
    assert direct(place, probe) == [False, [None, None], True]


FRESH = """
found = {}
def fresh():
    for kind in (b"proc", b"sysfs"):
        found[kind.decode()] = refusal(mount, kind, b"/mnt", kind, 0)
        if found[kind.decode()] is None:
            umount(b"/mnt", 2)
"""


@pytest.mark.parametrize("unmasked", [False, True])
def test_a_fresh_proc_would_have_no_masks_and_is_refused(place: Path, unmasked: bool) -> None:
    """mount_too_revealing(): a fresh proc is allowed only where the one that stands hides nothing."""
    seen = direct(place, FRESH + "fresh(); tell(found)", unmasked=unmasked)
    assert seen["proc"] == (None if unmasked else "EPERM")
    if not unmasked:
        assert seen["sysfs"] == "EPERM"


def test_a_fresh_proc_from_a_nested_user_and_pid_namespace_is_refused(place: Path) -> None:
    probe = (
        FRESH
        + """
unshare(NEWUSER | NEWNS | NEWPID)
read, write = os.pipe()
if os.fork() == 0:
    fresh()
    os.write(write, json.dumps(found).encode())
    os._exit(0)
os.close(write)
os.wait()
tell(json.loads(os.read(read, 4096)))
"""
    )
    assert direct(place, probe) == {"proc": "EPERM", "sysfs": "EPERM"}


def test_a_recursive_copy_of_proc_keeps_its_masks(place: Path) -> None:
    probe = """
mount(b"/proc", b"/mnt", None, MS_BIND | MS_REC)
inside = [line[4] for line in mountinfo() if line[4].startswith("/mnt/")]
tell([len(inside), {path: unlock(path) for path in inside if path.count("/") == 2}, text("/mnt/keys"),
      refusal(os.open, "/mnt/sys/net/ipv4/ip_forward", os.O_WRONLY)])
"""
    count, through, keys, pattern = direct(place, probe)
    assert count > 5
    assert through == {path: [] for path in through}
    assert (keys, pattern) == ("", "EROFS")


def test_masks_hide_what_is_seen_without_them(place: Path, tmp_path: Path) -> None:
    probe = "tell([text('/proc/interrupts') == '', text('/proc/timer_list')[:1]])"
    assert direct(place, probe) == [True, ""]


def test_without_masks_the_secrets_are_there(place: Path) -> None:
    probe = "tell(text('/proc/interrupts') == '')"
    assert direct(place, probe, unmasked=True) is False


@pytest.mark.parametrize("unmasked", [False, True])
def test_the_hosts_knobs_are_not_the_containers(place: Path, unmasked: bool) -> None:
    """Also where /proc/sys can be written: what is not of a namespace belongs to the host's root."""
    probe = """
names = [n for n in ("sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/sysrq", "sys/vm/overcommit_memory",
                     "sys/kernel/poweroff_cmd", "sysrq-trigger", "irq/default_smp_affinity") if os.path.exists("/proc/" + n)]
own = "/proc/sys/net/ipv4/ip_forward"
tell([{n: refusal(os.open, "/proc/" + n, os.O_WRONLY) for n in names}, refusal(os.open, own, os.O_WRONLY)])
"""
    found, own = direct(place, probe, unmasked=unmasked)
    assert "sys/kernel/core_pattern" in found
    assert {how for how in found.values() if how not in ("EROFS", "EACCES", "EPERM")} == set()
    # What is the container's own opens where /proc/sys is not read-only: so much does that wall.
    assert own == (None if unmasked else "EROFS")


def test_no_agent_of_the_cgroups_is_set(place: Path) -> None:
    """CVE-2022-0492, with and without namespaces of the attacker's own."""
    probe = """
def attack():
    found = {}
    for data in (b"memory", b"pids", b"rdma", b"freezer", b"none,name=systemd"):
        if refusal(mount, b"cgroup", b"/mnt", b"cgroup", 0, data) is not None:
            continue
        for name in ("release_agent", "notify_on_release", "devices.allow"):
            for directory in ("/mnt", "/mnt/new"):
                try:
                    if directory != "/mnt":
                        os.makedirs(directory, exist_ok=True)
                    fd = os.open(f"{directory}/{name}", os.O_WRONLY)
                    os.write(fd, b"/bin/true" if name == "release_agent" else b"1")
                    found[f"{data.decode()} {directory}/{name}"] = "written"
                except OSError:
                    pass
        if os.path.isdir("/mnt/new"):
            os.rmdir("/mnt/new")
        umount(b"/mnt", 2)
    return [name for name in found if "notify" not in name]
first = attack()
unshare(NEWUSER | NEWNS | NEWCGROUP)
tell([first, attack()])
"""
    assert direct(place, probe) == [[], []]


def test_chroot_and_dot_dot_end_at_the_containers_root(place: Path) -> None:
    probe = """
before = os.stat("/")
root = os.open("/", os.O_RDONLY)
os.makedirs("/tmp/jail", exist_ok=True)
os.chroot("/tmp/jail")
os.fchdir(root)
for _ in range(64):
    os.chdir("..")
os.chroot(".")
after = os.stat("/")
tell([(before.st_dev, before.st_ino) == (after.st_dev, after.st_ino), sorted(os.listdir("/"))])
"""
    same, names = direct(place, probe)
    assert same
    assert names == sorted(["usr", "proc", "sys", "dev", "tmp", "mnt", "etc", "bin", "sbin", "lib", "lib64"])


def test_nothing_of_the_host_is_mounted_beneath(place: Path) -> None:
    """The old root, the layers, M: none is left in the namespace, and none can be entered through PID 1."""
    probe = """
lines = mountinfo()
ids = {line[0] for line in lines}
top = [line for line in lines if line[1] not in ids]
tell([[line[4] for line in top], [line for line in lines if "layers" in str(line) or "/var/lib" in str(line)],
      [refusal(umount, b"/", 2), refusal(mount, b"/", b"/mnt", None, MS_BIND), os.path.exists("/mnt/var/lib")]])
"""
    top, ours, (unmounted, _, reached) = direct(place, probe)
    assert top == ["/"]
    assert ours == []
    assert unmounted is not None
    assert not reached


def test_no_disk_opens(place: Path) -> None:
    probe = """
found = {}
for kind, major, minor in ((stat.S_IFBLK, 7, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 1, 11)):
    for directory in ("/dev", "/tmp", "/mnt"):
        made = refusal(os.mknod, f"{directory}/x{major}", 0o666 | kind, os.makedev(major, minor))
        if made is None:
            found[f"{directory} {major}:{minor}"] = refusal(os.open, f"{directory}/x{major}", os.O_RDONLY)
mount(b"none", b"/mnt", b"tmpfs", 0)
found["own tmpfs"] = refusal(os.mknod, "/mnt/x", 0o666 | stat.S_IFBLK, os.makedev(7, 0))
tell([how for how in found.values() if how is None])
"""
    assert direct(place, probe) == []


def test_the_session_keyring_is_a_fresh_one(place: Path) -> None:
    """What the host's processes keep in theirs is not found; keyctl(2): GET_KEYRING_ID 0, SEARCH 10, session -3."""
    probe = """
LIBC.syscall.restype = ctypes.c_long
number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
session = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(0), ctypes.c_long(-3), ctypes.c_long(0))
tell([session, refusal(syscall, number, 10, -3, b"user", b"dkr-test-secret", 0)])
"""
    host = f"""
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
add, keyctl = {{"x86_64": (248, 250), "aarch64": (217, 219)}}[os.uname().machine]
call = lambda *a: libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in a])
assert call(keyctl, 1, None) > 0  # a session keyring of our own: JOIN_SESSION_KEYRING
assert call(add, b"user", b"dkr-test-secret", b"x", 1, -3) > 0
assert call(keyctl, 10, -3, b"user", b"dkr-test-secret", 0) > 0
print(call(keyctl, 0, -3, 0), flush=True)
os.execv(sys.executable, [sys.executable, "-I", {str(DIRECT)!r}, sys.argv[1]])
"""
    wanted = {"directory": str(place), "args": [*PYTHON, PRELUDE + probe]}
    done = subprocess.run(
        [sys.executable, "-I", "-c", host, json.dumps(wanted)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, _, theirs = done.stdout.partition("\n")
    session, found = json.loads(theirs)
    assert session > 0
    assert session != int(ours)
    assert found == "ENOKEY"


def test_dkrs_own_init_is_out_of_reach(place: Path) -> None:
    """PID 1 of --init, to a root with CAP_SYS_PTRACE: not its interpreter for writing, whatever else."""
    probe = """
flags = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)
tell([[refusal(os.open, "/proc/1/exe", f) for f in flags],
      os.stat("/proc/1/root/").st_ino == os.stat("/").st_ino if refusal(os.stat, "/proc/1/root/") is None else True])
"""
    refusals, same = direct(place, probe, reaper=True)
    assert None not in refusals
    assert same
