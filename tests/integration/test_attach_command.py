"""`dkrctl attach`: at the terminal of a container that runs, beside others, and away again."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.conftest import Caller
from tests.integration.terminals import GUARD, Terminal, keepers
from tests.sessions import ECHO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

LEAVE = "\x10\x11"  # ctrl-P ctrl-Q
CTRL_C, CTRL_X, CTRL_Z = "\x03", "\x18", "\x1a"


@contextmanager
def running(caller: Caller, name: str, *args: str) -> Iterator[Terminal]:
    """A container of this name with ECHO (or what `args` say), held by its client at a terminal."""
    with Terminal(caller) as terminal:
        terminal.run("--name", name, *(args or ("/bin/sh", "-c", ECHO)))
        terminal.until("up\r\n")
        yield terminal


def attached(terminal: Terminal, *args: str) -> None:
    """`dkrctl attach ARGS` at this terminal, up to where what is typed is the command's."""
    terminal.attach(*args)
    terminal.until_raw()


def until_changed(terminal: Terminal, before: object) -> None:
    """Waits until the client has taken the terminal, in whatever way: no event tells that."""
    while terminal.mode() == before:
        select.select([], [], [], 0.005)


def says(terminal: Terminal, word: str, *others: Terminal) -> None:
    """What is typed here is answered, to all."""
    terminal.type(f"{word}\r")
    for one in (terminal, *others):
        one.until(f"got {word}\r\n")


def test_two_at_one_terminal(caller: Caller) -> None:
    with running(caller, "both") as first, Terminal(caller) as second:
        before = second.mode()
        attached(second, "both")
        says(second, "one", first)
        says(first, "two", second)
        second.type("end 7\r")
        assert (first.status(), second.status()) == (7, 7)
        assert (first.shown, second.shown) == (b"", b"")
        assert second.mode() == before
        assert not first.is_raw()
        assert not keepers(caller)


def test_leaving_and_coming_back(caller: Caller) -> None:
    with running(caller, "left") as terminal:
        terminal.type(LEAVE)
        assert terminal.status() == 0
        assert b"to come back: dkrctl attach left\r\n" in terminal.shown
        attached(terminal, "left")
        terminal.type("\r")  # the first of the keys that leave went on, and is the line's beginning
        says(terminal, "back")
        terminal.type(LEAVE)
        assert terminal.status() == 0
        assert b"dkrctl: left left, which runs on; to come back: dkrctl attach left\r\n" in terminal.shown
        assert not terminal.is_raw()
        attached(terminal, "--detach-keys", "ctrl-x", "-q", "left")
        terminal.type("\r")
        says(terminal, "again")
        terminal.type(CTRL_X)
        assert (terminal.status(), terminal.shown) == (0, b"")
        attached(terminal, "left")
        terminal.type("end 3\r")
        assert terminal.status() == 3


def test_what_was_typed_before_leaving_arrives(root: Caller) -> None:
    """All in one paste: the keys that leave overtake nothing."""
    script = (
        "import os, tty\n"
        "tty.setraw(0); os.write(1, b'up\\r\\n'); got = []\n"
        "while (c := os.read(0, 1)) != b'.': got.append(c[0])\n"
        "os.write(1, b'%r\\r\\n' % (got,))\n"
    )
    with running(root, "paste", "/usr/bin/python3", "-ISc", script) as terminal:
        terminal.type("abc" + LEAVE + "never")
        assert terminal.status() == 0
        attached(terminal, "paste")
        terminal.type("d.")
        terminal.until(r"\[97, 98, 99, 16, 100\]\r\n")
        assert terminal.status() == 0


def test_one_can_leave_though_the_command_reads_nothing(root: Caller) -> None:
    """More than the command's terminal takes was typed before."""
    script = "stty raw -echo; printf 'up\\r\\n'; exec sleep 600"
    with running(root, "deaf", "/bin/sh", "-c", script) as terminal:
        for _ in range(40):
            terminal.type("x" * 1000)
        terminal.type(LEAVE)
        assert terminal.status() == 0
    host.kill(root.command("sleep"))


def test_who_looks_on(root: Caller) -> None:
    """Keys go nowhere, ctrl-C and the keys that leave do; line ends are the command's terminal's alone."""
    with running(root, "seen") as holder, Terminal(root) as terminal:
        for way, status in ((CTRL_C, 130), (LEAVE, 0)):
            before = terminal.mode()
            terminal.attach("--no-stdin", "-q", "seen")
            until_changed(terminal, before)
            terminal.type("nothing\r")
            says(holder, "heard", terminal)
            terminal.type(way)
            assert (terminal.status(), terminal.shown) == (status, b"")
            assert terminal.mode() == before
        assert b"nothing" not in holder.shown
        holder.type("end 0\r")
        assert holder.status() == 0


def test_who_looks_on_is_stopped_and_goes_on(root: Caller) -> None:
    """ctrl-Z there is for the client, as at any program."""
    with running(root, "looked") as holder, Terminal(root) as terminal:
        before = terminal.mode()
        line = 'set -m; dkrctl attach --no-stdin looked; echo stopped $?; stty -a | grep -o ".icanon"; fg; echo end $?'
        terminal.client = root.popen_shell(line, **terminal.here())
        until_changed(terminal, before)
        terminal.type(CTRL_Z)
        terminal.until("stopped 148\r\n icanon\r\n")
        says(holder, "meanwhile", terminal)
        holder.type("end 6\r")
        terminal.until("end 6\r\n")
        assert (terminal.status(), holder.status()) == (0, 6)


