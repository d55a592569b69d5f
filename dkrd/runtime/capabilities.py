"""The five capability sets of a thread; capabilities(7)."""

from __future__ import annotations

import functools
import os

from dkrd.runtime import syscalls

NAMES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP "
    "CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER "
    "CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE "
    "CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP "
    "CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF "
    "CAP_CHECKPOINT_RESTORE"
).split()
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: tuple[str, ...]) -> int:
    """The bit mask of `names`, which the spec's parser has checked."""
    result = 0
    for name in names:
        result |= 1 << NUMBERS[name]
    return result


@functools.cache
def last_cap() -> int:
    """The highest capability this kernel knows; asked once."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def drop_bounding(keep: int, last: int) -> None:
    """Remove from the bounding set all but `keep`; wants CAP_SETPCAP. `last` is the kernel's highest
    capability.
    """
    for number in range(last + 1):
        if not keep >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)


def set_all(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets of capset(2) and clear the ambient set. The bounding set must have been reduced
    before.
    """
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    # A user other than root has no capability after setresuid(2); asking for more would be refused.
    if os.geteuid() == 0:
        syscalls.capset(effective, permitted, inheritable)
