"""What the kernel does for us, tried: the questions that dkrd asks at its start, and `dkrctl doctor` at any time.

Each thing is tried, nothing is concluded from a name. What unshares does so in a child, and what is mounted is
attached nowhere, so that nothing outlives its question. Standard library only.

The few calls are made here by ctypes, beside those of dkrd/runtime/syscalls.py: the client may not import the
daemon, and what both import may not hang on the heart of it.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = (6, 1)  # the oldest that has all we need
MACHINES = ("x86_64", "aarch64")
# capabilities(7): what building a container as root takes. CAP_NET_ADMIN is for the evidence (SIOCUNIXFILE).
CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
CLONE_NEWNS = 0x00020000  # <sched.h>
CLONE_NEWUSER = 0x10000000
# name, flag of unshare(2), file below /proc/self/ns, sysctl that bounds their number
NAMESPACES = (
    ("user", CLONE_NEWUSER, "user", "user.max_user_namespaces"),
    ("mount", CLONE_NEWNS, "mnt", "user.max_mnt_namespaces"),
    ("pid", 0x20000000, "pid", "user.max_pid_namespaces"),
    ("ipc", 0x08000000, "ipc", "user.max_ipc_namespaces"),
    ("uts", 0x04000000, "uts", "user.max_uts_namespaces"),
    ("network", 0x40000000, "net", "user.max_net_namespaces"),
    ("cgroup", 0x02000000, "cgroup", "user.max_cgroup_namespaces"),
)
RANGE = 65536  # ids of one container
_SECURITYFS = "/sys/kernel/security/lsm"
# LSM_ID_* of <linux/lsm.h>
_LSM_NAMES = dict(
    enumerate(
        (
            "capability",
            "selinux",
            "smack",
            "tomoyo",
            "apparmor",
            "yama",
            "loadpin",
            "safesetid",
            "lockdown",
            "bpf",
            "landlock",
            "ima",
            "evm",
            "ipe",
        ),
        100,
    )
)
_LSM_LIST_MODULES = 461

_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = (
    428,
    430,
    431,
    432,
    442,
)  # the same on every machine
_SET_STRING, _CREATE = 1, 6  # FSCONFIG_*
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_CLONE = 1 | os.O_CLOEXEC  # OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC
_IDMAP = 0x00100000  # MOUNT_ATTR_IDMAP

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
    return result


def _syscall(call: str, number: int, *values: int | bytes | ctypes.Array[ctypes.c_uint64] | None) -> int:
    """The system call `number`; OSError with `call` in place of a file's name."""
    # A plain int would be cut to 32 bits in a variadic call.
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    function = _libc["syscall"]
    function.restype = ctypes.c_long
    return _check(function(ctypes.c_long(number), *arguments), call)


def release(text: str) -> tuple[int, int]:
    """(major, minor) of a kernel's release, such as 6.1.0-18-amd64 or 6.12-rc3."""
    major, _, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return int(major), int(rest[:digits] or 0)


def missing_capabilities() -> list[str]:
    """Those of CAPABILITIES that this process does not have in effect."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        line = next(line for line in stream if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return [name for name, bit in CAPABILITIES.items() if not effective & 1 << bit]


def errno_in_child(question: Callable[[], object]) -> int:
    """The errno with which `question` fails in a child of its own, 0 where it succeeds."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            question()
            status = 0
        except OSError as err:
            status = err.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def unshare(flags: int) -> None:
    """unshare(2), of the calling process: for a question that is asked in a child."""
    _check(_libc.unshare(flags), "unshare")


def namespace(flag: int) -> int:
    """The errno of unshare(flag) in a child, 0 where it succeeds."""
    return errno_in_child(lambda: unshare(flag))


def mount_detached(kind: str, options: dict[str, str]) -> int:
    """A descriptor of a new mount of a filesystem of this kind, attached nowhere; OSError names the call."""
    context = _syscall(f"fsopen {kind}", _FSOPEN, kind.encode(), _CLOEXEC)
    try:
        for key, value in options.items():
            _syscall(f"fsconfig {key}", _FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0)
        _syscall(f"fsconfig {kind}", _FSCONFIG, context, _CREATE, None, None, 0)
        return _syscall(f"fsmount {kind}", _FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def mapped_namespace(first: int) -> int:
    """A descriptor of a user namespace that maps a range of ids from `first` on. Needs root."""
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end_write)
        status = 1
        try:
            unshare(CLONE_NEWUSER)
            os.write(ready_write, b"1")
            os.read(end_read, 1)  # until the parent has its descriptor
            status = 0
        finally:
            os._exit(status)
    os.close(ready_write)
    try:
        os.read(ready_read, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as stream:
                stream.write(f"0 {first} {RANGE}\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready_read, end_read, end_write):
            os.close(fd)
        os.waitpid(pid, 0)


def idmap(path: str, first: int) -> None:
    """Whether the filesystem of `path` can be mounted with ids mapped to those from `first` on; OSError where not.

    Needs root.
    """
    space = mapped_namespace(first)
    try:
        tree = _syscall("open_tree", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), _CLONE)
        try:
            attributes = (ctypes.c_uint64 * 4)(_IDMAP, 0, 0, space)  # struct mount_attr
            size = ctypes.sizeof(attributes)
            _syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, size)
        finally:
            os.close(tree)
    finally:
        os.close(space)


def overlay(place: str) -> None:
    """Whether an overlay can have its upper directory in `place`, an empty directory, and be written through; OSError
    where not. Needs root. Leaves directories in `place`.
    """
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{place}/{name}")
    mount = mount_detached(
        "overlay", {f"{name}dir": f"{place}/{name}" for name in ("lower", "upper", "work")}
    )
    try:
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, dir_fd=mount))
    finally:
        os.close(mount)


def remove_tree(path: str) -> None:
    """Remove the tree at `path`, which only root could have filled; nothing where there is none."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def security_modules() -> list[str]:
    """The kernel's security modules, as `apparmor` and `landlock`; empty where it does not tell: without securityfs, before
    Linux 6.8.

    Nothing rests on them: it is what one wants to know when something is refused that dkr has not refused.
    """
    try:
        with open(_SECURITYFS, encoding="ascii") as file:
            return file.read().strip().split(",")
    except OSError:
        pass
    ids = (ctypes.c_uint64 * 32)()
    size = ctypes.c_uint32(ctypes.sizeof(ids))
    try:
        count = _syscall("lsm_list_modules", _LSM_LIST_MODULES, ids, ctypes.addressof(size), 0)
    except OSError:
        return []
    return [_LSM_NAMES.get(number, f"#{number}") for number in ids[:count]]


def filesystem_of(path: str) -> str:
    """The type of the filesystem that `path` lies on; proc(5), mountinfo."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = "unknown filesystem"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            head, _, tail = line.partition(" - ")
            if head.split()[2] == wanted:
                found = tail.split()[0]
    return found
