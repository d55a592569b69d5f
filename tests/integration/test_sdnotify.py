"""`--sdnotify`: what a service manager is told by a run in a unit of Type=notify, and by whom."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SHELL_SECONDS
from tests.integration.verbs import sweep
from tests.reliability.support import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

CHECK = ("--health-interval", "100ms", "--health-retries", "1", "--health-cmd", "test -e /tmp/well")


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


class Manager:
    """A service manager's socket: who speaks is known, as systemd knows it."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.settimeout(SHELL_SECONDS)
        self.sock.bind(address.replace("@", "\0", 1))
        if not address.startswith("@"):
            os.chmod(address, 0o777)

    def heard(self) -> tuple[list[str], int]:
        """The lines of the next message, and whose it is."""
        data, ancillary, _, _ = self.sock.recvmsg(8192, socket.CMSG_SPACE(12))
        [(_, _, credentials)] = ancillary
        pid: int = struct.unpack("iII", credentials)[0]
        return data.decode().splitlines(), pid

    def silent(self) -> bool:
        """Whether nobody has said anything by now."""
        return not select.select([self.sock], [], [], 0)[0]


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, open_tmp: Path) -> str:
    return str(open_tmp / "notify") if request.param == "path" else f"@dkr-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    found = Manager(address)
    yield found
    found.sock.close()


@contextmanager
def running(caller: Caller, address: str, *words: str) -> Iterator[subprocess.Popen[Any]]:
    environment = {**caller.daemon.environment(), "NOTIFY_SOCKET": address}
    with caller.start("--name", "it", *words, env=environment) as client:
        try:
            yield client
        finally:
            client.kill()
            caller.daemon.dkrctl("rm", "-f", "it", user=caller.user)  # else it may hold the pipes
            client.communicate()


def inside(caller: Caller, line: str) -> None:
    eventually(lambda: caller.exec("it", "/bin/sh", "-c", line).returncode == 0, "it runs")


def test_a_run_is_ready_when_it_is_healthy(caller: Caller, manager: Manager, address: str) -> None:
    with running(caller, address, "--sdnotify", "healthy", *CHECK, "/bin/sleep", "600") as client:
        eventually(
            lambda: "(unhealthy)" in caller.daemon.dkrctl("ps", user=caller.user).stdout, "it was probed"
        )
        assert manager.heard() == (["STATUS=the container is unhealthy"], client.pid)
        assert manager.silent()
        inside(caller, "touch /tmp/well")
        ready = ["STATUS=the container is healthy", "READY=1", f"MAINPID={client.pid}"]
        assert manager.heard() == (ready, client.pid)
        inside(caller, "rm /tmp/well")
        assert manager.heard()[0] == ["STATUS=the container is unhealthy"]
        inside(caller, "touch /tmp/well")
        assert manager.heard()[0] == ["STATUS=the container is healthy"]


# Says each line that it reads to $NOTIFY_SOCKET, as a message.
SPEAKER = """
import os, socket, struct, sys
print("up", flush=True)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for line in sys.stdin:
    pipe, text = os.pipe(), line.strip().encode().decode("unicode_escape").encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", *pipe))]
    sock.sendmsg([text], rights, 0, os.environ["NOTIFY_SOCKET"])
    for end in pipe:
        os.close(end)
"""
PYTHON = ("/usr/bin/python3", "-I", "-c", SPEAKER)


@pytest.mark.parametrize("options", [(), ("-u", "nobody"), ("--init", "--read-only")], ids=str)
def test_the_command_says_it_itself(
    caller: Caller, manager: Manager, address: str, options: tuple[str, ...]
) -> None:
    """By its client, whose process is the unit's; and no more than is its own to say."""
    with running(caller, address, "--sdnotify", "container", *options, *PYTHON) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        assert manager.silent()
        client.stdin.write(
            b"MAINPID=1\\nREADY=1\\nSTATUS=at work\\nFDSTORE=1\\nNOTIFYACCESS=all\\nBARRIER=1\n"
        )
        client.stdin.flush()
        assert manager.heard() == (["READY=1", "STATUS=at work", f"MAINPID={client.pid}"], client.pid)
        client.stdin.write(b"FDNAME=x\nnonsense\nSTOPPING=1\n")
        client.stdin.close()
        client.stdin = None
        assert manager.heard() == (["STOPPING=1"], client.pid)
        assert client.wait() == 0
    assert manager.silent()


