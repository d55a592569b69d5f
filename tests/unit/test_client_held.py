"""`dkrctl create`, `start` and `attach` for containers whose stdio their guardian holds; the client as installed against a peer."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.unit.client_harness import Peer, Tty, root_made_socket, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")

ID = "c0ffee" + "0" * 58
LEAVE = b"\x10\x11"  # ctrl-P ctrl-Q
EVERY = [("attach",), ("start", "-ai")]  # ways to be attached with input


class HeldPeer(Peer):
    module = "tests.unit.held_peer"


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[HeldPeer]:
    with HeldPeer(tmp_path) as peer:
        yield peer


@pytest.fixture
def tty() -> Iterator[Tty]:
    with terminal() as tty:
        yield tty


def run(peer: Peer, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(peer.verb(*words), input=data, capture_output=True, check=False)


def popen(peer: Peer, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(peer.verb(*words), bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe)


# create


def test_create_prints_the_id(peer: HeldPeer) -> None:
    done = run(peer, "create", "-it", "--name", "n", "--pid", "host", "-e", "A=b", "busybox", "sh", "-c", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ID}\n".encode(), b"")
    request = {
        "name": "n", "namespaces": {"pid": "host"}, "env": {"A": "b"}, "image": "busybox", "args": ["sh", "-c", "x"],
        "openStdin": True, "terminal": True,
    }  # fmt: skip
    assert peer.told("request") == request
    assert peer.told("create") == {"type": "create", "version": 2, "request": request, "asks": ["pid:host"]}


def test_create_asks_for_nothing_that_was_not_wanted(peer: HeldPeer) -> None:
    assert run(peer, "create", "--interactive=false", "/bin/true").returncode == 0
    assert peer.told("request") == {"args": ["/bin/true"]}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("refused", b"dkrctl: cannot give pid:host\n  rule: namespaces\n"),
        ("garbage", b"cannot understand the container's guardian: a frame 'started'"),
        ("lost", b"cannot tell whether the container was made: lost its guardian"),
    ],
)
def test_a_create_that_fails(peer: HeldPeer, label: str, said: bytes, tmp_path: Path) -> None:
    words = ("create", "--label", f"peer={label}", "--cidfile", str(tmp_path / "cid"), "/bin/true")
    done = run(peer, *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr
    assert not (tmp_path / "cid").exists()


def test_the_file_of_a_cidfile_is_filled(peer: HeldPeer, tmp_path: Path) -> None:
    assert run(peer, "create", "--cidfile", str(tmp_path / "cid"), "/bin/true").returncode == 0
    assert (tmp_path / "cid").read_text() == ID
    again = run(peer, "create", "--cidfile", str(tmp_path / "cid"), "/bin/true")
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"the file exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "reason", "way_out"),
    [
        (("--rootfs", "/x"), "a descriptor cannot be kept", "dkrctl run --rootfs DIR"),
        (("--preserve-fds", "1"), "a descriptor cannot be kept", "dkrctl run --preserve-fds N"),
        (("--on-disconnect", "stop"), "for who attaches", "dkrctl start --attach --on-disconnect WHAT"),
        (("--detach-keys", "a"), "for who attaches", "dkrctl start --attach --detach-keys KEYS"),
        (("--explain",), "nothing is started", "dkrctl explain CONTAINER"),
        (("--dry-run",), "nothing is started", "dkrctl run --detach --dry-run"),
        (("--format", "json"), "nothing is started", "dkrctl explain --format"),
        (("-T",), "no terminal anyway", "leave out -T"),
        (("-q",), "no remarks", "leave it out"),
        (("-d",), "starts nothing", "dkrctl run --detach"),
    ],
)
def test_what_create_cannot_take(peer: HeldPeer, words: tuple[str, ...], reason: str, way_out: str) -> None:
    done = run(peer, "create", *words, "/bin/true")
    assert done.returncode == 1
    first, second = done.stderr.decode().splitlines()
    assert first.startswith("dkrctl: cannot create with --")
    assert reason in first
    assert way_out in second


def test_create_without_a_command(peer: HeldPeer) -> None:
    done = run(peer, "create", "busybox")
    assert done.returncode == 1
    assert b"cannot create image busybox: there is no command" in done.stderr
    assert b"dkrctl create [OPTIONS] [IMAGE] COMMAND" in done.stderr


# run --detach


def test_a_run_without_a_client(peer: HeldPeer) -> None:
    done = run(peer, "run", "-d", "-e", "A=b", "--rm", "/bin/true")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ID}\n".encode(), b"")
    request = {"args": ["/bin/true"], "env": {"A": "b"}, "rm": True}
    assert peer.told("create")["request"] == request
    assert peer.told("head").split("\r\n")[0] == f"POST /v1/containers/{ID}/start HTTP/1.1"


@pytest.mark.parametrize("words", [("--rootfs", "/"), ("-T",), ("--explain",), ("--on-disconnect", "keep")])
def test_what_a_run_without_a_client_cannot_take(peer: HeldPeer, words: tuple[str, ...]) -> None:
    done = run(peer, "run", "-d", *words, "/bin/true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"cannot run with --detach and --" in done.stderr


# start


def test_start_prints_what_it_has_started(peer: HeldPeer) -> None:
    done = run(peer, "start", "one", "nosuch", "two")
    assert (done.returncode, done.stdout) == (1, b"one\ntwo\n")
    assert b'cannot find container "nosuch"' in done.stderr
    heads = [peer.told("head").split("\r\n")[0] for _ in range(3)]
    assert heads == [f"POST /v1/containers/{name}/start HTTP/1.1" for name in ("one", "nosuch", "two")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-a", "one", "two"), b"cannot attach to 2 containers"),
        (("--detach-keys", "a", "one"), b"cannot start with --detach-keys: nobody is attached"),
        (("--on-disconnect", "stop", "one"), b"cannot start with --on-disconnect: nobody is attached"),
        ((), b"no container is named"),
    ],
)
def test_starts_that_cannot_be(peer: HeldPeer, words: tuple[str, ...], said: bytes) -> None:
    done = run(peer, "start", *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("not-found", 127, b'dkrctl: cannot run "x": no such file\n'),
        ("running", 125, b"cannot start running: it runs already\n  rule: running\n"),
        ("nosuch", 125, b'cannot find container "nosuch": there is none'),
        ("elsewhere", 125, b"the daemon led to another container"),
        ("one", 125, b"a frame 'attached'"),
        ("lost", 125, b"lost the container's guardian"),
    ],
)
def test_an_attached_start_that_fails(peer: HeldPeer, name: str, status: int, said: bytes) -> None:
    done = run(peer, "start", "-a", name)
    assert done.returncode == status
    assert said in done.stderr


def test_an_older_daemon_is_told(peer: HeldPeer) -> None:
    """It says that there is no such path, which alone would lead nobody to the cause."""
    assert b"9.9.9" in run(peer, "start", "-a", "nosuch").stderr
    assert b"9.9.9" in run(peer, "create", "--label", "peer=nosuch", "/bin/true").stderr


# attached by two streams


@pytest.mark.parametrize("way", EVERY, ids=" ".join)
def test_input_output_and_errors(peer: HeldPeer, way: tuple[str, ...]) -> None:
    done = run(peer, *way, "talk", data=b"one\ntwo\n")
    assert (
        done.stdout == b"up\ngot one\ngot two\nend\n"
    )  # the end of the input is told, and its answer still comes
    assert done.stderr == b"err\nheard one\nheard two\n"
    assert done.returncode == 7
    told = peer.told("attach")
    assert told == {
        "type": "attach", "version": 2, "container": ID, "onDisconnect": "keep", "stdin": True, "height": 0, "width": 0,
    }  # fmt: skip


@pytest.mark.parametrize("way", [("attach", "--no-stdin"), ("start", "-a"), ("attach",)], ids=" ".join)
def test_without_input(peer: HeldPeer, way: tuple[str, ...]) -> None:
    """What stands in the caller's pipe stays there."""
    reader, writer = os.pipe()
    os.write(writer, b"kept\n")
    words = peer.verb(*way, "closed" if way == ("attach",) else "talk")
    client = subprocess.Popen(words, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    if way == ("attach",):
        assert client.wait() == 7
    else:
        assert peer.told("attach")["stdin"] is False
        client.kill()
    client.communicate()
    assert os.read(reader, 100) == b"kept\n"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("way", EVERY, ids=" ".join)
def test_all_is_written_before_the_end_is_told(peer: HeldPeer, way: tuple[str, ...]) -> None:
    """Though it is read slowly."""
    client = popen(peer, *way, "much")
    assert client.stdout is not None
    assert client.stderr is not None
    got = {client.stdout.fileno(): 0, client.stderr.fileno(): 0}
    open_ones = set(got)
    while open_ones:
        for descriptor in select.select(open_ones, [], [])[0]:
            data = os.read(descriptor, 1000)
            got[descriptor] += len(data)
            if not data:
                open_ones.remove(descriptor)
    assert list(got.values()) == [1_000_000, 1_000_000]
    assert client.wait() == 3
    client.communicate()


@pytest.mark.parametrize("way", [("start", "-a"), ("attach",)], ids=" ".join)
def test_ctrl_c_is_the_commands(peer: HeldPeer, way: tuple[str, ...]) -> None:
    client = popen(peer, *way, "trapped")
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.send_signal(signal.SIGINT)
    assert peer.told("frame") == {"type": "signal", "signal": 2}
    assert client.stdout.readline() == b"int\n"
    client.send_signal(signal.SIGTERM)
    if way == ("attach",):  # one of several: its own end
        assert client.wait() == 128 + signal.SIGTERM
        assert peer.told("vanished") is True
    else:  # as of a run
        assert peer.told("frame") == {"type": "signal", "signal": 15}
        assert client.wait() == 4
        assert client.stdout.read() == b"term\n"
    client.communicate()


def test_who_only_looks_on_leaves_by_ctrl_c(peer: HeldPeer) -> None:
    client = popen(peer, "attach", "--no-stdin", "trapped")
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.send_signal(signal.SIGINT)
    assert client.wait() == 130
    assert peer.told("frame") == {"type": "detach"}
    client.communicate()


@pytest.mark.parametrize("way", EVERY, ids=" ".join)
def test_an_output_that_nobody_takes_any_more_ends_it(peer: HeldPeer, way: tuple[str, ...]) -> None:
    client = popen(peer, *way, "talk")
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.stdout.close()
    client.stdin.write(b"word\n")
    assert client.wait() == 128 + signal.SIGPIPE
    assert peer.told("vanished") is True
    assert client.stderr is not None
    assert b"Traceback" not in client.stderr.read()
    client.stdin.close()
    client.stderr.close()


def test_an_output_that_ends_early_is_not_the_commands_end(peer: HeldPeer) -> None:
    client = popen(peer, "start", "-a", "silent")
    assert client.stdout is not None
    peer.told("running")
    client.send_signal(signal.SIGTERM)
    assert client.wait() == 143
    client.communicate()


# at a terminal


@pytest.mark.parametrize("way", EVERY, ids=" ".join)
def test_at_a_terminal_lines_are_typed(peer: HeldPeer, tty: Tty, way: tuple[str, ...]) -> None:
    """The terminal is not put into raw mode: it is it that shows what is typed, and ctrl-D ends the input."""
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.verb(*way, "talk"))
    tty.until(b"err\r\n")
    assert not tty.raw()
    tty.type(b"wrong\x15word\r")  # ctrl-U
    tty.until(b"heard word\r\n")
    tty.type(b"\x04")
    tty.until(b"end\r\n")
    assert client.wait() == 7
    assert termios.tcgetattr(tty.slave) == before


