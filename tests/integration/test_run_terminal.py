"""`dkrctl run` at a terminal: the command gets one of its own, and the caller's comes back as it was."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import zlib
from typing import TYPE_CHECKING

import pyte
import pytest

from tests.integration.terminals import GUARD, Terminal, Tmux

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"
SHELL = ("-e", "PS1=in$((6*7))> ", "/bin/bash", "--norc", "--noprofile")
PROMPT = "in42> "


def test_the_command_has_a_terminal_of_its_own(caller: Caller) -> None:
    look = "tty; stty size; echo $TERM; stat -c %u:%t /dev/pts/0; "
    look += "test -t 0 -a -t 1 -a -t 2 && echo all; echo x >/dev/tty; echo y >/dev/console"
    with Terminal(caller) as terminal:
        terminal.run("/bin/sh", "-c", look)
        assert terminal.status() == 0
        assert terminal.shown.decode().split("\r\n") == [
            "/dev/pts/0",
            "33 101",
            "xterm",
            "0:88",
            "all",
            "x",
            "y",
            "",
        ]


def test_the_terminal_belongs_to_the_user_inside(root: Caller) -> None:
    with Terminal(root) as terminal:
        terminal.run("-u", "1234:5678", "/bin/sh", "-c", "stat -c %u $(tty); echo mine >/dev/tty")
        assert (terminal.status(), terminal.shown) == (0, b"1234\r\nmine\r\n")


def test_the_name_of_the_terminal_can_be_set(root: Caller) -> None:
    with Terminal(root) as terminal:
        terminal.run("-e", "TERM=vt100", "/bin/sh", "-c", "echo $TERM")
        assert (terminal.status(), terminal.shown) == (0, b"vt100\r\n")


def test_the_size_follows(caller: Caller) -> None:
    with Terminal(caller, 10, 20) as terminal:
        terminal.run(
            "/bin/sh",
            "-c",
            "trap 'stty size' WINCH; echo ready; while read word || :; do [ \"$word\" ] && exit 4; done",
        )
        terminal.until("ready\r\n")
        terminal.resize(50, 132)
        terminal.until("50 132\r\n")
        terminal.resize(7, 8)
        terminal.until("7 8\r\n")
        terminal.type("end\r")
        assert terminal.status() == 4


def test_the_callers_terminal_is_raw_meanwhile_and_comes_back(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        before = terminal.mode()
        assert not terminal.is_raw()
        terminal.run("/bin/sh", "-c", "echo ready; read word; echo got $word")
        terminal.until("ready\r\n")
        assert terminal.is_raw()
        terminal.type("this\r")
        assert terminal.status() == 0
        assert terminal.shown == b"this\r\ngot this\r\n"  # echoed once, by the command's own terminal
        assert terminal.mode() == before


@pytest.mark.parametrize(
    ("args", "status"), [(("/bin/nosuch",), 127), (("nosuch", "x"), 125), (("-u", "nosuch", "/bin/sh"), 125)]
)
def test_the_terminal_comes_back_after_a_failure(root: Caller, args: tuple[str, ...], status: int) -> None:
    with Terminal(root) as terminal:
        before = terminal.mode()
        terminal.run(*args)
        assert terminal.status() == status
        assert terminal.shown.startswith(b"dkrctl: cannot ")
        assert b"\r\n" in terminal.shown  # said on a terminal that is not raw
        assert terminal.mode() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_terminal_comes_back_after_a_signal(caller: Caller, number: int) -> None:
    with Terminal(caller) as terminal:
        before = terminal.mode()
        client = terminal.run("/bin/sleep", "600")
        caller.command("sleep")
        client.send_signal(number)
        assert terminal.status() == 128 + number
        assert terminal.mode() == before


@pytest.mark.parametrize(("key", "number"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)])
def test_keys_are_signals_inside(caller: Caller, key: str, number: int) -> None:
    with Terminal(caller) as terminal:
        terminal.run("--init", "/bin/sleep", "600")
        caller.command("sleep")
        terminal.until_raw()
        terminal.type(key)
        assert terminal.status() == 128 + number


def test_the_end_of_what_is_typed(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        terminal.run("/bin/cat")
        terminal.type("line\r")
        terminal.until("line\r\nline\r\n")
        terminal.type(CTRL_D)
        assert terminal.status() == 0


def test_job_control(caller: Caller) -> None:
    """Of the shell inside; the client itself is not stopped."""
    with Terminal(caller) as terminal:
        terminal.run(*SHELL)
        terminal.until(PROMPT)
        assert b"no job control" not in terminal.shown
        terminal.type("sh -c 'echo up; exec cat'\r")
        terminal.until("up\r\n")
        terminal.type("one\r")
        terminal.until("one\r\none\r\n")
        terminal.type(CTRL_Z)
        terminal.until(r"\[1\]\+  Stopped")
        terminal.until(PROMPT)
        terminal.type("fg\r")
        terminal.until("exec cat'\r\n")
        terminal.type("two\r")
        terminal.until(
            "two\r\ntwo\r\n"
        )  # so it has the terminal again, which the shell's own word comes before
        terminal.type(CTRL_C)
        terminal.until(PROMPT)
        terminal.type("echo status $?; exit 5\r")
        terminal.until("status 130\r\n")
        assert terminal.status() == 5


def test_all_output_arrives_before_the_end(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        terminal.run("/usr/bin/seq", "30000")
        assert terminal.status() == 0
        assert terminal.shown.split() == [b"%d" % i for i in range(1, 30001)]


def test_all_that_is_pasted_arrives(caller: Caller) -> None:
    text = "".join(f"line {i}\n" for i in range(20000)).encode()
    count = "import sys,zlib; print(zlib.crc32(sys.stdin.buffer.read(int(sys.argv[1]))))"
    with Terminal(caller) as terminal:
        terminal.run(
            "/bin/sh",
            "-c",
            'stty raw -echo; echo ready; exec python3 -ISc "$1" $2',
            "sh",
            count,
            str(len(text)),
        )
        terminal.until("ready")
        os.set_blocking(terminal.master, False)
        left = memoryview(text)
        while left:
            assert select.select([], [terminal.master], [], GUARD)[1]
            left = left[os.write(terminal.master, left) :]
        os.set_blocking(terminal.master, True)
        terminal.until(f"{zlib.crc32(text)}")
        assert terminal.status() == 0


def test_a_full_screen_program_draws(root: Caller) -> None:
    draw = r"printf '\033[2J\033[5;10Hh\303\244re\033[1;1H\033[7mtop\033[0m\033[24;1H%s by %s' $(stty size)"
    with Terminal(root, 24, 80) as terminal:
        terminal.run("/bin/sh", "-c", draw)
        assert terminal.status() == 0
        screen = pyte.Screen(80, 24)
        pyte.ByteStream(screen).feed(terminal.shown)
    assert screen.display[4] == f"{'':9}h\u00e4re".ljust(80)
    assert screen.display[0] == "top".ljust(80)
    assert screen.buffer[0][0].reverse
    assert screen.display[23] == "24 by 80".ljust(80)


# Which terminal, if any


def test_what_is_no_terminal_stays_what_it_is(caller: Caller, open_tmp: Path) -> None:
    """`2>errors` at a prompt; what is left is a terminal."""
    with Terminal(caller) as terminal, (open_tmp / "errors").open("wb") as errors:
        terminal.run("/bin/sh", "-c", "echo fault >&2; test -t 0; echo $?; test -t 1; echo $?", stderr=errors)
        assert (terminal.status(), terminal.shown) == (0, b"0\r\n0\r\n")
        assert (open_tmp / "errors").read_text() == "fault\n"


def test_without_a_terminal_of_its_own(caller: Caller) -> None:
    """With -T all is pipes, and the caller's terminal keeps its mode."""
    with Terminal(caller) as terminal:
        before = terminal.mode()
        script = "test -t 0; echo $?; test -t 1; echo $?; read word; echo got $word; (read more <&1) 2>/dev/null; echo $?; cat; echo end"
        terminal.run("-T", "/bin/sh", "-c", script)
        terminal.until("1\r\n1\r\n")
        assert terminal.mode() == before
        terminal.type("this\r")
        terminal.until("this\r\ngot this\r\n[12]\r\n")
        terminal.type(CTRL_D)
        assert terminal.status() == 0
        assert terminal.shown == b"end\r\n"


