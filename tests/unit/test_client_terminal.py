"""`dkrctl run` at a terminal: its own pty for the command, or only parts of the caller's."""

import fcntl
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from tests.unit.client_harness import Peer, Tty, root_made_socket

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")


def size(tty: Tty, rows: int, columns: int) -> None:
    fcntl.ioctl(tty.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def sh(peer: Peer, line: str) -> list[str]:
    return peer.command("/bin/bash", "--norc", "-c", line)


# A terminal of the command's own


def test_at_a_terminal_the_command_gets_its_own(peer: Peer, tty: Tty) -> None:
    size(tty, 33, 77)
    before = termios.tcgetattr(tty.slave)
    client = tty.client(sh(peer, "tty; stty size; exit 5"))
    shown = tty.until(b"33 77\r\n")
    assert shown.startswith(b"/dev/pts/")
    assert os.ttyname(tty.slave).encode() + b"\r\n" not in shown
    assert client.wait() == 5
    frame = peer.told("start")["start"]
    assert frame["stdio"] == []
    assert frame["request"]["terminal"] is True
    assert frame["request"]["consoleSize"] == {"height": 33, "width": 77}
    assert termios.tcgetattr(tty.slave) == before


def test_keys_and_echo(peer: Peer, tty: Tty) -> None:
    client = tty.client(sh(peer, 'read -p "name? " name; echo "<$name>"'))
    tty.until(b"name? ")
    assert tty.raw()
    tty.type(b"jo\x7foe\r")
    assert b"jo\b \boe\r\n" in tty.until(b"<joe>\r\n")
    assert client.wait() == 0


def test_control_c_is_a_key(peer: Peer, tty: Tty) -> None:
    client = tty.client(sh(peer, 'trap "echo caught; exit 4" INT; echo ready; while :; do read line; done'))
    tty.until(b"ready")
    tty.type(b"\x03")
    tty.until(b"caught")
    assert client.wait() == 4


def test_the_size_follows(peer: Peer, tty: Tty) -> None:
    size(tty, 10, 20)
    client = tty.client(sh(peer, 'trap "stty size; exit" WINCH; stty size; while :; do read -t 1 line; done'))
    tty.until(b"10 20\r\n")
    size(tty, 30, 40)  # SIGWINCH to the foreground process group
    tty.until(b"30 40\r\n")
    assert client.wait() == 0


def test_all_output_arrives_after_the_exit(peer: Peer, tty: Tty) -> None:
    client = tty.client(sh(peer, "seq 1 20000; exit 3"))
    shown = tty.until(b"\n20000\r\n")  # slowly: the reader here is Python
    assert client.wait() == 3
    assert len(shown.split(b"\r\n")) == 20001


def test_much_input_arrives(peer: Peer, tty: Tty) -> None:
    lines = b"".join(b"%060d\r" % n for n in range(2000))
    client = tty.client(
        sh(peer, "stty -echo; echo ready; for i in {1..2000}; do read line; done; echo $line")
    )
    tty.until(b"ready\r\n")
    writer = threading.Thread(target=lambda: feed(tty, lines))
    writer.start()
    tty.until(b"%060d\r\n" % 1999)
    writer.join()
    assert client.wait() == 0


def feed(tty: Tty, data: bytes) -> None:
    while data:
        data = data[os.write(tty.master, data[:1000]) :]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_forwarded_and_the_terminal_is_as_before(peer: Peer, tty: Tty, number: int) -> None:
    before = termios.tcgetattr(tty.slave)
    client = tty.client(sh(peer, "echo ready; exec sleep 60"))
    tty.until(b"ready")
    client.send_signal(number)
    assert peer.told("frame") == {"type": "signal", "signal": int(number)}
    assert client.wait() == 128 + number
    assert termios.tcgetattr(tty.slave) == before


def test_stopped_and_continued(peer: Peer, tty: Tty) -> None:
    before = termios.tcgetattr(tty.slave)
    client = tty.client(sh(peer, "echo ready; read line; echo line: $line; stty size"))
    tty.until(b"ready")
    # An orphaned process group is not stopped by SIGTSTP: its parent here is in another session.
    client.send_signal(signal.SIGSTOP)
    os.waitpid(client.pid, os.WUNTRACED)
    termios.tcsetattr(tty.slave, termios.TCSANOW, before)  # what a shell does
    size(tty, 44, 55)
    client.send_signal(signal.SIGCONT)
    tty.type(b"x\r")
    tty.until(b"line: x\r\n44 55\r\n")
    assert client.wait() == 0
    assert termios.tcgetattr(tty.slave) == before


def test_a_lost_guardian_gives_the_terminal_back(peer: Peer, tty: Tty) -> None:
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.command("/bin/sleep", "60", label="lost"))
    tty.until(b"lost the container's guardian")
    assert client.wait() == 125
    assert termios.tcgetattr(tty.slave) == before