@pytest.mark.parametrize("way", EVERY, ids=" ".join)
def test_the_keys_that_leave(peer: HeldPeer, tty: Tty, way: tuple[str, ...]) -> None:
    before = termios.tcgetattr(tty.slave)
    client = tty.client(peer.verb(*way, "talk"))
    tty.until(b"err\r\n")
    tty.type(b"word" + LEAVE)
    assert client.wait() == 0
    assert b"dkrctl: left talk, which runs on; to come back: dkrctl attach talk\r\n" in tty.rest()
    assert peer.told("frame") == {"type": "detach"}
    assert termios.tcgetattr(tty.slave) == before


def test_ctrl_c_at_a_terminal(peer: HeldPeer, tty: Tty) -> None:
    client = tty.client(peer.verb("start", "-ai", "trapped"))
    tty.until(b"up\r\n")
    tty.type(b"\x03")
    tty.until(b"int\r\n")
    client.send_signal(signal.SIGTERM)
    assert client.wait() == 4


def test_piped_input_at_a_terminal(peer: HeldPeer, tty: Tty, tmp_path: Path) -> None:
    """There are no keys that leave then."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    client = tty.client(["/bin/sh", "-c", f"exec {shlex.join(peer.verb('start', '-ai', 'talk'))} <{fifo}"])
    with fifo.open("wb", buffering=0) as typed:
        tty.until(b"up\r\n")
        typed.write(LEAVE + b"\n")
        tty.until(b"heard " + LEAVE + b"\r\n")
    assert client.wait() == 7