def test_a_terminal_for_output_only(root: Caller, open_tmp: Path) -> None:
    """Line ends are made by the terminal that looks, once; what is typed there goes nowhere."""
    fifo = open_tmp / "fifo"
    os.mkfifo(fifo)
    with Terminal(root) as holder, Terminal(root) as terminal, fifo.open("r+b", buffering=0) as typed:
        script = ECHO.partition("; ")[2]
        holder.client = root.popen_shell(
            f"dkrctl run --rm --name shown /bin/sh -c '{script}' <{fifo}", **holder.here()
        )
        holder.until("up\r\n")
        for way, status in ((LEAVE, 0), (CTRL_C, 130)):
            before = terminal.mode()
            terminal.attach("-q", "shown")
            until_changed(terminal, before)
            terminal.type("nothing\r")
            typed.write(b"given\n")
            for one in (holder, terminal):
                one.until("^got given\r\n")
            terminal.type(way)
            assert (terminal.status(), terminal.shown) == (status, b"")
            assert terminal.mode() == before
        typed.write(b"end 5\n")
        assert (holder.status(), holder.shown) == (5, b"")


def test_in_a_pipe(caller: Caller) -> None:
    """`echo word | dkrctl attach NAME | cat`"""
    with running(caller, "piped") as holder:
        done = caller.shell("printf 'word\\nend 4\\n' | dkrctl attach piped | cat; exit ${PIPESTATUS[1]}")
        assert (done.returncode, done.stderr) == (4, "")
        assert "got word\n" in done.stdout
        holder.until("got word\r\n")
        assert holder.status() == 4


def test_an_output_that_nobody_takes_holds_nobody_up(root: Caller) -> None:
    line = "set -o pipefail; dkrctl attach cut </dev/null | head -1"
    with running(root, "cut") as holder, root.popen_shell(line) as shell:
        ended = os.pidfd_open(shell.pid)
        while not select.select([ended], [], [], 0)[0]:
            says(holder, "word")
        os.close(ended)
        assert shell.wait() == 128 + signal.SIGPIPE
        says(holder, "on")
        holder.type("end 0\r")
        assert holder.status() == 0


@pytest.mark.parametrize("way", ["window", "signal"])
def test_a_client_that_ends_ends_nothing_else(root: Caller, way: str) -> None:
    """A closed window, `kill`: neither is told to the command."""
    with running(root, "on") as first, Terminal(root) as second:
        attached(second, "on")
        says(second, "both", first)
        assert second.client is not None
        if way == "window":
            second.hang_up()
            assert second.client.wait(GUARD) == 129
        else:
            second.client.terminate()
            assert second.status() == 143
            assert not second.is_raw()
        says(first, "alone")
        first.type("end 0\r")
        assert first.status() == 0


def test_a_window_that_is_closed_as_the_last_one(root: Caller) -> None:
    """Then what is wished for a client that vanishes counts."""
    with running(root, "last") as first, Terminal(root) as second:
        attached(second, "--on-disconnect", "kill", "last")
        says(second, "both", first)
        first.type(LEAVE)
        assert first.status() == 0
        ended = os.pidfd_open(root.command("sh").pid)
        second.hang_up()
        assert select.select([ended], [], [], GUARD)[0]
        os.close(ended)


def test_the_size_is_that_of_the_smallest(root: Caller) -> None:
    script = ECHO.replace('echo "got $word"', 'echo "got $(stty size)"')
    with running(root, "sized", "/bin/sh", "-c", script) as first, Terminal(root, 20, 120) as second:
        until_size(first, "33 101")
        attached(second, "sized")
        until_size(first, "20 101")
        second.resize(50, 90)
        until_size(first, "33 90")
        second.type(LEAVE)
        assert second.status() == 0
        until_size(first, "33 101")
        first.type("end 0\r")
        assert first.status() == 0


def until_size(terminal: Terminal, size: str) -> None:
    """Asks until it is so: it goes by the guardian, and is another for a moment when somebody comes."""
    while True:
        terminal.type("size\r")
        if terminal.until(r"got (\d+ \d+)\r\n")[1].decode() == size:
            return


def test_where_there_is_nothing_to_attach_to(root: Caller, tenant: host.User) -> None:
    def said(caller: Caller, name: str) -> str:
        done = caller.shell(f"dkrctl attach {name}")
        assert done.returncode == 125
        return done.stderr.splitlines()[0].removeprefix(f"dkrctl: cannot attach to {name}: ")

    with root.popen("--name", "plain", "/bin/cat") as client:
        root.command("cat")
        assert said(root, "plain") == "its input and output are its caller's own descriptors"
        client.communicate()
    with running(root, "held") as holder:
        assert "held" in said(Caller(root.daemon, tenant), "held")  # another's is not there
        holder.type("end 0\r")
        assert holder.status() == 0
