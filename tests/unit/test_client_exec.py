"""`dkrctl exec` against a peer in the daemon's place: what it asks, and what it says in its first frame."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.client_harness import Peer, root_made_socket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        yield peer


def run(peer: Peer, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        peer.verb("exec", *words), capture_output=True, check=False, stdin=subprocess.DEVNULL
    )


def first(peer: Peer) -> dict[str, Any]:
    told = peer.told("start")
    frame = told["start"]
    assert isinstance(frame, dict)
    return {**frame, "paths": told["paths"]}


def test_what_is_asked_is_what_is_said(peer: Peer) -> None:
    """The api is told the same, for the sake of a good error; root's side goes by the frame."""
    done = run(
        peer,
        "-u",
        "1:2",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "--on-disconnect",
        "kill",
        "web",
        "/bin/echo",
        "-n",
        "hi",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi", b"")
    request = {
        "args": ["/bin/echo", "-n", "hi"],
        "cwd": "/tmp",
        "user": "1:2",
        "onDisconnect": "kill",
        "env": {"A": "b"},
    }
    assert peer.told("request") == request
    frame = first(peer)
    assert len(frame.pop("paths")) == 3
    assert frame == {
        "type": "exec",
        "version": 2,
        "container": "web",
        "request": request,
        "stdio": [0, 1, 2],
        "tty": [],
    }


def test_the_container_is_named_past_the_api(peer: Peer) -> None:
    """By the word of the command line: what the hand-over record says is the api's choice."""
    run(peer, "c0ff", "/bin/true")
    assert first(peer)["container"] == "c0ff"


def test_detached_it_brings_nothing_of_the_callers(peer: Peer) -> None:
    assert run(peer, "-d", "web", "/bin/true").returncode == 0
    frame = first(peer)
    assert frame["request"] == {"args": ["/bin/true"], "onDisconnect": "keep"}
    assert frame["paths"] == ["/dev/null"] * 3


def test_an_error_of_the_guardians_is_told(peer: Peer) -> None:
    done = run(peer, "error-frame", "x")
    assert (done.returncode, done.stderr) == (127, b'dkrctl: cannot run "x": no such file\n')


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), b"cannot execute: no container is named"),
        (("web",), b"cannot execute in web: there is no command"),
        (("a/b", "x"), b"cannot execute in a/b: that is no name and no id"),
        (("..", "x"), b"cannot execute in ..: that is no name and no id"),
        (("-d", "--preserve-fds", "1", "web", "x"), b"descriptor 3"),
        (("-d", "--on-disconnect", "stop", "web", "x"), b"cannot execute with --detach and --on-disconnect"),
        (("-dtT", "web", "x"), b"cannot give the command a terminal and none"),
        (("-t", "-T", "web", "x"), b"cannot give the command a terminal and none"),
    ],
)
def test_what_cannot_be_is_told_before_the_daemon_is_asked(
    peer: Peer, words: tuple[str, ...], said: bytes
) -> None:
    done = run(peer, *words)
    assert (done.returncode, done.stdout) == (125, b"")
    assert said in done.stderr
