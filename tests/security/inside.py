"""Questions to a container: a Python program runs in it and prints JSON; containers that stand while a test looks."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon

PYTHON = ("/usr/bin/python3", "-IS", "-c")

# What every probe may use. `refusal` gives an error's name: EPERM, EROFS; None where the call succeeded.
PRELUDE = """
import ctypes, errno, fcntl, json, os, socket, stat, struct, sys
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
def refusal(call, *args, **more):
    try:
        value = call(*args, **more)
    except OSError as err:
        return errno.errorcode[err.errno]
    if type(value) is int and call is os.open:
        os.close(value)
    return None
def syscall(number, *args):
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    if LIBC.syscall(ctypes.c_long(number), *words) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind, flags, data=None):
    if LIBC.mount(source, target, kind, ctypes.c_ulong(flags), data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def umount(target, flags=0):
    if LIBC.umount2(target, flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
def mountinfo():
    return [line.split() for line in text("/proc/self/mountinfo").splitlines()]
def tell(value):
    sys.stdout.write(json.dumps(value))
"""


def ask(daemon: Daemon, probe: str, *options: str, user: host.User | None = None, **more: Any) -> Any:
    """What `probe` passes to tell(), run in a fresh container as its first process."""
    done = daemon.run(*options, *PYTHON, PRELUDE + probe, user=user, **more)
    return json.loads(done.stdout)


def status_fields(text: str) -> dict[str, str]:
    """The lines of proc(5) /proc/PID/status."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@dataclass(frozen=True, slots=True)
class Standing:
    """A running container: its id, the host's pid of its first process, and a shell in it."""

    id: str
    pid: int
    client: subprocess.Popen[str]

    def do(self, line: str) -> str:
        """What the shell inside prints for `line`, stderr too."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(f"{{ {line}; }} 2>&1; printf '\\nend\\n'\n")
        self.client.stdin.flush()
        lines = []
        while (got := self.client.stdout.readline()) != "end\n":
            assert got, "the container has ended"
            lines.append(got)
        return "".join(lines).rstrip("\n")


@contextmanager
def standing(daemon: Daemon, *options: str, user: host.User | None = None, **more: Any) -> Iterator[Standing]:
    """A container with a shell for the block; whatever it says, it is gone afterwards."""
    places = daemon.run_dir / "containers"
    before = set(places.iterdir())
    client = daemon.popen(
        "run",
        "--rm",
        *options,
        "/bin/sh",
        user=user,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        **more,
    )
    with client:
        try:
            assert client.stdout is not None
            assert client.stdin is not None
            client.stdin.write("echo up\n")
            client.stdin.flush()
            assert client.stdout.readline() == "up\n"
            [place] = set(places.iterdir()) - before
            # By its cgroup: state.json may say so a moment after the command has begun to run.
            [shell] = [p.pid for p in host.processes() if place.name in p.cgroups and p.comm == "sh"]
            yield Standing(place.name, shell, client)
            client.stdin.write("exit\n")
            client.stdin.close()
            assert client.wait(guard(10.0)) == 0
        finally:
            client.kill()
