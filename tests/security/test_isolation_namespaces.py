"""Each container's own namespaces, ids, network and cgroup."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import host
from tests.patience import guard
from tests.security.inside import ask, standing

if TYPE_CHECKING:
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

OWN = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
LINKS = "tell({n: os.readlink('/proc/self/ns/' + n) for n in os.listdir('/proc/self/ns')})"
OPTION = {
    "pid": "--pid",
    "ipc": "--ipc",
    "uts": "--uts",
    "cgroup": "--cgroupns",
    "net": "--network",
    "user": "--userns",
}


def _host() -> dict[str, str]:
    return {entry.name: os.readlink(entry) for entry in os.scandir("/proc/self/ns")}


@pytest.mark.parametrize("who", ["root", "tenant"])
def test_every_namespace_but_time_is_its_own(daemon: Daemon, tenant: host.User, who: str) -> None:
    inside, outside = ask(daemon, LINKS, user=tenant if who == "tenant" else None), _host()
    assert {n for n in inside if inside[n] != outside[n]} == {*OWN, "pid_for_children"}
    assert inside["time"] == outside["time"]


def test_a_time_namespace_on_request(daemon: Daemon, tenant: host.User) -> None:
    inside = ask(daemon, LINKS, "--timens", "private", user=tenant)
    assert inside["time"] != os.readlink("/proc/self/ns/time")
    assert inside["time_for_children"] == inside["time"]


@pytest.mark.parametrize("kind", OPTION)
def test_root_may_have_one_of_the_hosts_and_only_that(daemon: Daemon, kind: str) -> None:
    inside, outside = ask(daemon, LINKS, OPTION[kind], "host"), _host()
    assert {n for n in OWN if inside[n] == outside[n]} == {kind}


def test_two_containers_share_none(daemon: Daemon, tenant: host.User) -> None:
    with standing(daemon, user=tenant) as one, standing(daemon, user=tenant) as other:
        for name in OWN:
            first, second = (os.readlink(f"/proc/{c.pid}/ns/{name}") for c in (one, other))
            assert first != second, name


def test_two_containers_do_not_see_each_other(daemon: Daemon, tenant: host.User) -> None:
    with standing(daemon, user=tenant) as one, standing(daemon, user=tenant) as other:
        maps = [Path(f"/proc/{c.pid}/uid_map").read_text().split() for c in (one, other)]
        ranges = [(int(first), int(first) + int(count)) for _, first, count in maps]
        ids = daemon.settings["ids"]
        for (inside, _, count), (begin, end) in zip(maps, ranges, strict=True):
            assert (inside, count) == ("0", "65536")
            assert ids["first"] <= begin
            assert end - 1 <= ids["last"]
        assert ranges[0][1] <= ranges[1][0] or ranges[1][1] <= ranges[0][0]
        one.do("echo mine > /tmp/file; echo mine > /dev/shm/file; echo mine > /etc/hostname")
        assert other.do("cat /tmp/file /dev/shm/file; cat /etc/hostname").splitlines()[-1] == "container"
        assert other.do("ls /tmp /dev/shm | grep -c file") == "0"
        assert other.do("set -- /proc/[0-9]*; echo $@") == "/proc/1"
        assert "No such process" in other.do(f"kill -0 {one.pid}")
        assert one.do("kill -0 1 && echo alive") == "alive"


def test_the_hostname_is_its_own(daemon: Daemon, tenant: host.User) -> None:
    before = socket.gethostname()
    assert daemon.run("/bin/hostname", user=tenant).stdout == "container\n"
    assert daemon.run("--hostname", "box", "/bin/hostname", user=tenant).stdout == "box\n"
    assert daemon.run("--hostname", "box", "/bin/cat", "/etc/hostname").stdout == "box\n"
    done = daemon.dkrctl("run", "--rm", "/bin/hostname", "taken")
    assert done.returncode != 0
    assert socket.gethostname() == before


def test_the_first_process_is_the_command_in_a_session_of_its_own(daemon: Daemon) -> None:
    probe = "tell([os.getpid(), os.getppid(), os.getsid(0), os.getpgrp(), sorted(filter(str.isdigit, os.listdir('/proc')))])"
    assert ask(daemon, probe) == [1, 0, 1, 1, ["1"]]


def test_the_network_has_a_loopback_that_is_up_and_nothing_else(daemon: Daemon, tenant: host.User) -> None:
    probe = """
