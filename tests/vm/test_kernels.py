"""The oldest kernel that is promised and a newer one: which side of each feature dkr takes there, and that it works. In this order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests import kernel_table
from tests.vm.guest import CGROUPS, CONTAINERS, CROWD, POLITE

if TYPE_CHECKING:
    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

# What Debian's kernels have built in and switched on, in this order.
MODULES = {
    "6.1": "lockdown,capability,landlock,yama,apparmor,tomoyo,bpf",
    "6.12": "lockdown,capability,landlock,yama,apparmor,tomoyo,bpf,ipe,ima,evm",
}


# The oldest is what all other modules boot, so `make test` asks it there (test_deb.py).
@pytest.fixture(scope="module", params=[pytest.param("6.1", marks=pytest.mark.soak), "6.12"])
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_takes_the_side_that_the_table_says(guest: Guest, kernel: str) -> None:
    guest.run("systemctl start dkrd.socket")
    assert (
        guest.run("setpriv --reuid tina --regid tina --init-groups dkrctl run --rm /bin/echo hello")
        == "hello\n"
    )
    release = guest.run("uname -r").strip()
    assert release.startswith(f"{kernel}.")
    features = guest.features()
    assert features == kernel_table.expected(kernel)
    assert kernel_table.sides()[kernel].items() <= features.items()


def test_its_security_modules_are_told(guest: Guest, kernel: str) -> None:
    modules = guest.run("cat /sys/kernel/security/lsm").strip()
    assert modules == MODULES[kernel]
    assert "landlock" in modules
    assert guest.run("cat /sys/module/apparmor/parameters/enabled") == "Y\n"
    told = json.dumps(modules.split(","), separators=(",", ":"))
    assert f"securityModules={told}" in guest.run("journalctl --no-pager -u dkrd")


def test_guardian_and_init_are_born_in_the_delegated_cgroup(guest: Guest) -> None:
    assert guest.show("dkr-containers.service", "Delegate") == "yes"
    explained = guest.run("dkrctl run --rm --explain /bin/true 2>&1")
    assert "CLONE_INTO_CGROUP" in explained
    guest.start("placed", POLITE, user="tina")
    init, shim = guest.pids()["placed"]
    place = f"{CONTAINERS}/u{guest.run('id -u tina').strip()}/{guest.containers()['placed']['id']}"
    assert (guest.cgroup(init), guest.cgroup(shim)) == (f"{place}/c", f"{place}/shim")
    assert set(guest.run(f"cat {CGROUPS}{place}/c/cgroup.controllers").split()) == {"cpu", "memory", "pids"}
    guest.run("dkrd --stop-containers")
    assert guest.ended("placed") == "up\nbye\nstatus 7\n"
    guest.remove_all()


def test_a_container_without_a_guardian_is_killed_by_its_cgroup(guest: Guest) -> None:
    """`cgroup.kill`: nobody is left who would signal init, and the children are not init's."""
    guest.start("crowd", CROWD, "--pid", "host")
    init, shim = guest.pids()["crowd"]
    place = guest.cgroup(init)
    assert len(guest.run(f"cat {CGROUPS}{place}/cgroup.procs").split()) > 6
    guest.run("systemctl stop dkrd.socket dkrd.service")  # which would collect it
    guest.run(f"kill -KILL {shim}")
    guest.run("dkrd --stop-containers")
    assert guest.status(f"test -s {CGROUPS}{place}/cgroup.procs") == 1
    guest.run("systemctl start dkrd.socket; dkrctl run --rm /bin/true")
    guest.wait('test -z "$(ls -d /run/dkr/containers/*)"')
    guest.remove_all()
    guest.wait(f"test -z \"$(ls {CGROUPS}{CONTAINERS} | grep '^u[0-9]')\"")


def test_containers_outlive_a_restart(guest: Guest) -> None:
    guest.start("kept", POLITE, user="tina")
    before = guest.pids()
    guest.run("systemctl restart dkrd.service; dkrctl run --rm /bin/true")
    guest.kill_daemon("all")
    guest.run("dkrctl run --rm /bin/true")
    assert guest.pids() == before
    guest.run("systemctl stop dkr-containers.service")
    assert guest.ended("kept") == "up\nbye\nstatus 7\n"


def test_a_container_is_started_again(guest: Guest) -> None:
    create = "dkrctl create --name again /bin/sh -c 'echo x >>/kept; cat /kept'"
    guest.run(f"systemctl start dkrd.socket; {create}")
    for turn in (1, 2):
        assert guest.run("dkrctl start -a again") == "x\n" * turn
    guest.remove_all()


def test_one_that_is_paused_stands_still_and_can_be_stopped(guest: Guest) -> None:
    guest.start("still", POLITE, user="tina")
    place = guest.cgroup(guest.pids()["still"][0])
    guest.run("dkrctl pause still")
    assert "frozen 1" in guest.run(f"cat {CGROUPS}{place}/cgroup.events")
    assert guest.run("dkrctl ps --filter status=paused --format '{{.Names}}'") == "still\n"
    guest.run("dkrctl stop still")
    assert guest.ended("still") == "up\nbye\nstatus 7\n"
    guest.remove_all()
