"""The default seccomp program, read by an interpreter for every number there is; and its cache."""

from __future__ import annotations

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
from tests.unit.seccomp_names import names_of

if TYPE_CHECKING:
    from collections.abc import Callable

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
MACHINE = os.uname().machine


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
