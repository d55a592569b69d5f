"""The daemon's log where its standard error is the journal: launcher, guardians and api tell their facts as fields."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon
from tests.reliability.support import GUARD_SECONDS, settle
from tests.unit.test_journal import decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

# Executes the words after the first two with a directory where systemd has its journal's socket, and a stream said to be that.
_WITH_JOURNAL = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    "mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/journal && mount --bind $1 /run/systemd/journal"
    ' && export JOURNAL_STREAM=$2 && shift 2 && exec "$@"',
    "sh",
)


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(GUARD_SECONDS)
        yield sock


@pytest.fixture
def daemon(prefix: Path, journal: socket.socket) -> Iterator[Daemon]:
    made = Daemon.create(prefix)
    try:
        place = made.directory / "journal"
        place.mkdir()
        journal.bind(str(place / "socket"))
        (place / "socket").chmod(0o666)
        log = made.directory / "log"
        log.touch()
        status = log.stat()
        made.wrapper = (*_WITH_JOURNAL, str(place), f"{status.st_dev}:{status.st_ino}")
        yield made.start()
    finally:
        made.close()


def test_each_process_tells_it_there(daemon: Daemon, journal: socket.socket) -> None:
    daemon.run("/bin/echo", "hello")
    settle(daemon)
    records: list[dict[str, str]] = []
    while not any(record["MESSAGE"].startswith("shim: ended") for record in records):
        records.append(decode(journal.recv(1 << 20)))
    by_message = {record["MESSAGE"].split(" id=")[0].split(" seq=")[0]: record for record in records}
    accepted, started = by_message["launcher: accepted"], by_message["shim: started"]
    assert accepted["DKR_CONTAINER_ID"] == started["DKR_CONTAINER_ID"]
    assert (accepted["DKR_UID"], started["DKR_COMMAND"], started["PRIORITY"]) == ("0", "/bin/echo", "5")
    assert by_message["api: serving"]["SYSLOG_IDENTIFIER"] == "dkrd"
    assert daemon.log == ""


def test_when_the_journal_goes_the_lines_go_where_they_went_before(
    daemon: Daemon, journal: socket.socket
) -> None:
    journal.close()
    daemon.run("/bin/true")
    settle(daemon)
    assert " audit shim: started id=" in daemon.log
