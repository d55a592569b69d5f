"""A client of the session protocol for tests: starts containers with a terminal, holds it, yields it, attaches.

It does one step after the other, so that a test can stop between any two, and it reads and types at whatever it has of
the terminal: the master, or the stream of a relay.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import select
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any, Self

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

GUARD_SECONDS = guard(20.0)  # hang guards: no test passes or fails by how quick something was
VERSION = 2  # of the session protocol

Json = dict[str, Any]


@contextlib.contextmanager
def acting_as(user: User | int | None) -> Iterator[None]:
    """This process is `user` for the block (a number: with that gid and no group), as the kernel names senders and connectors."""
    if user is None:
        yield
        return
    uid, gid, groups = (user, user, ()) if isinstance(user, int) else (user.uid, user.gid, user.groups)
    before = os.getgroups()
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(before)


# Repeats each line that is typed; `end N` ends it.
ECHO = 'stty -echo; echo up; while read word rest; do [ "$word" = end ] && exit $rest; echo "got $word"; done'


class Refused(Exception):
    """An error object instead of what was asked for, and the HTTP status where there was one."""

    def __init__(self, error: Json, status: int = 101) -> None:
        super().__init__(error)
        self.error = error
        self.status = status

    @property
    def why(self) -> tuple[str, str | None]:
        """Code and rule."""
        return self.error["code"], self.error.get("rule")


class Client:
    """One connection, one session. `user`: who connects and sends the first frame, if not root."""

    def __init__(self, daemon: Daemon, user: User | int | None = None) -> None:
        self.user = user
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(GUARD_SECONDS)
        with acting_as(user):
            self.connection.connect(str(daemon.socket))
        self.session: socket.socket | None = None
        self.id = ""
        self.pid = 0  # of the container's init, where this client has started it
        self.terminal = -1  # the master, or the stream
        self.master = False  # which of the two it is
        self.shown = b""
        self.kept: list[tuple[Json, int]] = []  # frames that came before the one that was waited for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything, as a client does that is killed."""
        self.connection.close()
        if self.session is not None:
            self.session.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        for _, descriptor in self.kept:
            if descriptor >= 0:
                os.close(descriptor)
        self.kept.clear()

    # --- up to the session

    def post(self, path: str, body: Json | None = None, *, upgrade: str = "dkr-session/1") -> None:
        """Ask for a session. Raises Refused where the answer is another than 101."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: dkr\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self.connection.sendall(head.encode() + b"\r\n" + data)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            got = self.connection.recv(1)  # what follows a 101 may carry descriptors
            assert got, answer
            answer += got
        status = int(answer.split()[1])
        if status != 101:
            found = re.search(rb"content-length: (\d+)", answer.lower())
            assert found, answer
            raise Refused(json.loads(self.connection.recv(int(found[1]), socket.MSG_WAITALL)), status)

    def hand_over(self) -> None:
        """Take the session socket from the hand-over record. Raises Refused."""
        data, descriptors, _, _ = socket.recv_fds(self.connection, 1 << 16, 1)
        assert data, "the daemon hung up"
        record = json.loads(data[4:])
        if record["type"] == "error":
            raise Refused(record["error"])
        assert record["type"] == "session", record
        self.id = record["id"]
        self.connection.close()
        self.session = socket.socket(fileno=descriptors[0])
        self.session.settimeout(GUARD_SECONDS)

    def send(self, frame: Json | bytes, *descriptors: int) -> None:
        """Send a frame, as the client's user."""
        assert self.session is not None
        data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        with acting_as(self.user):
            self.session.sendmsg([data], rights)

    # --- starting, attaching

    def run(
        self, *args: str, rows: int = 24, columns: int = 80, stdin: int | None = None, **request: Any
    ) -> Self:
        """Start a container with a terminal, and hold that; with `stdin` as its input the terminal is for output only."""
        wanted = {
            "args": list(args),
            "terminal": True,
            "consoleSize": {"height": rows, "width": columns},
            **request,
        }
        self.post("/v1/run", wanted)
        self.hand_over()
        if stdin is None:
            self.send(start_frame(wanted))
        else:
            self.send(start_frame(wanted, stdio=[0], tty=[1, 2]), stdin)
        started, self.terminal = self.wait_for("started")
        self.pid = started["pid"]
        self.master = True
        os.set_blocking(self.terminal, False)
        return self

    def ask_to_attach(self, name: str, **change: Any) -> Self:
        """All steps up to the first frame; what comes back is another step's. `change` replaces keys of that frame."""
        self.post(f"/v1/containers/{name}/attach")
        self.hand_over()
        self.send(self.first_frame(**change))
        return self

    def first_frame(self, **change: Any) -> Json:
        """The frame that attaches; `container` is the one that the hand-over named."""
        return {
            "type": "attach",
            "version": VERSION,
            "container": self.id,
            "onDisconnect": "keep",
            "stdin": True,
            "height": 0,
            "width": 0,
            **change,
        }

    def attach(self, name: str, **change: Any) -> Self:
        """Attach; whoever holds the terminal has yielded, or yields while this waits (`holder`)."""
        holder: Client | None = change.pop("holder", None)
        self.ask_to_attach(name, **change)
        if holder is not None:
            holder.relay()
        self.attached()
        return self

    def attached(self) -> None:
        """Wait until the terminal is relayed to this client. Raises Refused."""
        _, self.terminal = self.wait_for("attached")
        self.master = False
        os.set_blocking(self.terminal, False)

    # --- frames

    def frame(self) -> tuple[Json, int] | None:
        """The next frame and its descriptor, or -1; None at the end."""
        assert self.session is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(self.session, 1 << 18, 1)
        except ConnectionResetError:
            return None
        return (json.loads(data), descriptors[0] if descriptors else -1) if data else None

    def wait_for(self, kind: str) -> tuple[Json, int]:
        """The frame of this kind. Raises Refused for an error frame."""
        for kept in [kept for kept in self.kept if kept[0]["type"] == kind]:
            self.kept.remove(kept)
            return kept
        while True:
            got = self.frame()
            assert got is not None, f"the session ended before {kind}"
            frame, descriptor = got
            if frame["type"] == kind:
                return frame, descriptor
            if frame["type"] == "error":
                raise Refused(frame["error"])
            self.kept.append((frame, descriptor))

    def exit(self) -> Json:
        """How the command ended; the session ends there."""
        frame, _ = self.wait_for("exited")
        assert self.frame() is None
        value: Json = frame["exit"]
        return value

    def relay(self) -> None:
        """Give the terminal up, when asked to: what was not read from the master yet comes over the stream."""
        _, stream = self.wait_for("yield")
        self.let_go()
        self.terminal, self.master = stream, False
        os.set_blocking(stream, False)
        self.send({"type": "relay"})

    def let_go(self) -> None:
        """Close the master, or the stream."""
        os.close(self.terminal)
        self.terminal = -1

    def detach(self) -> None:
        """Leave in order."""
        self.send({"type": "detach"})
        self.close()

    # --- the terminal

    def type(self, text: str | bytes) -> None:
        """Type, all of it; reads meanwhile what is shown, as a terminal does."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            if not self.wait(select.POLLOUT):
                continue
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.terminal, data) :]

    def wait(self, wanted: int = 0) -> bool:
        """Wait until something is shown, which is read, or for the events `wanted`; whether it was those."""
        poll = select.poll()
        poll.register(self.terminal, select.POLLIN | wanted)
        ready = poll.poll(GUARD_SECONDS * 1000)
        assert ready, f"the terminal does not go on; shown: {self.shown[-2000:]!r}"
        events = ready[0][1]
        if events & (select.POLLIN | select.POLLHUP):
            self.read_once()
        return bool(events & wanted)

    def read_once(self, size: int = 65536) -> bool:
        """Read what is there now; False at the end."""
        try:
            data = os.read(self.terminal, size)
        except BlockingIOError:
            return True
        except OSError:
            return False  # EIO: nobody has the other side any more
        self.shown += data
        return bool(data)

    def read_to_end(self) -> bytes:
        """Read until the terminal ends; all that was shown and not yet taken."""
        while True:
            assert select.select([self.terminal], [], [], GUARD_SECONDS)[0], self.shown[-2000:]
            if not self.read_once():
                return self.shown

    def until(self, pattern: str) -> re.Match[bytes]:
        """Read until `pattern` has been shown, take all up to its end off `shown`."""
        while not (found := re.search(pattern.encode(), self.shown)):
            assert select.select([self.terminal], [], [], GUARD_SECONDS)[0], (
                f"not shown: {pattern}, but {self.shown[-2000:]!r}"
            )
            assert self.read_once(), f"not shown up to the end: {pattern}, but {self.shown[-2000:]!r}"
        self.shown = self.shown[found.end() :]
        return found

    def resize(self, rows: int, columns: int) -> None:
        """The client's own window has another size."""
        if self.master:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        else:
            self.send({"type": "resize", "height": rows, "width": columns})


