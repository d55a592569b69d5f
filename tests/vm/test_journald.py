"""The log driver journald on a machine that systemd runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.soak, pytest.mark.timeout(900)]


def test_lines_are_records_of_the_containers(guest: Guest) -> None:
    guest.run("systemctl start dkrd.socket")
    script = "echo out; echo oops >&2; sleep 1; echo last"
    container = guest.run(
        f"dkrctl run -d --name web --log-driver journald --log-opt tag=front /bin/sh -c '{script}'"
    ).strip()
    try:
        assert guest.run("dkrctl wait web") == "0\n"
        guest.wait(f"journalctl -q CONTAINER_ID_FULL={container} | grep -q last")
        said = guest.run(f"journalctl -q -o json CONTAINER_ID_FULL={container}")
        found = [json.loads(line) for line in said.splitlines()]
        assert sorted((one["MESSAGE"], one["PRIORITY"]) for one in found) == [
            ("last", "6"),
            ("oops", "3"),
            ("out", "6"),
        ]
        assert {one["CONTAINER_NAME"] for one in found} == {"web"}
        assert {one["_SYSTEMD_UNIT"] for one in found} == {"dkr-containers.service"}
        assert guest.run("journalctl -q -t front -o cat | wc -l") == "3\n"
        # A restart of the journal loses nothing: systemd holds its socket.
        lines = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i + 1)); sleep 0.02; done"
        guest.run(f"dkrctl run -d --name long --log-driver journald --log-opt tag=long /bin/sh -c '{lines}'")
        guest.run("systemctl restart systemd-journald")
        assert guest.run("dkrctl wait long") == "0\n"
        guest.wait("journalctl -q -t long -o cat | grep -qx 199")
        assert guest.run("journalctl -q -t long -o cat") == "".join(f"{n}\n" for n in range(200))
    finally:
        guest.remove_all()
