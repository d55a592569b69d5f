"""dkr on a machine that systemd runs, with cgroup v2: activation, restarts, placement. In this order, on one machine."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests import kernel_table
from tests.vm import image
from tests.vm.guest import CGROUPS, CONTAINERS, POLITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.soak, pytest.mark.timeout(3600)]

UNITS = "dkrd.socket dkrd.service dkr-containers.service"
STOP = "dkr-containers-stop.target"


@pytest.fixture
def serving(guest: Guest) -> Iterator[Guest]:
    """The socket listens; afterwards nothing is left of any container."""
    guest.run("systemctl start dkrd.socket")
    guest.run("dkrctl run --rm /bin/true")
    yield guest
    guest.run("dkrd --stop-containers")
    guest.remove_all()
    guest.wait(f"test -z \"$(ls {CGROUPS}{CONTAINERS} | grep '^u[0-9]')\"")


def test_the_install_is_complete_and_nothing_runs(guest: Guest) -> None:
    assert guest.run(f"systemd-analyze verify --man=no {UNITS} {STOP} 2>&1") == ""
    assert guest.run("getent passwd dkr-api; getent group dkr dkr-admin").count("\n") == 3
    for unit in UNITS.split():
        assert guest.show(unit, "ActiveState") == "inactive"
    assert guest.run("systemctl --failed --no-legend") == ""


def test_the_first_client_starts_the_daemon(guest: Guest) -> None:
    guest.run("systemctl start dkrd.socket")
    assert guest.run("stat -c '%U %G %a' /run/dkr/dkr.sock") == "root dkr 660\n"
    assert guest.show("dkrd.service", "ActiveState") == "inactive"
    tenant = "setpriv --reuid tina --regid tina --init-groups"
    assert guest.run(f"{tenant} dkrctl run --rm /bin/echo hello") == "hello\n"
    for unit in UNITS.split():
        assert guest.show(unit, "ActiveState") == "active"
    # Who is in none of the groups is refused by the file's mode.
    assert (
        guest.status("setpriv --reuid nobody --regid nogroup --clear-groups dkrctl run --rm /bin/true") == 125
    )


def test_containers_and_guardians_are_in_leaves_of_the_other_unit(serving: Guest) -> None:
    guest = serving
    guest.start("placed", POLITE, user="tina")
    uid = guest.run("id -u tina").strip()
    container = guest.containers()["placed"]["id"]
    init, shim = guest.pids()["placed"]
    place = f"{CONTAINERS}/u{uid}/{container}"
    assert (guest.cgroup(init), guest.cgroup(shim)) == (f"{place}/c", f"{place}/shim")
    assert guest.cgroup(guest.show("dkrd.service", "MainPID")) == "/system.slice/dkrd.service"
    assert guest.cgroup(guest.show("dkr-containers.service", "MainPID")) == f"{CONTAINERS}/holder"
    assert guest.tree() == [
        "holder",
        f"u{uid}",
        f"u{uid}/{container}",
        f"u{uid}/{container}/c",
        f"u{uid}/{container}/shim",
    ]
    # Controllers come down to the leaf, so that bounds can be set there, and no process is in between.
    for inner in (CONTAINERS, f"{CONTAINERS}/u{uid}", place):
        assert set(guest.run(f"cat {CGROUPS}{inner}/cgroup.subtree_control").split()) == {
            "cpu",
            "memory",
            "pids",
        }
        assert guest.run(f"cat {CGROUPS}{inner}/cgroup.procs") == ""
    for file, value in (("memory.max", "64M"), ("pids.max", "9"), ("cpu.max", "5000 100000")):
        guest.run(f"echo {value} >{CGROUPS}{place}/c/{file}")


def test_the_oldest_kernel_takes_the_side_that_the_table_says(serving: Guest) -> None:
    assert serving.run("uname -r").startswith(f"{image.OLDEST}.")
    assert serving.features() == kernel_table.expected(image.OLDEST)
    assert kernel_table.sides()[image.OLDEST].items() <= serving.features().items()


def test_a_container_has_nothing_of_the_daemons_unit(serving: Guest) -> None:
    guest = serving
    assert guest.run("cat /proc/$(systemctl show --property=MainPID --value dkrd)/oom_score_adj") == "-500\n"
    inside = (
        "cat /proc/self/oom_score_adj; ulimit -n; env | grep -c -e JOURNAL -e NOTIFY -e LISTEN -e INVOCATION"
    )
    script = f"{inside}; echo -500 >/proc/self/oom_score_adj && echo lowered; true"
    said = guest.run(f"dkrctl run --rm /bin/sh -c '{script}'", check=False).split("\n")
    assert said[:3] == ["0", "1024", "0"]
    assert "lowered" not in said


RESTARTS = {
    "restart": "systemctl restart dkrd.service",
    "stop and start": "systemctl stop dkrd.service && systemctl start dkrd.service",
    "all but the containers": "systemctl stop dkrd.socket dkrd.service && systemctl start dkrd.socket dkrd.service",
    "daemon-reload": "systemctl daemon-reload && systemctl restart dkrd.service",
}


def test_the_daemon_comes_and_goes_and_containers_do_not_notice(serving: Guest) -> None:
    guest = serving
    guest.start("first", POLITE)
    guest.start("second", POLITE, user="tina")
    before = guest.pids()
    assert set(before) == {"first", "second"}
    ways: dict[str, Callable[[], object]] = {
        how: partial(guest.run, command) for how, command in RESTARTS.items()
    }
    ways |= {f"{whom} killed": partial(guest.kill_daemon, whom) for whom in ("main", "all")}
    for how, exchange in ways.items():
        old = guest.show("dkrd.service", "MainPID")
        exchange()
        guest.run("dkrctl run --rm /bin/true")
        assert guest.show("dkrd.service", "MainPID") not in ("0", old), how
        assert guest.pids() == before, how
        assert set(guest.containers()) == {"first", "second"}, how
    assert guest.show("dkrd.service", "Result") == "success"
    journal = guest.run("journalctl --no-pager -u dkrd.service -u dkr-containers.service")
    assert "219/CGROUP" not in journal
    assert "left-over process" not in journal


def test_clients_wait_while_the_daemon_is_exchanged(serving: Guest) -> None:
    command = "for i in 1 2 3 4; do dkrctl run --rm /bin/echo $i >>/tmp/waited 2>&1 & done; systemctl restart dkrd; wait"
    serving.run(f"rm -f /tmp/waited; {command}")
    assert sorted(serving.run("cat /tmp/waited").split()) == ["1", "2", "3", "4"]


def test_reload_is_told_to_systemd(serving: Guest) -> None:
    guest = serving
    old = guest.show("dkrd.service", "MainPID")
    guest.run(
        "mkdir -p /etc/dkr; echo 'log_level = \"debug\"' >/etc/dkr/dkrd.toml; systemctl reload dkrd.service"
    )
    guest.wait("journalctl --no-pager -u dkrd | grep -q 'settings read again'")
    guest.wait("test $(systemctl show --property=ActiveState --value dkrd) = active")
    assert guest.show("dkrd.service", "MainPID") == old
    guest.run("rm /etc/dkr/dkrd.toml; systemctl reload dkrd.service")


def test_the_journal_can_be_asked_for_one_container(serving: Guest) -> None:
    guest = serving
    guest.run("setpriv --reuid tina --regid tina --init-groups dkrctl run --name told --rm /bin/true")
    guest.wait("journalctl --no-pager -u dkrd | grep -q 'shim: ended .*'")
    uid = guest.run("id -u tina").strip()
    # -u finds the guardian's lines too, which come from the other unit's cgroup.
    text = guest.run(f"journalctl --no-pager -u dkrd DKR_UID={uid} -o json")
    records = [json.loads(line) for line in text.splitlines()]
    started = [record for record in records if record["MESSAGE"].startswith("shim: started")]
    assert started[-1]["_SYSTEMD_UNIT"] == "dkr-containers.service"
    assert (started[-1]["PRIORITY"], started[-1]["DKR_COMMAND"]) == ("5", "/bin/true")
    one = guest.run(f"journalctl --no-pager -o cat DKR_CONTAINER_ID={started[-1]['DKR_CONTAINER_ID']}")
    assert [line.split()[1] for line in one.splitlines()] == ["accepted", "started", "ended"]


def test_a_killed_holder_costs_no_container_and_comes_back(serving: Guest) -> None:
    guest = serving
    guest.start("held", POLITE)
    before = guest.pids()
    daemon = _daemon(guest)
    guest.run("systemctl kill --kill-whom=main --signal=KILL dkr-containers.service")
    guest.wait("test $(systemctl show --property=ActiveState --value dkr-containers) != active")
    # systemd tries to start it again, and cannot while containers are there; nobody else is drawn into that.
    _await_tries(guest, 2)
    assert _daemon(guest) == daemon
    assert guest.pids() == before
    # New ones start below the cgroup that is still there; the daemon can be exchanged, however long its start takes.
    guest.run("dkrctl run --rm /bin/true")
    guest.run("systemctl restart dkrd.service")
    guest.run("dkrctl run --rm /bin/true")
    daemon = _daemon(guest)
    _await_tries(guest, 2)
    assert _daemon(guest) == daemon
    assert guest.pids() == before
    guest.run("dkrd --stop-containers")
    guest.wait("systemctl is-active --quiet dkr-containers")
    guest.run("dkrctl run --rm /bin/true")
    assert guest.tree() == ["holder"]
    assert set(guest.run(f"cat {CGROUPS}{CONTAINERS}/cgroup.subtree_control").split()) == {
        "cpu",
        "memory",
        "pids",
    }


def _daemon(guest: Guest) -> tuple[str, str]:
    """Its process, and which start of its unit that is."""
    return guest.show("dkrd.service", "MainPID"), guest.show("dkrd.service", "InvocationID")


def _await_tries(guest: Guest, number: int) -> None:
    """So many more tries of systemd to bring the holder back have ended: the next one is being waited for."""
    tries = int(guest.show("dkr-containers.service", "NRestarts")) + number
    ask = "systemctl show --value dkr-containers.service --property"
    guest.wait(f"[ $({ask} NRestarts) -ge {tries} ] && [ $({ask} SubState) = auto-restart ]")
