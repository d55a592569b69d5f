"""What the host has beyond what it must have, by trying: for who asks what it can do (`GET /v1/info`), and for no decision."""

from __future__ import annotations

import os
import socket

from dkrd.launcher import pidfd
from dkrd.runtime import mounting, operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.settings import Settings

_SO_PASSRIGHTS = 83  # <asm-generic/socket.h>, from Linux 6.16


def found(settings: Settings) -> dict[str, bool]:
    """Name -> whether it is there.

    The first four are tried when dkrd starts, which it does not without them (probe.machine, seccomp).
    """
    return {
        "userNamespaces": True,
        "idmappedMounts": True,
        "overlay": True,
        "seccomp": True,
        "timeNamespaces": os.path.exists("/proc/self/ns/time"),
        # an overlay is given its layers by descriptor, attached nowhere (Linux 6.15)
        "overlayByDescriptor": operations.overlay_takes_detached(),
        # /proc is mounted without a process that was born in its pid namespace (Linux 6.18)
        "procNamesNamespace": mounting.proc_names_namespace(),
        # an exit is known although the guardian was killed (Linux 6.15)
        "exitByPidfd": pidfd.tells_exits(),
        # nobody can pass descriptors that stall who receives them (Linux 6.16)
        "descriptorsRefused": _refuses_descriptors(),
        "httpLifts": settings.http_lifts,
    }


def _refuses_descriptors() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS)
        except OSError:
            return False
    return True
