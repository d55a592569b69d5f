"""The launcher's job that compiles the default seccomp profile, once for a machine, and keeps the program on
disk.

Names become numbers by libseccomp, which knows every architecture's table; the program is made by
dkrd.runtime.seccomp_bpf. The library is loaded only when there is no program yet: ctypes and it cost some 5
ms, a warm cache a hash and an lstat.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from common.errors import HostUnfit
from common.frames import dumps
from common.libseccomp import find_library
from dkrd.runtime.seccomp_bpf import GENERATION, Section, Verdict, program, read_program
from dkrd.runtime.seccomp_profile import DEFAULT, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.settings import Settings


@dataclass(frozen=True, slots=True)
class _Table:
    """One system call table.

    arch     AUDIT_ARCH value, what a filter sees; <linux/audit.h>
    scmp     SCMP_ARCH value, what libseccomp calls it; <seccomp.h>
    numbers  ranges of numbers to ask about: what is beyond gets the default
    """

    arch: int
    scmp: int
    numbers: tuple[tuple[int, int], ...]


_X86_64, _X32, _I386, _AARCH64, _ARM = 0xC000003E, 0x4000003E, 0x40000003, 0xC00000B7, 0x40000028
_X32_BIT = 0x40000000  # x32 calls come as x86-64 with this bit in the number

# Machine to the tables its kernel serves. 32-bit programs run in containers too; unless their table were in
# the program, such a process would be killed.
TABLES = {
    "x86_64": (
        _Table(_X86_64, _X86_64, ((0, 1024),)),
        _Table(_X86_64, _X32, ((_X32_BIT, _X32_BIT + 1024),)),
        _Table(_I386, _I386, ((0, 1024),)),
    ),
    "aarch64": (
        _Table(_AARCH64, _AARCH64, ((0, 1024),)),
        # From 0xf0000: calls private to arm (cacheflush, set_tls, …).
        _Table(_ARM, _ARM, ((0, 1024), (0xF0000, 0xF0010))),
    ),
}


def compile_default(settings: Settings) -> str:
    """Path of the compiled default profile below state_dir/seccomp; made if it is not there.

    Runs as root in a process of its own. Raises HostUnfit where libseccomp is missing, the machine's
    architecture is unknown, or the directory is not root's alone.
    """
    machine = os.uname().machine
    tables = TABLES.get(machine)
    if tables is None:
        raise HostUnfit(
            f"cannot compile the seccomp profile: the system calls of {machine} are not known",
            hint=f"dkr runs on {' and '.join(TABLES)}",
        )
    library = find_library(machine)
    directory = os.path.join(settings.state_dir, "seccomp")
    name = f"{_key(library, tables)}.bpf"
    dir_fd = _open_directory(directory)
    try:
        if not _is_cached(name, dir_fd):
            _store(compile_program(library, tables), name, dir_fd)
    finally:
        os.close(dir_fd)
    return os.path.join(directory, name)


def _key(library: str, tables: tuple[_Table, ...]) -> str:
    """The name of the program: whatever it is made from changes it.

    Of the library that is its file's real name, size and time, all known without loading it. Its version
    would not do: distributions add system calls to a library without a new one.
    """
    status = os.stat(library)
    made_from = [
        GENERATION,
        [repr(astuple(table)) for table in tables],
        {name: repr(verdict) for name, verdict in verdicts().items()},
        DEFAULT,
        [library, status.st_size, status.st_mtime_ns],
    ]
    from hashlib import (
        sha256,  # brings libcrypto, which is for the job alone: each fork would copy its mappings
    )

    return sha256(dumps(made_from)).hexdigest()


def _open_directory(path: str) -> int:
    if not os.path.isdir(path):
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass  # another job was first, or it is no directory, which open says
        except OSError as err:
            raise HostUnfit(f"cannot make {path}: {err.strerror}", errno=err.errno) from err
    try:
        dir_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        raise HostUnfit(f"cannot open {path}: {err.strerror}", errno=err.errno) from err
    status = os.fstat(dir_fd)
    if status.st_uid != 0 or status.st_mode & 0o022:
        os.close(dir_fd)
        raise HostUnfit(
            f"cannot trust {path}: others than root can write it",
            hint=f"chown root:root {path}; chmod 755 {path}",
        )
    return dir_fd


def _is_cached(name: str, dir_fd: int) -> bool:
    try:
        read_program(name, dir_fd)
    except HostUnfit:
        return False  # not there, or not to be believed: the new one takes its place
    return True


def _store(data: bytes, name: str, dir_fd: int) -> None:
    """Write `name` whole or not at all, also over a crash: file, rename and directory are each on disk in
    this order.
    """
    temporary = f".{name}.{os.getpid()}"
    with suppress(FileNotFoundError):
        # What is there is left from a process of the same pid that did not get to the end.
        os.unlink(temporary, dir_fd=dir_fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        os.unlink(temporary, dir_fd=dir_fd)
        raise
    os.fsync(dir_fd)


def compile_program(library: str, tables: tuple[_Table, ...]) -> bytes:
    """The default profile for `tables`, as struct sock_filter after struct sock_filter.

    Loads `library`. Raises HostUnfit if it is not what it seems to be.
    """
    name_of = _resolver(library)
    by_name = verdicts()
    sections: dict[int, dict[int, Verdict]] = {}
    for table in tables:
        section = sections.setdefault(table.arch, {})
        for first, end in table.numbers:
            for number in range(first, end):
                name = name_of(table.scmp, number)
                if name in by_name:
                    section[number] = by_name[name]
    for arch, section in sections.items():
        if len(section) < 100:
            # A program without numbers would be one that refuses everything, which is safe and of no use.
            raise HostUnfit(
                f"cannot use {library}: it knows {len(section)} system calls of architecture {arch:#x}",
                hint="install libseccomp2 again",
            )
    return program([Section(arch, section, DEFAULT) for arch, section in sections.items()])


def _resolver(library: str) -> Callable[[int, int], str]:
    """A function (SCMP_ARCH, number) -> name or empty; seccomp_syscall_resolve_num_arch(3)."""
    import ctypes  # here: only a job needs it, and only once

    try:
        loaded = ctypes.CDLL(library)
        resolve = loaded.seccomp_syscall_resolve_num_arch
    except (OSError, AttributeError) as err:
        raise HostUnfit(f"cannot load {library}: {err}", hint="install libseccomp2") from err
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_int)
    resolve.restype = ctypes.c_void_p
    free = ctypes.CDLL(None).free
    free.argtypes = (ctypes.c_void_p,)
    free.restype = None

    def name_of(scmp: int, number: int) -> str:
        pointer = resolve(scmp, number)
        if not pointer:
            return ""
        name = ctypes.string_at(pointer).decode("ascii")
        free(pointer)
        return name

    return name_of
