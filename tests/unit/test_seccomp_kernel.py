"""The default seccomp program, loaded into real processes: what the kernel answers by it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from common import libseccomp
from dkrd.launcher.jobs import seccomp as job
from dkrd.runtime import seccomp_profile as profile
from tests.unit.seccomp_names import names_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MACHINE = os.uname().machine
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

on_x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="speaks of x86-64's numbers")


@pytest.fixture(scope="module")
def library() -> str:
    return libseccomp.find_library(MACHINE)


def confined(program: bytes, action: Callable[[], int]) -> int:
    """What `action` returns (0 to 255) in a child that has loaded `program`; -signal if one ended it."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            os.setsid()  # vhangup must not find a terminal if it is let through
            assert LIBC.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
            assert LIBC.prctl(22, 2, fprog, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            status = action()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def errno_of(number: int, *args: int) -> Callable[[], int]:
    def call() -> int:
        longs = [ctypes.c_long(arg) for arg in args]
        return 0 if LIBC.syscall(ctypes.c_long(number), *longs) >= 0 else ctypes.get_errno()

    return call


def number_of(library: str, wanted: str) -> int:
    return next(n for n, name in names_of(library, job.TABLES[MACHINE][0]).items() if name == wanted)


@pytest.fixture(scope="module")
def program(library: str) -> bytes:
    return job.compile_program(library, job.TABLES[MACHINE])


def test_each_refused_call_gives_eperm(library: str, program: bytes) -> None:
    names = names_of(library, job.TABLES[MACHINE][0])
    number = {name: n for n, name in names.items()}
    tried = 0
    for group in profile.REFUSED:
        for name in group.names:
            if name in number:
                # Arguments that no call takes: without a filter the answer would be another, ENOSYS, EFAULT
                # or EINVAL, or EPERM where root's capabilities are asked for; those are tried as root, who
                # has them.
                assert confined(program, errno_of(number[name], -1, -1, -1, -1, -1, -1)) == errno.EPERM, name
                tried += 1
    assert tried > 50


def test_each_unknown_call_gives_enosys(library: str, program: bytes) -> None:
    number = {name: n for n, name in names_of(library, job.TABLES[MACHINE][0]).items()}
    for name in {name for group in profile.UNKNOWN for name in group.names} & set(number):
        assert confined(program, errno_of(number[name], -1, -1, -1)) == errno.ENOSYS, name
    assert confined(program, errno_of(511)) == errno.ENOSYS
    assert confined(program, errno_of(2000)) == errno.ENOSYS


@pytest.mark.parametrize("upper", [0, 1 << 32])
def test_checked_calls_on_the_kernel(upper: int, library: str, program: bytes) -> None:
    clone, ioctl, socket, personality = (
        number_of(library, name) for name in ("clone", "ioctl", "socket", "personality")
    )
    master, slave = os.openpty()
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert confined(program, errno_of(clone, upper | flag | 17, 0, 0, 0, 0)) == errno.EPERM
    for request in (0x5412, 0x541C):
        assert confined(program, errno_of(ioctl, slave, upper | request, 0)) == errno.EPERM
    assert (
        confined(program, errno_of(ioctl, slave, upper | 0x5413, -1)) == errno.EFAULT
    )  # TIOCGWINSZ is let through
    for family in (38, 40, 29, 31):
        assert confined(program, errno_of(socket, upper | family, 5, 0)) == errno.EAFNOSUPPORT
    for family in (1, 2, 16):
        assert confined(program, errno_of(socket, upper | family, 2, 0)) == 0
    assert confined(program, errno_of(personality, upper | 0x40000)) == errno.EPERM
    assert confined(program, errno_of(personality, 0xFFFFFFFF)) == 0
    os.close(master)
    os.close(slave)


@on_x86_64
def test_32_bit_and_x32_calls_are_filtered_too(library: str, program: bytes) -> None:
    """`int $0x80` in a 64-bit process is how a program reaches the other table."""

    def int80(number: int, ebx: int) -> Callable[[], int]:
        # push rbx; mov eax, number; mov ebx, value; int 0x80; pop rbx; ret
        code = (
            b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", ebx) + b"\xcd\x80\x5b\xc3"
        )

        def call() -> int:
            import mmap

            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(code)
            function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
            return -result if (result := function()) < 0 else 0

        return call

    if confined(program, int80(20, 0)) != 0:  # getpid
        pytest.skip("the kernel has no 32-bit calls")
    assert confined(program, int80(359, 38)) == errno.EAFNOSUPPORT
    assert confined(program, int80(102, 1)) == errno.ENOSYS
    assert confined(program, int80(310, 0)) == errno.EPERM  # unshare
    assert confined(program, errno_of(0x40000000 | 272, 0)) == errno.EPERM  # x32's unshare


PROGRAMS = {
    "sh": ["/bin/sh", "-c", "x=$(ls /usr | wc -l); test $x -gt 3; (exit 3); test $? = 3; sleep 0 & wait"],
    "ls": ["/bin/ls", "-l", "/usr/bin"],
    "threads and fork": [
        "/usr/bin/python3",
        "-c",
        "import threading, os, subprocess, socket\n"
        "out = []\n"
        "ts = [threading.Thread(target=out.append, args=(i,)) for i in range(8)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n"
        "assert sorted(out) == list(range(8))\n"
        "pid = os.fork()\n"
        "pid or os._exit(4)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4\n"
        "assert subprocess.run(['true']).returncode == 0\n"
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0))\n",
    ],
    "asyncio and pools": [
        "/usr/bin/python3",
        "-c",
        "import asyncio, multiprocessing\n"
        "async def main():\n"
        "    p = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)\n"
        "    assert (await p.communicate(b'hello'))[0] == b'hello'\n"
        "asyncio.run(main())\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]\n",
    ],
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_ordinary_programs_run(name: str, program: bytes, tmp_path: Path) -> None:
    argv = PROGRAMS[name]
    errors = tmp_path / "errors"

    def execute() -> int:
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(errors, os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 0), os.dup2(null, 1), os.dup2(log, 2)
        os.execv(argv[0], argv)

    assert confined(program, execute) == 0, errors.read_text()


def test_refused_for_ordinary_tools_in_their_own_words(program: bytes, tmp_path: Path) -> None:
    errors = tmp_path / "errors"

    def execute() -> int:
        log = os.open(errors, os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 2)
        os.execv("/usr/bin/unshare", ["unshare", "-Ur", "true"])

    assert confined(program, execute) == 1
    assert "Operation not permitted" in errors.read_text()