def start_frame(request: Json, *, stdio: list[int] | None = None, tty: list[int] | None = None) -> Json:
    """The frame that starts; with the whole terminal unless `stdio` or `tty` say otherwise."""
    return {
        "type": "start",
        "version": VERSION,
        "request": request,
        "asks": [],
        "stdio": stdio or [],
        "tty": ([] if stdio else [0, 1, 2]) if tty is None else tty,
        "root": [],
        "want": [],
    }


def until_held_up(pid: int) -> None:
    """Wait until the process writes to a terminal, as its standard output, that takes no more: it waits in the kernel, and writes
    nothing more. One that still waits for what is typed waits in the same place, for descriptor 0.
    """
    seen = b""
    while True:
        with (
            open(f"/proc/{pid}/wchan") as wchan,
            open(f"/proc/{pid}/syscall") as syscall,
            open(f"/proc/{pid}/io", "rb") as io,
        ):
            # n_tty_write() of drivers/tty/n_tty.c; proc(5): the number of the call, then what it was given
            writes = wchan.read() == "wait_woken" and syscall.read().split()[1:2] == ["0x1"]
            now = io.read() if writes else b""
        if now and now == seen:
            return
        seen = now
        select.select([], [], [], 0.1)


def refusal(daemon: Daemon, name: str, user: User | int | None = None, **change: Any) -> Refused:
    """Why this user cannot attach."""
    with Client(daemon, user) as client:
        try:
            client.ask_to_attach(name, **change)
            client.attached()
        except Refused as err:
            return err
    raise AssertionError("it is attached")


def echoing(daemon: Daemon) -> Iterator[Client]:
    """For a fixture: a client that has started ECHO and holds its terminal."""
    with Client(daemon).run("/bin/sh", "-c", ECHO, rm=True) as client:
        client.until("up\r\n")
        yield client
    gone(daemon)


def gone(daemon: Daemon) -> None:
    """Wait until no guardian is left."""
    for process in daemon.processes():
        if process.comm == "dkr-shim":
            assert host.wait_gone(process.pid, GUARD_SECONDS)


def says(client: Client, word: str, *others: Client) -> None:
    """What `client` types is answered by ECHO, and the others see that too."""
    client.type(f"{word}\r")
    for one in (client, *others):
        one.until(f"got {word}\r\n")
