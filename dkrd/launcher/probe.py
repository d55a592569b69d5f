"""What the machine must have, asked of the machine: each thing is tried, nothing is concluded from a name.

Runs as a job at the start, so that a namespace or a mount made for a question ends with the child.
"""

from __future__ import annotations

import errno
import os

from common.errors import HostUnfit
from dkrd.runtime import cgroups, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.settings import Settings

_KERNEL = (6, 1)
# capabilities(7): what building a container as root takes. CAP_NET_ADMIN is for the evidence (SIOCUNIXFILE).
_CAPABILITIES = {
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
_NAMESPACES = (
    ("user", syscalls.CLONE_NEWUSER, "user.max_user_namespaces"),
    ("mount", syscalls.CLONE_NEWNS, "user.max_mnt_namespaces"),
    ("pid", syscalls.CLONE_NEWPID, "user.max_pid_namespaces"),
    ("ipc", syscalls.CLONE_NEWIPC, "user.max_ipc_namespaces"),
    ("uts", syscalls.CLONE_NEWUTS, "user.max_uts_namespaces"),
    ("network", syscalls.CLONE_NEWNET, "user.max_net_namespaces"),
    ("cgroup", syscalls.CLONE_NEWCGROUP, "user.max_cgroup_namespaces"),
)
_OTHER_PLACE = "put --state-dir on a local filesystem such as ext4, xfs or btrfs"


def require_root() -> None:
    """Refuse to run as somebody else, or as a root that lacks capabilities; HostUnfit."""
    if os.geteuid() != 0:
        raise HostUnfit("cannot start dkrd: it must run as root", hint="start it with sudo, or by systemd")
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        line = next(line for line in stream if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective & 1 << bit]
    if missing:
        raise HostUnfit(
            f"cannot start dkrd: this root lacks {', '.join(missing)}",
            hint="run it in the host's user namespace, without CapabilityBoundingSet= in its unit",
        )


def kernel(release: str) -> tuple[int, int]:
    """(major, minor) of a kernel's release, such as 6.1.0-18-amd64 or 6.12-rc3."""
    major, _, rest = release.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return int(major), int(rest[:digits] or 0)


def machine(settings: Settings) -> dict[str, object]:
    """Try what containers need; what was found, for the log. Raises HostUnfit, naming what lacks and a way
    out.

    Runs in a child of its own: it changes its namespaces.
    """
    release = os.uname().release
    if kernel(release) < _KERNEL:
        raise HostUnfit(f"cannot start dkrd: Linux {release} is too old", hint="dkr needs Linux 6.1 or later")
    for name, flag, sysctl in _NAMESPACES:
        _try_namespace(name, flag, sysctl)
    layout = cgroups.read_layout()
    _try_idmap(f"{settings.state_dir}/layers", settings.ids_first)
    _try_overlay(settings.state_dir)
    return {
        "kernel": release,
        "cgroups": layout.kind,
        "cgroupMounts": [path for path in (layout.unified, *layout.legacy) if path],
        "filesystem": _filesystem_of(settings.state_dir),
    }


def _errno_of_unshare(flag: int) -> int:
    """The errno of unshare(flag) in a child, 0 where it succeeds."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(flag)
        except OSError as err:
            os._exit(err.errno or errno.EIO)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _try_namespace(name: str, flag: int, sysctl: str) -> None:
    number = _errno_of_unshare(flag)
    if not number:
        return
    hints = {
        errno.ENOSPC: f"raise the limit: sysctl -w {sysctl}=15000",
        errno.EINVAL: "use a kernel that has them built in",
    }
    raise HostUnfit(
        f"cannot make a {name} namespace: {os.strerror(number)}",
        hint=hints.get(number, "the host forbids it: see its security module and seccomp settings"),
        step="unshare",
        errno=number,
    )


def _mapped_namespace(first: int) -> int:
    """A descriptor of a user namespace that maps 65536 ids from `first` on."""
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end_write)
        status = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
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
                stream.write(f"0 {first} 65536\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready_read, end_read, end_write):
            os.close(fd)
        os.waitpid(pid, 0)


def _try_idmap(path: str, first: int) -> None:
    try:
        namespace = _mapped_namespace(first)
        tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    except OSError as err:
        raise HostUnfit(
            f"cannot idmap {path} ({_filesystem_of(path)}): {err.filename}: {err.strerror}",
            hint=_OTHER_PLACE,
            step="mount_setattr",
            errno=err.errno,
        ) from err
    os.close(tree)
    os.close(namespace)


def _try_overlay(state_dir: str) -> None:
    """Mount an overlay with its upper directory in `state_dir`, nowhere attached, and write through it."""
    place = f"{state_dir}/.probe"
    try:
        _remove(place)
        os.mkdir(place, 0o700)
        for name in ("lower", "upper", "work"):
            os.mkdir(f"{place}/{name}")
        context = syscalls.fsopen("overlay")
        for name in ("lower", "upper", "work"):
            syscalls.fsconfig_string(context, f"{name}dir", f"{place}/{name}")
        syscalls.fsconfig_create(context)
        mount = syscalls.fsmount(context, 0)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, dir_fd=mount))
        os.close(mount)
        os.close(context)
    except OSError as err:
        if err.errno == errno.ENODEV:
            raise HostUnfit(
                "cannot use overlay filesystems: the kernel does not know them",
                hint="load the module: modprobe overlay",
                step="fsopen",
                errno=err.errno,
            ) from err
        raise HostUnfit(
            f"cannot put an overlay's upper directory on {state_dir} ({_filesystem_of(state_dir)}): "
            f"{err.filename}: {err.strerror}",
            hint=_OTHER_PLACE,
            step="fsmount",
            errno=err.errno,
        ) from err
    finally:
        _remove(place)


def _remove(path: str) -> None:
    """Remove the tree at `path`, which only root could have filled; nothing where there is none."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def _filesystem_of(path: str) -> str:
    """The type of the filesystem that `path` lies on; proc(5), mountinfo."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = "unknown filesystem"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            head, _, tail = line.partition(" - ")
            if head.split()[2] == wanted:
                found = tail.split()[0]
    return found