def test_its_start_is_told_with_that(root: Caller, open_tmp: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(open_tmp / "notify")}
    words = ("--sdnotify", "container", "--explain", "--format", "json", "/bin/true")
    done = root.run(*words, env=environment)
    steps = [step["name"] for step in json.loads(done.stderr)["steps"]]
    assert steps.index("lock") < steps.index("notify") < steps.index("filter")
    assert "notify socket" in steps


def test_what_is_executed_there_may_say_it_too(root: Caller, open_tmp: Path) -> None:
    """The socket is an ordinary one in its own /dev; another container has none, nor has one that nobody asked it for."""
    manager = Manager(str(open_tmp / "notify"))
    with running(root, str(open_tmp / "notify"), "--sdnotify", "container", "-t=false", "/bin/sleep", "600"):
        eventually(lambda: root.exec("it", "/bin/true").returncode == 0, "it runs")
        done = root.exec("it", *PYTHON, input="READY=1\n")
        assert (done.returncode, done.stderr) == (0, "")
        assert manager.heard()[0][0] == "READY=1"
        assert (
            root.run("/bin/sh", "-c", 'test -e /dev/dkr-notify || test -n "$NOTIFY_SOCKET"').returncode == 1
        )
    manager.sock.close()


def test_a_client_that_is_gone_holds_up_nobody(root: Caller, open_tmp: Path) -> None:
    """Nobody reads any more: who sends is told so, and the guardian ends in order with what was sent."""
    manager = Manager(str(open_tmp / "notify"))
    words = ("--sdnotify", "container", "--on-disconnect", "keep", "/bin/sleep", "600")
    with running(root, str(open_tmp / "notify"), *words) as client:
        eventually(lambda: root.exec("it", "/bin/true").returncode == 0, "it runs")
        client.kill()
        client.wait()
        eventually(lambda: "ECONNREFUSED" in _say(root) or "refused" in _say(root), "nobody listens")
    manager.sock.close()


def _say(caller: Caller) -> str:
    return str(caller.exec("it", *PYTHON, input="READY=1\n").stderr)


def test_nobody_is_told_where_nobody_asked(caller: Caller, manager: Manager, address: str) -> None:
    for words in ((), ("--sdnotify", "ignore")):
        with running(
            caller, address, *words, "--health-cmd", "true", "--health-interval", "100ms", "/bin/sleep", "600"
        ):
            eventually(
                lambda: "(healthy)" in caller.daemon.dkrctl("ps", user=caller.user).stdout, "it is healthy"
            )
            inside(caller, 'test -z "$NOTIFY_SOCKET"')
    assert manager.silent()


def test_without_a_manager_it_runs_all_the_same(caller: Caller, open_tmp: Path) -> None:
    for address in ("", str(open_tmp / "gone")):
        words = ("--sdnotify", "healthy", "--health-cmd", "true", "--health-interval", "100ms")
        with running(caller, address, *words, "/bin/sleep", "600") as client:
            eventually(
                lambda: "(healthy)" in caller.daemon.dkrctl("ps", user=caller.user).stdout, "it is healthy"
            )
            assert client.poll() is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sdnotify", "healthy"], "nothing says how the container's health is found out"),
        (["--sdnotify", "conmon"], "cannot take --sdnotify conmon: it takes "),
        (["--sdnotify", "healthy", "-d", *CHECK], "cannot run with --detach and --sdnotify"),
    ],
)
def test_what_means_nothing_is_refused(caller: Caller, words: list[str], message: str) -> None:
    done = caller.daemon.dkrctl("run", *words, "/bin/true", user=caller.user)
    assert done.returncode == 125
    assert message in done.stderr
