"""The caller's terminal: however it is given, no process of the daemon's or of a container's ever has it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import termios
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon

pytestmark = pytest.mark.root

BOUND_SECONDS = guard(20.0)
WAIT = "echo up >&4; exec sleep 600"  # 4 is a pipe of the test's

# How 0-2 are given: `here` is the terminal, `other` another, `again` the terminal opened once more for that direction alone,
# `wrong` for the other direction.
WAYS: dict[str, tuple[tuple[str, str, str], tuple[str, ...]]] = {
    "all": (("here", "here", "here"), ()),
    "all, -T": (("here", "here", "here"), ("-T",)),
    "all, no input": (("here", "here", "here"), ("--interactive=false",)),
    "all, with init": (("here", "here", "here"), ("--init",)),
    "input": (("here", "null", "null"), ()),
    "input, -t": (("here", "pipe", "null"), ("-t",)),
    "input and errors, -t": (("here", "null", "here"), ("-t",)),
    "output": (("null", "here", "null"), ()),
    "output, -T": (("null", "here", "here"), ("-T",)),
    "output and errors": (("null", "here", "here"), ()),
    "errors": (("null", "pipe", "here"), ()),
    "input and errors": (("here", "pipe", "here"), ()),
    "opened again": (("again", "again", "again"), ()),
    "the wrong way": (("wrong", "wrong", "wrong"), ()),
    "the wrong way, -T": (("wrong", "wrong", "wrong"), ("-T",)),
    "two": (("here", "other", "other"), ()),
    "three": (("null", "here", "other"), ()),
    "two, -T": (("here", "here", "other"), ("-T",)),
    "the master": (("null", "master", "master"), ()),
}


@contextmanager
def terminal(owner: int) -> Iterator[tuple[int, int]]:
    """Master and peer of a pty of `owner`'s."""
    master, peer = os.openpty()
    try:
        os.fchown(peer, owner, -1)
        yield master, peer
    finally:
        os.close(master)
        os.close(peer)


def holders(pids: list[int], terminals: list[int]) -> list[tuple[int, str]]:
    """Which of these processes have one of these terminals, as which descriptor."""
    wanted = {(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in terminals}
    found = []
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                status = os.stat(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                continue
            if (status.st_dev, status.st_ino) in wanted:
                found.append((pid, name))
    return found


def streams(stack: ExitStack, way: tuple[str, str, str], here: tuple[int, int], other: int) -> dict[str, Any]:
    """Options of Popen for this way."""
    master, peer = here
    opened: dict[str, Any] = {}
    for number, what in enumerate(way):
        access = os.O_RDONLY if (number == 0) == (what == "again") else os.O_WRONLY
        if what in ("again", "wrong"):
            fd = os.open(os.ttyname(peer), access | os.O_NOCTTY)
            stack.callback(os.close, fd)
        else:
            fd = {
                "here": peer,
                "other": other,
                "master": master,
                "null": subprocess.DEVNULL,
                "pipe": subprocess.PIPE,
            }[what]
        opened[("stdin", "stdout", "stderr")[number]] = fd
    return opened


@pytest.mark.parametrize("who", ["root", "tenant", "a tenant at another's"])
@pytest.mark.parametrize("way", WAYS)
def test_nobody_but_the_client_has_it(daemon: Daemon, tenant: host.User, who: str, way: str) -> None:
    user = None if who == "root" else tenant
    owner = tenant.uid if who == "tenant" else 0
    if owner != (tenant.uid if user else 0) and {"again", "wrong"} & set(WAYS[way][0]):
        owner = tenant.uid  # what is opened again is the opener's
    with ExitStack() as stack:
        here = stack.enter_context(terminal(owner))
        _, other = stack.enter_context(terminal(owner))
        reader, writer = os.pipe()
        stack.callback(os.close, reader)

        def arrange() -> None:
            fcntl.ioctl(here[1], termios.TIOCSCTTY, 0)
            os.dup2(writer, 4, inheritable=True)
            os.dup2(writer, 3, inheritable=True)

        client = stack.enter_context(
            daemon.popen(
                "run", "--rm", "--on-disconnect", "kill", "--preserve-fds", "2", *WAYS[way][1],
                "/bin/sh", "-c", WAIT, user=user, close_fds=False, start_new_session=True, preexec_fn=arrange,
                **streams(stack, WAYS[way][0], here, other),
            )
        )  # fmt: skip
        os.close(writer)
        stack.callback(client.kill)
        assert os.read(reader, 9) == b"up\n"
        terminals = [here[1], other, here[0]]
        assert holders([client.pid], terminals)  # the test sees what there is to see
        ours = [
            process.pid for process in daemon.processes() if process.comm not in ("dkrctl", "dkrctl-keeper")
        ]
        assert len(ours) >= 4  # launcher, api, guardian, command
        assert holders(ours, terminals) == []
        client.send_signal(signal.SIGKILL)
    for process in daemon.processes():
        if process.comm == "dkr-shim":
            assert host.wait_gone(process.pid, BOUND_SECONDS)


def preserving(
    daemon: Daemon, here: int, passed: int, *, session: bool, stdin: int
) -> subprocess.CompletedProcess[Any]:
    """A run with `passed` as descriptor 3; with `session` the terminal `here` is the controlling one."""

    def arrange() -> None:
        if session:
            fcntl.ioctl(here, termios.TIOCSCTTY, 0)
        os.dup2(passed, 3, inheritable=True)

    return daemon.dkrctl(
        "run", "--rm", "--preserve-fds", "1", "/bin/sh", "-c", "[ -t 3 ]; echo $?",
        stdin=stdin, close_fds=False, start_new_session=True, preexec_fn=arrange,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["controlling", "standard input"])
def test_the_terminal_the_caller_is_at_is_not_preserved(daemon: Daemon, way: str) -> None:
    """`exec 3>&1` is common in scripts; a descriptor of a terminal reads, whatever it was opened for."""
    with terminal(0) as (_, here):
        stdin = subprocess.DEVNULL if way == "controlling" else here
        done = preserving(daemon, here, here, session=way == "controlling", stdin=stdin)
    assert done.returncode == 125
    assert done.stderr.startswith("dkrctl: cannot pass descriptor 3: it is the terminal you are at\n")


def test_another_terminal_is_the_callers_to_give(daemon: Daemon) -> None:
    """As a serial line: who names it with --preserve-fds means it. And the master of a pty is no terminal one is at."""
    with terminal(0) as (_, here), terminal(0) as (master, passed):
        for given in (passed, master):
            done = preserving(daemon, here, given, session=True, stdin=subprocess.DEVNULL)
            assert (done.returncode, done.stdout) == (0, "0\n")
