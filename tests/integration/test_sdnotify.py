"""`--sdnotify`: what a service manager is told by a run in a unit of Type=notify, and by whom."""

from __future__ import annotations

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
            client.communicate()
            caller.daemon.dkrctl("rm", "-f", "it", user=caller.user)


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
