"""A small real peer for the client's tests: plays api and shim for a plain fork and exec of the command, no container.

`python client_peer.py SOCKET`: serves one connection after the other, each in a child, until it is killed. Each first
frame, each signal and what else the tests look at is told on stdout, a JSON object a line. What the peer does is chosen
by the request's label `peer`, in an attach or an exec by the container's name; see `Shim` and `api`.
"""

import contextlib
import errno
import fcntl
import json
import os
import pty
import select
import signal
import socket
import stat
import struct
import sys
import termios
import threading
from collections.abc import Callable
from types import FrameType

SO_SNDBUFFORCE = 32  # socket(7); the module does not name it
ID = "c0ffee" + "0" * 58
# What runs in a container of this name.
ATTACHED = {
    "echo": 'stty -echo; echo up; while read word && [ "$word" != end ]; do echo "got $word"; stty size; done; exit 7',
    "output": 'echo up; echo err >&2; read word; echo "got $word"',
}


def log(what: dict[str, object]) -> None:
    """One line for the tests; what a pipe that nobody reads might not take is left out."""
    line = json.dumps(what).encode() + b"\n"
    if len(line) <= select.PIPE_BUF:
        os.write(1, line)


def read_request(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an HTTP request."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = client.recv(65536)
        if not got:
            return b"", b""
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    size = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    while len(body) < size:
        body += client.recv(65536)
    return head, body


def answer(client: socket.socket, status: str, body: object) -> None:
    """An ordinary response."""
    data = json.dumps(body).encode()
    kind = "application/problem+json" if status[0] != "2" else "application/json"
    client.sendall(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )


def record(value: dict[str, object]) -> bytes:
    """The hand-over record."""
    data = json.dumps(value).encode()
    return len(data).to_bytes(4, "big") + data


def api(client: socket.socket) -> None:
    """One connection."""
    head, body = read_request(client)
    if head.startswith(b"GET /v1/version "):
        answer(client, "200 OK", {"version": "9.9.9", "apiVersion": "1"})
        return
    if head.startswith(b"GET /v1/containers"):
        # Names that are none would be read by the shell.
        names = ("web", "-x", "a b", "$(reboot)", "a\nb", "")
        rest = {
            "id": "6f" * 32,
            "image": "host",
            "status": "running",
            "created": "2026-01-31T12:00:00.000000000Z",
        }
        answer(client, "200 OK", [{"name": name, **rest} for name in names])
        return
    if not head:
        return
    request = json.loads(body) if body else {}
    log({"head": head.decode(), "request": request})
    attach = head.startswith(b"POST /v1/containers/") and b"/exec " not in head
    named = head.startswith(b"POST /v1/containers/")
    what = head.split(b"/")[3].decode() if named else request.get("labels", {}).get("peer", "")
    if is_left(client, what):
        return
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n\r\n"
    )
    if what == "record-error":
        client.sendall(
            record({"type": "error", "error": {"code": "limit-reached", "message": "cannot run: too many"}})
        )
        return
    shim = Shim(handed_over(client, what), what)
    shim.attach() if attach else shim.run()


def is_left(client: socket.socket, what: str) -> bool:
    """Whether it ends before there is a session: by a refusal, or without an answer."""
    if what == "refuse":
        problem = {
            "code": "bad-request",
            "title": "bad request",
            "detail": "cannot take the request: it is odd",
            "hint": "make it even",
            "fields": [{"path": "env.A", "message": "odd \x1b[31m"}],
        }
        answer(client, "400 Bad Request", problem)
        return True
    if what == "mute":
        signal.pause()
    return what == "hang-up"