def test_stopped_by_job_control(peer: Peer, tty: Tty) -> None:
    command = shlex.join(sh(peer, "echo ready; read line; echo line: $line"))
    shell = tty.client(["/bin/bash", "--norc", "-c", f"set -m; {command}; echo status $?; fg; echo end $?"])
    tty.until(b"ready")
    assert tty.raw()
    os.kill(peer.told("start")["credentials"][0], signal.SIGTSTP)
    tty.until(b"status 148")
    tty.type(b"x\r")
    tty.until(b"line: x")
    tty.until(b"end 0")
    assert shell.wait() == 0
    assert not tty.raw()


def test_the_terminal_is_as_before_while_stopped(peer: Peer, tty: Tty) -> None:
    command = shlex.join(sh(peer, "echo ready; read line"))
    shell = tty.client(["/bin/bash", "--norc", "-c", f"set -m; {command}; stty -a; fg"])
    tty.until(b"ready")
    os.kill(peer.told("start")["credentials"][0], signal.SIGTSTP)
    assert b" icanon" in tty.until(b"echoke")
    tty.type(b"x\r")
    assert shell.wait() == 0


def test_a_terminal_that_hangs_up_ends_the_client(peer: Peer, tty: Tty) -> None:
    # HUP ignored, so that only the end of the terminal itself tells.
    line = f"trap '' HUP; exec {shlex.join(sh(peer, 'echo ready; exec sleep 60'))}"
    client = tty.client(["/bin/sh", "-c", line])
    tty.until(b"ready")
    tty.close()
    assert client.wait() == 129
    assert peer.told("vanished") is True


def test_no_terminal_where_none_came(peer: Peer, tty: Tty) -> None:
    client = tty.client(peer.command("/bin/sleep", "60", label="no-master"))
    tty.until(b"cannot take the terminal")
    assert client.wait() == 125
    assert not tty.raw()


def test_asked_for_without_a_terminal(peer: Peer) -> None:
    done = peer.run("-t", "/bin/true")
    assert done.returncode == 125
    assert b"the input is not a terminal" in done.stderr


def test_asked_for_with_output_elsewhere(peer: Peer, tty: Tty) -> None:
    client = tty.client(
        peer.command("-t", "/bin/sh", "-c", "test -t 1 && seq 1 3000"), stdout=subprocess.PIPE
    )
    out, _ = client.communicate()
    assert client.returncode == 0
    assert out.split(b"\r\n")[-2] == b"3000"


def test_the_other_side_may_be_nobodys_for_a_while(peer: Peer, tty: Tty) -> None:
    # Between the two the master reads EIO although the command still runs.
    line = "t=$(tty); exec <&- >&- 2>&-; sleep 0.3; echo back >$t; exit 6"
    client = tty.client(sh(peer, line))
    tty.until(b"back")
    assert client.wait() == 6


# A terminal on some of 0-2 only


def test_with_capital_t_all_is_pipes(peer: Peer, tty: Tty) -> None:
    """One for output and error output, which are one terminal here: their order is kept."""
    line = "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"
    client = tty.client(peer.command("-T", "/bin/sh", "-c", line))
    assert client.wait() == 0
    assert tty.rest().split() == [word for i in b"12345" for word in (b"o%c" % i, b"e%c" % i)]
    told = peer.told("start")
    assert (told["start"]["stdio"], told["start"]["tty"]) == ([0, 1, 2], [])
    assert "terminal" not in told["start"]["request"]
    assert told["access"] == [os.O_RDONLY, os.O_WRONLY, os.O_WRONLY]
    assert told["tty"] == [False, False, False]


