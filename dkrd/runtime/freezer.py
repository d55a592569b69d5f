"""The freezer of a container's cgroup: cgroup.freeze on v2 (Documentation/admin-guide/cgroup-v2.rst), freezer.state on v1.

Both take a while: each process stops where it would take a signal. SIGKILL ends what v2 has frozen, and waits for the
thaw on v1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dkrd.runtime import cgroup_tree


@dataclass(frozen=True, slots=True)
class Freezer:
    """One cgroup's, by its directory. `v2`: it kills what is frozen, and tells when it has changed."""

    path: str
    v2: bool

    def freeze(self) -> None:
        """Begin. Raises OSError."""
        cgroup_tree.write(self._file, "1" if self.v2 else "FROZEN")

    def thaw(self) -> None:
        """Let all go on. Raises OSError."""
        cgroup_tree.write(self._file, "0" if self.v2 else "THAWED")

    def open(self) -> int:
        """The file that `is_frozen` reads; on v2 epoll(7) tells by EPOLLPRI that it has changed. Raises OSError."""
        name = f"{self.path}/cgroup.events" if self.v2 else self._file
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)

    def is_frozen(self, fd: int) -> bool:
        """Whether each process is. Raises OSError."""
        lines = os.pread(fd, 4096, 0).splitlines()
        return b"frozen 1" in lines or b"FROZEN" in lines

    @property
    def _file(self) -> str:
        return f"{self.path}/cgroup.freeze" if self.v2 else f"{self.path}/freezer.state"


def find(paths: tuple[str, ...]) -> Freezer | None:
    """The freezer of the cgroup whose directories these are, that of v2 first; None where it has none."""
    for name, v2 in (("cgroup.freeze", True), ("freezer.state", False)):
        for path in paths:
            if os.path.exists(f"{path}/{name}"):
                return Freezer(path, v2)
    return None
