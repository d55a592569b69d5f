"""The Debian package on a machine that has never seen dkr: installed, upgraded, removed, purged. In this order, on one machine."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.version import VERSION
from tests import kernel_table, packages
from tests.vm import image, machine
from tests.vm.guest import POLITE, Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

APT = "DEBIAN_FRONTEND=noninteractive apt-get --yes --no-install-recommends"
CURL = "curl --silent --show-error --fail --unix-socket /run/dkr/dkr.sock"
USERS = "getent passwd dkr-api; getent group dkr dkr-api dkr-admin"
# A terminal for the client, that is typed into by /tmp/keys and shows itself in /tmp/screen.
TERMINAL = """
import os, pty, sys
status = pty.spawn(["dkrctl", "run", "--rm", "--name", "shell", "/bin/sh"])
print("status", os.waitstatus_to_exitcode(status), flush=True)
"""
# Says a word each time that somebody has made the file.
LISTENER = "n=0; while :; do n=$((n+1)); until [ -e /tmp/$n ]; do sleep 0.1; done; echo word $n; [ $n = 2 ] && exit 3; done"


@pytest.fixture(scope="module")
def archive() -> Iterator[Path]:
    """Nothing but the packages."""
    place = Path(tempfile.mkdtemp(prefix="dkr-vm-", dir="/var/tmp"))
    made = place / "payload.tar"
    try:
        with tarfile.open(made, "w") as tar:
            tar.add(packages.deb(), "usr/local/src/dkr.deb")
            tar.add(packages.newer_deb(), "usr/local/src/newer.deb")
        yield machine.whole_sectors(made)
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def guest(archive: Path) -> Iterator[Guest]:
    place = Path(tempfile.mkdtemp(prefix="dkr-vm-", dir="/var/tmp"))
    made = Guest(machine.Machine(image.image(), archive, place))
    try:
        made.machine.boot()
        # What dpkg leaves out in this image, man pages, is wanted now.
        made.run("rm /etc/dpkg/dpkg.cfg.d/99mmdebstrap; find / -xdev | sort >/tmp/before")
        yield made
    finally:
        made.machine.cut()
        shutil.rmtree(place)


def test_an_install_serves_its_first_client(guest: Guest) -> None:
    guest.run(f"{APT} install /usr/local/src/dkr.deb")
    assert guest.run(USERS).count("\n") == 4
    assert guest.show("dkrd.socket", "ActiveState") == "active"
    assert guest.run("systemctl is-enabled dkrd.socket dkrd.service", check=False) == "enabled\ndisabled\n"
    assert guest.show("dkrd.service", "ActiveState") == "inactive"
    guest.run("useradd --groups dkr tina")
    tenant = "setpriv --reuid tina --regid tina --init-groups"
    assert guest.run(f"{tenant} dkrctl run --rm /bin/echo hello") == "hello\n"
    for unit in ("dkrd.service", "dkr-containers.service"):
        assert guest.show(unit, "ActiveState") == "active"
    assert (
        guest.run("systemd-analyze verify --man=no dkrd.socket dkrd.service dkr-containers.service 2>&1")
        == ""
    )
    assert guest.run("systemctl --failed --no-legend") == ""
    assert guest.features() == kernel_table.expected(image.OLDEST)
    # Nothing that dkr does when it runs changes what dpkg has laid down.
    assert guest.run("dpkg --verify dkr") == ""
    assert guest.run("find /usr/lib/dkr -newer /var/lib/dpkg/info/dkr.list") == ""
    assert ".TH DKRCTL 1" in guest.run("zcat /usr/share/man/man1/dkrctl.1.gz")


def test_an_upgrade_leaves_containers_and_sessions_alone(guest: Guest) -> None:
    guest.start("polite", POLITE, user="tina")
    guest.run("mkfifo /tmp/keys; (setsid sleep infinity >/tmp/keys &) 2>/dev/null")
    guest.run(f"(setsid python3 -c '{TERMINAL}' </tmp/keys >/tmp/screen 2>&1 &) 2>/dev/null")
    guest.wait("grep -q '#' /tmp/screen")
    guest.run("echo 'echo $((6*7))' >/tmp/keys")
    guest.wait("grep -q 42 /tmp/screen")
    body = json.dumps({"name": "logged", "args": ["/bin/sh", "-c", LISTENER]})
    guest.run(
        f"{CURL} http://dkr/v1/containers --json '{body}'; {CURL} -X POST http://dkr/v1/containers/logged/start"
    )
    touch = "nsenter --target $(curl -s --unix-socket /run/dkr/dkr.sock http://dkr/v1/containers/logged |"
    touch += (
        ' python3 -c "import json, sys; print(json.load(sys.stdin)[\\"pid\\"])") --mount --root /bin/touch'
    )
    guest.run(f"{touch} /tmp/1")
    before, daemon, holder = _standing(guest)
    assert set(before) == {"polite", "shell", "logged"}

    guest.run(f"{APT} install /usr/local/src/newer.deb")

    after, newer, same = _standing(guest)
    assert (after, same) == (before, holder)
    assert newer not in ("0", daemon)
    told = guest.run("dkrctl version")
    assert told.count(packages.NEXT) == 2, told  # client and daemon
    assert VERSION not in told
    guest.run("echo 'echo $((6*9)); exit 5' >/tmp/keys")
    guest.wait("grep -q 'status 5' /tmp/screen")
    assert "54" in guest.run("cat /tmp/screen")
    guest.run(f"{touch} /tmp/2")
    ended = json.loads(guest.run(f"{CURL} -X POST http://dkr/v1/containers/logged/wait"))
    assert ended["exit"]["code"] == 3
    logs = guest.run(f"{CURL} http://dkr/v1/containers/logged/logs --output - | tr -d '\\0'")
    assert "word 1" in logs
    assert "word 2" in logs
    guest.run("dkrctl rm logged")
    assert "219/CGROUP" not in guest.run("journalctl --no-pager -u dkrd.service -u dkr-containers.service")


def _standing(guest: Guest) -> tuple[dict[str, tuple[int, int]], str, str]:
    """The containers' processes, the daemon's, and which start of the unit that holds them it is."""
    return (
        guest.pids(),
        guest.show("dkrd.service", "MainPID"),
        guest.show("dkr-containers.service", "InvocationID"),
    )


def test_a_removal_stops_containers_and_keeps_state(guest: Guest) -> None:
    guest.run("mkdir -p /etc/dkr; echo 'log_level = \"debug\"' >/etc/dkr/dkrd.toml")
    assert set(guest.pids()) == {"polite"}
    guest.run(f"{APT} remove dkr")
    assert guest.ended("polite") == "up\nbye\nstatus 7\n"
    # What an admin has enabled is remembered until a purge: a name without a unit.
    units = guest.run("systemctl list-units --all --plain --no-legend 'dkr*'").splitlines()
    assert [line for line in units if "not-found inactive" not in line] == []
    assert guest.status("pgrep dkr") == 1
    assert guest.status("test -e /usr/lib/dkr") == 1
    assert guest.run("cat /etc/dkr/dkrd.toml") == 'log_level = "debug"\n'
    # The next install has what the one before had.
    guest.run(f"{APT} install /usr/local/src/dkr.deb")
    found = guest.containers(every=True)
    assert {name: container["exit"]["cause"] for name, container in found.items()} == {"polite": "stopped"}


def test_a_purge_leaves_the_users_and_nothing_else(guest: Guest) -> None:
    guest.run(f"{APT} install /usr/local/src/dkr.deb")  # where the test before has not
    guest.start("last", POLITE)
    guest.run(f"{APT} purge dkr")
    assert guest.ended("last") == "up\nbye\nstatus 7\n"
    assert guest.run("dpkg-query --show --showformat='${db:Status-Status}' dkr 2>/dev/null; true") in (
        "",
        "not-installed",
    )
    assert guest.run("ls -A /var/lib/dkr") == ""  # a mount point here, so it stays
    assert guest.run("grep -c dkr /proc/self/mountinfo") == "1\n"
    left = guest.run("find / -xdev | sort >/tmp/after; comm -13 /tmp/before /tmp/after")
    assert [path for path in left.split() if "dkr" in path] == []
    assert guest.run("find /sys/fs/cgroup -name '*dkr*' -not -name '*.mount'") == ""
    assert guest.run("systemctl list-unit-files --no-legend 'dkr*'; ls /run/dkr 2>/dev/null; true") == ""
    assert guest.status("pgrep 'dkr|shim'") == 1
    assert guest.run(USERS).count("\n") == 4
