"""`dkrctl start` and `attach` at a terminal: containers that have one, whose guardian holds it, and such that have none."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.terminals import Terminal, keepers
from tests.integration.verbs import sweep
from tests.sessions import ECHO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

LEAVE = "\x10\x11"  # ctrl-P ctrl-Q
CTRL_C, CTRL_D, CTRL_U, CTRL_Z = "\x03", "\x04", "\x15", "\x1a"
TALKS = 'echo up; while read word; do echo "got $word"; done; exit 7'


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


@contextmanager
def made(caller: Caller, name: str, line: str, *options: str) -> Iterator[Terminal]:
    """A container that will run a line, and a terminal, which must be as it was afterwards."""
    words = ("create", "--name", name, *options, "/bin/sh", "-c", line)
    caller.daemon.dkrctl(*words, user=caller.user, check=True)
    with Terminal(caller) as terminal:
        before = terminal.mode()
        yield terminal
        assert terminal.mode() == before
    assert not keepers(caller)


def dkrctl(terminal: Terminal, *words: str) -> None:
    """Starts a verb at this terminal."""
    terminal.client = terminal.caller.daemon.popen(*words, user=terminal.caller.user, **terminal.here())


# with a terminal of its own


def test_start_at_a_terminal_of_its_own(caller: Caller) -> None:
    """Nothing of what it shows first is missed; it gets this one's size; keys are the command's."""
    sized = "echo first; stty size"
    with made(caller, "shell", f"{sized}; {ECHO}", "-it") as terminal:
        dkrctl(terminal, "start", "-ai", "shell")
        terminal.until("first\r\n33 101\r\n")
        terminal.until("up\r\n")
        assert terminal.is_raw()
        terminal.type("one\r")
        terminal.until("got one\r\n")
        terminal.type("end 5\r")
        assert (terminal.status(), terminal.shown) == (5, b"")


def test_leaving_it_and_coming_back(caller: Caller) -> None:
    with made(caller, "shell", ECHO, "-it") as terminal:
        dkrctl(terminal, "start", "-ai", "shell")
        terminal.until("up\r\n")
        terminal.type(LEAVE)
        assert terminal.status() == 0
        assert b"left shell, which runs on; to come back: dkrctl attach shell\r\n" in terminal.shown
        terminal.shown = b""
        dkrctl(terminal, "attach", "shell")
        terminal.until_raw()
        terminal.type("\rback\r")
        terminal.until("got back\r\n")
        terminal.type("end 6\r")
        assert terminal.status() == 6
    log = caller.daemon.dkrctl("logs", "shell", user=caller.user, text=False, check=True).stdout
    assert log.startswith(b"up\r\n")
    assert b"got back\r\n" in log


def test_ctrl_c_is_a_byte_there(caller: Caller) -> None:
    with made(
        caller, "shell", "trap 'echo int; exit 9' INT; echo up; while :; do read word; done", "-it"
    ) as terminal:
        dkrctl(terminal, "start", "-ai", "shell")
        terminal.until("up\r\n")
        terminal.type(CTRL_C)
        terminal.until("int\r\n")
        assert terminal.status() == 9


def test_to_look_on_from_the_start(caller: Caller) -> None:
    """Without -i keys go nowhere, ctrl-C is a signal of this terminal's and passed on."""
    line = (
        "trap 'echo int; exit 9' INT; echo up; while :; do read -r word; echo \"got $word\"; sleep 600; done"
    )
    with made(caller, "looked-at", line, "-it") as terminal:
        dkrctl(terminal, "start", "-a", "looked-at")
        terminal.until("up\r\n")
        terminal.type("word\r")
        terminal.type(CTRL_C)
        terminal.until("int\r\n")
        assert terminal.status() == 9
        assert b"got" not in terminal.shown


def test_a_terminal_that_nobody_is_at_yet(caller: Caller) -> None:
    """Started without a client: its log has what it showed, and who comes is at it."""
    with made(caller, "shell", ECHO, "-it") as terminal:
        caller.daemon.dkrctl("start", "shell", user=caller.user, check=True)
        dkrctl(terminal, "attach", "shell")
        terminal.until_raw()
        terminal.type("one\r")
        terminal.until("got one\r\n")
        terminal.type("end 4\r")
        assert terminal.status() == 4


# without


def test_lines_for_a_command_without_a_terminal(caller: Caller) -> None:
    with made(caller, "talks", TALKS, "-i") as terminal:
        dkrctl(terminal, "start", "-ai", "talks")
        terminal.until("up\r\n")
        assert not terminal.is_raw()
        terminal.type(f"wrong{CTRL_U}word\r")
        terminal.until("got word\r\n")
        terminal.type(CTRL_D)
        assert terminal.status() == 7


def test_leaving_a_command_without_a_terminal_and_coming_back(caller: Caller) -> None:
    with made(caller, "talks", TALKS, "-i") as terminal:
        dkrctl(terminal, "start", "-ai", "talks")
        terminal.until("up\r\n")
        terminal.type(LEAVE)
        assert terminal.status() == 0
        assert b"to come back: dkrctl attach talks\r\n" in terminal.shown
        terminal.shown = b""
        dkrctl(terminal, "attach", "--detach-keys", "ctrl-x", "talks")
        terminal.type("\rback\r")  # the first of the keys that leave went on, and is the line's beginning
        terminal.until("got back\r\n")
        terminal.type("\x18")
        assert terminal.status() == 0
    caller.daemon.dkrctl("rm", "-f", "talks", user=caller.user, check=True)


def test_ctrl_c_for_a_command_without_a_terminal(caller: Caller) -> None:
    with made(
        caller, "traps", "trap 'echo int; exit 9' INT; echo up; while :; do sleep 600 & wait; done"
    ) as terminal:
        dkrctl(terminal, "start", "-a", "traps")
        terminal.until("up\r\n")
        terminal.type(CTRL_C)
        terminal.until("int\r\n")
        assert terminal.status() == 9
