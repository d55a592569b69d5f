"""Whether a file can be the one program of a root: a static ELF of this machine which only root can have written.

Asked by dkrd, which then copies it, and by `dkrctl doctor`. Standard library only.
"""

from __future__ import annotations

import os
import stat
import struct

# Where distributions have a static busybox: Debian and Arch, Fedora, Alpine beside its dynamic one.
BUSYBOX = ("/bin/busybox", "/sbin/busybox", "/bin/busybox.static")
_SIZE_MAX = 16 * 1024 * 1024  # bytes; a busybox of everything, with glibc in it, has 2 to 3 MB

# elf(5): the header of a 64-bit file and one entry of its program header table.
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64-bit, little-endian, version 1
_MACHINES = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64
_ET_EXEC, _ET_DYN, _PT_INTERP = 2, 3, 3


class Unsuitable(Exception):
    """A file that cannot be the root's program. Its text goes on from the file's path: "is ..."."""


def read(descriptor: int) -> bytes:
    """The file's bytes, if nobody but root can have written them. Raises Unsuitable, OSError."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Unsuitable("is not a regular file")
    if status.st_uid != 0:
        raise Unsuitable(f"belongs to uid {status.st_uid}, not to root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsuitable(f"can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o})")
    if not status.st_mode & stat.S_IXUSR:
        raise Unsuitable("is not executable")
    if status.st_size > _SIZE_MAX:
        raise Unsuitable(f"has more than {_SIZE_MAX} bytes")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(_SIZE_MAX)


def check(data: bytes, machine: str) -> None:
    """Refuse what is not a static executable of `machine`, as uname(2) names it. Raises Unsuitable."""
    if not data.startswith(_IDENT) or len(data) < _HEADER.size:
        raise Unsuitable("is not a 64-bit ELF executable")
    _, kind, e_machine, _, _, offset, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    if kind not in (_ET_EXEC, _ET_DYN):
        raise Unsuitable("is not a 64-bit ELF executable")
    if e_machine != _MACHINES.get(machine):
        raise Unsuitable(f"is for another machine than {machine} (ELF machine {e_machine})")
    if not count or size != _SEGMENT.size or offset + count * size > len(data):
        raise Unsuitable("is cut off: its program headers are not in it")
    segments = (_SEGMENT.unpack_from(data, offset + index * size)[0] for index in range(count))
    # Whoever names no interpreter is started by the kernel alone, position-independent or not.
    if _PT_INTERP in segments:
        raise Unsuitable("is dynamically linked, and a container has no libraries for it")
