"""Bounds of the host that many containers run into."""

import os
from collections.abc import Iterator
from pathlib import Path

from dkrctl.doctor.checks import Check, is_root, ok, untried, warning
from dkrctl.doctor.kernel import sysctl

# sysctl, the least that is comfortable, what a container takes of it
_WANTED = (
    ("kernel.pid_max", 65536, "each process takes one"),
    ("kernel.threads-max", 16384, "each thread takes one"),
    ("fs.mount-max", 16384, "a container takes some 30, in its own namespace and for a moment in another"),
    ("kernel.pty.max", 512, "each terminal takes one"),
    ("user.max_user_namespaces", 1024, "each container takes one"),
    ("user.max_mnt_namespaces", 1024, "each container takes one, for a moment two"),
    ("user.max_net_namespaces", 1024, "each container takes one"),
)
_FILES = 4096  # the daemon keeps some descriptors for each container


def checks(daemon: int | None) -> Iterator[Check]:
    """All of them; `daemon` is the pid of dkrd's launcher, None where it is not known."""
    for name, least, what in _WANTED:
        value = sysctl(name)
        if value is None or not value.isdigit():
            continue  # this kernel has no such bound
        if value == "0" and name.startswith("user."):
            continue  # told as a problem of the namespace itself
        if int(value) < least:
            yield warning(name, f"{value}: {what}", f"for many containers: sysctl -w {name}={least}, or more")
        else:
            yield ok(name, value)
    yield _open_files(daemon)


def _open_files(daemon: int | None) -> Check:
    name = "open files of dkrd"
    if daemon is None:
        return warning(name, "not known: it cannot be reached", "see what is told of the daemon")
    if not is_root():
        return untried(name)
    try:
        text = Path(f"/proc/{daemon}/limits").read_text()
    except OSError as err:
        return warning(name, f"not known: {(err.strerror or str(err)).lower()}", "look again")
    line = next(line for line in text.splitlines() if line.startswith("Max open files"))
    hard = line.split()[4]
    count = _count(daemon)
    if hard != "unlimited" and int(hard) < _FILES:
        return warning(
            name,
            f"at most {hard}, {count} in use",
            "raise it: LimitNOFILE=1024:1048576 in dkrd.service, or ulimit -Hn",
        )
    return ok(name, f"at most {hard}, {count} in use")


def _count(daemon: int) -> int:
    try:
        return len(os.listdir(f"/proc/{daemon}/fd"))
    except OSError:
        return 0