names = [name for _, name in socket.if_nameindex()]
server = socket.create_server(("127.0.0.1", 80))
client = socket.create_connection(server.getsockname(), 5)
six = socket.create_server(("::1", 443), family=socket.AF_INET6)
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
routes = text("/proc/net/route").splitlines()[1:]
tell({"names": names, "uid": os.getuid(), "routes": routes, "unix": text("/proc/net/unix").splitlines()[1:],
      "port": text("/proc/sys/net/ipv4/ip_unprivileged_port_start").strip(),
      "ping": text("/proc/sys/net/ipv4/ping_group_range").split(),
      "away": refusal(socket.create_connection, ("192.0.2.1", 9), 1)})
"""
    for user in ("0:0", "1000:1000", "65535:65535"):
        seen = ask(daemon, probe, "--user", user, user=tenant)
        assert seen == {
            "names": ["lo"],
            "uid": int(user.partition(":")[0]),
            "routes": [],
            "unix": [],
            "port": "0",
            "ping": ["0", "65535"],
            "away": "ENETUNREACH",
        }


def test_a_server_of_the_host_cannot_be_reached(daemon: Daemon) -> None:
    """By loopback or by abstract name; with the host's network it can: the wall is the namespace."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        name = f"dkr-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        probe = f"""
tcp = socket.socket()
unix = socket.socket(socket.AF_UNIX)
tell([refusal(tcp.connect, ("127.0.0.1", {tcp.getsockname()[1]})), refusal(unix.connect, "\\0{name}")])
"""
        assert ask(daemon, probe) == ["ECONNREFUSED", "ECONNREFUSED"]
        assert ask(daemon, probe, "--network", "host") == [None, None]


def test_no_abstract_socket_is_ours(daemon: Daemon) -> None:
    """CVE-2020-15257: whoever shares the host's network could have connected to it."""
    with standing(daemon, "--network", "host") as container:
        inside = container.do("cat /proc/net/unix")
    names = [line.split()[7] for line in inside.splitlines()[1:] if len(line.split()) > 7]
    assert str(daemon.socket) in names
    assert [name for name in names if name.startswith("@") and "dkr" in name] == []


def test_the_command_is_in_its_own_cgroup_and_sees_it_as_the_top(daemon: Daemon, tenant: host.User) -> None:
    with standing(daemon, user=tenant) as container:
        inside = container.do("cat /proc/self/cgroup")
        outside = Path(f"/proc/{container.pid}/cgroup").read_text()
        assert {line.split(":")[2] for line in inside.splitlines()} == {"/"}
        place = re.compile(
            rf"/{daemon.cgroup}/(u\d+/)?{container.id}"
        )  # with the user's directory on cgroup v2
        own = [line for line in outside.splitlines() if place.search(line)]
        mine = [path for path in host.cgroups(daemon.cgroup) if container.id in path.parts]
        holding = [path for path in mine if str(container.pid) in (path / "cgroup.procs").read_text().split()]
        assert len(own) == len(holding) > 0
        assert container.id not in inside
        first = host.read_process(container.pid)
        assert first is not None
    # Its guardian, which cleans up after the client has its answer.
    assert host.wait_gone(first.parent, guard(10.0))
    # What it was in itself on cgroup v2, the launcher removes when it has seen its end.
    until = time.monotonic() + guard(10.0)
    while any(path.name == container.id for path in host.cgroups(daemon.cgroup)):
        assert time.monotonic() < until, "a cgroup of the container is left"
        time.sleep(0.01)


def test_a_container_with_the_hosts_cgroup_view_is_in_its_own_all_the_same(daemon: Daemon) -> None:
    lines = ask(daemon, "tell(text('/proc/self/cgroup').splitlines())", "--cgroupns", "host")
    assert any(re.search(rf"/{daemon.cgroup}/(u\d+/)?[0-9a-f]{{64}}", line) for line in lines)
