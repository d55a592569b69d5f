"""state.json: what a container is, written by its guardian alone, by rename; and the reports to the launcher.

Whoever reads it checks it against the kernel first: a pid is believed together with its start time.
"""

from __future__ import annotations

import array
import os
import socket
import time
from dataclasses import dataclass, field

from common import frames
from common.clock import now

VERSION = 1
NOTES = 32.0  # that are reported together
NOTES_A_SECOND = 2.0  # beyond
# A number, and made once: of members of an enum each `|` is a call into Python.
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def start_time(pid: int) -> int:
    """Field 22 of proc(5) /proc/PID/stat, clock ticks since boot. Raises OSError where there is no such
    process.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    # The command's name, field 2, may hold anything; it ends at the last parenthesis.
    return int(text[text.rindex(b")") + 2 :].split()[19])


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` by rename: readers see the old file or the new one, never half of one."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.rename(temporary, path)


class Allowance:
    """What may be reported: NOTES at once, then NOTES_A_SECOND. All guardians share the launcher's queue, and what is lost there of the
    others' states nobody tells again.
    """

    def __init__(self) -> None:
        self._room = NOTES
        self._taken = 0.0

    def take(self) -> bool:
        """Whether there is room for one more, which is taken then."""
        moment = time.monotonic()
        self._room = min(NOTES, self._room + (moment - self._taken) * NOTES_A_SECOND)
        self._taken = moment
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True


@dataclass(slots=True)
class State:
    """The document of docs/protocol.md (6), and where it goes.

    directory  run_dir/containers/<id>
    reports    sending end of the launcher's reports, or -1
    notes      what may be told of what is done to the container; `execs`: of how many commands that are executed in it
    """

    directory: str
    reports: socket.socket
    values: dict[str, object] = field(default_factory=dict)
    followers: list[socket.socket] = field(default_factory=list)
    notes: Allowance = field(default_factory=Allowance)
    execs: Allowance = field(default_factory=Allowance)

    def update(self, pidfd: int = -1, **changes: object) -> None:
        """Change values, write the file and report it; `pidfd` of init goes along when the container runs."""
        self.values.update(changes)
        write_file(f"{self.directory}/state.json", frames.dumps(self.values))
        self.report({"type": "state", "state": self.values}, pidfd)

    def note(self, action: str, **more: object) -> None:
        """Report what was done to the container: kill, attach, detach, pause, unpause; as often as it may be told."""
        if self.notes.take():
            self.tell(action, **more)

    def tell(self, action: str, **more: object) -> None:
        """Report it, whatever was reported before."""
        self.report({"type": "event", "id": self.values["id"], "action": action, "time": now(), **more})

    def report(self, message: dict[str, object], pidfd: int = -1) -> None:
        """Send `message` to the launcher that forked us, and to one that has adopted us."""
        data = frames.dumps(message)
        for sock in (self.reports, *self.followers):
            send(sock, data, pidfd)


def send(sock: socket.socket, data: bytes, descriptor: int = -1) -> bool:
    """Send without waiting; False where the other side is gone or does not read. The file says the same, so
    nothing is lost.
    """
    rights = array.array("i", [descriptor])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptor >= 0 else []
    try:
        sock.sendmsg([data], ancillary, _SEND)
    except OSError:
        return False
    return True
