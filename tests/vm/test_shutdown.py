"""The end of containers with their unit, with the machine, and without either. In this order, on one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.guest import POLITE, STUBBORN

if TYPE_CHECKING:
    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.soak, pytest.mark.timeout(3600)]

STOPPED = {"code": 7, "signal": None, "cause": "stopped"}
KILLED = {"code": None, "signal": 9, "cause": "stopped"}


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_stopping_the_containers_unit_stops_them_in_order(guest: Guest, verb: str) -> None:
    guest.run("systemctl start dkrd.socket")
    guest.start("polite", POLITE, user="tina")
    guest.start("stubborn", STUBBORN, "--stop-timeout", "2")
    guest.run(f"systemctl {verb} dkr-containers.service")
    assert guest.ended("polite") == "up\nbye\nstatus 7\n"
    assert guest.ended("stubborn") == "up\nstatus 137\n"
    if verb == "stop":
        assert guest.show("dkrd.service", "ActiveState") == "inactive"
    assert guest.show("dkr-containers.service", "Result") == "success"
    # The next client brings everything back.
    found = guest.containers(every=True)
    assert {name: container["exit"] for name, container in found.items()} == {
        "polite": STOPPED,
        "stubborn": KILLED,
    }
    guest.run("dkrctl run --rm /bin/true")
    guest.remove_all()


def test_a_reboot_stops_containers_and_keeps_what_is_kept(guest: Guest) -> None:
    guest.run("systemctl start dkrd.socket")
    guest.start("polite", POLITE, user="tina")
    guest.start("stubborn", STUBBORN, "--stop-timeout", "2")
    # Left to the end, a first process that ignores SIGTERM would hold the machine up as long as this says.
    longer = "printf '[Manager]\\nDefaultTimeoutStopSec=1h\\n' >/run/systemd/system.conf.d/vm.conf"
    guest.run(f"mkdir -p /run/systemd/system.conf.d; {longer}; systemctl daemon-reload")
    guest.machine.shut_down()
    guest.boot()
    guest.run("systemctl start dkrd.socket")
    found = guest.containers(every=True)
    assert {name: container["exit"] for name, container in found.items()} == {
        "polite": STOPPED,
        "stubborn": KILLED,
    }
    guest.remove_all()
    guest.run("dkrctl run --rm /bin/true")


def test_a_power_cut_loses_no_kept_container(guest: Guest) -> None:
    guest.run("systemctl start dkrd.socket")
    guest.start("kept", POLITE, user="tina")
    guest.start("gone", POLITE, "--rm")
    guest.run("sync")
    guest.machine.cut()
    guest.boot()
    guest.run("systemctl start dkrd.socket")
    # What a build may still be at work on is left alone for as long as a build may take.
    guest.wait(
        "curl -s --unix-socket /run/dkr/dkr.sock 'http://dkr/v1/containers?all=true' | grep -q shim-lost"
    )
    guest.wait("test $(ls /var/lib/dkr/containers | wc -l) = 1")
    found = guest.containers(every=True)
    assert {name: container["exit"]["cause"] for name, container in found.items()} == {"kept": "shim-lost"}
    guest.remove_all()
    guest.run("dkrctl run --rm /bin/true")


def test_make_run_uses_the_unit(guest: Guest) -> None:
    start = "/usr/bin/python3 -I /usr/local/src/dkr/scripts/start_daemon.py /opt/dkr /usr/sbin/dkrd"
    guest.run("systemctl stop dkrd.socket dkrd.service")
    assert "dkrd.service runs" in guest.run(start)
    old = guest.show("dkrd.service", "MainPID")
    assert guest.run(start) == ""
    assert guest.show("dkrd.service", "MainPID") == old
    guest.start("kept", POLITE)
    before = guest.pids()
    guest.run("touch /opt/dkr/stamp")
    assert "has been restarted" in guest.run(start)
    assert guest.show("dkrd.service", "MainPID") not in ("0", old)
    assert guest.pids() == before


def test_uninstall_stops_and_leaves_nothing(guest: Guest) -> None:
    """With what the test before has left running."""
    variables = (
        "PREFIX=/opt/dkr BINDIR=/usr/bin SBINDIR=/usr/sbin SYSUSERSDIR=/usr/lib/sysusers.d TMPFILESDIR=/usr/lib/tmpfiles.d"
        " UNITDIR=/usr/lib/systemd/system"
    )
    guest.run("systemctl enable dkrd.socket dkrd.service")
    assert set(guest.pids()) == {"kept"}
    said = guest.run(f"{variables} /usr/local/src/dkr/scripts/install.sh uninstall")
    assert "/opt/dkr and what belongs to it is removed" in said
    assert guest.ended("kept") == "up\nbye\nstatus 7\n"
    left = guest.run(
        "find / -xdev -name '*dkr*' -not -path '/proc/*' -not -path '/usr/local/src/*' | sort"
    ).split()
    assert left == ["/var/lib/dkr"]
    assert guest.run("systemctl list-units --all --no-legend 'dkr*'") == ""
    assert guest.status("pgrep dkr") == 1
    assert guest.status("test -e /sys/fs/cgroup/system.slice/dkr-containers.service") == 1
