"""Which descriptors a command has: 0-2, those that --preserve-fds and LISTEN_FDS name, and none besides."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

GUARD = guard(20.0)
# The shell's own, seen from its child: whoever lists a directory has one more open.
LIST = ("/bin/sh", "-c", "ls -1v /proc/$$/fd; exit")


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@pytest.fixture
def many(open_tmp: Path) -> str:
    """A shell's words that open descriptors 3 to 9 on files of their own."""
    for number in range(3, 10):
        (open_tmp / str(number)).write_text(f"file {number}\n")
    return " ".join(f"{number}<{open_tmp}/{number}" for number in range(3, 10))


@pytest.mark.parametrize("options", ["", "--init"])
def test_nothing_leaks(caller: Caller, many: str, options: str) -> None:
    done = caller.shell(f'exec dkrctl run --rm {options} "$@" {many}', *LIST)
    assert (numbers(done.stdout), done.stderr) == ([0, 1, 2], "")


@pytest.mark.parametrize("options", ["", "--init"])
def test_as_many_as_are_named_go_along(caller: Caller, many: str, options: str) -> None:
    done = caller.shell(f'exec dkrctl run --rm --preserve-fds 3 {options} "$@" {many}', *LIST)
    assert (numbers(done.stdout), done.stderr) == ([0, 1, 2, 3, 4, 5], "")
    done = caller.shell(
        f"exec dkrctl run --rm --preserve-fds 3 {options} /bin/sh -c 'cat <&5; cat <&3; cat <&4' {many}"
    )
    assert (done.stdout, done.stderr) == ("file 5\nfile 3\nfile 4\n", "")


def test_250_go_along(caller: Caller, open_tmp: Path) -> None:
    (open_tmp / "file").write_text("x")
    line = (
        'for n in {3..260}; do eval "exec $n<$1"; done; shift; exec dkrctl run --rm --preserve-fds 250 "$@"'
    )
    done = caller.shell(line, f"{open_tmp}/file", *LIST)
    assert (numbers(done.stdout), done.stderr) == (list(range(253)), "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--preserve-fds 251 /bin/true",
            "cannot take --preserve-fds 251: it takes a whole number from 0 to 250",
        ),
        (
            "--preserve-fds -1 /bin/true",
            "cannot take --preserve-fds -1: it takes a whole number from 0 to 250",
        ),
        ("--preserve-fds 2 /bin/true 3</dev/null 4<&-", "cannot pass descriptor 4: it is not open"),
    ],
)
def test_what_cannot_be_passed_is_named(root: Caller, words: str, said: str) -> None:
    done = root.shell(f"exec dkrctl run --rm {words}")
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, f"dkrctl: {said}")


def test_pid_1_of_init_keeps_nothing_of_the_callers(root: Caller) -> None:
    with root.popen("--init", "/bin/sh", "-c", "echo ready; read go") as client:
        assert client.stdin
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        [init] = [process for process in root.daemon.processes() if process.comm == "dkr-init"]
        assert host.descriptors(init.pid) == ["/dev/null"] * 3
        client.communicate(b"\n", GUARD)


SERVE = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()), (os.environ["LISTEN_PID"], os.getpid())
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"]) == ("2", "web:control")
for number in (3, 4):
    with socket.socket(fileno=number) as listener:
        listener.accept()[0].sendall(b"served by %d" % number)
"""


@pytest.mark.parametrize("options", [(), ("--init",), ("--init", "--pid", "host")], ids=" ".join)
def test_sockets_of_a_service_manager_are_handed_on(root: Caller, options: tuple[str, ...]) -> None:
    """By sd_listen_fds(3): the numbers from 3 on, their names, and for whom they are."""
    with _listening() as web, _listening() as control:
        line = 'exec 3<&$1 4<&$2; shift 2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:control exec dkrctl run --rm "$@"'
        words = (str(web.fileno()), str(control.fileno()), *options, "/usr/bin/python3", "-IS", "-c", SERVE)
        with (
            socket.create_connection(web.getsockname()) as to_web,
            socket.create_connection(control.getsockname()) as to_control,
        ):
            done = root.shell(line, *words, pass_fds=(web.fileno(), control.fileno()))
            assert (done.returncode, done.stderr) == (0, "")
            to_web.settimeout(GUARD)
            to_control.settimeout(GUARD)
            assert (to_web.recv(100), to_control.recv(100)) == (b"served by 3", b"served by 4")


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_for_another_process_are_not_taken(root: Caller) -> None:
    done = root.shell('LISTEN_PID=1 LISTEN_FDS=1 exec dkrctl run --rm "$@" 3</dev/null', *LIST)
    assert (numbers(done.stdout), done.stderr) == ([0, 1, 2], "")
    done = root.shell("LISTEN_PID=1 LISTEN_FDS=1 exec dkrctl run --rm /usr/bin/env 3</dev/null")
    assert "LISTEN" not in done.stdout


def test_the_command_may_pass_a_descriptor_on(root: Caller) -> None:
    """A descriptor arrives open across execve(2), not close-on-exec."""
    read, write = os.pipe()
    try:
        done = root.shell(
            "exec dkrctl run --rm --preserve-fds 1 /usr/bin/env -i /bin/sh -c 'echo through >&3' 3>&$1",
            str(write),
            pass_fds=(write,),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert os.read(read, 100) == b"through\n"
    finally:
        os.close(read)
        os.close(write)


def test_descriptors_keep_their_direction(root: Caller) -> None:
    done = root.run("/bin/sh", "-c", "cat <&1", stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert "Bad file descriptor" in done.stderr
