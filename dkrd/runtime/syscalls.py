"""One thin, typed function for each system call that the standard library lacks, under the kernel's names.

A failed call raises OSError with errno, its text, and `call object` in place of a file name. Nothing here
decides anything.

All calls go through one PyDLL: it keeps the GIL, which costs nothing in processes of one thread, and clone3
must not drop it (with a second thread a child born without the GIL hangs). `libc.syscall` takes C longs:
each number gets its own function object with argument types, because ctypes cuts plain integers of a
variadic call to 32 bits.
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p, sizeof
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# <sched.h>
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# <fcntl.h>, <linux/openat2.h>
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
AT_RECURSIVE = 0x8000
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# <linux/mount.h>
MS_RDONLY = 0x1
MS_PRIVATE = 0x40000
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# <linux/stat.h>, <linux/nsfs.h>
STATX_BASIC_STATS = 0x07FF
STATX_MNT_ID = 0x1000
NS_GET_NSTYPE = 0xB703

# <linux/prctl.h>, <linux/seccomp.h>, <linux/capability.h>, <linux/keyctl.h>, <linux/close_range.h>
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_SET_MODE_FILTER = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522
KEYCTL_JOIN_SESSION_KEYRING = 1
CLOSE_RANGE_CLOEXEC = 4

# Numbers from 424 on are the same everywhere; the older ones are not.
_OLD_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        "capset": 126,
        "seccomp": 317,
        "keyctl": 250,
        "rt_sigaction": 13,
        "statx": 332,
    },
    "aarch64": {
        "pivot_root": 41,
        "capset": 91,
        "seccomp": 277,
        "keyctl": 219,
        "rt_sigaction": 134,
        "statx": 291,
    },
}
_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    **_OLD_NUMBERS.get(os.uname().machine, {}),
}


class _CloneArgs(Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _OpenHow(Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class _MountAttr(Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _CapHeader(Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", c_int)]


class _CapData(Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


# Types of arrays are made once: ctypes forgets one that nobody holds, and making it anew takes 0.3 ms in a process that was
# just forked. For the same reason bytes are passed as they are and not copied to a buffer (create_string_buffer).
_CapSets = _CapData * 2


class _SockFprog(Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", c_char_p)]


_libc = ctypes.PyDLL(None, use_errno=True)


def _function(name: str, *argtypes: Any) -> Callable[..., int]:  # noqa: ANN401 - ctypes types have no common name
    function = _libc[name]
    function.argtypes = argtypes
    function.restype = c_int
    return function


def _numbered(name: str, *argtypes: Any) -> Callable[..., int]:  # noqa: ANN401 - ctypes types have no common name
    """The system call `name` as a function object of its own (`_libc["syscall"]` makes a new one each
    time).
    """
    function = _libc["syscall"]
    function.argtypes = (c_long, *argtypes)
    function.restype = c_long
    number = _NUMBERS.get(name, -1)
    return lambda *args: function(number, *args)


_setns = _function("setns", c_int, c_int)
_unshare = _function("unshare", c_int)
_umount2 = _function("umount2", c_char_p, c_int)
_prctl = _function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_name = _function("prctl", c_int, c_char_p, c_ulong, c_ulong, c_ulong)
_pivot_root = _numbered("pivot_root", c_char_p, c_char_p)
_capset = _numbered("capset", POINTER(_CapHeader), POINTER(_CapData))
_seccomp = _numbered("seccomp", c_uint, c_uint, POINTER(_SockFprog))
_rt_sigaction = _numbered("rt_sigaction", c_int, c_char_p, c_void_p, c_ulong)
_keyctl = _numbered("keyctl", c_int, c_char_p)
_open_tree = _numbered("open_tree", c_int, c_char_p, c_uint)
_move_mount = _numbered("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = _numbered("fsopen", c_char_p, c_uint)
_fsconfig = _numbered("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _numbered("fsmount", c_int, c_uint, c_uint)
_statx = _numbered("statx", c_int, c_char_p, c_int, c_uint, c_char_p)
_clone3 = _numbered("clone3", POINTER(_CloneArgs), c_ulong)
_close_range = _numbered("close_range", c_uint, c_uint, c_uint)
_openat2 = _numbered("openat2", c_int, c_char_p, POINTER(_OpenHow), c_ulong)
_mount_setattr = _numbered("mount_setattr", c_int, c_char_p, c_uint, POINTER(_MountAttr), c_ulong)

_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _hook in (_before_fork, _after_fork_child, _after_fork_parent):
    _hook.restype = None


def _check(result: int, call: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), call)
    return result


def setns(fd: int, nstype: int) -> None:
    """Join the namespaces of `fd` (an nsfs file or a pidfd) that `nstype` names; setns(2)."""
    _check(_setns(fd, nstype), "setns")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_unshare(flags), f"unshare {flags:#x}")


def umount2(path: str, flags: int) -> None:
    """umount2(2)."""
    _check(_umount2(os.fsencode(path), flags), f"umount2 {path}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); with "." for both the old root ends up stacked on the new one."""
    _check(_pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return _check(_prctl(option, arg2, arg3, arg4, arg5), f"prctl {option}")


def set_name(name: str) -> None:
    """PR_SET_NAME: what ps(1) shows; 15 bytes at most."""
    _check(_prctl_name(PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl PR_SET_NAME")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's three sets, each a mask of 1 << capability; capset(2)."""
    data = _CapSets()
    for half in (0, 1):
        shift = 32 * half
        data[half].effective = effective >> shift & 0xFFFFFFFF
        data[half].permitted = permitted >> shift & 0xFFFFFFFF
        data[half].inheritable = inheritable >> shift & 0xFFFFFFFF
    _check(_capset(byref(_CapHeader(LINUX_CAPABILITY_VERSION_3, 0)), data), "capset")


def seccomp_filter(program: bytes) -> None:
    """Load `program` (struct sock_filter, 8 bytes each) for the calling thread; seccomp(2),
    SECCOMP_SET_MODE_FILTER.

    Wants CAP_SYS_ADMIN in the caller's user namespace, or no_new_privs.
    """
    fprog = _SockFprog(len(program) // 8, program)
    _check(_seccomp(SECCOMP_SET_MODE_FILTER, 0, byref(fprog)), "seccomp")


def default_action(signal: int) -> None:
    """Set the default action by rt_sigaction(2) itself: the C library refuses to for the signals it keeps for itself."""
    # struct sigaction of the kernel: handler, flags, restorer, mask, eight bytes each; all zero is SIG_DFL.
    _check(_rt_sigaction(signal, bytes(32), None, 8), f"rt_sigaction {signal}")


def join_session_keyring() -> None:
    """Leave the caller's session keyring for a new, anonymous one; keyctl(2)."""
    _check(_keyctl(KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl KEYCTL_JOIN_SESSION_KEYRING")


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2); the descriptor is close-on-exec."""
    return _check(_open_tree(dirfd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC), f"open_tree {path}")


def move_mount(tree: int, dirfd: int, path: str = "") -> None:
    """Attach the detached mount `tree` at `path` below `dirfd`, or on `dirfd` itself when `path` is empty;
    move_mount(2).
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _check(_move_mount(tree, b"", dirfd, os.fsencode(path), flags), f"move_mount {path}")


def fsopen(fstype: str) -> int:
    """A new filesystem context; fsopen(2)."""
    return _check(_fsopen(fstype.encode(), FSOPEN_CLOEXEC), f"fsopen {fstype}")


def fsconfig_string(fs: int, key: str, value: str) -> None:
    """FSCONFIG_SET_STRING; before Linux 6.5 a value ends at 255 bytes."""
    _check(_fsconfig(fs, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0), f"fsconfig {key}={value}")


def fsconfig_flag(fs: int, key: str) -> None:
    """FSCONFIG_SET_FLAG."""
    _check(_fsconfig(fs, FSCONFIG_SET_FLAG, key.encode(), None, 0), f"fsconfig {key}")


def fsconfig_fd(fs: int, key: str, fd: int) -> None:
    """FSCONFIG_SET_FD."""
    _check(_fsconfig(fs, FSCONFIG_SET_FD, key.encode(), None, fd), f"fsconfig {key}")


def fsconfig_create(fs: int) -> None:
    """FSCONFIG_CMD_CREATE: make the superblock."""
    _check(_fsconfig(fs, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig create")


def fsmount(fs: int, attributes: int) -> int:
    """A detached mount of the context's superblock with MOUNT_ATTR_* flags; fsmount(2)."""
    return _check(_fsmount(fs, FSMOUNT_CLOEXEC, attributes), "fsmount")


def mount_setattr(
    dirfd: int,
    path: str = "",
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2); an empty `path` means the mount of `dirfd` itself."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    _check(
        _mount_setattr(dirfd, os.fsencode(path), flags, byref(attr), sizeof(attr)), f"mount_setattr {path}"
    )


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _check(_openat2(dirfd, os.fsencode(path), byref(how), sizeof(how)), f"openat2 {path}")


_STATX = struct.Struct("16xI8xH106xIIQ104x")  # stx_nlink, stx_mode, stx_dev_major, stx_dev_minor, stx_mnt_id


_StatxBuffer = ctypes.c_char * _STATX.size


class Statx(NamedTuple):
    """What `statx` tells: mode and number of links, the device as in os.stat(), the mount's id as in mountinfo."""

    nlink: int
    mode: int
    dev: int
    mount: int


def statx(fd: int) -> Statx:
    """statx(2) of `fd` itself by what the kernel knows (AT_STATX_DONT_SYNC): unlike fstat(2) it does not ask the server of
    a FUSE or network filesystem, which may not answer.
    """
    buffer = _StatxBuffer()
    flags, mask = AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID
    _check(_statx(fd, b"", flags, mask, buffer), "statx")
    nlink, mode, major, minor, mount = _STATX.unpack(buffer.raw)
    return Statx(nlink, mode, os.makedev(major, minor), mount)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close, or mark close-on-exec (CLOSE_RANGE_CLOEXEC), all descriptors from `first` to `last`;
    close_range(2).
    """
    _check(_close_range(first, last, flags), "close_range")


def clone3(flags: int, cgroup: int = -1) -> int:
    """Fork into new namespaces: 0 in the child, the child's pid in the parent; clone3(2).

    cgroup  descriptor of a cgroup v2 directory the child is born in, or -1

    Goes through CPython's fork hooks; the caller has one thread. SIGCHLD is the exit signal.
    """
    args = _CloneArgs(flags=flags, exit_signal=17)
    if cgroup >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    _before_fork()
    pid = int(_clone3(byref(args), sizeof(args)))
    if pid == 0:
        _after_fork_child()
        return 0
    errno = ctypes.get_errno()
    _after_fork_parent()
    if pid < 0:
        raise OSError(errno, os.strerror(errno), f"clone3 {flags:#x}")
    return pid
