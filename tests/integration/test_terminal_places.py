"""Where a terminal may be: under script(1), after su(1), in a session without one, in the background of a shell."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.terminals import GUARD, Terminal

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

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
    out, fifo = open_tmp / "out", open_tmp / "fifo"
    os.mkfifo(fifo)
    script = "echo up; read word <&3; echo $word"
    with Terminal(root) as terminal, fifo.open("r+b", buffering=0) as typed:
        line = f"exec nohup dkrctl run --rm --preserve-fds 1 /bin/sh -c '{script}' 3<>{fifo} >{out} 2>&1"
        client = shell(terminal, line)
        root.command("sh")
        terminal.hang_up()
        typed.write(b"end\n")
        assert client.wait(GUARD) == 0
    assert out.read_text().endswith("up\nend\n")


def test_a_closed_window_ends_the_client_with_129(root: Caller) -> None:
    """Also where the signal is ignored: the terminal itself says so."""
    for ignored in ("", "trap '' HUP; "):
        with Terminal(root) as terminal:
            client = shell(terminal, f"{ignored}exec dkrctl run --rm --on-disconnect kill /bin/sleep 600")
            terminal.until_raw()
            terminal.hang_up()
            assert client.wait(GUARD) == 129


def test_two_terminals(root: Caller) -> None:
    """Typed on one, shown on another, errors on a third: each where the caller has it, none changed but the one of the keys."""
    with Terminal(root, 10, 40) as typed, Terminal(root, 11, 41) as shown, Terminal(root, 12, 42) as errors:
        before = typed.mode(), shown.mode(), errors.mode()
        typed.run(
            "/bin/sh", "-c", "stty size; read word; echo out $word; echo err $word >&2; test -t 2; echo $?",
            stdout=shown.slave, stderr=errors.slave,
        )  # fmt: skip
        shown.until("11 41\r\r\n")  # its own line discipline makes line ends too; nobody sees a difference
        assert typed.is_raw()
        assert (shown.mode(), errors.mode()) == before[1:]
        typed.type("this\r")
        shown.until("out this\r\r\n1\r\r\n")
        errors.until("err this\r\n")
        assert typed.status() == 0
        assert typed.mode() == before[0]


def test_the_same_terminal_opened_another_time(root: Caller) -> None:
    """`>/dev/tty`, `2>$(tty)`: it is one all the same, in whose order all is shown."""
    with Terminal(root) as terminal:
        line = "dkrctl run --rm /bin/sh -c 'for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done' >/dev/tty 2>$(tty)"
        shell(terminal, line)
        assert terminal.status() == 0
        assert terminal.shown == b"".join(b"o%d\r\ne%d\r\n" % (i, i) for i in range(1, 6))


def test_the_output_closed(root: Caller) -> None:
    """With -t: what is closed stays closed, errors are shown."""
    with Terminal(root) as terminal:
        script = "test -t 0 && test -t 2 && echo yes >&2; echo lost; echo $? >&2; [ -e /proc/self/fd/1 ] || echo closed >&2"
        shell(terminal, f"dkrctl run --rm -t /bin/bash -c '{script}' >&-")
        assert terminal.status() == 0
        assert terminal.shown.split(b"\r\n")[0] == b"yes"
        assert b"\r\nclosed\r\n" in terminal.shown


# In the background


def test_where_the_background_may_not_write_it_stops(root: Caller) -> None:
    """stty tostop: as any job, until `fg`."""
    line = (
        "set -m; stty tostop; dkrctl run --rm /bin/sh -c 'echo shown; read word; echo got $word' & "
        'until [ "$(jobs -s)" ]; do read -rt 0.01 <> <(:); done; stty -tostop; echo stopped; fg; echo end $?'
    )
    with Terminal(root) as terminal:
        shell(terminal, line)
        terminal.until(r"^(\r\n\[1\]\+  Stopped .*\r\n)?stopped\r\n")
        terminal.until(r"shown\r+\n")  # where it stopped, the line ends were still the terminal's too
        terminal.type("this\r")
        terminal.until("got this\r\nend 0\r\n")
        assert terminal.status() == 0


def test_a_job_that_is_continued_in_the_background_leaves_the_terminal_alone(root: Caller) -> None:
    """Stopped, `bg`: what is typed is the shell's, what it writes is shown."""
    line = (
        "set -m; dkrctl run --rm /bin/sh -c 'stty -echo; echo up; read word; echo got $word'; "
        "stty -a | grep -o '.icanon'; bg >/dev/null; read word; echo shell $word; stty -a | grep -o '.icanon'; fg; echo end $?"
    )
    with Terminal(root) as terminal:
        bash = shell(terminal, line)
        terminal.until("up\r\n")
        terminal.until_raw()
        [client] = [p for p in host.processes() if p.comm == "dkrctl" and p.parent == bash.pid]
        os.kill(client.pid, signal.SIGTSTP)
        terminal.until(" icanon\r\n")
        terminal.type("one\r")
        terminal.until("shell one\r\n icanon\r\n")
        terminal.until_raw()
        terminal.type("two\r")
        terminal.until("got two\r\nend 0\r\n")
        assert terminal.status() == 0


# To the byte

ODD = r"printf 'a\tb\n\r\nc\r\303\244\033[1m\n\n\001\377'; printf 'err\n' >&2; stty size <&1; printf 'end'"


@pytest.mark.parametrize("modes", ["", "-opost", "-onlcr", "tab3", "onlret ocrnl"])
@pytest.mark.parametrize("way", ["", "</dev/null", "-T"])
def test_what_is_shown_is_the_same_as_without_a_container(root: Caller, way: str, modes: str) -> None:
    """Whatever the caller's terminal makes of line ends and tabs, it does once. A terminal of the command's own to type at
    has its own ideas of that, as over ssh, so there only the usual ones count.
    """
    if not way and modes:
        modes = ""
    script = ODD.replace("; stty size <&1", "") if way == "-T" else ODD
    with Terminal(root) as local, Terminal(root) as terminal:
        for one, line in (
            (local, f'/bin/sh -c "$1" {way.removeprefix("-T")}'),
            (
                terminal,
                f'dkrctl run --rm {way if way == "-T" else ""} /bin/sh -c "$1" {way.removeprefix("-T")}',
            ),
        ):
            shell(one, f"stty {modes or 'sane'}; {line}", script)
            assert one.status() == 0
        assert terminal.shown == local.shown
        assert terminal.shown.endswith(b"end")