def test_ctrl_c_without_a_terminal_of_its_own(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        terminal.run("-T", "/bin/sleep", "600")
        caller.command("sleep")
        terminal.type(CTRL_C)
        assert terminal.status() == 130


def test_a_terminal_whose_output_goes_on(caller: Caller) -> None:
    """`dkrctl run -t COMMAND | less`: the output of the command's terminal is the client's."""
    with Terminal(caller) as terminal:
        client = terminal.run("-t", "/bin/sh", "-c", "tty; test -t 1 && echo yes", stdout=subprocess.PIPE)
        assert client.stdout
        with client.stdout:
            assert client.stdout.read() == b"/dev/pts/0\r\nyes\r\n"
        assert terminal.status() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-t",), "cannot give the command a terminal: the input is not a terminal"),
        (("-t", "-T"), "cannot give the command a terminal and none: -t and -T"),
    ],
)
def test_terminals_that_cannot_be(root: Caller, options: tuple[str, ...], said: str) -> None:
    done = root.run(*options, "/bin/true")
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, f"dkrctl: {said}")


def test_a_window_that_is_closed_ends_the_run(caller: Caller) -> None:
    with Terminal(caller) as terminal:
        terminal.run("/bin/sleep", "600")
        ended = os.pidfd_open(caller.command("sleep").pid)
        try:
            terminal.hang_up()
            assert select.select([ended], [], [], GUARD)[0]
        finally:
            os.close(ended)


