"""Sees to it that an installed dkrd answers: usage: start_daemon.py PREFIX DKRD

One that answers and is not older than the install stays; an older one is ended and started anew (containers live on); where none
answers one is started, in a session of its own, with its log in /var/log/dkrd.log. Returns when it has said READY=1
(sd_notify(3)), or fails with the end of its log.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOCKET = "/run/dkr/dkr.sock"
LOG = Path("/var/log/dkrd.log")
DEADLINE = 60.0  # seconds until READY=1: a first start compiles the system call filter and lays down the built-in root
END_DEADLINE = 20.0  # seconds until an ended daemon is gone


def daemon_pid() -> int | None:
    """The process that serves the socket: the launcher, or 1 where systemd holds the socket; None where nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(SOCKET)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    # The kernel tells who called listen(2) last (unix(7)); that may be the api, a child of the launcher.
    while pid > 1 and Path(f"/proc/{pid}/comm").read_text().strip() != "dkrd":
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return int(pid)


def started(pid: int) -> float:
    """When process `pid` began, in seconds since the epoch: field 22 of its stat counts clock ticks from the boot (proc(5))."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (
        time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    )


def runs_as_service(pid: int) -> bool:
    """Whether systemd started it: then systemd is who restarts it."""
    return pid <= 1 or "/dkrd.service" in Path(f"/proc/{pid}/cgroup").read_text()


def end(pid: int) -> None:
    """Ends daemon `pid` in order and waits until it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not select.select([descriptor], [], [], END_DEADLINE)[0]:
            sys.exit(f"start_daemon: cannot end dkrd (process {pid}): it goes on after {END_DEADLINE:.0f} s")
    finally:
        os.close(descriptor)


def wait_ready(process: subprocess.Popen[bytes], ready: socket.socket) -> bool:
    """Whether `process` has said READY=1 before the deadline, and while it lived."""
    until = time.monotonic() + DEADLINE
    descriptor = os.pidfd_open(process.pid)
    try:
        while (left := until - time.monotonic()) > 0:
            readable = select.select([ready.fileno(), descriptor], [], [], left)[0]
            if ready.fileno() in readable and b"READY=1" in ready.recv(4096).split(b"\n"):
                return True
            if descriptor in readable:
                return False
    finally:
        os.close(descriptor)
    return False


def start(dkrd: str) -> None:
    """Starts `dkrd` and waits until it serves."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
    ):
        ready.bind(f"{directory}/notify")
        with LOG.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                [dkrd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": f"{directory}/notify"},
                start_new_session=True,
            )
        if wait_ready(process, ready):
            print(f"make run: dkrd runs (process {process.pid}), its log is {LOG}")
            process.returncode = 0  # it goes on without us
            return
        process.kill()
        process.wait()
    with LOG.open("rb") as log:
        log.seek(begin)
        said = log.read().decode(errors="replace").splitlines()
    print("\n".join(said[-20:]), file=sys.stderr)
    sys.exit(f"make run: cannot start dkrd: it has not become ready; what it said stands above and in {LOG}")


def main(prefix: str, dkrd: str) -> None:
    """One daemon, of this install, answers afterwards."""
    pid = daemon_pid()
    if pid is not None:
        if runs_as_service(pid) or started(pid) >= (Path(prefix) / "stamp").stat().st_mtime:
            return
        print(
            "make run: the daemon that runs is older than the install: it is started anew, containers live on"
        )
        end(pid)
    start(dkrd)


if __name__ == "__main__":
    main(*sys.argv[1:])
