"""From one of our processes to the spec's process: what a container's init and a further command in it (joining.py) have in
common, once each stands in its namespaces.

Runs in a forked child, most of it after the root has changed: nothing may be imported any more.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from typing import TYPE_CHECKING, NoReturn

from dkrd.runtime import capabilities, command, signals, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.runtime.spec import Process
    from dkrd.runtime.steps import Steps
    from dkrd.runtime.users import User

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
MASTER = b"master"


def be_root() -> None:
    """Root of the user namespace that this process is in now."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def begin_anew(process: Process, last_cap: int, steps: Steps) -> None:
    """Nothing of whoever forked us: session, keyring, umask, signals; and the bounding set is the spec's. Wants CAP_SETPCAP."""
    steps.begin("new session")
    os.setsid()
    syscalls.join_session_keyring()
    os.umask(0o022)
    signals.set_default()
    steps.begin("bounding set")
    # It bounds what execve can give; what is held now stays until capset.
    capabilities.drop_bounding(capabilities.mask(process.capabilities.bounding), last_cap)


def terminal(rows: int, columns: int, tty: tuple[int, ...], owner: int) -> tuple[int, int]:
    """A pty of the container's own devpts: its master and its peer, which belongs to `owner`.

    tty  those of 0..2 that get it; without 0 it is for output only

    Opened here and not by host root: the peer's owner must be an id of the container. TIOCGPTPEER
    (ioctl_tty(2)) finds the peer without a path, so nothing that the root holds in /dev/pts can be mistaken
    for it.
    """
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    peer = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if 0 not in tty:
        # Output only: the caller's own terminal makes the line ends, and would make them twice.
        mode = termios.tcgetattr(peer)
        mode[1] &= ~termios.OPOST
        termios.tcsetattr(peer, termios.TCSANOW, mode)
    os.fchown(peer, owner, -1)
    return master, peer


def send_master(sync: socket.socket, master: int) -> None:
    """Hand the master up to the guardian; ours is closed."""
    send_descriptor(sync, MASTER, master)
    os.close(master)


def send_descriptor(sync: socket.socket, word: bytes, descriptor: int) -> None:
    """Hand a descriptor up to the guardian, which knows by the word what it is."""
    sync.sendmsg([word], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


def descriptors(stdio: dict[int, int], preserved: tuple[int, ...], error: int) -> None:
    """Put the descriptors at their numbers and close all others but `error`, which lies above them.

    Closed now and not by execve: a working directory of /proc/self/fd/N must find nothing of the host
    (CVE-2024-21626).
    """
    targets = {**stdio, **{3 + i: fd for i, fd in enumerate(preserved)}}
    above = 3 + len(preserved)
    # First out of the way of every target, then into place.
    moved = {target: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for target, fd in targets.items()}
    for number in range(3):
        if number not in moved:
            os.close(number)
    for target, fd in moved.items():
        os.dup2(fd, target, inheritable=True)
    if error > above:
        syscalls.close_range(above, error - 1)
    syscalls.close_range(error + 1)


def ids(user: User) -> str:
    """For the record: uid, gid, how many groups, and which."""
    return " ".join(map(str, (user.uid, user.gid, len(user.groups), *user.groups)))


def become(
    process: Process,
    user: User,
    steps: Steps,
    *,
    controlling: bool,
    last: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Terminal, groups, capabilities, user, directory, signals; then the command. Raises DkrError, OSError.

    controlling  whether 0 is to be the controlling terminal
    last         called before execve
    """
    # Not one for output only: nobody types there, and /dev/tty says so at once (ENXIO) where it would wait for ever.
    if controlling:
        steps.begin("controlling terminal")
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    steps.begin("capabilities")
    steps.note(ids(user))
    sets = process.capabilities
    os.setgroups(list(user.groups))
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    capabilities.set_all(
        capabilities.mask(sets.effective),
        capabilities.mask(sets.permitted),
        capabilities.mask(sets.inheritable),
    )
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    steps.begin("chdir")
    command.change_directory(process.cwd)
    steps.begin("execve")
    env: dict[str, str] = {}
    for entry in process.env:
        name, _, value = entry.partition("=")
        env[name] = value
    env.setdefault("HOME", user.home)
    if "LISTEN_FDS" in env:
        # sd_listen_fds(3) compares it with its own pid, which only this process can tell.
        env.setdefault("LISTEN_PID", str(os.getpid()))
    last()
    signals.unblock_all()
    command.execute(process.args, env)
