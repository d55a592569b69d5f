"""The root `busybox`: which program is taken, what is refused and how that is said, and the layer that is made of it."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import HostUnfit
from dkrd.launcher.jobs import busybox_root
from dkrd.launcher.jobs.busybox_root import placed
from dkrd.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

BUSYBOX = Path("/bin/busybox")
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
HERE = {"x86_64": EM_X86_64, "aarch64": EM_AARCH64}[os.uname().machine]
ELSEWHERE = EM_X86_64 + EM_AARCH64 - HERE
PT_LOAD, PT_INTERP = 1, 3
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3

# Programs of a few instructions, each machine's: without output, without end, with output without end.
CODE = {
    "exit 0": {EM_X86_64: "31ff b83c000000 0f05", EM_AARCH64: "000080d2 a80b80d2 010000d4"},
    "loop": {EM_X86_64: "ebfe", EM_AARCH64: "00000014"},
    "flood": {
        EM_X86_64: "bf01000000 488d35f4ffffff ba64000000 b801000000 0f05 ebe6",
        EM_AARCH64: "200080d2 01000010 820c80d2 080880d2 010000d4 fbffff17",
    },
}


def elf(
    what: str = "exit 0",
    *,
    kind: int = ET_EXEC,
    machine: int = HERE,
    bits: int = 2,
    segment: int = PT_LOAD,
    count: int = 1,
) -> bytes:
    """An executable of one segment; elf(5)."""
    code = bytes.fromhex(CODE[what][HERE]).ljust(64, b"\0")
    start = 0x400000
    ident = b"\x7fELF" + bytes((bits, 1, 1)) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, start + 120, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    length = 120 + len(code)
    return header + struct.pack("<IIQQQQQQ", segment, 5, 0, start, start, length, length, 4096) + code


def ensure(state_dir: Path, *programs: Path) -> Path:
    name = busybox_root.ensure(Settings(state_dir=str(state_dir)), tuple(map(str, programs or (BUSYBOX,))))
    return state_dir / "layers" / name


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("state"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of the host's busybox, to be spoilt."""
    copy = tmp_path / "busybox"
    shutil.copy(BUSYBOX, copy)
    copy.chmod(0o755)
    return copy


# --- the layer


def test_the_program_is_a_copy(layer: Path) -> None:
    copy = layer / "bin/busybox"
    assert copy.read_bytes() == BUSYBOX.read_bytes()
    assert copy.stat().st_ino != BUSYBOX.stat().st_ino
    assert copy.stat().st_nlink == 1


def test_its_name(layer: Path) -> None:
    assert layer.name.startswith("busybox-")
    assert len(layer.name) == len("busybox-") + 12
    int(layer.name.removeprefix("busybox-"), 16)


def test_every_applet_is_a_link_to_it(layer: Path) -> None:
    said = subprocess.run([BUSYBOX, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    wanted = {path for path in said if "/" in path and path != "bin/busybox"}
    links = {
        str(path.relative_to(layer)): path
        for place in ("bin", "sbin", "usr/bin", "usr/sbin")
        for path in (layer / place).iterdir()
        if path.name != "busybox"
    }
    assert set(links) == wanted
    assert {"bin/sh", "bin/ls", "usr/bin/["} < wanted
    for path in links.values():
        assert not os.readlink(path).startswith("/")
        assert path.resolve() == layer / "bin/busybox"


def test_owners_and_modes(layer: Path) -> None:
    for path in (layer, *layer.rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert status.st_mtime == 946_684_800, path
        assert not status.st_mode & 0o6000, path
        assert stat.S_IFMT(status.st_mode) in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK), path
        if status.st_mode & 0o022 and not path.is_symlink():
            assert status.st_mode & stat.S_ISVTX, path
    modes = {
        name: stat.S_IMODE((layer / name).stat().st_mode)
        for name in ("bin", "bin/busybox", "etc/shadow", "tmp", "root")
    }
    assert modes == {"bin": 0o755, "bin/busybox": 0o755, "etc/shadow": 0o640, "tmp": 0o1777, "root": 0o700}


def test_the_skeleton_is_that_of_the_other_root_without_the_hosts_part(layer: Path) -> None:
    assert "nobody:x:65534:" in (layer / "etc/passwd").read_text()
    assert (layer / "etc/shells").read_text().splitlines() == ["/bin/ash", "/bin/sh"]
    dangling = [
        str(path.relative_to(layer)) for path in layer.rglob("*") if path.is_symlink() and not path.exists()
    ]
    assert dangling == ["etc/mtab"]  # into /proc
    assert sorted(p.name for p in layer.iterdir()) == sorted(
        "bin dev etc home media mnt opt proc root run sbin srv sys tmp usr var".split()
    )


def test_it_is_a_system_that_runs(layer: Path) -> None:
    script = ". /etc/profile; id -un; echo b a | tr ' ' '\\n' | sort | xargs; [ -x /usr/bin/awk ]; nosuch"
    done = subprocess.run(
        ["/usr/sbin/chroot", layer, "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert done.stdout == "root\na b\n"
    assert done.returncode == 127


def test_it_is_made_once_and_anew_for_another_program(program: Path, tmp_path: Path) -> None:
    first = ensure(tmp_path, program)
    inode = first.stat().st_ino
    assert ensure(tmp_path, program) == first
    assert first.stat().st_ino == inode
    with program.open("ab") as file:
        file.write(b"another")
    second = ensure(tmp_path, program)
    assert second != first
    assert sorted(os.listdir(tmp_path / "layers")) == sorted((first.name, second.name))


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6555])
def test_rights_of_the_file_do_not_come_along(mode: int, program: Path, tmp_path: Path) -> None:
    program.chmod(mode)
    assert stat.S_IMODE((ensure(tmp_path, program) / "bin/busybox").stat().st_mode) == 0o755


def test_what_cannot_be_laid_down_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, before[1]))
    try:
        with pytest.raises(HostUnfit, match=r"^cannot make the layer busybox-.*: File too large$"):
            ensure(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / "layers") == []
    assert ensure(tmp_path).is_dir()


