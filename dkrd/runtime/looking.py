"""A look at a container from inside its network: does a server of its loopback answer? By one fork of its guardian, without exec.

    guardian (host root)        child
    fork ─────────────────────► all that is not its own closed; setns(init, CLONE_NEWNET); the container's user, no capability
       ◄───────────────────────  what it found, on its output; and its exit code: 0, or 1

What answers is the container's, and may say anything, for as long as it likes: so it is read by a process that has nothing, a little of
it, until its guardian ends it. Nothing is looked up: addresses are numbers. Nothing is imported here.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dkrd.runtime import errands, signals, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ANSWER = 4096  # bytes in which the first line of an answer has to be
_SPARE = 5.0  # seconds
_OUTPUT = 1
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Task:
    """A look that is to be taken.

    pidfd    of the container's init
    network  whether the container has a network of its own
    uid      host ids of who looks
    gid
    output   descriptor for what is found
    look     what is done: a line for people; raises OSError, ValueError where it is not well
    """

    pidfd: int
    network: bool
    uid: int
    gid: int
    output: int
    look: Callable[[], str]


def fork(task: Task) -> int:
    """Fork the child: its pid. Raises OSError."""
    with signals.blocked():
        pid = os.fork()
        if pid == 0:
            _run(task)
    return pid


def _run(task: Task) -> NoReturn:
    """The child's whole life."""
    code = 1
    try:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        errands.keep_only((task.output, task.pidfd))
        for number in range(3):
            os.dup2(task.output, number)  # the daemon's log, among others, was there
        syscalls.set_name("dkr-probe")
        os.setsid()
        signals.set_default()
        signals.unblock_all()
        if task.network:
            syscalls.setns(task.pidfd, syscalls.CLONE_NEWNET)
        syscalls.close_range(3)
        os.setgroups([])
        os.setresgid(task.gid, task.gid, task.gid)
        os.setresuid(task.uid, task.uid, task.uid)
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        # Behind setresuid, which clears it. Whose guardian was killed is nobody's probe.
        syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        text, code = task.look(), 0
    except (OSError, ValueError) as err:
        text = str(err.strerror or err).lower() if isinstance(err, OSError) else str(err)
    except BaseException as err:
        text = repr(err)
    try:
        os.write(_OUTPUT, text.encode("utf-8", "backslashreplace")[:_MAX_ANSWER])
    finally:
        os._exit(code)


def take_connection(port: int, seconds: float) -> str:
    """Whether the loopback's `port` takes a connection, by IPv4 or IPv6. Raises OSError, ValueError."""
    try:
        _connect("127.0.0.1", port, seconds).close()
    except ConnectionRefusedError:
        try:
            _connect("::1", port, seconds).close()
        except OSError:
            raise ValueError(f"port {port}: connection refused") from None
    return f"port {port} takes connections"


def get(address: str, port: int, target: str, seconds: float) -> str:
    """What `http://ADDRESS:PORT/TARGET` answers: its status, where that is 200 to 399. Raises OSError, ValueError."""
    host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dkr-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    with _connect(address, port, seconds) as sock:
        sock.sendall(head.encode("ascii"))
        status = _status(sock)
    found = f"GET http://{host}{target}: status {status}"
    if not 200 <= status < 400:
        raise ValueError(found)
    return found


def _connect(address: str, port: int, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    # Its guardian has an eye on the time, and says so where it is over; this is for one that has no eye for anything.
    sock.settimeout(seconds + _SPARE)
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _status(sock: socket.socket) -> int:
    """The status of an answer: its first line alone is read. Raises OSError, ValueError."""
    data = b""
    while b"\n" not in data and len(data) < _MAX_ANSWER:
        got = sock.recv(_MAX_ANSWER - len(data))
        if not got:
            break
        data += got
    line = data.partition(b"\n")[0]
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        raise ValueError(f"what is answered is no HTTP: {line[:80].strip()!a}")
    return int(words[1])
