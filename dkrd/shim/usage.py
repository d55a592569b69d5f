"""What containers take of the disk: a job of the launcher's, for containers that run and those that do not.

What is in a container's root is the container's: it may change while it is measured, and be made to be measured for ever. So all goes by
descriptors, no link is followed, no other filesystem entered, and there is an end in time.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from dkrd.shim import cleanup

if TYPE_CHECKING:
    from dkrd.ids import Pool
    from dkrd.policy import Credentials
    from dkrd.settings import Settings

SECONDS = 5.0  # for all that is asked at once
MAX_DEPTH = 256  # directories in directories: each is a descriptor
MAX_LINKED = 100_000  # files of several names that are remembered, so that they count once
_BLOCK = 512  # st_blocks, stat(2)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Measure:
    """One tree after the other, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self.whole = True
        self.bytes = 0
        self._linked: set[int] = set()

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._ends

    def tree(self, name: str, parent: int) -> int:
        """Bytes that a directory and all in it take; what cannot be opened takes none, what there was no time for is missing."""
        self.bytes = 0
        self.whole = True
        self._linked.clear()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            directory = os.open(name, _DIRECTORY, dir_fd=parent)
            found = os.fstat(directory)
            self.bytes += found.st_blocks * _BLOCK
            self._enter(directory, found.st_dev, 1)
        return self.bytes

    def _enter(self, directory: int, device: int, depth: int) -> None:
        """Measure what is in `directory`, and close it."""
        below = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if self.is_over:
                        self.whole = False
                        return
                    if self._count(entry, device):
                        below.append(entry.name)
            for name in below:
                if depth >= MAX_DEPTH or self.is_over:
                    self.whole = False
                    return
                with contextlib.suppress(OSError):  # gone by now, or another thing
                    self._enter(self._same(name, directory, device), device, depth + 1)
        finally:
            os.close(directory)

    def _count(self, entry: os.DirEntry[str], device: int) -> bool:
        """Add one entry; whether it is a directory to be entered."""
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return False
        if found.st_dev != device:
            return False
        is_directory = entry.is_dir(follow_symlinks=False)
        if found.st_nlink > 1 and not is_directory:
            if found.st_ino in self._linked:
                return False
            if len(self._linked) < MAX_LINKED:
                self._linked.add(found.st_ino)
        self.bytes += found.st_blocks * _BLOCK
        return is_directory

    @staticmethod
    def _same(name: str, parent: int, device: int) -> int:
        """The directory `name`, if it is on the same filesystem. Raises OSError."""
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
        if os.fstat(directory).st_dev != device:
            os.close(directory)
            raise OSError("another filesystem")
        return directory


def measure(
    settings: Settings, pool: Pool, containers: list[str], credentials: Credentials, admin_gid: int | None
) -> dict[str, object]:
    """For each container that is theirs who ask: bytes of its root's upper layer, of its log, and whether that is all of it.

    `{"containers": {id: [upper, log, whole]}, "layers": {name: bytes}}`; layers without containers alone. What there was no time for is
    left out.
    """
    by = _Measure(SECONDS)
    if not containers:
        return {"containers": {}, "layers": _layers(settings, by)}
    who = cleanup.asker(pool, credentials, admin_gid)
    found: dict[str, object] = {}
    for container in containers:
        if by.is_over:
            break
        if cleanup.is_theirs(settings, container, who):
            with contextlib.suppress(FileNotFoundError):
                found[container] = _of_one(settings, container, by)
    return {"containers": found, "layers": {}}


def _of_one(settings: Settings, container: str, by: _Measure) -> list[object]:
    directory = os.open(f"{settings.state_dir}/containers/{container}", _DIRECTORY)
    try:
        upper = by.tree("upper", directory)
        whole = by.whole
        log = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("container.log"):
                    with contextlib.suppress(FileNotFoundError):  # rotated meanwhile
                        log += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    finally:
        os.close(directory)
    return [upper, log, whole]


def _layers(settings: Settings, by: _Measure) -> dict[str, int]:
    layers = os.open(f"{settings.state_dir}/layers", _DIRECTORY)
    try:
        with os.scandir(layers) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return {name: by.tree(name, layers) for name in sorted(names)[:64]}
    finally:
        os.close(layers)