# --- what is taken, what is refused


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o755)


def listener(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def bytes_of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "dynamic": (lambda path: path.write_bytes(Path("/bin/true").read_bytes()), "is dynamically linked"),
    "dynamic, not at a fixed place": (bytes_of(elf(kind=ET_DYN, segment=PT_INTERP)), "is dynamically linked"),
    "of another user": (lambda path: os.chown(path, 1, 0), "belongs to uid 1, not to root"),
    "written by its group": (
        lambda path: path.chmod(0o775),
        "can be written by others than root (mode 0775)",
    ),
    "written by all": (lambda path: path.chmod(0o757), "can be written by others than root (mode 0757)"),
    "a directory": (directory, "is not a regular file"),
    "a fifo": (fifo, "is not a regular file"),
    "a socket": (listener, "cannot be opened: No such device or address"),
    "a link to itself": (link_to_itself, "cannot be opened: Too many levels of symbolic links"),
    "a script": (bytes_of(b"#!/bin/sh\necho bin/sh\n".ljust(200, b"#")), "is not a 64-bit ELF executable"),
    "empty": (bytes_of(b""), "is not a 64-bit ELF executable"),
    "32-bit": (bytes_of(elf(bits=1, machine=EM_386)), "is not a 64-bit ELF executable"),
    "an object file": (bytes_of(elf(kind=ET_REL)), "is not a 64-bit ELF executable"),
    "of another machine": (
        bytes_of(elf(machine=ELSEWHERE)),
        f"is for another machine than {os.uname().machine}",
    ),
    "a header alone": (bytes_of(elf()[:64]), "is cut off"),
    "without segments": (bytes_of(elf(count=0)), "is cut off"),
    "with more segments than bytes": (bytes_of(elf(count=900)), "is cut off"),
    "too large": (lambda path: os.truncate(path, 17 * 1024 * 1024), "has more than 16777216 bytes"),
    "not executable": (lambda path: path.chmod(0o644), "is not executable"),
    "silent": (bytes_of(elf("exit 0")), "lists no applets"),
    "without end": (bytes_of(elf("flood")), "printed too much or took too long"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str, program: Path, tmp_path: Path) -> None:
    spoil, cause = REFUSED[case]
    spoil(program)
    with pytest.raises(HostUnfit) as refusal:
        ensure(tmp_path, program)
    assert refusal.value.message.startswith(f"cannot use the root busybox: {program} ")
    assert cause in refusal.value.message
    assert refusal.value.hint is not None
    assert "apt install busybox-static" in refusal.value.hint
    assert not (tmp_path / "layers").exists()


def test_one_that_does_not_end_is_ended(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    monkeypatch.setattr(busybox_root, "_LIST_SECONDS", 0.1)
    program.write_bytes(elf("loop"))
    with pytest.raises(HostUnfit, match="took too long"):
        ensure(tmp_path, program)
    assert children.read_text() == before


def test_nothing_stays_open(program: Path, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    ensure(tmp_path, program)
    program.write_bytes(elf("flood"))
    with pytest.raises(HostUnfit):
        ensure(tmp_path, program)
    assert os.listdir("/proc/self/fd") == before


def test_none_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(HostUnfit, match=f"^cannot use the root busybox: the host has no {tmp_path}/none$"):
        ensure(tmp_path, tmp_path / "none", tmp_path / "dangling")


def test_the_first_that_fits_is_taken(program: Path, tmp_path: Path) -> None:
    with program.open("ab") as file:
        file.write(b"another")
    taken = ensure(tmp_path, tmp_path / "none", Path("/bin/true"), program, BUSYBOX)
    assert (taken / "bin/busybox").read_bytes() == program.read_bytes()
    with pytest.raises(HostUnfit, match="/bin/true is dynamically linked"):
        ensure(tmp_path, Path("/bin/true"), tmp_path / "none")


def test_a_link_to_it_is_followed(program: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(program)
    assert (ensure(tmp_path, tmp_path / "link") / "bin/busybox").is_file()


# --- the applets


def test_applets_have_their_places() -> None:
    said = "bin/sh usr/bin/[ usr/bin/[[ usr/sbin/ether-wake sbin/mkfs.ext2 bin/busybox linuxrc".split()
    assert placed(said) == ("bin/sh", "sbin/mkfs.ext2", "usr/bin/[", "usr/bin/[[", "usr/sbin/ether-wake")


def test_one_without_its_installer_tells_names() -> None:
    assert placed(["sh", "[", "busybox"]) == ("bin/[", "bin/sh")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "bin/",
        "/bin/x",
        "bin/../x",
        "bin/..",
        "bin/.x",
        "etc/passwd",
        "bin/a/b",
        "bin/a b",
        "bin/\0",
        "bin/é",
        "bin/" + "x" * 64,
    ],
)
def test_nothing_else_becomes_a_link(line: str) -> None:
    assert placed([line, "bin/sh"]) == ("bin/sh",)
