"""`--rootfs`: what the client opens, and what of it goes along."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.client_harness import Peer, root_made_socket

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not root_made_socket(), reason="a session must be made by root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def asked(peer: Peer, *words: str, **more: Any) -> dict[str, Any]:
    """What the peer was told in the first frame."""
    done = peer.run(*words, **more)
    assert done.returncode == 0, done.stderr
    told = peer.told("start")
    assert isinstance(told, dict)
    return told


def test_the_directory_and_the_namespace_go_along_last(peer: Peer, tree: Path) -> None:
    start = asked(peer, "--rootfs", str(tree), "/bin/echo", "hi")
    frame = start["start"]
    assert frame["root"] == ["rootfs", "mntns"]
    assert frame["request"]["rootfs"] == str(tree)
    assert frame["request"]["args"] == ["/bin/echo", "hi"]
    assert "image" not in frame["request"]
    assert frame["stdio"] == [0, 1, 2]
    assert start["paths"][3:] == [str(tree), os.readlink("/proc/self/ns/mnt")]
    assert start["named"] == [False, False, False, True, False]


def test_it_comes_after_what_is_preserved(peer: Peer, tree: Path) -> None:
    command = peer.command("--rootfs", str(tree), "--preserve-fds", "1", "/bin/echo")
    script = ["/bin/bash", "-c", 'exec "$@" 3</dev/zero', "bash", *command]
    assert subprocess.run(script, capture_output=True, check=False).returncode == 0
    start = peer.told("start")
    assert start["start"]["request"]["preserveFds"] == 1
    assert start["paths"][3:5] == ["/dev/zero", str(tree)]


def test_without_it_nothing_goes_along(peer: Peer) -> None:
    start = asked(peer, "/bin/echo", "hi")
    assert start["start"]["root"] == []
    assert len(start["paths"]) == 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("tree", "/tree"),
        ("./tree", "/tree"),
        ("tree/", "/tree/"),
        ("../{name}/tree", "/../{name}/tree"),
        (".", "/."),
    ],
)
def test_a_relative_name_is_made_absolute_for_people(peer: Peer, tree: Path, given: str, text: str) -> None:
    name = tree.parent.name
    start = asked(peer, "--rootfs", given.format(name=name), "/bin/echo", cwd=tree.parent)
    assert start["start"]["request"]["rootfs"] == str(tree.parent) + text.format(name=name)


def test_at_the_root_too(peer: Peer) -> None:
    start = asked(peer, "--rootfs", "etc", "/bin/echo", cwd="/")
    assert start["start"]["request"]["rootfs"] == "/etc"


def test_a_first_word_is_no_image(peer: Peer, tree: Path) -> None:
    peer.run("--rootfs", str(tree), "echo", "hi")
    assert peer.told("start")["start"]["request"]["args"] == ["echo", "hi"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rootfs", "", "/x"), b"cannot use --rootfs: it is empty"),
        (("--rootfs=", "/x"), b"cannot use --rootfs: it is empty"),
        (("--rootfs", "/no/such", "/x"), b"cannot use /no/such as the root: there is no such directory"),
        (("--rootfs", "/etc/passwd", "/x"), b"cannot use /etc/passwd as the root: it is not a directory"),
        (("--rootfs", "/", "--preserve-fds", "249", "/x"), b"a whole number from 0 to 248"),
        (("--rootfs", "/"), b"cannot run a container: there is no command"),
        (("--rootfs",), b"cannot take --rootfs: its value is missing"),
        ((b"--rootfs", b"/\xff", b"/x"), b"cannot pass --rootfs '/\\udcff': it is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_before_the_daemon_is_asked(
    peer: Peer, words: tuple[str, ...], said: bytes
) -> None:
    done = peer.run(*words)
    assert (done.returncode, done.stdout) == (125, b"")
    assert said in done.stderr
    assert peer.run("/bin/echo", "next").stdout == b"next\n"
    assert peer.told("start")["start"]["request"]["args"] == ["/bin/echo", "next"]


def test_a_deleted_working_directory_is_opened_and_named_somehow(peer: Peer, tree: Path) -> None:
    script = f'cd "{tree}" && rmdir "{tree}" && exec "$@"'
    command = peer.command("--rootfs", ".", "/bin/echo", "hi")
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    start = peer.told("start")
    assert start["start"]["request"]["rootfs"] == "/."
    assert start["paths"][3] == f"{tree} (deleted)"
