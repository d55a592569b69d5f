"""A real launcher whose api was taken over (evil_api.py), and clients that are not the usual one."""

from __future__ import annotations

import array
import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import host
from tests.daemon import Daemon
from tests.patience import guard
from tests.reliability.support import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent
END_SECONDS = guard(10.0)

# What the installed dkrd does, but for the program that is the api.
PROGRAM = """#!/usr/bin/python3 -IS
import sys
sys.path[:0] = [{packages!r}]
from dkrd.launcher import interpreter, main, options
settings, _ = options.parse(sys.argv[1:])
interpreter.seal("dkrd")
sys.exit(main._serve(settings, ("/usr/bin/python3", "-IS", {api!r}, {packages!r}, {dropbox!r})))
"""


@dataclass(slots=True)
class TakenOver:
    """The daemon, and the socket at which its api takes descriptors."""

    daemon: Daemon
    dropbox: Path

    @classmethod
    def create(cls, prefix: Path, **settings: Any) -> TakenOver:
        """Lays out a daemon whose api is the evil one; the install is the real one."""
        daemon = Daemon.create(prefix, **settings)
        [packages] = (prefix / "lib").glob("python3*/site-packages")
        fake = daemon.directory / "prefix"
        (fake / "sbin").mkdir(parents=True)
        (fake / "bin").symlink_to(prefix / "bin")
        api = fake / "evil_api.py"
        shutil.copyfile(HERE / "evil_api.py", api)
        api.chmod(0o644)
        dropbox = daemon.state_dir / "api" / "dropbox"
        program = fake / "sbin/dkrd"
        program.write_text(PROGRAM.format(packages=str(packages), api=str(api), dropbox=str(dropbox)))
        program.chmod(0o755)
        daemon.prefix = fake
        return cls(daemon, dropbox)

    def run(
        self,
        evil: str,
        *args: str,
        user: host.User | None = None,
        options: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """The real client's `run --rm`, with an api that does `evil`."""
        return self.daemon.run(
            "--label",
            f"evil={evil}",
            *options,
            *(args or ("/bin/echo", "ran")),
            user=user,
            check=False,
            timeout=END_SECONDS,
        )

    def put(self, descriptor: int) -> None:
        """Give the api a descriptor."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(self.dropbox))
            socket.send_fds(sock, [b"x"], [descriptor])

    def told(self, key: str) -> list[Any]:
        """What the api has told of `key`, oldest first."""
        lines = [line[6:] for line in self.daemon.log.splitlines() if line.startswith("evil: ")]
        return [value[key] for value in map(json.loads, lines) if key in value]

    def has_started(self, container: str) -> bool:
        """Whether a command was ever executed for this id, by the audit."""
        return f"audit shim: started id={container} " in self.daemon.log

    def settle(self) -> None:
        """Waits until nobody but the launcher and its api is at work: shims end after their client has its answer."""
        for process in self.daemon.processes():
            if process.pid != self.daemon.pid and process.parent != self.daemon.pid:
                assert host.wait_gone(process.pid, END_SECONDS), process
        for process in host.children(self.daemon.pid):
            if process.comm == "dkr-shim":
                assert host.wait_gone(process.pid, END_SECONDS), process
        # A fork has the launcher's name until it takes its own.
        eventually(
            lambda: all(child.comm != "dkrd" for child in host.children(self.daemon.pid)),
            "forks have their names",
        )

    def assert_nothing(self) -> None:
        """No container: no process, directory, id range, cgroup; and none has ever been."""
        self.settle()

        def left() -> list[str]:
            return [line for line in self.daemon.leftovers() if not line.startswith("process ")]

        # What a guardian was in itself on cgroup v2, the launcher removes when it has seen its end.
        eventually(lambda: not left(), "nothing of a container is left")
        alive = [
            p
            for p in self.daemon.processes()
            if p.pid != self.daemon.pid and p.comm not in ("python3", "dkr-spare")
        ]
        assert alive == []


class Client:
    """A client that does one step after the other, as whoever runs it."""

    def __init__(self, path: Path | str) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(END_SECONDS)
        self.connection.connect(str(path))

    def post(self, request: dict[str, Any]) -> None:
        """POST /v1/run, and the head of the answer, which is 101."""
        body = json.dumps(request).encode()
        self.connection.sendall(
            b"POST /v1/run HTTP/1.1\r\nHost: dkr\r\nConnection: Upgrade\r\nUpgrade: dkr-session/1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            got = self.connection.recv(1)
            assert got, head
            head += got
        assert head.startswith(b"HTTP/1.1 101 "), head

    def session(self) -> socket.socket:
        """The session socket of the hand-over record."""
        data, descriptors, _, _ = socket.recv_fds(self.connection, 1 << 16, 1)
        record = json.loads(data[4:])
        assert record["type"] == "session", record
        self.connection.close()
        session = socket.socket(fileno=descriptors[0])
        session.settimeout(END_SECONDS)
        return session


def frame(
    session: socket.socket,
    request: dict[str, Any],
    stdio: dict[int, int],
    *more: int,
    asks: Sequence[str] = (),
    root: object = (),
) -> None:
    """Send the first frame; `stdio` maps 0-2 to descriptors, `more` follow, of which those that `root` names are the last."""
    tty = [0, 1, 2] if request.get("terminal") else []
    first = {
        "type": "start",
        "version": 2,
        "request": request,
        "asks": list(asks),
        "stdio": sorted(stdio),
        "tty": tty,
        "want": [],
        "root": list(root) if isinstance(root, tuple) else root,
    }
    rights = array.array("i", [*(stdio[n] for n in sorted(stdio)), *more])
    session.sendmsg(
        [json.dumps(first).encode()],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [],
    )


def frames_of(session: socket.socket) -> list[dict[str, Any]]:
    """Every frame until the shim closes."""
    found = []
    while data := session.recv(1 << 18):
        found.append(json.loads(data))
    return found
