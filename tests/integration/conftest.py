"""Who calls: most of what `run` promises holds for root and for an ordinary member of the socket's group alike."""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import Daemon
from tests.patience import guard
from tests.reliability.support import count, settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.host import Process, User
    from tests.reliability.support import Counts

SHELL_SECONDS = guard(30.0)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls the daemon: root (None) or a user of the host."""

    daemon: Daemon
    user: User | None

    @property
    def uid(self) -> int:
        """The caller's uid on the host."""
        return 0 if self.user is None else self.user.uid

    def run(self, *args: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """`dkrctl run --rm ARGS...` to its end, whatever that is."""
        return self.daemon.dkrctl("run", "--rm", *args, user=self.user, **options)

    def output(self, *args: str, **options: Any) -> str:
        """What `dkrctl run --rm ARGS...` prints; it must succeed, and complain of nothing."""
        done = self.run(*args, check=True, **options)
        assert done.stderr == ""
        return str(done.stdout)

    @contextmanager
    def popen(self, *args: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """`dkrctl run --rm ARGS...` for the block, see `start`; then it is waited for, or killed where the block fails."""
        with self.start(*args, **options) as client:
            try:
                yield client
            except BaseException:
                client.kill()
                raise

    def start(self, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts `dkrctl run --rm ARGS...` with pipes (of bytes) to all three; options as those of subprocess.Popen."""
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        return self.daemon.popen("run", "--rm", *args, user=self.user, **options)

    @contextmanager
    def standing(self, *args: str, name: str = "web") -> Iterator[str]:
        """The id of a container that runs `dkrctl run -d --name NAME ARGS...` for the block; without a command it sleeps."""
        command = args if any(word.startswith("/") for word in args) else (*args, "/bin/sleep", "600")
        done = self.daemon.dkrctl("run", "-d", "--name", name, *command, user=self.user, check=True)
        container = str(done.stdout).strip()
        try:
            yield container
        finally:
            self.daemon.dkrctl("rm", "-f", container, user=self.user, check=True)

    def exec(self, *args: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """`dkrctl exec ARGS...` to its end, whatever that is."""
        return self.daemon.dkrctl("exec", *args, user=self.user, **options)

    def start_exec(self, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts `dkrctl exec ARGS...` with pipes (of text) to all three; options as those of subprocess.Popen."""
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        options.setdefault("text", True)
        return self.daemon.popen("exec", *args, user=self.user, **options)

    def shell(self, line: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a line of bash(1) to its end as this user; see `popen_shell`."""
        options.setdefault("stdin", subprocess.DEVNULL)
        with self.popen_shell(line, *args, text=True, **options) as shell:
            try:
                out, err = shell.communicate(timeout=SHELL_SECONDS)
            except BaseException:
                shell.kill()
                raise
        return subprocess.CompletedProcess(line, shell.returncode, out, err)

    def popen_shell(self, line: str, *args: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a line of bash(1) with the installed client first on PATH; `args` are its $1, $2, ...

        With pipes to all three; options as those of subprocess.Popen, `env` comes on top.
        """
        environment = {**self.daemon.environment(), **options.pop("env", {})}
        environment["PATH"] = f"{self.daemon.prefix}/bin:{environment['PATH']}"
        if self.user is not None:
            options.update(user=self.user.uid, group=self.user.gid, extra_groups=self.user.groups)
        for name in ("stdin", "stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
        return subprocess.Popen(["/bin/bash", "-c", line, "bash", *args], env=environment, cwd="/", **options)

    def command(self, comm: str) -> Process:
        """The one process of this name in a container: waits until it has been executed. Nothing tells that by an event: a shell
        that says it is ready and becomes another program then has not become it yet. A child that it has forked has its name until
        it becomes something else. What a client has left behind that was killed has to end first.
        """
        until = time.monotonic() + SHELL_SECONDS
        while True:
            # In the middle of its execve(2) it has the name and no arguments yet.
            found = [
                process for process in self.daemon.processes() if process.comm == comm and process.command
            ]
            pids = {process.pid for process in found}
            found = [process for process in found if process.parent not in pids]
            if len(found) == 1:
                return found[0]
            assert time.monotonic() < until, f"not one {comm}, but {found}"
            select.select([], [], [], 0.005)

    def containers(self) -> list[dict[str, Any]]:
        """What `GET /v1/containers?all=true` tells root: everybody's."""
        found = request(self.daemon, "GET", "/v1/containers?all=true")
        assert isinstance(found, list)
        return found

    def ended(self, name: str) -> dict[str, Any]:
        """What is told of a container that is kept, once it is told as stopped: the news may be later than its client's exit."""
        while True:
            [container] = [one for one in self.containers() if one["name"] == name and not one["rm"]]
            if container["status"] == "stopped":
                return container
            select.select([], [], [], 0.01)


def request(daemon: Daemon, method: str, path: str) -> Any:
    """Asks the daemon by HTTP, as root; fails unless it answers with 2xx."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SHELL_SECONDS)
        sock.connect(str(daemon.socket))
        connection = http.client.HTTPConnection("dkr")
        connection.sock = sock
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {body!r}"
    return json.loads(body) if body else None


@pytest.fixture(autouse=True, scope="module")
def nothing_is_there(request: pytest.FixtureRequest) -> None:
    """Each file begins when what the one before had run is cleaned up: a guardian does that behind its client's exit, and with --rm a
    container is listed until then.
    """
    tests = [item for item in request.session.items if item.path == request.path]
    if any("daemon" in getattr(test, "fixturenames", ()) for test in tests):
        settle(request.getfixturevalue("daemon"))


@pytest.fixture(params=["root", "tenant"])
def caller(request: pytest.FixtureRequest, daemon: Daemon) -> Caller:
    """Root, then an unprivileged member of the group `dkr`."""
    user: User | None = None if request.param == "root" else request.getfixturevalue("tenant")
    return Caller(daemon, user)


@pytest.fixture
def root(daemon: Daemon) -> Caller:
    """Root alone, for what does not depend on the user."""
    return Caller(daemon, None)


@pytest.fixture(scope="module")
def at_rest(daemon: Daemon) -> Counts:
    """What launcher, api and machine hold before the tests of a file: what each of them has to come back to."""
    return count(daemon)


@pytest.fixture(scope="module")
def slow(prefix: Path) -> Iterator[Daemon]:
    """A daemon that puts a restart off for longer than any test takes: what waits there waits."""
    own = Daemon.create(prefix, restart={"first_seconds": 600, "max_seconds": 600})
    try:
        yield own.start()
    finally:
        own.close()
