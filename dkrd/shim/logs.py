"""Who reads a container's log: gets its files, readable only, and is told when there is more.

    reader ─ ask + socket ─► {"type": "log"} + files
    reader ─ next ─────────► more, or rotated + file: when there is something, and one at a time

What is written never waits for a reader: it has files, and at most one word is under way to it.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from common import frames, log_drivers
from common.errors import BadRequest, Conflict, LimitReached
from dkrd.shim import cleanup
from dkrd.shim.log_file import NAME, open_files, open_newest
from dkrd.shim.session import forbid_descriptors

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.loop import Loop
    from dkrd.shim.asks import Ask
    from dkrd.shim.called import Called
    from dkrd.shim.log_file import LogFile
    from dkrd.shim.matter import Matter

MAX_READERS = 32
MAX_BEHIND = 16  # files that are held back for a reader which is slow; of further ones it misses the oldest
_NEXT_MAX = 256  # bytes of what a reader sends


@dataclass(slots=True, eq=False)
class _Reader:
    """One that follows. `files`: those it has not been given yet, with the word `rotated`; `missed`: how many before them it will not
    be given.
    """

    sock: socket.socket
    asks: bool = False
    dirty: bool = True
    files: deque[int] = field(default_factory=deque)
    missed: int = 0

    def give(self) -> None:
        """Its next file. Raises OSError."""
        missed = {"missed": self.missed} if self.missed else {}
        _send(self.sock, {"type": "rotated", **missed}, [self.files[0]])
        os.close(self.files.popleft())
        self.missed = 0


class Readers:
    """Those who read the log of a container that runs."""

    def __init__(self, loop: Loop, directory: str, name: Called, log: LogFile) -> None:
        self._loop = loop
        self._directory = directory
        self._name = name
        self._readers: list[_Reader] = []
        log.on_written = self._written
        log.on_rotated = self._rotated

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "logs", "follow": …}`: the files are on their way over the socket that came along."""
        sock = _checked(ask.body, ask.take_socket())
        try:
            if ask.body["follow"] and len(self._readers) >= MAX_READERS:
                raise LimitReached(
                    f"cannot follow the log of {self._name}: {MAX_READERS} do already", hint="end some"
                )
            _send_files(sock, self._directory)
        except BaseException:
            sock.close()
            raise
        if not ask.body["follow"]:
            sock.close()
            return {}
        sock.setblocking(False)
        forbid_descriptors(sock)
        reader = _Reader(sock)
        self._readers.append(reader)
        self._loop.watch(sock.fileno(), select.EPOLLIN, partial(self._hear, reader))
        return {}

    def _hear(self, reader: _Reader, events: int) -> None:
        try:
            data = reader.sock.recv(_NEXT_MAX)
            fits = frames.loads_object(data) == {"type": "next"}
        except BlockingIOError:
            return
        except (OSError, ValueError):
            fits = False
        if fits:
            reader.asks = True
            self._answer(reader)
        else:
            self._drop(reader)

    def _written(self) -> None:
        for reader in list(self._readers):
            reader.dirty = True
            self._answer(reader)

    def _rotated(self) -> None:
        for reader in list(self._readers):
            reader.files.append(open_newest(self._directory))
            if len(reader.files) > MAX_BEHIND:
                os.close(reader.files.popleft())
                reader.missed += 1
            self._answer(reader)

    def _answer(self, reader: _Reader) -> None:
        """Tell what is due, if it asks."""
        if not reader.asks or not (reader.files or reader.dirty):
            return
        try:
            if reader.files:
                reader.give()
                reader.dirty = True  # the new file may hold something already
            else:
                _send(reader.sock, {"type": "more"})
                reader.dirty = False
        except OSError:
            self._drop(reader)
            return
        reader.asks = False

    def _drop(self, reader: _Reader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            self._loop.forget(reader.sock.fileno())
            reader.sock.close()
            for fd in reader.files:
                os.close(fd)

    def end(self) -> None:
        """The log is complete."""
        for reader in list(self._readers):
            # What was written since its last question it reads all the same, once it has seen the end.
            with contextlib.suppress(OSError):
                while reader.files:
                    reader.give()
            self._drop(reader)


def read_kept(matter: Matter, ask: dict[str, object], descriptor: int) -> dict[str, object]:
    """The same for a container that no guardian stands for; a job of the launcher's. Raises NotFound for another's, Conflict
    where there is no log.
    """
    sock = _checked(ask, socket.socket(fileno=descriptor) if descriptor >= 0 else None)
    with sock:
        matter.check_owner()
        directory, state = matter.directory, matter.state()
        driver = _driver_of(cleanup.document(f"{directory}/config.json"))
        if driver in (log_drivers.NONE, log_drivers.JOURNAL):
            refuse(matter.short, driver, matter.id)
        if not os.path.lexists(f"{directory}/{NAME}") and state.get("status") != "created":
            refuse(matter.short)
        _send_files(sock, directory)
    return {}


def refuse(name: Called | str, driver: object = None, container: str = "") -> NoReturn:
    """Raise why a container with this log driver has no log here; `container` is its id."""
    if driver == log_drivers.NONE:
        raise Conflict(
            f"cannot read the log of {name}: its log driver is none, nothing of its output is kept",
            rule="log-none",
            hint="dkrctl attach shows what it writes from then on",
        )
    if driver == log_drivers.JOURNAL:
        raise Conflict(
            f"cannot read the log of {name}: its log driver is journald, the host's journal has it",
            rule="log-journald",
            hint=f"journalctl CONTAINER_ID_FULL={container}",
        )
    raise Conflict(
        f"cannot read the log of {name}: its output went to its caller's own descriptors",
        rule="no-log",
        hint="one that is made with create and started with start has a log",
    )


def _driver_of(config: dict[str, object]) -> object:
    """The log driver that a config.json names; None where it names none."""
    dkr = config.get("dkr")
    log = dkr.get("log") if isinstance(dkr, dict) else None
    return log.get("driver") if isinstance(log, dict) else None


def _checked(ask: dict[str, object], sock: socket.socket | None) -> socket.socket:
    if set(ask) != {"type", "follow"} or type(ask["follow"]) is not bool or sock is None:
        if sock is not None:
            sock.close()
        raise BadRequest("cannot read the ask: logs has follow, true or false, and a socket")
    return sock


def _send_files(sock: socket.socket, directory: str) -> None:
    files = open_files(directory)
    try:
        _send(sock, {"type": "log"}, files)
    finally:
        for fd in files:
            os.close(fd)


def _send(sock: socket.socket, frame: dict[str, object], files: list[int] | None = None) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sock.sendmsg([frames.dumps(frame)], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