def test_in_tmux(root: Caller, open_tmp: Path) -> None:
    """By hand, as it were: a shell in a window, the client stopped and brought back, the window made larger."""
    with Tmux(root, open_tmp, 30, 90) as window:
        window.until("^outside>")
        window.type("dkrctl run --rm -e PS1='inside> ' /bin/bash --norc --noprofile", "Enter")
        window.until("^inside>")
        window.type("stty size", "Enter")
        window.until("^30 90$")
        window.command("resize-window", "-x", "100", "-y", "40")
        window.type("stty size", "Enter")
        window.until("^40 100$")
        window.type("sleep 600", "Enter")
        window.until("sleep 600$")
        root.command("sleep")  # before it is that, the keys are its shell's
        window.type("C-c")
        window.until(r"\^C\ninside>$")
        clients = [
            int(entry)
            for entry in os.listdir("/proc")
            if entry.isdigit() and _is_client(int(entry), open_tmp)
        ]
        assert len(clients) == 1
        os.kill(clients[0], signal.SIGTSTP)
        window.until(r"Stopped .*\noutside>$")
        window.type("clear; stty -a | grep -o '.icanon'; fg", "Enter")
        window.until(r"^ icanon$")
        window.type("", "Enter")
        window.until(r"^inside>")
        window.type("exit 3", "Enter")
        window.until(r"^outside>$")
        window.type("echo status $?", "Enter")
        window.until("^status 3$")


def test_in_the_background_it_runs_on_and_shows_what_it_writes(root: Caller, open_tmp: Path) -> None:
    """As any job that does not read: it neither stops nor touches the terminal's mode; `fg` makes it the one that is typed to."""
    with Tmux(root, open_tmp, 31, 91) as window:
        window.until("^outside>")
        window.type(
            "dkrctl run --rm --init /bin/sh -c 'stty size; read word; echo got $word; exec sleep 600' &",
            "Enter",
        )
        window.until("31 91$")
        window.type("stty -a | grep -o '.icanon'", "Enter")
        window.until("^ icanon$")
        window.type("fg", "Enter")
        window.until("^dkrctl run .*")
        window.type("this", "Enter")
        window.until("^got this$")
        window.type("C-c")
        window.until(r"\^C\n?outside>$")


def _is_client(pid: int, directory: Path) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/comm", "rb") as comm:
            return f"TMUX_TMPDIR={directory}".encode() in environ.read() and comm.read() == b"dkrctl\n"
    except OSError:
        return False
