"""The interpreter that everything privileged runs on, sealed.

A process of a container that gets hold of /proc/PID/exe of the launcher or a shim could write to the
interpreter's file and so become root (CVE-2019-5736 did it to runc). Executed from a read-only, detached
clone of its file, the descriptor it could open has no way to be written.
"""

from __future__ import annotations

import os
import sys

from common.errors import HostUnfit
from dkrd.runtime.syscalls import (
    AT_FDCWD,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
    PR_SET_DUMPABLE,
    mount_setattr,
    open_tree,
    prctl,
    set_name,
)

_SELF = "/proc/self/exe"
_HANDED = "DKRD_HANDED_ON"  # the descriptor of what the first life hands to the second


def seal(name: str, handed: bytes = b"") -> None:
    """Execute this program again from a read-only clone of its interpreter, unless it runs from one. What was executed again
    finds `handed` by `handed_on`.

    Then names the process `name` and makes it not dumpable: no other process may read its memory, and what
    is forked from it inherits that. Raises HostUnfit where the clone cannot be made.
    """
    if not os.statvfs(_SELF).f_flag & os.ST_RDONLY:
        _execute_clone(handed)
    prctl(PR_SET_DUMPABLE, 0)
    set_name(name)


def handed_on() -> bytes:
    """What the first life of this program handed to `seal`; nothing in the first."""
    number = os.environ.pop(_HANDED, "")
    if not number:
        return b""
    with open(int(number), "rb") as file:
        file.seek(0)
        return file.read()


def _execute_clone(handed: bytes) -> None:
    try:
        # /proc/self/exe and not its name: the name may lead to another file by now.
        tree = open_tree(AT_FDCWD, _SELF, OPEN_TREE_CLONE)
        mount_setattr(tree, attr_set=MOUNT_ATTR_RDONLY)
    except OSError as err:
        raise HostUnfit(
            f"cannot protect the interpreter: {err.filename}: {err.strerror}",
            hint="dkrd needs CAP_SYS_ADMIN in the host's user namespace and Linux 5.12 or later",
            step="open_tree",
            errno=err.errno,
        ) from err
    arguments = list(sys.orig_argv)
    if not sys.flags.isolated:
        arguments.insert(1, "-I")  # no PYTHON* variable has a say in what runs as root
    sys.stdout.flush()
    sys.stderr.flush()
    memory = os.memfd_create("handed", 0)
    os.write(memory, handed)
    os.execve(tree, arguments, {**os.environ, _HANDED: str(memory)})
