"""/dev, and what a node that is made inside opens."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.security.inside import ask

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

NODES = {"full": [1, 7], "null": [1, 3], "random": [1, 8], "tty": [5, 0], "urandom": [1, 9], "zero": [1, 5]}
LINKS = {
    "core": "/proc/kcore",
    "fd": "/proc/self/fd",
    "ptmx": "pts/ptmx",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}
LIST = """
nodes, links, rest = {}, {}, []
for entry in os.scandir("/dev"):
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        links[entry.name] = os.readlink(entry.path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        nodes[entry.name] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    else:
        rest.append(entry.name)
tell([nodes, links, sorted(rest), sorted(os.listdir("/dev/pts"))])
"""

DEVICES = {
    "loop": (stat.S_IFBLK, 7, 0),
    "disk": (stat.S_IFBLK, os.major(os.stat("/").st_dev), os.minor(os.stat("/").st_dev)),
    "mem": (stat.S_IFCHR, 1, 1),
    "kmsg": (stat.S_IFCHR, 1, 11),
    "tun": (stat.S_IFCHR, 10, 200),
    "null": (stat.S_IFCHR, 1, 3),
}
MAKE = f"""
found = {{}}
for directory in ("/", "/tmp", "/dev", "/dev/shm", "/mnt", "/root"):
    for name, (kind, major, minor) in {DEVICES!r}.items():
        path = f"{{directory}}/made-{{name}}"
        made = refusal(os.mknod, path, 0o666 | kind, os.makedev(major, minor))
        opened = refusal(os.open, path, os.O_RDONLY)
        if made is None or opened is None:
            found[path] = [made, opened]
tell(found)
"""


@pytest.mark.parametrize("options", [(), ("--userns", "host")])
def test_dev_holds_the_default_nodes_and_no_others(daemon: Daemon, options: tuple[str, ...]) -> None:
    nodes, links, rest, terminals = ask(daemon, LIST, *options)
    assert nodes == NODES
    assert links == LINKS
    assert rest == ["mqueue", "pts", "shm"]
    assert terminals == ["ptmx"]


@pytest.mark.parametrize("options", [(), ("--userns", "host"), ("--userns", "host", "--pid", "host")])
def test_no_device_is_made(daemon: Daemon, options: tuple[str, ...]) -> None:
    assert ask(daemon, MAKE, "--tmpfs", "/mnt", *options) == {}


def test_no_device_is_made_by_a_tenant(daemon: Daemon, tenant: host.User) -> None:
    assert ask(daemon, MAKE, "--tmpfs", "/mnt", user=tenant) == {}


def test_the_terminals_of_a_container_are_its_own(daemon: Daemon) -> None:
    probe = """
master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
number = struct.unpack("i", fcntl.ioctl(master, 0x80045430, b"1234"))[0]
tell([number, sorted(os.listdir("/dev/pts")), refusal(os.open, f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)])
"""
    host_master, host_slave = os.openpty()
    try:
        assert ask(daemon, probe) == [0, ["0", "ptmx"], None]
    finally:
        os.close(host_master)
        os.close(host_slave)
