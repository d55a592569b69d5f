"""A terminal to start the client in: a pty whose other side the test holds, or one of tmux's."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Self

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.integration.conftest import Caller

GUARD = guard(20.0)  # seconds after which what should have been shown never will


def keepers(caller: Caller) -> list[host.Process]:
    """The children of clients that give terminals back."""
    variable = (
        f"DKR_SOCKET={caller.daemon.socket}"  # not the install: other tests may use that at the same time
    )
    return [p for p in host.processes() if p.comm == "dkrctl-keeper" and variable in host.environment(p.pid)]


class Terminal:
    """A pty: the client has it as its controlling terminal and as 0-2, the test types and reads at `master`."""

    def __init__(self, caller: Caller, rows: int = 33, columns: int = 101) -> None:
        self.caller = caller
        self.master, self.slave = pty.openpty()
        if caller.user is not None:
            os.fchown(self.slave, caller.user.uid, -1)  # as login(1) does
        self.shown = b""
        self.client: subprocess.Popen[Any] | None = None
        self.resize(rows, columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.client is not None:
            self.client.kill()
            self.client.wait()
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)

    def run(self, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts `dkrctl run --rm ARGS...` here; options as those of subprocess.Popen."""
        self.client = self.caller.start(*args, **self.here(**options))
        return self.client

    def attach(self, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts `dkrctl attach ARGS...` here."""
        self.client = self.caller.daemon.popen("attach", *args, user=self.caller.user, **self.here(**options))
        return self.client

    def exec(self, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts `dkrctl exec ARGS...` here."""
        self.client = self.caller.daemon.popen("exec", *args, user=self.caller.user, **self.here(**options))
        return self.client

    def here(self, **options: Any) -> dict[str, Any]:
        """Options of subprocess.Popen with which a program is at this terminal."""
        slave = self.slave
        place: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        place["preexec_fn"] = lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        return {"start_new_session": True, **place, **options}

    def resize(self, rows: int, columns: int) -> None:
        """Changes the terminal's size, as its window would; the kernel tells the client."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Types."""
        os.write(self.master, text.encode())

    def read(self) -> bool:
        """Reads once what is shown next; False where nothing comes within the guard's time."""
        if not select.select([self.master], [], [], GUARD)[0]:
            return False
        self.shown += os.read(self.master, 65536)
        return True

    def until(self, pattern: str) -> re.Match[bytes]:
        """Reads until `pattern` has been shown, takes all up to its end off `shown`, and gives the match."""
        while not (found := re.search(pattern.encode(), self.shown)):
            assert self.read(), f"not shown: {pattern}, but {self.shown!r}"
        self.shown = self.shown[found.end() :]
        return found

    def status(self) -> int:
        """Waits for the client's end, reads the rest of what it has shown, and gives its status."""
        assert self.client is not None
        ended = os.pidfd_open(self.client.pid)
        try:
            while True:
                ready = select.select([self.master, ended], [], [], GUARD)[0]
                assert ready, f"the client does not end; shown: {self.shown!r}"
                if self.master in ready:
                    self.shown += os.read(self.master, 65536)
                elif ended in ready:
                    # It may have written its last words and ended between the look at the terminal and that at the client.
                    while select.select([self.master], [], [], 0)[0]:
                        self.shown += os.read(self.master, 65536)
                    return self.client.wait()
        finally:
            os.close(ended)

    def mode(self) -> list[Any]:
        """The terminal's attributes: tcgetattr(3)."""
        return termios.tcgetattr(self.slave)

    def is_raw(self) -> bool:
        """Whether what is typed goes on byte by byte, unseen and without a meaning."""
        return not self.mode()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def until_raw(self) -> None:
        """Waits until the client has taken the terminal over: no event tells that where the command says nothing."""
        while not self.is_raw():
            select.select([], [], [], 0.005)

    def hang_up(self) -> None:
        """Closes the window."""
        os.close(self.master)
        os.close(self.slave)
        self.master = self.slave = -1


class Tmux:
    """A server of tmux's own with one window, in which an interactive shell runs."""

    def __init__(self, caller: Caller, directory: Path, rows: int, columns: int) -> None:
        self._environment = {
            **caller.daemon.environment(),
            "PATH": f"{caller.daemon.prefix}/bin:/usr/bin:/bin",
            "TMUX_TMPDIR": str(directory),
            "TERM": "screen",
        }
        shell = "exec env 'PS1=outside> ' bash --norc --noprofile"
        self.command("new-session", "-d", "-x", str(columns), "-y", str(rows), shell)
        self.command("set-option", "-g", "window-size", "manual")

    def command(self, *args: str) -> str:
        """Runs tmux(1) against this server."""
        return self._run(*args, check=True).stdout

    def _run(self, *args: str, check: bool) -> subprocess.CompletedProcess[str]:
        words = ["tmux", "-L", "dkr", "-f", "/dev/null", *args]
        return subprocess.run(words, env=self._environment, check=check, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("kill-server", check=False)  # it ends with its last window, and then the failure is another

    def type(self, *keys: str) -> None:
        """Types keys, in tmux's names; a text is a key as well."""
        self.command("send-keys", *keys)

    def until(self, pattern: str) -> str:
        """The screen, once it shows `pattern`. tmux tells of no event for that."""
        until = time.monotonic() + GUARD
        while True:
            screen = self.command("capture-pane", "-p")
            if re.search(pattern, screen, re.MULTILINE):
                return screen
            assert time.monotonic() < until, f"not shown: {pattern}, but\n{screen}"
            select.select([], [], [], 0.02)
