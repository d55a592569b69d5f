"""A terminal that is relayed: given up when it is asked for, and `dkrctl attach`. Edge cases; the rest is tried on the real daemon."""

import os
import shlex
import signal
import socket
import subprocess
import termios
from pathlib import Path

import pytest

from dkrctl.session import Session
from tests.unit.client_harness import Peer, Tty, root_made_socket

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")

CTRL_C, CTRL_P, CTRL_Q = b"\x03", b"\x10", b"\x11"
ASK = "kill -USR1 $PPID"  # the peer asks the client to yield


def relayed(peer: Peer, tty: Tty, line: str) -> subprocess.Popen[bytes]:
    """A run whose command asks for the terminal by ASK, where it is in `line`."""
    return tty.client(peer.command("/bin/bash", "--norc", "-c", line, label="yield"))


def test_the_terminal_is_given_up_and_all_goes_on(peer: Peer, tty: Tty) -> None:
    before = termios.tcgetattr(tty.slave)
    client = relayed(peer, tty, f"stty -echo; echo one; {ASK}; read word; echo got $word; exit 3")
    tty.until(b"one\r\n")
    assert peer.told("frame") == {"type": "relay"}
    tty.type(b"word\r")
    tty.until(b"got word\r\n")
    assert client.wait() == 3
    assert termios.tcgetattr(tty.slave) == before


def test_the_size_is_told_from_then_on(peer: Peer, tty: Tty) -> None:
    termios.tcsetwinsize(tty.master, (20, 30))
    client = relayed(peer, tty, f"stty -echo; stty size; {ASK}; read word; stty size; read word; stty size")
    tty.until(b"20 30\r\n")
    assert peer.told("frame") == {"type": "relay"}
    assert peer.told("frame") == {"type": "resize", "height": 20, "width": 30}
    tty.type(b"\r")
    tty.until(b"20 30\r\n")
    termios.tcsetwinsize(tty.master, (21, 31))
    assert peer.told("frame") == {"type": "resize", "height": 21, "width": 31}
    tty.type(b"\r")
    tty.until(b"21 31\r\n")
    assert client.wait() == 0


def test_what_the_command_wrote_last_is_shown_before_the_end(peer: Peer, tty: Tty) -> None:
    client = relayed(peer, tty, f"stty -opost; seq 1 200; {ASK}; seq 201 30000; exit 4")
    shown = tty.until(b"\n30000\n")
    assert client.wait() == 4
    assert shown.split() == [b"%d" % number for number in range(1, 30001)]


def test_keys_that_leave_do_so_over_a_relay_too(peer: Peer, tty: Tty) -> None:
    client = relayed(peer, tty, f"stty raw -echo; {ASK}; echo up; exec sleep 60")
    tty.until(b"up\n")
    assert peer.told("frame") == {"type": "relay"}
    tty.type(CTRL_P)
    tty.type(CTRL_Q)
    assert client.wait() == 0
    assert b"dkrctl attach " in tty.rest()
    assert peer.told("frame") == {"type": "detach"}


def test_a_relay_that_is_lost_gives_the_terminal_back(peer: Peer, tty: Tty) -> None:
    before = termios.tcgetattr(tty.slave)
    client = relayed(peer, tty, f"{ASK}; echo up; exec sleep 60")
    tty.until(b"up\r\n")
    assert peer.told("frame") == {"type": "relay"}
    peer.kill_sessions()
    tty.until(b"lost the container's guardian")
    assert client.wait() == 125
    assert termios.tcgetattr(tty.slave) == before


