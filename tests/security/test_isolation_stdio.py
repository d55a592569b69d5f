"""The caller's own descriptors in a container's hands: what it cannot do with them."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import termios
import threading
import tty
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import guard
from tests.security.callers import as_user
from tests.security.inside import PRELUDE, PYTHON, ask
from tests.security.taken_over import Client, frame, frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

BOUND_SECONDS = guard(10.0)  # a guard against hangs, far above what is measured
LINGER_SECONDS = 60


# --- a terminal of the caller's is never passed

TERMINAL = """
TIOCSTI, TIOCLINUX, TIOCEXCL, TIOCSCTTY, TIOCSETD, TIOCNOTTY, TIOCCONS = 0x5412, 0x541C, 0x540C, 0x540E, 0x5423, 0x5422, 0x541D
import termios
found, got = {}, []
for fd in (0, 1, 2):
    for name, number in (("sti", TIOCSTI), ("linux", TIOCLINUX)):
        found[f"{name} {fd}"] = refusal(fcntl.ioctl, fd, number, b"#")
    found[f"read again {fd}"] = None if fd == 0 else refusal(os.open, f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
    found[f"control {fd}"] = refusal(fcntl.ioctl, fd, TIOCSCTTY, 1)
for fd in (1, 2):
    os.set_blocking(fd, False)
    found[f"read {fd}"] = refusal(lambda: got.append(os.read(fd, 9).decode())) or "".join(got)
    found[f"modes {fd}"] = refusal(fcntl.ioctl, fd, 0x5402, bytes(36))  # TCSETS: no echo, no lines, no signals
    found[f"exclusive {fd}"] = refusal(fcntl.ioctl, fd, TIOCEXCL)
found["tty"] = refusal(os.open, "/dev/tty", os.O_RDWR)
os.write(4 if RESULT else 1, json.dumps(found).encode())
"""


@contextmanager
def _terminal(owner: int) -> Iterator[tuple[int, int]]:
    """Master and peer of a pty of `owner`'s."""
    master, peer = os.openpty()
    try:
        os.fchown(peer, owner, -1)
        yield master, peer
    finally:
        os.close(master)
        os.close(peer)


# How 0-2 are given, and whether all are terminals
WAYS = {
    "-T": ("peer", "peer", "peer"),
    "only output": ("null", "peer", "peer"),
    "only errors": ("null", "null", "peer"),
}


@pytest.mark.parametrize("who", ["root", "tenant"])
@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_gives_away_no_keystroke_and_no_mode(
    daemon: Daemon, tenant: host.User, who: str, way: str
) -> None:
    """TIOCSTI, reading what is typed by descriptors 1 and 2, changing modes, becoming its owner."""
    user = tenant if who == "tenant" else None
    with _terminal(tenant.uid if user else 0) as (master, peer), _result() as (reader, arrange):
        before = termios.tcgetattr(peer)
        os.write(master, b"secret\n")
        stdin, stdout, stderr = (peer if what == "peer" else subprocess.DEVNULL for what in WAYS[way])
        done = daemon.popen(
            "run", "--rm", *(["-T"] if way == "-T" else []), "--preserve-fds", "2", *PYTHON,
            PRELUDE + "RESULT = True\n" + TERMINAL, user=user, stdin=stdin, stdout=stdout, stderr=stderr,
            close_fds=False, preexec_fn=arrange,
        ).wait(BOUND_SECONDS)  # fmt: skip
        assert done == 0
        found = json.loads(reader())
        lone = {f"{what} {fd}" for what in ("control", "read again", "modes", "exclusive") for fd in (1, 2)}
        assert {name for name, how in found.items() if how is None} <= {
            "read again 0",
            *(lone if way != "-T" else ()),
        }
        assert {found["read 1"], found["read 2"]} <= {"", "EAGAIN", "EBADF"}
        assert termios.tcgetattr(peer) == before
        if way != "-T":  # there the client reads it, for the command's input
            waiting = array.array("i", [0])
            fcntl.ioctl(peer, termios.FIONREAD, waiting)
            assert waiting[0] == len(b"secret\n")
        os.close(os.open(os.ttyname(peer), os.O_RDWR | os.O_NOCTTY))  # nobody holds it exclusively


@contextmanager
def _result() -> Iterator[tuple[Any, Any]]:
    """A pipe that the container has as descriptor 4 (3 is its other end's place holder), and how to read it."""
    read, write = os.pipe()

    def arrange() -> None:
        os.dup2(write, 4, inheritable=True)
        os.dup2(write, 3, inheritable=True)

    def reader() -> bytes:
        nonlocal write
        os.close(write)
        write = -1
        data = b""
        while chunk := os.read(read, 65536):
            data += chunk
        return data

    try:
        yield reader, arrange
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def test_outside_a_container_the_terminal_would_give_its_input(tmp_path: Path) -> None:
    """The wall is needed: who has a shell's descriptor 1 itself reads what is typed by it."""
    with _terminal(0) as (master, peer):
        tty.setraw(peer)
        os.write(master, b"secret")
        done = subprocess.run(
            ["/usr/bin/python3", "-IS", "-c", "import os; got = os.read(1, 6); os.write(2, got)"],
            stdin=subprocess.DEVNULL,
            stdout=peer,
            stderr=subprocess.PIPE,
            check=True,
        )
        assert done.stderr == b"secret"


def test_input_cannot_be_pushed_into_a_containers_own_terminal(daemon: Daemon) -> None:
    """Nor into its own: the filter knows TIOCSTI and TIOCLINUX."""
    probe = """
master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
peer = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)
os.setsid() if os.getsid(0) != os.getpid() else None
tell([refusal(fcntl.ioctl, peer, 0x540E, 0), refusal(fcntl.ioctl, peer, 0x5412, b"#"), refusal(fcntl.ioctl, peer, 0x541C, b"#")])
"""
    assert ask(daemon, probe) == [None, "EPERM", "EPERM"]


# --- pipes and files


@pytest.mark.parametrize("who", ["root", "tenant"])
def test_what_is_read_from_cannot_be_written(
    daemon: Daemon, tenant: host.User, who: str, open_tmp: Path
) -> None:
    """Standard input as a pipe or a file, opened again by its name in /proc."""
    user = tenant if who == "tenant" else None
    probe = """
tell([refusal(os.open, name, flags | os.O_NONBLOCK) for name in ("/proc/self/fd/0", "/dev/stdin", "/proc/1/fd/0")
      for flags in (os.O_WRONLY, os.O_RDWR)])
"""
    assert ask(daemon, probe, user=user, input="typed") == ["EACCES"] * 6
    path = open_tmp / "file"
    path.write_text("kept")
    path.chmod(0o644)
    os.chown(path, user.uid if user else 0, -1)
    with path.open() as file:
        seen = ask(daemon, probe, user=user, stdin=file)
    assert seen == ["EACCES"] * 6
    assert path.read_text() == "kept"


def test_a_descriptor_for_reading_stays_one(daemon: Daemon, tenant: host.User, open_tmp: Path) -> None:
    """A file of the caller's own, preserved: written by its descriptor neither directly nor opened again."""
    path = open_tmp / "own"
    path.write_text("kept")
    os.chown(path, tenant.uid, tenant.gid)
    path.chmod(0o600)
    read = os.open(path, os.O_RDONLY)
    probe = """
tell([os.read(3, 10).decode(), refusal(os.write, 3, b"x"), refusal(os.open, "/proc/self/fd/3", os.O_WRONLY),
      refusal(os.open, "/proc/self/fd/3", os.O_RDONLY), refusal(os.ftruncate, 3, 0), refusal(os.fchmod, 3, 0o666)])
"""
    try:
        seen = ask(
            daemon, probe, "--preserve-fds", "1", user=tenant, close_fds=False,
            preexec_fn=lambda: os.dup2(read, 3, inheritable=True),
        )  # fmt: skip
    finally:
        os.close(read)
    assert seen[0] == "kept"
    assert seen[1] == "EBADF"
    assert seen[2:4] == ["EACCES", "EACCES"]
    assert seen[4:] == ["EINVAL", "EPERM"]
    assert path.read_text() == "kept"


def test_below_a_passed_directory_nothing_is_reached_that_other_may_not(
    daemon: Daemon, tenant: host.User, open_tmp: Path
) -> None:
    secret = open_tmp / "secret"
    secret.write_text("of the caller's own")
    secret.chmod(0o600)
    os.chown(secret, tenant.uid, tenant.gid)
    directory = os.open(open_tmp, os.O_RDONLY | os.O_DIRECTORY)
    probe = """
tell([refusal(os.open, "secret", os.O_RDONLY, dir_fd=3), refusal(os.open, "new", os.O_WRONLY | os.O_CREAT, dir_fd=3),
      refusal(os.unlink, "secret", dir_fd=3), refusal(os.open, "../../../etc/shadow", os.O_RDONLY, dir_fd=3)])
"""
    try:
        for user in (tenant, None):
            seen = ask(
                daemon, probe, "--preserve-fds", "1", user=user, close_fds=False,
                preexec_fn=lambda: os.dup2(directory, 3, inheritable=True),
            )  # fmt: skip
            assert seen[:3] == ["EACCES"] * 3
            assert seen[3] is not None
    finally:
        os.close(directory)


@pytest.mark.parametrize("flags", [os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY, os.O_PATH])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_directory_or_a_mere_name_is_no_stdio(daemon: Daemon, number: int, flags: int) -> None:
    """Refused by the client, and by root's side to a client that does not look."""
    path = "/" if flags & os.O_DIRECTORY else "/etc/hostname"
    fd = os.open(path, flags)
    request: dict[str, Any] = {"args": ["/bin/true"], "rm": True}
    try:
        client = Client(daemon.socket)
        client.post(request)
        with client.session() as session:
            frame(session, request, {number: fd})
            last = frames_of(session)[-1]
        assert last["error"]["code"] == "bad-request"
        assert f"descriptor {number}" in last["error"]["message"]
        streams: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        streams[("stdin", "stdout", "stderr")[number]] = fd
        with daemon.popen("run", "--rm", "/bin/true", **streams) as refused:
            assert (
                refused.wait(BOUND_SECONDS) != 0
            )  # the interpreter may refuse it even before the client does
    finally:
        os.close(fd)


# --- a descriptor whose close waits


def _lingering(stack: ExitStack) -> socket.socket:
    """A connection whose last close waits for a peer that does not read: socket(7), SO_LINGER."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock = stack.enter_context(socket.create_connection(listener.getsockname()))
    stack.enter_context(listener.accept()[0])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sock.send(b"x" * 65536):
            continue
    return sock


def test_its_last_close_does_wait() -> None:
    """The attack as such: somebody who closes it is held."""
    with ExitStack() as stack:
        sock = _lingering(stack)
        closed = threading.Event()
        descriptor = sock.detach()

        def close() -> None:
            os.close(descriptor)
            closed.set()

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        assert not closed.wait(0.5)
        stack.close()  # the peer resets the connection: over
        assert closed.wait(BOUND_SECONDS)
        thread.join()


def test_a_client_cannot_hold_the_api_by_a_descriptor_it_sends_along(
    daemon: Daemon, tenant: host.User
) -> None:
    """Nothing on the connection asks for descriptors, so the kernel closes them in whoever reads there: the api."""
    api = daemon.child("dkr-api").pid
    with ExitStack() as stack:
        sock = _lingering(stack)

        def send() -> str | None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(daemon.socket))
            try:
                socket.send_fds(connection, [b"GET /v1/version HTTP/1.1\r\n"], [sock.fileno()])
            except OSError as err:
                return errno.errorcode[err.errno or 0]
            return None

        # Stopped, so that what is on its way is the last one when the api goes on.
        os.kill(api, signal.SIGSTOP)
        try:
            if as_user(tenant, send) == "EPERM":
                # Linux 6.16: not taken at all; the last one is here.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            sock.close()
        finally:
            os.kill(api, signal.SIGCONT)
        done = daemon.dkrctl("run", "--rm", "/bin/echo", "served", timeout=BOUND_SECONDS)
        assert done.stdout == "served\n"


def test_a_client_cannot_hold_the_others_by_its_stdio(daemon: Daemon, tenant: host.User) -> None:
    request: dict[str, Any] = {"args": ["/bin/true"], "rm": True}
    with ExitStack() as stack:
        sock = _lingering(stack)
        client = Client(daemon.socket)
        client.post(request)
        session = stack.enter_context(client.session())
        frame(session, request, {0: sock.fileno()})
        sock.close()
        assert daemon.run("/bin/echo", "served", user=tenant, timeout=BOUND_SECONDS).stdout == "served\n"
        started = json.loads(session.recv(65536))
        assert started["type"] == "started"


def test_a_taken_over_api_cannot_hold_the_launcher_by_its_evidence(taken_over: TakenOver) -> None:
    with ExitStack() as stack:
        sock = _lingering(stack)

        def put() -> None:
            taken_over.put(sock.fileno())
            sock.close()

        putter = threading.Thread(target=put)
        putter.start()
        done = taken_over.run("let-go")
        putter.join()
        assert done.returncode == 125
        assert taken_over.told("answer")[-1]["error"]["rule"] == "evidence-type"
    assert taken_over.run("honest").stdout == "ran\n"
    taken_over.assert_nothing()


def test_a_session_that_says_nothing_holds_nobody(daemon: Daemon, tenant: host.User) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            client = Client(daemon.socket)
            client.post({"args": ["/bin/true"], "rm": True})
            stack.enter_context(client.session())
        assert daemon.run("/bin/echo", "served", user=tenant, timeout=BOUND_SECONDS).stdout == "served\n"
