"""What a test sees of the machine: processes, mounts, cgroups, descriptors, users. Reads /proc; changes nothing but users."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

from tests.patience import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process, as /proc/PID told it at one moment.

    comm     its name (PR_SET_NAME)
    command  its argument vector, blanks between
    cgroups  the lines of /proc/PID/cgroup
    started  when it was forked, ticks since boot: with the pid, which process it is, whatever it executes
    """

    pid: int
    parent: int
    comm: str
    command: str
    cgroups: str
    started: int


@dataclass(frozen=True, slots=True)
class User:
    """A user of the host to ask as: numeric ids, as a process has them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostCounts:
    """What containers are made of, on the whole machine, at one moment; zombies do not count."""

    mounts: int
    cgroups: int
    network_namespaces: int
    processes: int


def processes() -> Iterator[Process]:
    """Every live process but zombies: an init may take seconds to reap what nobody else waits for."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (process := read_process(int(entry.name))):
            yield process


def read_process(pid: int) -> Process | None:
    """Process `pid`; None where there is none, or only its zombie."""
    directory = Path(f"/proc/{pid}")
    try:
        head, _, tail = (directory / "stat").read_text(errors="replace").rpartition(")")
        words = tail.split()
        state, parent, started = words[0], words[1], words[19]
        command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        cgroups = (directory / "cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX":
        return None
    return Process(pid, int(parent), head.partition("(")[2], command.strip(), cgroups, int(started))


def children(pid: int) -> list[Process]:
    """The live children of `pid`."""
    return [process for process in processes() if process.parent == pid]


def descriptors(pid: int) -> list[str]:
    """What each descriptor of `pid` points at: paths, `socket:[inode]`, `anon_inode:[eventpoll]`."""
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue  # closed while we looked
    return sorted(links)


def environment(pid: int) -> list[str]:
    """The variables that a process was executed with; none of one that has ended."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    except OSError:
        return []


def mounts(word: str = "") -> list[str]:
    """The lines of our mountinfo that hold `word`."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if word in line]


def cgroups(name: str) -> list[Path]:
    """Every cgroup called `name` in every hierarchy, and all below it, innermost first."""
    tops = [CGROUPS, *(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())]
    found: set[Path] = set()
    for top in tops:
        if (top / name).is_dir():
            found.update(Path(path) for path, _, _ in os.walk(top / name))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def count_host() -> HostCounts:
    """What stands on the whole machine now. Equal before and after: nothing leaked, provided nothing else was at work."""
    spaces = set()
    count = 0
    for process in processes():
        count += 1
        try:
            spaces.add(os.readlink(f"/proc/{process.pid}/ns/net"))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    groups = sum(1 for _ in os.walk(CGROUPS))
    return HostCounts(len(mounts()), groups, len(spaces), count)


def wait_gone(pid: int, seconds: float) -> bool:
    """Waits until process `pid` has ended; False where it goes on after `seconds`."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def kill(process: Process, number: int = signal.SIGKILL) -> None:
    """Sends a signal to this very process, and to no other that got its pid since."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = read_process(process.pid)
        if now and now.started == process.started:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


USER_PREFIX = "dkrtest"


def add_user(number: int, groups: tuple[str, ...]) -> User:
    """A new system user in `groups`, named after this process so that a later run knows whose it was."""
    name = f"{USER_PREFIX}-{os.getpid()}-{number}"
    options = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    if groups:
        options += ["--groups", ",".join(groups)]
    _change_users(["useradd", *options, "--user-group", name])
    uid, gid = (
        int(subprocess.run(["id", flag, name], check=True, capture_output=True, text=True).stdout)
        for flag in ("-u", "-g")
    )
    return User(name, uid, gid, tuple(os.getgrouplist(name, gid)))


def remove_user(name: str) -> None:
    """Takes a user that `add_user` made off the machine."""
    _change_users(["userdel", name])


def remove_stale_users() -> None:
    """Takes the users of test runs off that were killed before they could."""
    for line in Path("/etc/passwd").read_text().splitlines():
        name = line.partition(":")[0]
        head, _, tail = name.partition("-")
        if head == USER_PREFIX and not Path(f"/proc/{tail.partition('-')[0]}").exists():
            remove_user(name)


def _change_users(command: list[str]) -> None:
    # passwd(5) is locked by a file; whoever finds it locked is refused at once and may try again.
    until = time.monotonic() + guard(30.0)
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "lock" not in done.stderr or time.monotonic() > until:
            raise AssertionError(f"cannot run {' '.join(command)}: {done.stderr.strip()}")
