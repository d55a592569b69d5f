"""How a terminal is left: by keys while the command runs on, and as it was whatever becomes of the client."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.terminals import GUARD, Terminal, keepers
from tests.sessions import gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

CTRL_P, CTRL_Q, CTRL_X = "\x10", "\x11", "\x18"
# Says what it reads, byte by byte, as numbers; ends at a dot.
ECHO = (
    "import os, tty; tty.setraw(0); os.write(1, b'up;')\n"
    "while (c := os.read(0, 1)) != b'.': os.write(1, b'%d;' % c[0])\n"
)
READER = ("/usr/bin/python3", "-ISc", ECHO)


@pytest.fixture(autouse=True)
def nothing_runs_on(daemon: Daemon) -> Iterator[None]:
    """A guardian ends behind its client, and its command may: the next test must not take them for its own."""
    yield
    gone(daemon)


def until(what: Callable[[], bool]) -> None:
    """Looks until it is so: what other processes do to a terminal is no event."""
    for _ in range(int(GUARD / 0.005)):
        if what():
            return
        select.select([], [], [], 0.005)
    raise AssertionError("it has not come to be")


def end(caller: Caller, comm: str) -> None:
    """Ends the container whose one process this is."""
    process = caller.command(comm)
    host.kill(process)
    host.wait_gone(process.pid, GUARD)


# As it was


@pytest.mark.parametrize("group", [False, True])
def test_a_client_that_is_killed(caller: Caller, group: bool) -> None:
    """Alone, or with all of its job."""
    with Terminal(caller) as terminal:
        before = terminal.mode()
        client = terminal.run("--on-disconnect", "kill", "/bin/sleep", "600")
        terminal.until_raw()
        if group:
            os.killpg(client.pid, signal.SIGKILL)
        else:
            client.kill()
        until(lambda: terminal.mode() == before)
        client.wait()
        until(lambda: not keepers(caller))


def test_a_client_that_ends_leaves_no_child(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        before = terminal.mode()
        terminal.run("/bin/cat")
        terminal.until_raw()
        until(lambda: len(keepers(caller)) == 1)
        terminal.type("\x04")
        assert terminal.status() == 0
        assert terminal.mode() == before
        assert not keepers(caller)


def test_what_another_has_made_of_the_terminal_stays(root: Caller) -> None:
    """A shell that took it over has its own ideas."""
    with Terminal(root) as terminal:
        client = terminal.run("--on-disconnect", "kill", "/bin/sleep", "600")
        terminal.until_raw()
        mode = terminal.mode()
        mode[3] |= termios.ISIG
        termios.tcsetattr(terminal.slave, termios.TCSANOW, mode)
        client.kill()
        client.wait()
        until(lambda: not keepers(root))
        assert terminal.mode() == mode


def test_a_guardian_that_is_killed(root: Caller) -> None:
    with Terminal(root) as terminal:
        before = terminal.mode()
        terminal.run("/bin/sleep", "600")
        terminal.until_raw()
        sleeper = root.command("sleep")
        [shim] = [p for p in root.daemon.processes() if p.comm == "dkr-shim"]
        host.kill(shim)
        assert terminal.status() == 125
        assert b"lost the container's guardian" in terminal.shown
        assert terminal.mode() == before
        host.kill(sleeper)
        until(lambda: not root.containers())  # the launcher cleans up in the guardian's place


def test_a_client_that_fails(root: Caller, open_tmp: Path) -> None:
    """After it has taken the terminal: its file for the id is on a disk that is full."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", open_tmp], check=True)
    try:
        (open_tmp / "full").write_bytes(b"x" * 4096)
        with Terminal(root) as terminal:
            before = terminal.mode()
            terminal.run("--cidfile", str(open_tmp / "id"), "/bin/sleep", "600")
            assert terminal.status() == 125
            assert b"dkrctl: cannot write the id to " in terminal.shown
            assert b"no space left on device\r\n" in terminal.shown
            assert terminal.mode() == before
        assert not (open_tmp / "id").exists()
        until(lambda: not root.containers())
    finally:
        subprocess.run(["umount", open_tmp], check=True)


# By keys


def test_ctrl_p_ctrl_q_leaves_and_the_command_runs_on(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        before = terminal.mode()
        terminal.run("--name", "left-alone", *READER)
        terminal.until("up;")
        terminal.type("a" + CTRL_P)
        terminal.until("97;16;")  # a lone ctrl-P waits for nothing
        terminal.type("b")
        terminal.until("98;")
        terminal.type(CTRL_P + CTRL_Q + "never")
        assert terminal.status() == 0
        # The answer to the second ctrl-P may come before the end, or be nobody's.
        remark = b"dkrctl: left left-alone, which runs on; to come back: dkrctl attach left-alone\r\n"
        assert terminal.shown in (remark, b"16;" + remark)
        assert terminal.mode() == before
        assert not keepers(caller)
    end(caller, "python3")


def test_the_sequence_may_come_in_pieces(root: Caller) -> None:
    with Terminal(root) as terminal:
        terminal.run("-q", *READER)
        terminal.until("up;")
        terminal.type(CTRL_P)
        terminal.until("16;")
        terminal.type(CTRL_P)
        terminal.until("16;")
        terminal.type(CTRL_Q)
        assert (terminal.status(), terminal.shown) == (0, b"")
    end(root, "python3")


@pytest.mark.parametrize("way", ["option", "variable"])
def test_other_keys(root: Caller, way: str) -> None:
    with Terminal(root) as terminal:
        options = ("--detach-keys", "ctrl-x,q") if way == "option" else ()
        terminal.run("-q", *options, *READER, env={} if options else {"DKR_DETACH_KEYS": "ctrl-x,q"})
        terminal.until("up;")
        terminal.type(CTRL_P + CTRL_Q)
        terminal.until("16;17;")
        terminal.type(CTRL_X + "q")
        assert terminal.status() == 0
    end(root, "python3")


def test_no_keys(root: Caller) -> None:
    with Terminal(root) as terminal:
        terminal.run("--detach-keys", "", *READER)
        terminal.until("up;")
        terminal.type(CTRL_P + CTRL_Q + ".")
        terminal.until("16;17;")
        assert terminal.status() == 0


def test_keys_that_are_none(root: Caller) -> None:
    """Refused also where nobody could type them."""
    done = root.run("--detach-keys", "ctrl-p,meta-q", "/bin/true")
    assert done.returncode == 125
    assert "cannot take --detach-keys ctrl-p,meta-q: meta-q is no key" in done.stderr
