"""The same units where systemd has cgroup v1 beside v2: nothing is delegated there, and containers live on all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.guest import CONTAINERS, CROWD, POLITE

if TYPE_CHECKING:
    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["hybrid", "v1"])
def options(request: pytest.FixtureRequest) -> str:
    legacy = "systemd.legacy_systemd_cgroup_controller=1" if request.param == "v1" else ""
    return f"systemd.unified_cgroup_hierarchy=0 {legacy}"


def test_containers_outlive_the_daemon_and_end_with_their_unit(guest: Guest, options: str) -> None:
    guest.run("systemctl start dkrd.socket")
    guest.start("first", POLITE, user="tina")
    before = guest.pids()
    kind = "v1" if "legacy" in options else "hybrid"
    assert f"cgroups={kind}" in guest.run("journalctl --no-pager -u dkrd")
    guest.run("systemctl restart dkrd.service; dkrctl run --rm /bin/true")
    guest.kill_daemon("main")
    guest.run("dkrctl run --rm /bin/true")
    assert guest.pids() == before
    container = guest.containers()["first"]["id"]
    for controller in ("cpu", "memory", "pids"):
        assert f":{CONTAINERS}/{container}\n" in guest.run(
            f"grep {controller} /proc/{before['first'][0]}/cgroup"
        )
    guest.run("systemctl stop dkr-containers.service")
    assert guest.ended("first") == "up\nbye\nstatus 7\n"
    assert guest.containers(every=True)["first"]["exit"]["cause"] == "stopped"
    guest.remove_all()
    assert guest.run(f"find /sys/fs/cgroup -name {container}") == ""


def test_a_container_without_a_guardian_is_frozen_and_killed(guest: Guest, options: str) -> None:
    """Where there is no cgroup.kill: none of them can fork away meanwhile."""
    guest.run("systemctl start dkrd.socket")
    guest.start("crowd", CROWD, "--pid", "host")
    init, shim = guest.pids()["crowd"]
    [group] = guest.run(f"grep -o '/.*' <(grep freezer /proc/{init}/cgroup)").split()
    place = f"/sys/fs/cgroup/freezer{group}"
    assert len(guest.run(f"cat {place}/cgroup.procs").split()) > 5
    if "legacy" in options:
        assert guest.run(f"find /sys/fs/cgroup -path '*{group}/cgroup.kill'") == ""
    guest.run("systemctl stop dkrd.socket dkrd.service")  # which would collect it
    guest.run(f"kill -KILL {shim}; dkrd --stop-containers")
    assert guest.status(f"test -s {place}/cgroup.procs") == 1
    guest.run("systemctl start dkrd.socket; dkrctl run --rm /bin/true")
    guest.wait(f"test -z \"$(find /sys/fs/cgroup -path '*{group}')\"")
    guest.remove_all()
