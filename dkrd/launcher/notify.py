"""What the launcher tells systemd; sd_notify(3), sd_watchdog_enabled(3). Without systemd it tells nobody."""

from __future__ import annotations

import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Notifier:
    """Sends states to the service manager. Takes its variables out of `environ`: no child has them."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        period = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        wanted = period.isdecimal() and (not pid or pid == str(os.getpid()))
        self._watchdog = int(period) / 1e6 if wanted else 0.0

    @property
    def watchdog_seconds(self) -> float:
        """After how long a silence systemd kills the service; 0.0 where it does not watch."""
        return self._watchdog

    def send(self, *assignments: str) -> None:
        """Send `READY=1`, `STATUS=...` and the like. A manager that does not take them is not our failure."""
        if not self._address:
            return
        # "@" names a socket of the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_UNIX, flags) as sock:
            try:
                sock.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)
            except OSError:
                return

    def reloading(self) -> None:
        """Say that settings are being read again; `READY=1` ends it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
