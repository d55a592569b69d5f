"""Sees to it that an installed dkrd answers: usage: start_daemon.py PREFIX DKRD

One that answers and is not older than the install stays; an older one is ended and started anew (containers live on). Where none
answers one is started: by systemd, where that runs and has this install's unit, else in a session of its own, with its log in
/var/log/dkrd.log. Returns when it has said READY=1 (sd_notify(3)), or fails with the end of its log.
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
SOCKET_UNIT, SERVICE = "dkrd.socket", "dkrd.service"
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


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Asks systemd, and gives what it says."""
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)


def has_unit(dkrd: str) -> bool:
    """Whether systemd runs here (sd_booted(3)) and its unit starts this very program."""
    if not Path("/run/systemd/system").is_dir():
        return False
    return f"ExecStart={dkrd} " in systemctl("cat", SERVICE).stdout


def start_by_systemd(prefix: str) -> None:
    """Has systemd start the service, anew where it is older than the install."""
    systemctl("daemon-reload")  # the install before this one may have had other units
    pid = int(systemctl("show", "--property=MainPID", "--value", SERVICE).stdout.strip() or 0)
    anew = pid > 0 and started(pid) < installed(prefix)
    begin = time.time()
    done = systemctl("restart", SERVICE) if anew else systemctl("start", SOCKET_UNIT, SERVICE)
    if done.returncode == 0:
        if anew:
            print(
                f"make run: {SERVICE} was older than the install and has been restarted, containers live on"
            )
        elif pid == 0:
            print(f"make run: {SERVICE} runs; its log: journalctl -u {SERVICE}")
        return
    said = ["journalctl", "--no-pager", f"--since=@{begin:.0f}", "-u", SERVICE]
    print(done.stderr, file=sys.stderr)
    subprocess.run(said, stdout=sys.stderr, check=False)
    sys.exit(f"make run: cannot start {SERVICE}: what it said stands above")


def installed(prefix: str) -> float:
    """When the install was made, in seconds since the epoch."""
    return (Path(prefix) / "stamp").stat().st_mtime


def runs_as_service(pid: int) -> bool:
    """Whether systemd holds its socket, or has started it."""
    return pid <= 1 or f"/{SERVICE}" in Path(f"/proc/{pid}/cgroup").read_text()


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
    by_systemd = has_unit(dkrd)
    if pid is not None and not (by_systemd and runs_as_service(pid)):
        if runs_as_service(pid) or started(pid) >= installed(prefix):
            return
        print(
            "make run: the daemon that runs is older than the install: it is started anew, containers live on"
        )
        end(pid)
    if by_systemd:
        start_by_systemd(prefix)
    else:
        start(dkrd)


if __name__ == "__main__":
    main(*sys.argv[1:])
