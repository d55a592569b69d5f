"""Where the daemon keeps what survives a reboot: whether its filesystem does what layers need, and has room."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from common import kernel_probes as probes
from common.errors import HostUnfit
from common.trusted_paths import verify
from dkrctl.doctor.checks import Check, is_root, ok, problem, untried, warning
from dkrctl.doctor.settings import Settings

_GIB = 1 << 30
_LITTLE, _TOO_LITTLE = 2 * _GIB, _GIB // 8  # bytes
_ANOTHER = "put state_dir (dkrd.toml) on a local filesystem such as ext4, xfs or btrfs"


def checks(settings: Settings) -> Iterator[Check]:
    """All of them."""
    state_dir = settings.text("state_dir")
    place = nearest(state_dir)
    kind = probes.filesystem_of(place)
    there = f"{state_dir} ({kind})"
    try:
        verify(place)
    except HostUnfit as error:
        # Nothing is tried where others could put another directory in the place of ours.
        yield problem("state directory", error.message.partition(": ")[2], error.hint or _ANOTHER)
        return
    yield ok("state directory", there if place == state_dir else f"{there}: not there yet, dkrd makes it")
    yield _idmap(place, kind, settings.number("ids.first"))
    yield _overlay(place, kind)
    yield from _space(place)


def nearest(path: str) -> str:
    """`path`, or the nearest directory above it that is there and can be passed through."""
    while path != "/" and not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _idmap(place: str, kind: str, first: int) -> Check:
    name = "idmapped mounts"
    if not is_root():
        return untried(name, kind)
    try:
        probes.idmap(place, first)
    except OSError as err:
        return problem(name, f"{kind}: {err.filename}: {(err.strerror or '').lower()}", _ANOTHER)
    return ok(name, f"{kind}: tried")


def _overlay(place: str, kind: str) -> Check:
    name = "overlay"
    known = _is_known("overlay")
    if not known and not _has_module("overlay"):
        return problem(name, "the kernel does not know it", "use a kernel with overlay filesystems")
    if not is_root():
        return untried(name, "the kernel knows it")
    number, call = _in_directory(place, probes.overlay)
    if number == errno.ENODEV:
        return problem(name, "the kernel does not know it", "load the module: modprobe overlay")
    if number:
        return problem(name, f"upper directory on {kind}: {call}: {os.strerror(number).lower()}", _ANOTHER)
    return ok(name, f"upper directory on {kind}: tried")


def _in_directory(place: str, question: Callable[[str], None]) -> tuple[int, str]:
    """The errno and the call with which `question` fails in a directory of its own below `place`; 0 where it succeeds."""
    directory = ""
    try:
        directory = tempfile.mkdtemp(prefix=".dkr-doctor-", dir=place)
        question(directory)
    except OSError as err:
        return err.errno or errno.EIO, str(err.filename)
    finally:
        if directory:
            probes.remove_tree(directory)
    return 0, ""


def _is_known(kind: str) -> bool:
    lines = Path("/proc/filesystems").read_text().splitlines()
    return any(line.split()[-1] == kind for line in lines if line.split())


def _has_module(name: str) -> bool:
    """Whether the running kernel has a module of this name on disk; modprobe(8) finds it there."""
    directory = Path("/lib/modules", os.uname().release)
    try:
        return any(f"/{name}.ko" in line for line in (directory / "modules.dep").read_text().splitlines())
    except OSError:
        return False


def _space(place: str) -> Iterator[Check]:
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    text = f"{free / _GIB:.1f} GiB free of {status.f_blocks * status.f_frsize / _GIB:.1f}"
    advice = (
        "make room, or move state_dir (dkrd.toml); `dkrctl ps -a` lists what is kept, `dkrctl rm` removes it"
    )
    if free < _TOO_LITTLE:
        yield problem("disk space", text, advice)
    elif free < _LITTLE:
        yield warning("disk space", text, advice)
    else:
        yield ok("disk space", text)
    if status.f_files and status.f_favail < 20_000:  # some filesystems do not count them
        yield warning("inodes", f"{status.f_favail} free", advice)