def handed_over(client: socket.socket, what: str) -> socket.socket:
    """The shim's end of a session whose other end the client has been sent, or something in its place."""
    if what == "not-root":
        os.seteuid(12345)  # SO_PEERCRED is taken when the pair is made
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.seteuid(0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    if what != "small":
        theirs.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
    handed = {
        "two": [theirs.fileno()] * 2,
        "three": [theirs.fileno()] * 3,
        "none": [],
        "file": [os.open("/dev/null", os.O_RDWR)],
    }
    socket.send_fds(client, [record({"type": "session", "id": ID})], handed.get(what, [theirs.fileno()]))
    theirs.close()
    client.close()
    return ours


class Shim:
    """One session; `what` is how it behaves."""

    def __init__(self, session: socket.socket, what: str) -> None:
        self.session = session
        self.what = what
        self.child = 0
        self.master = -1  # where the peer keeps one: to ask for it, or to relay
        self.shown = self.typing = threading.Thread()

    def send(self, frame: dict[str, object], descriptors: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):
            if descriptors:
                socket.send_fds(self.session, [json.dumps(frame).encode()], descriptors)
            else:
                self.session.send(json.dumps(frame).encode())

    def run(self) -> None:
        data, ancillary, _, _ = self.session.recvmsg(1 << 20, 4096, socket.MSG_CMSG_CLOEXEC)
        if not data:
            log({"vanished": True})
            return
        descriptors: list[int] = []
        credentials: tuple[int, ...] = ()
        for _, kind, value in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors += list(struct.unpack(f"{len(value) // 4}i", value))
            else:
                credentials = struct.unpack("iII", value)
        frame = json.loads(data)
        flags = [fcntl.fcntl(d, fcntl.F_GETFL) & os.O_ACCMODE for d in descriptors]
        terminals = [os.isatty(d) for d in descriptors]
        modes = [stat.S_IMODE(os.fstat(d).st_mode) for d in descriptors]
        paths = [os.readlink(f"/proc/self/fd/{d}") for d in descriptors]
        named = [bool(fcntl.fcntl(d, fcntl.F_GETFL) & os.O_PATH) for d in descriptors]
        log(
            {
                "start": frame,
                "access": flags,
                "tty": terminals,
                "modes": modes,
                "paths": paths,
                "named": named,
                "credentials": list(credentials),
            },
        )
        if self.what == "error-frame":
            error = {"code": "command-not-found", "message": 'cannot run "x": no such file', "step": "execve"}
            self.send({"type": "error", "error": error})
            return
        if self.what == "garbage":
            self.session.send(b"{")
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        master = self.start(frame, descriptors)
        self.tell_started(master)
        if self.what == "lost":
            os.kill(self.child, signal.SIGKILL)
            return
        self.attend()

    def attach(self) -> None:
        """An attach session: to a container that is made in this moment."""
        frame = json.loads(self.session.recv(1 << 20))
        log({"attach": frame})
        if self.what == "refused":
            self.send(
                {"type": "error", "error": {"code": "conflict", "message": "cannot attach", "rule": "busy"}}
            )
            return
        if self.what == "no-stream":
            self.send({"type": "attached", "id": ID, "name": self.what})
            return
        whole = self.what != "output"
        request = {"args": ["/bin/sh", "-c", ATTACHED.get(self.what, "sleep 60")], "terminal": True}
        started: dict[str, object] = {"request": request, "stdio": [], "tty": [0, 1, 2] if whole else [1, 2]}
        reader, writer = os.pipe()
        if not whole:
            started["stdio"] = [0]
        self.master = self.start(started, [] if whole else [reader])
        with self.relay() as theirs:
            name = "other" if self.what == "elsewhere" else self.what
            self.send({"type": "attached", "id": ID, "name": name, "input": whole}, [theirs.fileno()])
        if self.what == "lost":
            os.kill(self.child, signal.SIGKILL)
            return
        if not whole:
            os.write(writer, b"given\n")
        self.attend()

    def relay(self) -> socket.socket:
        """Copy between the master and a stream from now on; the client's end of that."""
        ours, theirs = socket.socketpair()
        self.shown = threading.Thread(target=copy, args=(self.master, ours, True))
        self.shown.start()
        threading.Thread(target=copy, args=(self.master, ours, False), daemon=True).start()
        return theirs

    def ask_to_yield(self) -> None:
        """The stream goes along; it is served once the client has let the master go."""
        ours, theirs = socket.socketpair()
        self.send({"type": "yield"}, [theirs.fileno()])
        theirs.close()
        self.shown = threading.Thread(target=copy, args=(self.master, ours, True))
        self.typing = threading.Thread(target=copy, args=(self.master, ours, False), daemon=True)

    def start(self, frame: dict[str, object], descriptors: list[int]) -> int:
        """Start the command; the master of its terminal, or -1."""
        request = frame["request"]
        assert isinstance(request, dict)
        stdio = frame["stdio"]
        assert isinstance(stdio, list)
        master = slave = -1
        if request.get("terminal"):
            master, slave = pty.openpty()
            if isinstance(
                size := request.get("consoleSize"), dict
            ):  # before the command starts, as a guardian does
                words = struct.pack("HHHH", size["height"], size["width"], 0, 0)
                fcntl.ioctl(slave, termios.TIOCSWINSZ, words)
            tty = frame["tty"]
            assert isinstance(tty, list)
            if 0 not in tty:
                mode = termios.tcgetattr(slave)
                mode[1] &= ~termios.OPOST
                termios.tcsetattr(slave, termios.TCSANOW, mode)
            stdio, descriptors = [*tty, *stdio], [*[slave] * len(tty), *descriptors]
        if self.what == "slow":
            # Until a signal came: it must arrive before the start and not be lost.
            data = self.session.recv(65536)
            log({"early": json.loads(data)})
        self.child = os.fork()
        if self.child == 0:
            command_child(request, [int(n) for n in stdio], descriptors, slave)
        for descriptor in {*descriptors, slave} - {-1}:
            os.close(descriptor)
        log({"running": self.child})
        return master

    def tell_started(self, master: int) -> None:
        started: dict[str, object] = {"type": "started", "id": ID, "pid": self.child}
        if self.what == "no-master":
            os.close(master)
            master = -1
        self.send(started, [master] if master >= 0 else None)
        if self.what == "yield":
            self.master = master
            # The command asks for it, by a signal to its parent, when it suits the test.
            signal.signal(signal.SIGUSR1, lambda number, frame: self.ask_to_yield())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        elif master >= 0:
            os.close(master)

    def attend(self) -> None:
        pidfd = os.pidfd_open(self.child)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(self.session, select.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self.session.fileno() in ready:
                try:
                    data = self.session.recv(65536)
                except ConnectionResetError:  # it left frames unread
                    data = b""
                if not data:
                    log({"vanished": True})
                    os.kill(self.child, signal.SIGKILL)
                    return
                frame = json.loads(data)
                log({"frame": frame})
                if frame["type"] == "signal":
                    os.kill(self.child, frame["signal"])
                elif frame["type"] == "relay":
                    self.shown.start()
                    self.typing.start()
                elif frame["type"] == "resize":
                    size = struct.pack("HHHH", frame["height"], frame["width"], 0, 0)
                    fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
                elif frame["type"] == "detach":
                    os.kill(self.child, signal.SIGKILL)
                    return
            elif pidfd in ready:
                break
        _, status = os.waitpid(self.child, 0)
        code = os.waitstatus_to_exitcode(status)
        if self.master >= 0:
            self.shown.join()  # all that was written is in the stream
        cause = self.what if self.what in ("timeout", "oom") else "exited" if code >= 0 else "signalled"
        self.send(
            {
                "type": "exited",
                "exit": {
                    "code": code if code >= 0 else None,
                    "signal": -code if code < 0 else None,
                    "cause": cause,
                },
            }
        )


def copy(master: int, stream: socket.socket, outward: bool) -> None:
    """To the end of where it comes from."""
    os.set_blocking(master, True)  # whoever held it before may have changed that
    with contextlib.suppress(OSError):
        while data := os.read(master, 65536) if outward else stream.recv(65536):
            stream.sendall(data) if outward else os.write(master, data)
    if outward:
        stream.shutdown(socket.SHUT_WR)


def command_child(request: dict[str, object], stdio: list[int], descriptors: list[int], slave: int) -> None:
    """Become the command."""
    os.setsid()
    if slave >= 0:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    high = [fcntl.fcntl(d, fcntl.F_DUPFD, 500) for d in descriptors]
    os.closerange(0, 500)
    for number, descriptor in zip([*stdio, *range(3, 3 + len(high) - len(stdio))], high, strict=True):
        os.dup2(descriptor, number)
    os.closerange(500, 1100)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    args = request["args"]
    env = request.get("env", {})
    assert isinstance(args, list)
    assert isinstance(env, dict)
    try:
        os.execve(args[0], args, {"PATH": "/usr/bin:/bin", **env})
    finally:
        os._exit(127)


def reap(_number: int, _frame: FrameType | None) -> None:
    """Collect the children that served a connection."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(where: str, api: Callable[[socket.socket], None]) -> None:
    """Serve each connection by `api`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, reap)
    log({"ready": True})
    while True:
        try:
            client, _ = listener.accept()
        except OSError as err:
            if err.errno == errno.EINTR:
                continue
            raise
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            api(client)
            os._exit(0)
        client.close()


if __name__ == "__main__":
    main(sys.argv[1], api)