def test_output_for_a_terminal_is_one_of_the_commands_own(peer: Peer, tty: Tty) -> None:
    """With its size, and the line ends as the caller's terminal makes them, once."""
    size(tty, 21, 43)
    before = termios.tcgetattr(tty.slave)
    line = "test -t 1 && test -t 2 && ! test -t 0; echo $?; stty size <&1; echo err >&2; cat"
    client = tty.client(["/bin/sh", "-c", f"echo piped | {shlex.join(sh(peer, line))}"])
    assert client.wait() == 0
    assert tty.rest() == b"0\r\n21 43\r\nerr\r\npiped\r\n"
    frame = peer.told("start")["start"]
    assert (frame["stdio"], frame["tty"]) == ([0], [1, 2])
    assert frame["request"]["consoleSize"] == {"height": 21, "width": 43}
    assert termios.tcgetattr(tty.slave) == before


def test_errors_to_a_file_are_not_mixed_into_a_terminal(peer: Peer, tty: Tty, tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as file:
        client = tty.client(peer.command("/bin/sh", "-c", "echo out; echo err >&2"), stderr=file)
        tty.until(b"out\r\n")
        assert client.wait() == 0
    assert (tmp_path / "err").read_bytes() == b"err\n"


def test_typed_input_is_fed_and_control_d_ends_it(peer: Peer, tty: Tty) -> None:
    client = tty.client(peer.command("/bin/cat"), stdout=subprocess.PIPE)
    peer.told("start")
    tty.type(b"one\n")
    assert client.stdout is not None
    assert client.stdout.readline() == b"one\n"
    tty.type(b"\x04")
    assert client.stdout.read() == b""
    assert client.wait() == 0
    client.stdout.close()


def test_control_c_at_fed_input_is_a_signal(peer: Peer, tty: Tty) -> None:
    client = tty.client(peer.command("/bin/sh", "-c", "echo ready; exec cat"), stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    tty.type(b"\x03")
    assert peer.told("frame") == {"type": "signal", "signal": signal.SIGINT}
    assert client.wait() == 128 + signal.SIGINT
    client.stdout.close()


def test_what_is_typed_after_the_command_closed_its_input_is_not_ours(peer: Peer, tty: Tty) -> None:
    client = tty.client(
        peer.command("/bin/sh", "-c", "exec <&-; echo ready; exec sleep 60"), stdout=subprocess.PIPE
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    peer.told("running")  # nobody else holds the pipe either
    tty.type(b"later\n")
    client.send_signal(signal.SIGUSR1)
    assert client.wait() == 128 + signal.SIGUSR1
    client.stdout.close()
    assert select.select([tty.slave], [], [], 0)[0]
    assert os.read(tty.slave, 100) == b"later\n"


def test_a_terminal_of_another_user_is_written_by_the_client(peer: Peer, tty: Tty) -> None:
    # As after su: it can be used, but not opened again. The modules are loaded before the change of user.
    peer.socket.chmod(0o666)
    peer.directory.chmod(0o711)
    path, _, last = peer.script.read_text().partition("\n")[2].partition("; ")[2].partition("\n")
    code = "\n".join(
        [
            "import os, sys",
            path,
            "import dkrctl.run, dkrctl.pump, common.errors, dkrctl.report",
            f"os.chdir({str(peer.directory)!r})",
            "os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)",
            "sys.argv = ['dkrctl', 'run', '--socket', 's', '/bin/sh', '-c', 'echo out; echo err >&2; exit 3']",
            last,
        ]
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=tty.slave, stderr=tty.slave
    )
    status = client.wait()
    assert (status, sorted(tty.rest().split())) == (3, [b"err", b"out"])
    told = peer.told("start")
    assert told["start"]["tty"] == [1, 2]
    assert told["credentials"][1:] == [12345, 12345]
