"""A real daemon for tests: the test install's dkrd, with directories, a socket, a cgroup and id ranges of its own.

`make test-install` places it outside the checkout, so that the api's user and the tests' users can reach it. Each daemon lives below
/var/lib/dkr-test-XXXXXXXX (an ordinary filesystem, open to other users: neither is true of tmp_path).
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM
from socket import socket as Socket  # the daemon's socket is a path
from typing import IO, TYPE_CHECKING, Any

from tests import host
from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = guard(30.0)
STOP_SECONDS = guard(20.0)
SETTLE_SECONDS = guard(10.0)
DKRCTL_SECONDS = guard(30.0)

# The pools of tests lie below dkr's default pool, so that a daemon in use on the same machine is not in the way; each test daemon has
# one slice, held by a lock that ends with the process.
POOL_FIRST = 0x60000000
SLICES = 15
SLICE_SLOTS = 256
SLOT_IDS = 65536

_turn = itertools.count()

Values = dict[str, str | int]


def _make(target: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "--silent", target]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_prefix() -> Path:
    """Where the test install is: what DKR_TEST_PREFIX names (`make test`, which has just renewed it, sets it), else what the
    Makefile says, and then the test fails where that is not what this tree would install.
    """
    named = os.environ.get("DKR_TEST_PREFIX")
    if named:
        return Path(named)
    assert _make("test-current").returncode == 0, (
        "the test install is not up to date: run `make test-install`"
    )
    return Path(_make("test-prefix").stdout.strip())


test_prefix.__test__ = False  # type: ignore[attr-defined]  # not a test, pytest


def _claim_slice() -> tuple[IO[bytes], int, int]:
    """A slice of ids that no other test daemon uses: its lock, first and last id."""
    # Not the one used last: the killed init of an earlier daemon may be a zombie for a while, and its id map stands until then.
    begin = os.getpid() + next(_turn)
    for number in ((begin + step) % SLICES for step in range(SLICES)):
        lock = open(f"/run/lock/dkr-test-ids-{number}", "ab")  # noqa: SIM115  # held as long as the daemon
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        first = POOL_FIRST + number * SLICE_SLOTS * SLOT_IDS
        return lock, first, first + SLICE_SLOTS * SLOT_IDS - 1
    raise AssertionError(f"{SLICES} test daemons are at work already")


def _toml(sections: Mapping[str, Values | str | int]) -> str:
    """The settings as TOML; JSON's strings and integers are TOML's."""
    top = [f"{key} = {json.dumps(value)}" for key, value in sections.items() if not isinstance(value, dict)]
    for name, values in sections.items():
        if isinstance(values, dict):
            top += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(top) + "\n"


@dataclass(slots=True)
class Daemon:
    """One dkrd and what belongs to it.

    prefix     the test install
    directory  all its files: dkrd.toml, log, state/, run/, ids/
    cgroup     the name of the cgroup above all its containers
    wrapper    what dkrd is started by: a command that executes the words after it
    """

    prefix: Path
    directory: Path
    settings: dict[str, Any]
    lock: IO[bytes]
    process: subprocess.Popen[bytes] | None = None
    seen: dict[int, host.Process] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()

    @classmethod
    def create(cls, prefix: Path, **settings: Any) -> Daemon:
        """Lays out the directories of a daemon that is not started yet.

        settings  keys of dkrd.toml, sections as dictionaries: `log_level="debug", limits={"containers_per_user": 2}`
        """
        directory = Path(tempfile.mkdtemp(prefix="dkr-test-", dir="/var/lib"))
        directory.chmod(0o755)
        lock, first, last = _claim_slice()
        defaults: dict[str, Any] = {
            "state_dir": f"{directory}/state",
            "run_dir": f"{directory}/run",
            "socket": f"{directory}/run/dkr.sock",
            "ids": {"directory": f"{directory}/ids", "first": first, "last": last},
            "cgroup": {"parent": directory.name},
            "limits": {},
        }
        for key, value in settings.items():
            defaults[key] = {**defaults[key], **value} if isinstance(defaults.get(key), dict) else value
        (directory / "dkrd.toml").write_text(_toml(defaults))
        return cls(prefix, directory, defaults, lock)

    @property
    def socket(self) -> Path:
        """The listening socket."""
        return Path(self.settings["socket"])

    @property
    def state_dir(self) -> Path:
        """The directory of what survives a reboot."""
        return Path(self.settings["state_dir"])

    @property
    def run_dir(self) -> Path:
        """The directory of what does not."""
        return Path(self.settings["run_dir"])

    @property
    def cgroup(self) -> str:
        """The name of the cgroup above all its containers."""
        return str(self.settings["cgroup"]["parent"]).strip("/")

    @property
    def pid(self) -> int:
        """The launcher's process."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """What the daemon has logged so far, all its processes, all its lives."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # Life

    def start(self) -> Daemon:
        """Starts dkrd; returns when it has said READY=1 (sd_notify(3))."""
        with Socket(AF_UNIX, SOCK_DGRAM) as ready:
            notify = self.directory / "notify"
            notify.unlink(missing_ok=True)
            ready.bind(str(notify))
            with (self.directory / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    [*self.wrapper, self.prefix / "sbin/dkrd", "--config", self.directory / "dkrd.toml"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": str(notify)},
                    start_new_session=True,
                )
            self._wait_ready(ready)
        return self

    def _wait_ready(self, ready: Socket) -> None:
        descriptor = os.pidfd_open(self.pid)
        until = time.monotonic() + READY_SECONDS
        try:
            while (left := until - time.monotonic()) > 0:
                readable = select.select([ready.fileno(), descriptor], [], [], left)[0]
                if ready.fileno() in readable and b"READY=1" in ready.recv(4096).split(b"\n"):
                    return
                if descriptor in readable:
                    break
        finally:
            os.close(descriptor)
        raise AssertionError(f"dkrd has not become ready; its log:\n{self.log}")

    def stop(self) -> int:
        """SIGTERM, and waits for the launcher's end: its exit status. Containers live on."""
        assert self.process is not None
        self._remember()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self._remember()

    def kill(self) -> None:
        """SIGKILL to the launcher, and waits for its end. Containers live on."""
        assert self.process is not None
        self._remember()
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """An orderly stop, then a new start with the same directories."""
        self.stop()
        self.start()

    # The client

    def environment(self) -> dict[str, str]:
        """What the client is told by its environment: this daemon's socket."""
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DKR_SOCKET": str(self.socket)}

    def popen(self, *args: str, user: host.User | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Starts the installed `dkrctl ARGS...`, as `user` (None: root); options as those of subprocess.Popen.

        `env` is put on top of `environment()`. The caller waits for it.
        """
        options["env"] = {**self.environment(), **options.pop("env", {})}
        if user is not None:
            options.update(user=user.uid, group=user.gid, extra_groups=user.groups)
        options.setdefault("cwd", "/")
        return subprocess.Popen([self.prefix / "bin/dkrctl", *args], **options)

    def dkrctl(
        self,
        *args: str,
        user: host.User | None = None,
        input: str | bytes | None = None,
        text: bool = True,
        timeout: float = DKRCTL_SECONDS,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Runs the installed `dkrctl ARGS...` to its end and gives what it wrote; without `input`, stdin is /dev/null.

        check  the test fails, with what the client and the daemon said, unless the status is 0
        """
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL if input is None else subprocess.PIPE)
        with self.popen(*args, user=user, text=text, **options) as client:
            try:
                out, err = client.communicate(input, timeout=timeout)
            except BaseException:
                client.kill()
                raise
        if check:
            assert client.returncode == 0, (
                f"dkrctl {' '.join(args)}: status {client.returncode}\n{err}\nthe daemon's log:\n{self.log[-4000:]}"
            )
        return subprocess.CompletedProcess(args, client.returncode, out, err)

    def run(self, *args: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """`dkrctl run --rm ARGS...`, which must succeed unless `check=False`."""
        return self.dkrctl("run", "--rm", *args, **{"check": True, **options})

    # What there is of it

    def processes(self) -> list[host.Process]:
        """The live processes of this daemon: launcher, api, shims, containers, whoever else was forked by them."""
        # A fork keeps its command line until it executes another program; what a container runs is in its cgroups; the api is a
        # child of the launcher.
        directory, cgroup = str(self.directory), f"/{self.cgroup}/"
        return [
            process
            for process in host.processes()
            if process.pid != os.getpid()
            and (
                f"{directory}/dkrd.toml" in process.command
                or cgroup in process.cgroups
                or (self.process is not None and process.parent == self.pid)
                or self.seen.get(process.pid) == process
            )
        ]

    def child(self, comm: str) -> host.Process:
        """The launcher's one child of this name (`dkr-api`)."""
        found = [process for process in host.children(self.pid) if process.comm == comm]
        assert len(found) == 1, f"the launcher has {len(found)} children called {comm}"
        return found[0]

    def _remember(self) -> None:
        self.seen.update((process.pid, process) for process in self.processes())

    def leftovers(self) -> list[str]:
        """What still stands of containers and, once the launcher has ended, of the daemon; layers and index may stay."""
        left = [
            f"process {p.pid} ({p.comm}): {p.command}" for p in self.processes() if p.pid != self._running()
        ]
        left += [f"mount {line}" for line in host.mounts(str(self.directory))]
        left += [f"cgroup {path}" for path in host.cgroups(self.cgroup) if path.name != self.cgroup]
        run, state = self.run_dir, self.state_dir
        for place in (run / "containers", run / "copies", state / "containers", self.directory / "ids"):
            left += [f"file {path}" for path in (place.iterdir() if place.is_dir() else ())]
        if self._running() is None and self.socket.is_socket():
            left.append(f"socket {self.socket}")
        return left

    def _running(self) -> int | None:
        return self.pid if self.process is not None and self.process.poll() is None else None

    def close(self) -> None:
        """Ends the daemon, takes everything of it off the machine, then fails if there was anything that should not have been."""
        problems = self._end()
        self._settle()
        problems += [f"left: {what}" for what in self.leftovers()]
        log = self.log
        self._sweep()
        self.lock.close()
        assert not problems, "\n".join([*problems, "the daemon's log:", log[-8000:]])

    def _end(self) -> list[str]:
        if self.process is None:
            return []
        self._remember()
        status = self.process.poll()
        if status is None:
            try:
                status = self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                return [f"dkrd has not ended {STOP_SECONDS:.0f} s after SIGTERM"]
            return [f"dkrd has ended with status {status} after SIGTERM"] if status else []
        return []

    def _settle(self) -> None:
        """Shims clean up after the client has its exit status: waits for those that are about to end."""
        until = time.monotonic() + SETTLE_SECONDS
        for process in self.processes():
            host.wait_gone(process.pid, max(0.0, until - time.monotonic()))

    def _sweep(self) -> None:
        """Removes by force whatever there is."""
        for process in self.processes():
            host.kill(process)
            host.wait_gone(process.pid, 5.0)
        for line in reversed(host.mounts(str(self.directory))):
            subprocess.run(["umount", "--lazy", line.split()[4]], check=False)
        for path in host.cgroups(self.cgroup):
            path.rmdir()
        shutil.rmtree(self.directory)
