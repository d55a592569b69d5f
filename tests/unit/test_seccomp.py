"""The default seccomp program: read by an interpreter for every number there is, and loaded into real
processes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common import libseccomp
from common.errors import HostUnfit
from dkrd.launcher.jobs import seccomp as job
from dkrd.runtime import seccomp_bpf as bpf
from dkrd.runtime import seccomp_profile as profile
from dkrd.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
MACHINE = os.uname().machine
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

on_x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="speaks of x86-64's numbers")


@pytest.fixture(scope="module")
def library() -> str:
    return libseccomp.find_library(MACHINE)


@pytest.fixture(scope="module")
def programs(library: str) -> dict[str, bytes]:
    return {machine: job.compile_program(library, tables) for machine, tables in job.TABLES.items()}


# --- an interpreter of what the kernel interprets


def run(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """The SECCOMP_RET value for one call."""
    padded = (*args, *([0] * (6 - len(args))))
    data = struct.pack("<iIQ6Q", number - (1 << 32) if number >> 31 else number, arch, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, jt, jf, k = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == 0x06:
            return int(k)
        elif operation == 0x05:
            at += k
        else:
            taken = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k != 0}[operation]
            at += jt if taken else jf


def refused(number: int) -> int:
    return 0x50000 | number


ALLOW, KILL = 0x7FFF0000, 0x80000000


def names_of(library: str, table: job._Table) -> dict[int, str]:
    name_of = job._resolver(library)
    numbers = (n for first, end in table.numbers for n in range(first, end))
    return {n: name for n in numbers if (name := name_of(table.scmp, n))}


@pytest.mark.parametrize("machine", list(job.TABLES))
def test_every_number_of_every_table_gets_the_verdict_of_its_list(
    machine: str, library: str, programs: dict[str, bytes]
) -> None:
    allowed = {name for group in profile.ALLOWED for name in group.names}
    denied = {name for group in profile.REFUSED for name in group.names}
    checked = {entry.name for entry in profile.CHECKED}
    for table in job.TABLES[machine]:
        names = names_of(library, table)
        assert len(names) > 250
        for number in (n for first, end in table.numbers for n in range(first, end)):
            name = names.get(number, "")
            if name in checked:
                continue
            expected = ALLOW if name in allowed else refused(1) if name in denied else refused(38)
            assert run(programs[machine], table.arch, number) == expected, (hex(table.arch), number, name)


@pytest.mark.parametrize("machine", list(job.TABLES))
def test_no_system_call_is_forgotten(machine: str, library: str) -> None:
    listed = set(profile.verdicts())
    for table in job.TABLES[machine]:
        forgotten = {name for name in names_of(library, table).values() if name not in listed}
        assert not forgotten, f"in no list of the profile: {sorted(forgotten)}"


def test_no_system_call_is_in_two_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = (*profile.REFUSED, profile.Group("again", "", ("read",)))
    monkeypatch.setattr(profile, "REFUSED", twice)
    with pytest.raises(ValueError, match="read is in two lists"):
        profile.verdicts()


def test_every_group_has_a_reason() -> None:
    for group in (*profile.ALLOWED, *profile.REFUSED, *profile.UNKNOWN):
        assert group.title
        assert group.why
        assert group.names
    assert all(entry.why for entry in profile.CHECKED)


def lists_as_markdown() -> str:
    lines = []
    for title, groups in (
        ("Allowed", profile.ALLOWED),
        ("Refused: EPERM", profile.REFUSED),
        ("Unknown: ENOSYS", profile.UNKNOWN),
    ):
        lines += [f"### {title}", "", "| what | why | calls |", "|---|---|---|"]
        lines += [f"| {group.title} | {group.why} | {' '.join(group.names)} |" for group in groups]
        lines.append("")
    lines += ["### Checked", "", "| call | allowed if | else | why |", "|---|---|---|---|"]
    for entry in profile.CHECKED:
        check = entry.check
        values = ", ".join(f"{value:#x}" for value in check.values)
        condition = f"argument {check.argument} is {check.comparison} {values}"
        if check.comparison is bpf.Comparison.NO_BIT_OF:
            condition = f"argument {check.argument} has {check.comparison} {values}"
        lines.append(f"| {entry.name} | {condition} | {errno.errorcode[check.errno]} | {entry.why} |")
    return "\n".join(lines) + "\n"


def test_the_handbook_shows_these_lists() -> None:
    page = Path(__file__).parents[2] / "docs/seccomp.md"
    text, marker, shown = page.read_text().partition("and compared by it. -->\n\n")
    if os.environ.get("DKR_WRITE_DOCS"):
        page.write_text(text + marker + lists_as_markdown())
    else:
        assert shown == lists_as_markdown(), "renew it: run this test with DKR_WRITE_DOCS=1"


@pytest.mark.parametrize(
    ("machine", "arch", "socket", "clone", "ioctl", "personality"),
    [
        ("x86_64", X86_64, 41, 56, 16, 135),
        ("x86_64", X86_64, 0x40000000 | 41, 0x40000000 | 56, 0x40000000 | 514, 0x40000000 | 135),
        ("x86_64", I386, 359, 120, 54, 136),
        ("aarch64", AARCH64, 198, 220, 29, 92),
        ("aarch64", ARM, 281, 120, 54, 136),
    ],
)
def test_arguments_are_judged_by_their_low_half(
    machine: str, arch: int, socket: int, clone: int, ioctl: int, personality: int, programs: dict[str, bytes]
) -> None:
    def verdict(number: int, *args: int) -> int:
        return run(programs[machine], arch, number, args)

    for upper in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert verdict(ioctl, 1, upper | 0x5412) == refused(1)
        assert verdict(ioctl, 1, upper | 0x541C) == refused(1)
        assert verdict(ioctl, 1, upper | 0x5413) == ALLOW
        for family in range(64):
            expected = ALLOW if family in (1, 2, 10, 16, 17) else refused(errno.EAFNOSUPPORT)
            assert verdict(socket, upper | family) == expected
        for bit in range(32):
            expected = refused(1) if 1 << bit & 0x7E020000 else ALLOW
            assert verdict(clone, upper | 1 << bit | 17) == expected
        for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
            assert verdict(personality, upper | value) == ALLOW
        for value in (1, 0x40000, 0x400000, 0x20009, 0xFFFFFFFE):
            assert verdict(personality, upper | value) == refused(1)


def test_the_32_bit_multiplexer_makes_no_socket(programs: dict[str, bytes]) -> None:
    for machine, arch in (("x86_64", I386), ("aarch64", ARM)):
        assert run(programs[machine], arch, 102, (1,)) == refused(38)
        assert run(programs[machine], arch, 102, (1 << 32 | 1,)) == refused(38)
    assert run(programs["x86_64"], I386, 102, (3,)) == ALLOW  # connect


def test_another_architecture_is_killed(programs: dict[str, bytes]) -> None:
    assert run(programs["x86_64"], AARCH64, 63) == KILL
    assert run(programs["aarch64"], X86_64, 0) == KILL
    assert run(programs["x86_64"], X86_64, 0xFFFFFFFF) == refused(38)  # a tracer's "skip"
    assert run(programs["x86_64"], X86_64, 0x3FFFFFFF) == refused(38)


def test_generator_and_generation_change_together() -> None:
    """Cached programs are named by GENERATION: it is raised when other instructions come out."""
    check = bpf.Check(1, bpf.Comparison.ONE_OF, (3, 5), errno.EACCES)
    bits = bpf.Check(0, bpf.Comparison.NO_BIT_OF, (6,), errno.EPERM)
    many: dict[int, bpf.Verdict] = dict.fromkeys(range(0, 700, 2), ALLOW)
    section = bpf.Section(X86_64, {**many, 1: check, 9: bits, 10: check}, refused(38))
    made = bpf.program([section, bpf.Section(I386, {4: ALLOW}, refused(1))])
    assert [run(made, X86_64, 1, (0, n)) for n in (3, 4, 5)] == [ALLOW, refused(13), ALLOW]
    assert [run(made, X86_64, 9, (n,)) for n in (1, 2, 8)] == [ALLOW, refused(1), ALLOW]
    assert [run(made, X86_64, n) for n in (0, 3, 698, 699, 700)] == [
        ALLOW,
        refused(38),
        ALLOW,
        refused(38),
        refused(38),
    ]
    assert [run(made, I386, n) for n in (3, 4, 5)] == [refused(1), ALLOW, refused(1)]
    assert (bpf.GENERATION, sha256(made).hexdigest()[:16]) == (1, "3acaa3f5d3e895fc")


def test_a_program_beyond_the_kernels_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="4096"):
        bpf.program([bpf.Section(X86_64, dict.fromkeys(range(0, 8000, 2), ALLOW), KILL)])


# --- the cache


def test_warm_cache_gives_the_same_file_and_loads_no_library(tmp_path: Path) -> None:
    path = job.compile_default(Settings(state_dir=str(tmp_path)))
    before = os.stat(path)
    assert (before.st_mode & 0o7777, before.st_uid) == (0o600, 0)
    assert os.listdir(tmp_path / "seccomp") == [os.path.basename(path)]
    script = (
        "import sys\nfrom dkrd.launcher.jobs import seccomp\n"
        "class Settings: state_dir = sys.argv[1]\n"
        "print(seccomp.compile_default(Settings), 'ctypes' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [path, "False"]
    assert os.stat(path).st_ino == before.st_ino


def _truncate(path: Path) -> None:
    os.truncate(path, 12)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _too_big(path: Path) -> None:
    os.truncate(path, 4097 * 8)


def _another_owner(path: Path) -> None:
    os.chown(path, 1, 1)


def _writable(path: Path) -> None:
    path.chmod(0o620)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("damage", [_truncate, _empty, _too_big, _another_owner, _writable, _link, _fifo])
def test_a_doubtful_file_is_not_believed_but_replaced(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = Path(job.compile_default(Settings(state_dir=str(tmp_path))))
    good = path.read_bytes()
    damage(path)
    with pytest.raises(HostUnfit, match="cannot use the seccomp program"):
        bpf.read_program(str(path))
    assert job.compile_default(Settings(state_dir=str(tmp_path))) == str(path)
    assert not path.is_symlink()
    assert bpf.read_program(str(path)) == good


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seccomp").mkdir()
    (tmp_path / "seccomp").chmod(0o777)
    with pytest.raises(HostUnfit, match="others than root can write it"):
        job.compile_default(Settings(state_dir=str(tmp_path)))


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libseccomp, "LIBRARY", "libseccomp.so.nosuch")
    with pytest.raises(HostUnfit, match=r"libseccomp\.so\.nosuch") as caught:
        job.compile_default(Settings(state_dir=str(tmp_path)))
    assert caught.value.hint == "install libseccomp2"


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"\x7fELF")
    with pytest.raises(HostUnfit, match="cannot load"):
        job.compile_program(str(tmp_path / "lib.so"), job.TABLES["x86_64"])


def test_the_name_follows_profile_and_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str
) -> None:
    first = job.compile_default(Settings(state_dir=str(tmp_path)))
    copy = tmp_path / "libseccomp.so.2.5.9"
    copy.write_bytes(Path(library).read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(job, "find_library", lambda machine: str(copy))
        second = job.compile_default(Settings(state_dir=str(tmp_path)))
    monkeypatch.setattr(profile, "REFUSED", profile.REFUSED[1:])
    third = job.compile_default(Settings(state_dir=str(tmp_path)))
    assert len({first, second, third}) == 3


# --- the kernel


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
def program(programs: dict[str, bytes]) -> bytes:
    return programs[MACHINE]


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
