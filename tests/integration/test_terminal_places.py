"""Where a terminal may be: under script(1), after su(1), in a session without one, in the background of a shell."""

from __future__ import annotations

import fcntl
import os
import termios
from typing import TYPE_CHECKING

import pytest

from tests.integration.terminals import GUARD, Terminal

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

LOOK = "test -t 0 && test -t 1 && stty size"


def shell(terminal: Terminal, line: str, *args: str) -> subprocess.Popen[bytes]:
    """Starts a line of bash(1) at this terminal, the installed client first on PATH."""
    slave = terminal.slave
    terminal.client = terminal.caller.popen_shell(
        line,
        *args,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    )
    return terminal.client


def test_below_script(caller: Caller) -> None:
    """A pty in a pty, as `ssh -t` makes one: the inner one's size and keys count."""
    with Terminal(caller, 20, 70) as terminal:
        shell(
            terminal,
            f"script -qec \"dkrctl run --rm /bin/sh -c '{LOOK}; read word; echo got \\$word'\" /dev/null",
        )
        terminal.until("20 70\r\n")
        terminal.type("this\r")
        terminal.until("got this\r\n")
        assert terminal.status() == 0


def test_on_the_terminal_of_another_user(daemon: Daemon, tenant: host.User, root: Caller) -> None:
    """As after su: it can be used by its descriptors, and not be opened again."""
    with Terminal(root) as terminal:
        before = terminal.mode()
        command = (
            f"{daemon.prefix}/bin/dkrctl run --rm /bin/sh -c '{LOOK}; read word; echo got $word; exit 4'"
        )
        line = f'su {tenant.name} -s /bin/sh -c "$1"'
        shell(terminal, line, command)
        terminal.until("33 101\r\n")
        assert terminal.is_raw()
        terminal.type("that\r")
        terminal.until("got that\r\n")
        assert terminal.status() == 4
        assert terminal.mode() == before


def test_without_a_controlling_terminal(caller: Caller) -> None:
    """setsid(1): there is no job control then, and nobody to stop for."""
    with Terminal(caller) as terminal:
        before = terminal.mode()
        slave = terminal.slave
        terminal.client = caller.start(
            "/bin/sh", "-c", f"{LOOK}; read word; echo got $word",
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        terminal.until("33 101\r\n")
        terminal.type("this\r")
        terminal.until("got this\r\n")
        assert terminal.status() == 0
        assert terminal.mode() == before


def test_below_nohup_a_closed_window_ends_nothing_but_the_view(root: Caller, open_tmp: Path) -> None:
    """nohup(1) has its output in a file and its input closed to reading: the command lives on."""
    done = open_tmp / "done"
    with Terminal(root) as terminal:
        client = shell(
            terminal,
            f"cd {open_tmp}; exec nohup dkrctl run --rm /bin/sh -c 'echo up; sleep 1; echo end' >{done} 2>&1",
        )
        while not done.exists() or "up" not in done.read_text():
            os.sched_yield()
        terminal.hang_up()
        assert client.wait(GUARD) == 0
    assert done.read_text().endswith("up\nend\n")


def test_two_terminals(root: Caller) -> None:
    """Typed on one, shown on another, errors on a third: each where the caller has it."""
    with Terminal(root, 10, 40) as typed, Terminal(root, 11, 41) as shown, Terminal(root, 12, 42) as errors:
        typed.run(
            "/bin/sh", "-c", "stty size; read word; echo out $word; echo err $word >&2; test -t 2; echo $?",
            stdout=shown.slave, stderr=errors.slave,
        )  # fmt: skip
        shown.until("10 40\r+\n")  # its own line discipline makes line ends too
        typed.type("this\r")
        shown.until("out this\r+\n1\r+\n")
        errors.until("err this\r\n")
        assert typed.status() == 0
