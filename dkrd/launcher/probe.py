"""What the machine must have, asked of the machine: each thing is tried, nothing is concluded from a name.

Runs as a job at the start, so that a namespace or a mount made for a question ends with the child.
"""

from __future__ import annotations

import errno
import os

from common import kernel_probes as probes
from common.errors import HostUnfit
from dkrd.runtime import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.settings import Settings

_OTHER_PLACE = "put --state-dir on a local filesystem such as ext4, xfs or btrfs"


def require_root() -> None:
    """Refuse to run as somebody else, or as a root that lacks capabilities; HostUnfit."""
    if os.geteuid() != 0:
        raise HostUnfit("cannot start dkrd: it must run as root", hint="start it with sudo, or by systemd")
    missing = probes.missing_capabilities()
    if missing:
        raise HostUnfit(
            f"cannot start dkrd: this root lacks {', '.join(missing)}",
            hint="run it in the host's user namespace, without CapabilityBoundingSet= in its unit",
        )


def machine(settings: Settings) -> dict[str, object]:
    """Try what containers need; what was found, for the log. Raises HostUnfit, naming what lacks and a way
    out.

    Runs in a child of its own: it changes its namespaces.
    """
    release = os.uname().release
    if probes.release(release) < probes.KERNEL:
        raise HostUnfit(f"cannot start dkrd: Linux {release} is too old", hint="dkr needs Linux 6.1 or later")
    for name, flag, _, sysctl in probes.NAMESPACES:
        _try_namespace(name, flag, sysctl)
    layout = cgroups.read_layout()
    _try_idmap(f"{settings.state_dir}/layers", settings.ids_first)
    _try_overlay(settings.state_dir)
    return {
        "kernel": release,
        "cgroups": layout.kind,
        "cgroupMounts": [path for path in (layout.unified, *layout.legacy) if path],
        "filesystem": probes.filesystem_of(settings.state_dir),
        "securityModules": probes.security_modules(),
    }


def _try_namespace(name: str, flag: int, sysctl: str) -> None:
    number = probes.namespace(flag)
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


def _try_idmap(path: str, first: int) -> None:
    try:
        probes.idmap(path, first)
    except OSError as err:
        raise HostUnfit(
            f"cannot idmap {path} ({probes.filesystem_of(path)}): {err.filename}: {err.strerror}",
            hint=_OTHER_PLACE,
            step="mount_setattr",
            errno=err.errno,
        ) from err


def _try_overlay(state_dir: str) -> None:
    """Mount an overlay with its upper directory in `state_dir`, nowhere attached, and write through it."""
    place = f"{state_dir}/.probe"
    try:
        probes.remove_tree(place)  # of a start that was cut off
        os.mkdir(place, 0o700)
        probes.overlay(place)
    except OSError as err:
        if err.errno == errno.ENODEV:
            raise HostUnfit(
                "cannot use overlay filesystems: the kernel does not know them",
                hint="load the module: modprobe overlay",
                step="fsopen",
                errno=err.errno,
            ) from err
        raise HostUnfit(
            f"cannot put an overlay's upper directory on {state_dir} ({probes.filesystem_of(state_dir)}): "
            f"{err.filename}: {err.strerror}",
            hint=_OTHER_PLACE,
            step="fsmount",
            errno=err.errno,
        ) from err
    finally:
        probes.remove_tree(place)
