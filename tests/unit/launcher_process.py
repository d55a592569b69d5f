"""A real launcher in a place of its own, with a stand-in api and a stand-in shim around it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).with_name("launcher_stand_ins.py")
PYTHON = "/usr/bin/python3"  # one that another user can execute
DEADLINE = 20.0


class PidFd:
    """A process, for select(2)."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class Daemon:
    """A launcher in a place of its own."""

    def __init__(self, place: Path, **keys: object) -> None:
        self.place = place
        self.state, self.run, self.socket = place / "state", place / "run", place / "run/dkr.sock"
        self.file = place / "dkrd.toml"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(place / "notify"))
        self.notify.settimeout(DEADLINE)
        shutil.copy(STAND_INS, place / "stand_ins.py")
        self.argv([PYTHON, "-I", str(place / "stand_ins.py"), "api"])
        self.keys: dict[str, object] = {"socket_mode": "0666", "socket_group": "root", "api_user": "nobody"}
        self.configure(**keys)
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self, argv: list[str]) -> None:
        (self.place / "argv.json").write_text(json.dumps(argv))

    def configure(self, **keys: object) -> None:
        self.keys |= keys
        sections: dict[str, list[str]] = {
            "": [f'state_dir = "{self.state}"', f'run_dir = "{self.run}"'],
            "ids": [f'directory = "{self.place / "ids"}"', "first = 2013265920", "last = 2015363071"],
            "limits": [],
        }
        for key, value in self.keys.items():
            section, _, name = key.rpartition(".")
            sections[section].append(f"{name} = {json.dumps(value)}")
        text = "\n".join(
            [*sections.pop(""), *(f"[{s}]\n" + "\n".join(lines) for s, lines in sections.items())]
        )
        self.file.write_text(text + "\n")

    def spawn(
        self,
        before: list[str] | None = None,
        *,
        environ: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        env = {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(self.place / "notify"), **(environ or {})}
        with open(self.place / "log", "ab") as log:
            return subprocess.Popen(
                [*(before or [sys.executable]), str(STAND_INS), "launcher", str(self.file)],
                env=env,
                stderr=log,
                **options,
            )

    def start(self, **options: Any) -> None:
        self.process = self.spawn(**options)
        self.notified("READY=1")

    def notified(self, wanted: str) -> list[str]:
        """Everything the service manager is told until `wanted` comes."""
        assert self.process is not None
        seen: list[str] = []
        with contextlib.ExitStack() as stack:
            watched: list[Any] = [self.notify]
            if self.process.returncode is None:
                watched.append(stack.enter_context(contextlib.closing(PidFd(self.process.pid))))
            while wanted not in seen:
                ready = select.select(watched, [], [], DEADLINE)[0]
                assert self.notify in ready, f"no {wanted}: {self.log()}"
                seen += self.notify.recv(4096).decode().split("\n")
        return seen

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def clean_up(self) -> None:
        """End the launcher, then whatever else was started with this place on its command line."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.fsencode(self.place) in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    def log(self) -> str:
        return (self.place / "log").read_text()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(str(self.socket))
        return sock

    def ask(self, **command: object) -> Any:
        """What the stand-in api answers; {} where it closes the connection without a word."""
        with self.connect() as sock:
            sock.sendall(json.dumps(command).encode())
            try:
                data = b"".join(iter(lambda: sock.recv(65536), b""))
            except TimeoutError:
                pytest.fail(f"no answer to {command}: {self.log()}")
        return json.loads(data) if data else {}

    def run_container(self, *, pad: int = 0, **bundle: object) -> dict[str, Any]:
        """The hand-over record after a start with a bundle that is `pad` bytes longer."""
        with self.connect() as sock:
            sock.sendall(json.dumps({"do": "start", "bundle": bundle, "pad": pad}).encode())
            length = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big")
            record: dict[str, Any] = json.loads(sock.recv(length, socket.MSG_WAITALL))
            return record

    def told(self, kind: str, about: str | None = None) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.ask(do="told", type=kind, id=about)
        return messages

    def running(self) -> tuple[str, int, int]:
        """Start a container; its id, shim and init."""
        record = self.run_container(do="run")
        state = self.told("state", record["id"])[0]["state"]
        return record["id"], state["shimPid"], state["pid"]


def gone(pid: int) -> None:
    """Wait until the process, which must be there or just have ended, is dead."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], DEADLINE)[0], f"process {pid} lives on"
        finally:
            os.close(descriptor)


def reaped(pid: int) -> None:
    """Wait until whoever inherited the process has reaped it."""
    with contextlib.suppress(ProcessLookupError), contextlib.closing(PidFd(pid)) as ended:
        poll = select.poll()
        poll.register(ended, 0)  # POLLHUP alone, which comes after the zombie is gone
        assert poll.poll(DEADLINE * 1000), f"process {pid} was not reaped"


def as_user(uid: int, call: Callable[[], object]) -> Any:
    """The JSON result of `call()` in a child that really is another user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(write, json.dumps(call()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(data)


@contextlib.contextmanager
def launcher() -> Iterator[Daemon]:
    """A launcher that is not started yet; nothing of it is left afterwards."""
    place = Path(tempfile.mkdtemp(prefix="dkr-launcher-"))
    place.chmod(0o755)
    made = Daemon(place)
    try:
        yield made
    finally:
        made.clean_up()
        made.notify.close()
        shutil.rmtree(place)