def test_the_last_frame_is_read_though_one_of_ours_was_not() -> None:
    """The shim ends while a signal, or a size, is on its way to it: how the command ended is not lost over that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session = Session(ours.detach())
    session.signal(15)
    session.flush()
    theirs.send(b'{"type": "exited", "exit": {"code": 3}}')
    theirs.close()
    assert session.receive() == ({"type": "exited", "exit": {"code": 3}}, [])
    assert session.receive() is None
    session.close()


# dkrctl attach


def test_the_first_frame_of_an_attach(peer: Peer, tty: Tty) -> None:
    termios.tcsetwinsize(tty.master, (22, 33))
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.attach("--on-disconnect", "kill", "echo"))
    tty.until(b"up\r\n")
    told = peer.told("attach")
    assert told == {
        "type": "attach", "version": 2, "container": "c0ffee" + "0" * 58, "onDisconnect": "kill", "stdin": True,
        "height": 22, "width": 33,
    }  # fmt: skip
    assert tty.raw()
    tty.type(b"word\r")
    tty.until(b"got word\r\n22 33\r\n")
    tty.type(b"end\r")
    assert client.wait() == 7
    assert termios.tcgetattr(tty.slave) == before


def test_without_any_terminal(peer: Peer) -> None:
    """In a script: what comes in is typed, what is shown goes out."""
    done = subprocess.run(peer.attach("echo"), input=b"word\nend\n", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (7, b"")
    assert b"up\r\ngot word\r\n" in done.stdout  # it may have been typed before the echo was switched off
    told = peer.told("attach")
    assert (told["stdin"], told["height"], told["width"]) == (True, 0, 0)


def test_a_closed_input_is_none(peer: Peer) -> None:
    client = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *peer.attach("echo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\r\n"
    assert peer.told("attach")["stdin"] is False
    client.send_signal(signal.SIGINT)
    client.communicate()
    assert client.returncode == 128 + signal.SIGINT
    assert peer.told("frame") == {"type": "detach"}


def test_piped_input_at_a_terminal_is_typed(peer: Peer, tty: Tty, tmp_path: Path) -> None:
    """`echo word | dkrctl attach NAME` at a prompt. Its lines come from the command's terminal, and are not made twice."""
    before = termios.tcgetattr(tty.slave)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    client = tty.client(["/bin/sh", "-c", f"exec {shlex.join(peer.attach('echo'))} <{fifo}"])
    with fifo.open("wb", buffering=0) as typed:
        tty.until(b"up\r\n")
        typed.write(b"word\n")
        tty.until(b"got word\r\n")
        typed.write(b"end\n")
    assert client.wait() == 7
    assert termios.tcgetattr(tty.slave) == before


def test_a_terminal_for_output_is_looked_at(peer: Peer, tty: Tty) -> None:
    """Its line ends are made here, once; keys go nowhere, ctrl-C leaves."""
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.attach("output"))
    assert tty.until(b"got given\r\n") == b"up\r\nerr\r\ngot given\r\n"
    assert client.wait() == 0
    assert termios.tcgetattr(tty.slave) == before


def test_who_looks_on_sends_no_key(peer: Peer, tty: Tty) -> None:
    """This guardian would pass it on."""
    termios.tcsetwinsize(tty.master, (8, 8))
    client = tty.client(peer.attach("--no-stdin", "-q", "echo"))
    tty.until(b"up\r\n")
    assert peer.told("attach")["stdin"] is False
    tty.type(b"end\r")
    termios.tcsetwinsize(tty.master, (9, 9))
    assert [peer.told("frame")["type"] for _ in range(2)] == [
        "resize",
        "resize",
    ]  # it has read the keys before, or with them
    tty.type(CTRL_P + CTRL_Q)
    assert client.wait() == 0
    assert peer.told("frame") == {"type": "detach"}


def test_an_output_that_nobody_takes_any_more_ends_it(peer: Peer) -> None:
    """`dkrctl attach NAME | head -1`: it would hold up the command, and all who look at it."""
    client = subprocess.Popen(peer.attach("echo"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\r\n"
    client.stdout.close()
    client.stdin.write(b"word\n")
    client.stdin.flush()
    assert client.wait() == 128 + signal.SIGPIPE
    client.stdin.close()
    assert peer.told("vanished") is True


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_the_end_of_a_client_that_is_attached_is_its_own(peer: Peer, tty: Tty, number: int) -> None:
    """No signal to the command, and no detach either: what is wished for a client that vanishes counts."""
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.attach("echo"))
    tty.until(b"up\r\n")
    client.send_signal(number)
    assert client.wait() == 128 + number
    assert peer.told("vanished") is True
    assert termios.tcgetattr(tty.slave) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refused", b"dkrctl: cannot attach\r\n  rule: busy\r\n"),
        ("no-stream", b"cannot understand the container's guardian: a frame 'attached'"),
        ("elsewhere", b"cannot attach to elsewhere: the daemon led to another container"),
        ("lost", b"cannot tell how the command ended: lost the container's guardian"),
    ],
)
def test_an_attach_that_fails(peer: Peer, tty: Tty, name: str, said: bytes) -> None:
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.attach(name))
    tty.until(said)
    assert client.wait() == 125
    assert termios.tcgetattr(tty.slave) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a?b", "\u00e4"])
def test_what_is_no_name_is_asked_of_nobody(peer: Peer, name: str) -> None:
    done = subprocess.run(peer.attach(name), capture_output=True, check=False)
    assert done.returncode == 125
    assert b"is no name and no id" in done.stderr


def test_one_container_is_wanted(peer: Peer) -> None:
    for words in ((), ("one", "two")):
        done = subprocess.run(peer.attach(*words), capture_output=True, check=False)
        assert done.returncode == 125
        assert b"one container is wanted" in done.stderr
