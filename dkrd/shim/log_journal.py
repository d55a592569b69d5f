"""The log of a container in the host's journal: a record a line, with the fields that Docker's journald driver has.

A longer line is several records, CONTAINER_PARTIAL_MESSAGE in all but the last; docs/logging.md has the fields.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING

from common.errors import HostUnfit
from dkrd import journal
from dkrd.shim.log_queue import LogQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.log_drivers import Logging
    from dkrd.shim.called import Called
    from dkrd.shim.log_queue import Entry

_LAST_SECONDS = 2.0  # for what the journal has not taken when the container has ended
_PRIORITIES = {"stdout": 6, "stderr": 3}  # syslog(3), as Docker has them
_GONE = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.EPIPE,
)  # nobody is behind the socket any more
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)


class JournalLog(LogQueue):
    """Records of the container `container`, owned by `uid`. `wanted`, `complain` as of LogQueue."""

    def __init__(
        self,
        container: str,
        name: Called | str,
        image: str,
        uid: int,
        wanted: Logging,
        complain: Callable[[str], None],
    ) -> None:
        super().__init__(wanted, complain)
        tag = wanted.tag or container[:12]
        self.name = name
        self._fixed: dict[str, str | bytes] = {
            "CONTAINER_ID": container[:12],
            "CONTAINER_ID_FULL": container,
            "CONTAINER_TAG": tag,
            "SYSLOG_IDENTIFIER": tag,
            "IMAGE_NAME": image,
            "DKR_UID": str(uid),
        }
        self._sock: socket.socket | None = None
        self._watched = -1
        self._parts = {"stdout": 0, "stderr": 0}  # of a line that has not ended
        self._ordinal = 0
        self._epoch = ""

    def _take(self, entries: list[Entry]) -> int:
        for number, entry in enumerate(entries):
            try:
                if not self._send(self._record(entry)):
                    self._watch()
                    return number
            except OSError:
                self._let_go()
                if number:
                    return number
                raise
            self._sent(entry)
        return len(entries)

    def _record(self, entry: Entry) -> bytes:
        stream, data, moment, dropped = entry
        self._epoch = self._epoch or moment
        fields: dict[str, str | bytes] = {
            "MESSAGE": data.removesuffix(b"\n"),
            "PRIORITY": str(_PRIORITIES[stream]),
            "CONTAINER_NAME": str(self.name),
            **self._fixed,
            "SYSLOG_TIMESTAMP": moment,
            "CONTAINER_LOG_EPOCH": self._epoch,
            "CONTAINER_LOG_ORDINAL": str(self._ordinal + 1),
        }
        part = self._parts[stream]
        partial = not data.endswith(b"\n")
        if partial or part:
            fields["CONTAINER_PARTIAL_ORDINAL"] = str(part + 1)
            fields["CONTAINER_PARTIAL_LAST"] = "false" if partial else "true"
        if partial:
            fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        if dropped:
            fields["DKR_DROPPED"] = str(dropped)
        return journal.encode(fields)

    def _sent(self, entry: Entry) -> None:
        self._ordinal += 1
        stream, data, _, _ = entry
        self._parts[stream] = 0 if data.endswith(b"\n") else self._parts[stream] + 1

    def _send(self, record: bytes) -> bool:
        """Send it; False where the journal takes nothing now. Raises OSError where there is no journal."""
        for attempt in (1, 2):
            sock = self._connected()
            try:
                sock.send(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError as err:
                if err.errno in _TOO_LONG:
                    return journal.send_file(sock, record)
                self._let_go()
                if err.errno not in _GONE or attempt == 2:
                    raise
                continue  # it was started anew
            return True
        return False

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sock.setblocking(False)
                sock.connect(journal.SOCKET)
            except BaseException:
                sock.close()
                raise
            self._sock = sock
        return self._sock

    def _watch(self) -> None:
        """Go on as soon as the journal takes something again."""
        if self._loop is not None and self._sock is not None and self._watched < 0:
            self._watched = self._sock.fileno()
            self._loop.watch(self._watched, select.EPOLLOUT, self._on_room)

    def _on_room(self, events: int) -> None:
        self._unwatch()
        self._flush()

    def _unwatch(self) -> None:
        if self._watched >= 0 and self._loop is not None:
            self._loop.forget(self._watched)
            self._watched = -1

    def _let_go(self) -> None:
        self._unwatch()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _finish(self) -> None:
        """Wait a little for a journal that is behind."""
        end = time.monotonic() + _LAST_SECONDS
        while self._queue and not self._failing and time.monotonic() < end:
            self._unwatch()
            poller = select.poll()
            poller.register(self._connected(), select.POLLOUT)
            poller.poll(max(0.0, end - time.monotonic()) * 1000)
            self._flush()
        self._let_go()


def check() -> None:
    """Raise HostUnfit where there is no journal."""
    if not os.path.exists(journal.SOCKET):
        raise HostUnfit(
            f"cannot log to the journal: there is none on this host, {journal.SOCKET} does not exist",
            hint="use the log driver json-file",
        )
