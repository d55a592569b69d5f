"""Full-screen programs, and much at once: as in a terminal without a container between."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import subprocess
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyte
import pytest

from tests.integration.terminals import GUARD, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

ROWS, COLUMNS = 24, 80
VI = ("-w", "/tmp", "busybox", "vi", "text")
ESCAPE = "\x1b"


class Screen:
    """What a person sees of a pty's master."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)

    def until(self, row: int, text: str) -> None:
        """Reads until this row begins so."""
        while not self.screen.display[row].startswith(text):
            assert select.select([self.master], [], [], GUARD)[0], "\n".join(self.screen.display)
            self._stream.feed(os.read(self.master, 65536))

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.master, (rows, columns))
        self.screen.resize(rows, columns)


def edit(screen: Screen) -> list[list[str]]:
    """Types into vi; what was seen at each stop."""
    seen = []
    screen.until(1, "~")
    os.write(screen.master, b"ione two\rthree \xc3\xa4\xc3\xb6" + ESCAPE.encode())
    screen.until(1, "three \u00e4\u00f6")
    seen.append(list(screen.screen.display[:5]))
    os.write(screen.master, b"yyp")
    screen.until(2, "three")
    seen.append(list(screen.screen.display[:5]))
    screen.resize(10, 40)
    os.write(screen.master, b"ggOabove" + ESCAPE.encode())
    screen.until(0, "above")
    screen.until(8, "~")
    seen.append(list(screen.screen.display))
    os.write(screen.master, b":wq\r")
    return seen


@contextmanager
def _local(directory: Path, *command: str) -> Iterator[int]:
    """The same program in a pty, without a container."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(master, (ROWS, COLUMNS))
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={"TERM": "xterm"},
        cwd=directory,
    )
    os.close(slave)
    try:
        yield master
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_vi_is_the_same_as_without_a_container(caller: Caller, open_tmp: Path) -> None:
    with _local(open_tmp, "/bin/busybox", "vi", "text") as master:
        local = edit(Screen(master))
    with Terminal(caller, ROWS, COLUMNS) as terminal:
        terminal.run(*VI)
        assert edit(Screen(terminal.master)) == local
        assert terminal.status() == 0


def test_top_fills_the_screen_and_follows_its_size(root: Caller) -> None:
    with Terminal(root, ROWS, COLUMNS) as terminal:
        terminal.run("-e", "TERM=xterm", "/usr/bin/top")
        screen = Screen(terminal.master)
        screen.until(0, "top - ")
        screen.until(7, "      1 root")
        columns = screen.screen.display[6].split()
        assert columns[0] == "PID"
        assert columns[-1] == "COMMAND"
        screen.resize(12, 60)
        screen.until(0, "top - ")
        os.write(terminal.master, b"q")
        assert terminal.status() == 0


def test_a_hundred_megabytes_are_shown(caller: Caller) -> None:
    """Each byte, in its place."""
    size = 100 << 20
    write = f"stty raw; openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c {size}"
    expected = subprocess.run(
        ["/bin/sh", "-c", write.partition("; ")[2] + " | sha256sum"], stdout=subprocess.PIPE, check=True
    ).stdout.split()[0]
    with Terminal(caller) as terminal:
        tty.setraw(terminal.slave)
        terminal.run("/bin/sh", "-c", write)
        digest, left = hashlib.sha256(), size
        while left:
            assert select.select([terminal.master], [], [], GUARD)[0], f"{left} bytes have not come"
            data = os.read(terminal.master, 65536)
            digest.update(data)
            left -= len(data)
        assert digest.hexdigest().encode() == expected
        assert terminal.status() == 0


def test_ten_megabytes_are_pasted_while_as_much_is_shown(caller: Caller) -> None:
    """Both ways at once: neither waits for the other for ever."""
    data = os.urandom(1 << 20).replace(b"\x10", b"\x11") * 10
    with Terminal(caller) as terminal:
        tty.setraw(terminal.slave)
        script = f"stty raw -echo; echo; exec head -c {len(data)}"
        terminal.run("/bin/sh", "-c", script)
        terminal.until("\n")
        os.set_blocking(terminal.master, False)
        left, came = memoryview(data), bytearray()
        while len(came) < len(data):
            readable, writable, _ = select.select(
                [terminal.master], [terminal.master] if left else [], [], GUARD
            )
            assert readable or writable, f"{len(came)} bytes have come, {len(left)} are to be typed"
            if writable:
                left = left[os.write(terminal.master, left[:65536]) :]
            if readable:
                came += os.read(terminal.master, 65536)
        os.set_blocking(terminal.master, True)
        assert came == data
        assert terminal.status() == 0


def test_non_blocking_mode_harms_nobody(root: Caller) -> None:
    """Set by the command on its terminal, and by who shares the caller's: the shell after it finds its own as it was."""
    script = (
        "import fcntl, os, sys\n"
        "for n in (0, 1, 2): fcntl.fcntl(n, fcntl.F_SETFL, fcntl.fcntl(n, fcntl.F_GETFL) | os.O_NONBLOCK)\n"
        "left = memoryview(b'x' * (1 << 20))\n"
        "import select\n"
        "while left:\n"
        "    select.select([], [1], [])\n"
        "    left = left[os.write(1, left):]\n"
    )
    with Terminal(root) as terminal:
        tty.setraw(terminal.slave)
        os.set_blocking(terminal.slave, False)
        terminal.run("/usr/bin/python3", "-ISc", script)
        left = 1 << 20
        while left:
            assert select.select([terminal.master], [], [], GUARD)[0]
            data = os.read(terminal.master, 65536)
            assert set(data) == {ord("x")}
            left -= len(data)
        assert terminal.status() == 0
        assert not os.get_blocking(terminal.slave)
    with Terminal(root) as terminal:
        terminal.run("/usr/bin/python3", "-ISc", script.partition("left")[0])
        assert terminal.status() == 0
        assert os.get_blocking(terminal.slave)
