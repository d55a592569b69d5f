"""Fixtures of the security tests: what no container may change on the host is compared around each of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.integration.conftest import nothing_is_there  # noqa: F401  # holds for each file here too
from tests.security.taken_over import TakenOver

if TYPE_CHECKING:
    from collections.abc import Iterator

# A container that got out would write here first: what the kernel executes as root on the host, and the host's name.
KNOBS = (
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/hotplug",
    "kernel/poweroff_cmd",
    "kernel/hostname",
    "kernel/domainname",
    "kernel/sysrq",
    "kernel/randomize_va_space",
    "kernel/yama/ptrace_scope",
    "vm/mmap_min_addr",
    "vm/overcommit_memory",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "fs/suid_dumpable",
)


def snapshot() -> dict[str, str]:
    """The knobs, the agents that v1 cgroups start, the kernel's helper for events, the interpreter's file."""
    paths = [Path("/proc/sys", name) for name in KNOBS]
    paths += [Path("/sys/kernel/uevent_helper")]
    paths += host.CGROUPS.glob("*/release_agent")
    found = {str(path): path.read_text() for path in paths if path.exists()}
    status = Path("/usr/bin/python3").resolve().stat()
    found["interpreter"] = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return found


@pytest.fixture(autouse=True)
def _host_unchanged() -> Iterator[None]:
    """Fails a test after which the host is another."""
    knobs, mounts = snapshot(), _mounts()
    yield
    assert snapshot() == knobs
    assert _mounts() == mounts


def _mounts() -> list[str]:
    """The host's mounts but for those of test daemons, other runs' too: each daemon's own are looked for when it ends."""
    return [line for line in host.mounts() if "/dkr-test-" not in line]


@pytest.fixture(scope="session")
def taken_over(prefix: Path) -> Iterator[TakenOver]:
    """A daemon whose api is another's; its socket is open to all, so that the api can connect to it itself."""
    evil = TakenOver.create(prefix, socket_mode="0666", limits={"start_seconds": 10})
    try:
        evil.daemon.start()
        yield evil
    finally:
        evil.daemon.close()
