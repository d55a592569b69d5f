"""The log of what runs as root: a line a record on standard error, as text or JSON; fields where that is the journal.

Our own few lines because `logging` costs 13 ms and a lock in every child. A log that nobody reads must not
stop a guardian, so a line that cannot be written at once is dropped, and the next one says how many were.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import time

from common import frames
from dkrd import journal as journals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.journal import Journal

_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "audit": 4}
_PIPE_BUF = 4096  # bytes; poll(2) says a pipe is writable when this much goes in without waiting
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/@+-")


class Log:
    """Writes records of `level` and above. `audit` records, one for each privileged act, are always
    written.

    journal  what `fd` is connected to, if that is the journal
    request  id of the api's request that is being done: a fact of each record until it is done
    """

    def __init__(
        self,
        level: str = "info",
        form: str = "text",
        process: str = "launcher",
        fd: int = 2,
        journal: Journal | None = None,
    ) -> None:
        self._process = process
        self._journal = journal
        self._level = level
        self._form = form
        self._fd = fd
        self._dropped = 0
        self.request: str | None = None
        self._is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self.configure(level, form)

    def configure(self, level: str, form: str) -> None:
        """Change level (debug, info, warning, error) and form (text, json) from the next line on."""
        self._level, self._form = level, form
        self._threshold = _LEVELS[level]
        self._json = form == "json"

    def of(self, process: str) -> Log:
        """The same log for another process, named in its lines."""
        return Log(self._level, self._form, process, self._fd, self._journal)

    def debug(self, message: str, /, **facts: object) -> None:
        self._write("debug", message, facts)

    def info(self, message: str, /, **facts: object) -> None:
        self._write("info", message, facts)

    def warning(self, message: str, /, **facts: object) -> None:
        self._write("warning", message, facts)

    def error(self, message: str, /, **facts: object) -> None:
        self._write("error", message, facts)

    def audit(self, message: str, /, **facts: object) -> None:
        """Tell of a privileged act: who asked (uid), for what, and what came of it."""
        self._write("audit", message, facts)

    def _write(self, level: str, message: str, facts: dict[str, object]) -> None:
        if _LEVELS[level] < self._threshold:
            return
        if self._dropped:
            facts = {**facts, "droppedLines": self._dropped}
        if self.request is not None:
            facts = {**facts, "request": self.request}
        known = {name: value for name, value in facts.items() if value is not None}
        if self._record(level, message, known):
            self._dropped = 0
        else:
            self._dropped += 1

    def _record(self, level: str, message: str, facts: dict[str, object]) -> bool:
        """Write it where it belongs; whether it was taken."""
        if self._journal is not None:
            try:
                return self._journal.send(self._fields(self._journal, level, message, facts))
            except OSError:
                pass  # no journal just now: its stream may still be open
        return self._emit(self._line(level, message, facts))

    def _line(self, level: str, message: str, facts: dict[str, object]) -> bytes:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        if self._json:
            record = {"time": stamp, "level": level, "process": self._process, "message": message, **facts}
            return frames.dumps(record) + b"\n"
        text = f"{stamp} {level} {self._process}: {_told(message, facts)}\n"
        return text.encode(errors="replace")

    def _fields(self, journal: Journal, level: str, message: str, facts: dict[str, object]) -> dict[str, str]:
        """The record as the journal has it: what a person reads in MESSAGE, and each fact by itself."""
        if self._json:
            record = {"level": level, "process": self._process, "message": message, **facts}
            text = frames.dumps(record).decode()
        else:
            text = f"{self._process}: {_told(message, facts)}"
        caller = sys._getframe(4)  # who called info(), audit(), …
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(journals.PRIORITIES[level]),
            "SYSLOG_IDENTIFIER": journals.IDENTIFIER,
            "CODE_FILE": caller.f_code.co_filename,
            "CODE_LINE": str(caller.f_lineno),
            "CODE_FUNC": caller.f_code.co_name,
            "DKR_PROCESS": self._process,
        }
        # A guardian's cgroup is in the containers' unit, and its records are to be found with the daemon's.
        if journal.unit and self._process != "launcher":
            fields["OBJECT_SYSTEMD_UNIT"] = journal.unit
        for name, value in facts.items():
            fields[journals.field_of(name)] = (
                value if isinstance(value, str) else frames.dumps(value).decode()
            )
        return fields

    def _emit(self, line: bytes) -> bool:
        """Write at once or not at all; also where the other end is closed: there is no better place to say
        so.
        """
        line = line if len(line) <= _PIPE_BUF else line[: _PIPE_BUF - 1] + b"\n"
        try:
            if self._is_socket:
                # The journal's stream socket. O_NONBLOCK would change it for all who share it.
                with socket.socket(fileno=os.dup(self._fd)) as sock:
                    return sock.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            return bool(poll.poll(0)) and os.write(self._fd, line) == len(line)
        except OSError:
            return False


def _told(message: str, facts: dict[str, object]) -> str:
    """One line for people."""
    return _one_line(message) + "".join(f" {name}={_quoted(value)}" for name, value in facts.items())


def _one_line(text: str) -> str:
    return text if text.isprintable() else frames.dumps(text).decode()[1:-1]


def _quoted(value: object) -> str:
    """A fact's value such that nothing in it can look like another fact or another line."""
    if isinstance(value, str) and value and set(value) <= _PLAIN:
        return value
    return frames.dumps(value).decode()
