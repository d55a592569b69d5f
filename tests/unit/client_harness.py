"""Runs the client, as it is installed, against the peer of client_peer.py."""

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# The installed code, where there is an install: other users run it too, and may not be able to reach the checkout.
_PREFIX = os.environ.get("DKR_TEST_PREFIX")
ROOT = next(Path(_PREFIX).glob("lib/python3*/site-packages")) if _PREFIX else Path(__file__).parents[2]
# Debian's interpreter, as the installed script has it; elsewhere the one that runs the tests.
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
CTTY = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def root_made_socket() -> bool:
    """Whether sockets made here count as made by root: what the client demands of a session."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        return ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8] == bytes(4)


class Peer:
    """The peer as a process, and the client's script beside it."""

    module = "tests.unit.client_peer"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "s"
        self.script = directory / "dkrctl"
        self.script.write_text(
            f'#!{PYTHON} -IS\nimport sys; sys.path.insert(0, "{ROOT}")\nfrom dkrctl.lean import entry; entry()\n'
        )
        self.script.chmod(0o755)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, str(self.socket)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.told("ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)  # its own session: the peer and the children that serve
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill_sessions(self) -> None:
        """End what serves the sessions that are open, as if a guardian were killed."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in task.read_text().split():
            os.kill(int(pid), 9)

    def told(self, key: str) -> Any:
        """The next thing the peer tells under `key`; waits for it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            entry = json.loads(line)
            if key in entry:
                return entry if key == "start" else entry[key]
        raise AssertionError(f"the peer ended without telling {key}")

    def command(self, *words: str, label: str = "") -> list[str]:
        """The client's command line."""
        labels = ["--label", f"peer={label}"] if label else []
        return [str(self.script), "--socket", str(self.socket), "run", *labels, *words]

    def verb(self, *words: str) -> list[str]:
        """The client's command line for a verb."""
        return [str(self.script), "--socket", str(self.socket), *words]

    def attach(self, *words: str) -> list[str]:
        """The client's command line for an attach."""
        return self.verb("attach", *words)

    def run(
        self, *words: str, label: str = "", data: bytes = b"", **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end, all on pipes."""
        return subprocess.run(
            self.command(*words, label=label), input=data, capture_output=True, check=False, **more
        )

    def popen(self, *words: str, label: str = "", **more: Any) -> subprocess.Popen[bytes]:
        """Start it."""
        return subprocess.Popen(self.command(*words, label=label), **more)


class Tty:
    """A caller's terminal: `master` is the user's side."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = b""

    def close(self) -> None:
        """Hang up."""
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def client(self, command: list[str], **over: Any) -> subprocess.Popen[bytes]:
        """`command` in a session of its own with this as its controlling terminal and as 0-2, unless `over` says else."""
        where: dict[str, Any] = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave, **over}
        return subprocess.Popen([sys.executable, "-c", CTTY, *command], start_new_session=True, **where)

    def type(self, data: bytes) -> None:
        """Keys."""
        os.write(self.master, data)

    def until(self, mark: bytes) -> bytes:
        """What is shown, until `mark` is."""
        while mark not in self.seen:
            data = os.read(self.master, 65536)
            assert data
            self.seen += data
        before, _, self.seen = self.seen.partition(mark)
        return before + mark

    def rest(self) -> bytes:
        """What is still to be shown; for after the end."""
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536)
        return self.seen

    def raw(self) -> bool:
        """Whether the terminal is raw."""
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON


@contextlib.contextmanager
def terminal() -> Iterator[Tty]:
    """A terminal, closed afterwards."""
    tty = Tty()
    try:
        yield tty
    finally:
        tty.close()
