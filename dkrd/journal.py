"""The journal's native protocol: a datagram a record, a field a fact; systemd's JOURNAL_NATIVE_PROTOCOL.md.

A line on standard error reaches the journal too, but as text: nobody could ask for one container's or one user's records.
A guardian outlives the daemon, and is in another unit: its records name the daemon's, so that `journalctl -u dkrd`
shows them.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "dkrd"
_VALUE_MAX = 256 * 1024  # bytes of a field's value; the rest is cut off
_RECORD_MAX = 1024 * 1024  # bytes; further fields are left out
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
# syslog(3). What was done in whose name is more than information: notice.
PRIORITIES = {"debug": 7, "info": 6, "audit": 5, "warning": 4, "error": 3, "critical": 2}


class Journal:
    """Where records go.

    unit  the daemon's own unit, or an empty text
    """

    def __init__(self, unit: str = "", path: str = SOCKET) -> None:
        self.unit = unit
        self._path = path

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one record without waiting; False where the journal does not take it now. Raises OSError where there is no
        journal.
        """
        record = encode(fields)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(record, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._path)
            except BlockingIOError:
                return False
            except OSError as err:
                if err.errno not in _TOO_LONG:
                    raise
                return send_file(sock, record, self._path)
        return True


def send_file(sock: socket.socket, record: bytes, path: str | None = None) -> bool:
    """What is too long for a datagram goes as a sealed file of memory, to `path` or where `sock` is connected; False where the
    journal does not take it now. Raises OSError.
    """
    fd = os.memfd_create("dkr-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(record)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        if path is None:
            sock.sendmsg([], rights, flags)
        else:
            sock.sendmsg([], rights, flags, path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def encode(fields: Mapping[str, str] | Mapping[str, str | bytes]) -> bytes:
    """The record's bytes: KEY=value lines, and a length before each value that is more than a line."""
    record = b""
    for key, text in fields.items():
        value = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        value = value[:_VALUE_MAX]
        if b"\n" in value:
            field = key.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
        else:
            field = key.encode() + b"=" + value + b"\n"
        if len(record) + len(field) <= _RECORD_MAX:
            record += field
    return record


def field_of(fact: str) -> str:
    """The journal's name of a fact: DKR_CONTAINER_ID for `id`, DKR_ERROR_CODE for `errorCode`."""
    if fact == "id":
        return "DKR_CONTAINER_ID"
    return "DKR_" + "".join(f"_{char}" if char.isupper() else char.upper() for char in fact)


def connected(environ: Mapping[str, str], fd: int = 2) -> Journal | None:
    """The journal, where `fd` is what systemd connected to it: JOURNAL_STREAM of systemd.exec(5); else None."""
    status = os.fstat(fd)
    if environ.get("JOURNAL_STREAM") != f"{status.st_dev}:{status.st_ino}":
        return None
    return Journal(_unit())


def _unit() -> str:
    """The service that this process is in, told by its cgroup; an empty text where that is none."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if (number == "0" or controllers == "name=systemd") and path.endswith(".service"):
                return path.rpartition("/")[2]
    return ""
