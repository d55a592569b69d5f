"""The log driver journald: before a socket in the place of the journal's, and before a real systemd-journald."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.daemon import Daemon
from tests.integration.kept import sh
from tests.reliability.support import GUARD_SECONDS, eventually, listed, running, settle

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

JOURNALD = Path("/lib/systemd/systemd-journald")
_PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
# Executes the words after the first with a directory where systemd has its journal's socket.
_WITH_SOCKET = (
    *_PRIVATE,
    "mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/journal && mount --bind $1 /run/systemd/journal"
    ' && shift && exec "$@"',
    "sh",
)
# The same with a journald of its own, whose pid it leaves in that directory.
_WITH_JOURNALD = (
    *_PRIVATE,
    "set -e; here=$1; shift; mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/journal; mount -t tmpfs tmpfs /run/log;"
    " mkdir /run/log/journal; mount --bind $here/journald.conf /etc/systemd/journald.conf;"
    f" (env -u NOTIFY_SOCKET setsid {JOURNALD} </dev/null >/dev/null 2>&1 & echo $! >$here/pid);"
    ' while ! [ -S /run/systemd/journal/socket ]; do sleep 0.05; done; exec "$@"',
    "sh",
)


def decode(data: bytes) -> dict[str, bytes]:
    """A record as the journal reads it: JOURNAL_NATIVE_PROTOCOL.md of systemd."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            [size] = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields[key.decode()] = value
    return fields


class Journal:
    """The journal's end."""

    def __init__(self, place: Path) -> None:
        self.path = place / "socket"
        self.open()

    def open(self) -> None:
        """Begin, also anew."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(GUARD_SECONDS)
        self.socket.bind(str(self.path))

    def close(self) -> None:
        """Nobody reads there any more."""
        self.socket.close()
        self.path.unlink(missing_ok=True)

    def take(self) -> dict[str, bytes]:
        """The next record."""
        return decode(self.socket.recv(1 << 20))

    def lines(self, number: int) -> list[bytes]:
        return [self.take()["MESSAGE"] for _ in range(number)]


@pytest.fixture
def daemon(prefix: Path) -> Iterator[Daemon]:
    made = Daemon.create(prefix)
    try:
        (made.directory / "journal").mkdir()
        made.wrapper = (*_WITH_SOCKET, str(made.directory / "journal"))
        yield made.start()
        settle(made)
    finally:
        made.close()


@pytest.fixture
def journal(daemon: Daemon) -> Iterator[Journal]:
    made = Journal(daemon.directory / "journal")
    yield made
    made.close()


def begin(daemon: Daemon, line: str, *options: str) -> str:
    words = ("run", "-d", "--name", "web", "--log-driver", "journald", *options)
    return str(daemon.dkrctl(*words, *sh(line), check=True).stdout.strip())


def ended(daemon: Daemon) -> None:
    assert daemon.dkrctl("wait", "web", check=True).stdout == "0\n"
    daemon.dkrctl("rm", "web", check=True)


def test_a_line_is_a_record(daemon: Daemon, journal: Journal) -> None:
    # Between two streams nobody promises an order: each waits until the other was read.
    line = r"echo out; until [ -e /tmp/1 ]; do sleep 0.05; done; echo oops >&2; until [ -e /tmp/2 ]; do sleep 0.05; done"
    container = begin(daemon, line + r"; printf 'a\000\377b\nend'")
    out = journal.take()
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/1", check=True)
    err = journal.take()
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/2")  # the end that it leads to may be its own
    binary, last = journal.take(), journal.take()
    assert out["MESSAGE"] == b"out"
    assert (out["PRIORITY"], err["PRIORITY"], err["MESSAGE"]) == (b"6", b"3", b"oops")
    assert out["CONTAINER_ID"].decode() == container[:12] == out["CONTAINER_TAG"].decode()
    assert out["SYSLOG_IDENTIFIER"].decode() == container[:12]
    assert (out["CONTAINER_ID_FULL"].decode(), out["CONTAINER_NAME"]) == (container, b"web")
    assert (out["DKR_UID"], out["IMAGE_NAME"]) == (b"0", b"host")
    assert binary["MESSAGE"] == b"a\0\xffb"
    assert (last["MESSAGE"], last["CONTAINER_PARTIAL_MESSAGE"]) == (b"end", b"true")
    ordinals = [int(one["CONTAINER_LOG_ORDINAL"]) for one in (out, err, binary, last)]
    assert ordinals == [1, 2, 3, 4]
    assert len({one["CONTAINER_LOG_EPOCH"] for one in (out, err, binary, last)}) == 1
    said = daemon.dkrctl("logs", "web")
    assert said.returncode == 1
    assert "rule: log-journald" in said.stderr
    assert f"journalctl CONTAINER_ID_FULL={container}" in said.stderr
    ended(daemon)


def test_a_tag_and_another_name(daemon: Daemon, journal: Journal) -> None:
    begin(daemon, "echo one; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo two", "--log-opt", "tag=front")
    first = journal.take()
    daemon.dkrctl("rename", "web", "other", check=True)
    daemon.dkrctl("exec", "other", "/bin/touch", "/tmp/go")  # the end that it leads to may be its own
    second = journal.take()
    assert (first["CONTAINER_TAG"], first["CONTAINER_NAME"]) == (b"front", b"web")
    assert (second["SYSLOG_IDENTIFIER"], second["CONTAINER_NAME"]) == (b"front", b"other")
    daemon.dkrctl("rename", "other", "web", check=True)
    ended(daemon)


def test_a_long_line_is_several_records(daemon: Daemon, journal: Journal) -> None:
    begin(daemon, "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next")
    parts = [journal.take() for _ in range(3)]
    assert b"".join(part["MESSAGE"] for part in parts) == b"x" * 40000
    assert [part["CONTAINER_PARTIAL_ORDINAL"] for part in parts] == [b"1", b"2", b"3"]
    assert [part.get("CONTAINER_PARTIAL_MESSAGE") for part in parts] == [b"true", b"true", None]
    assert [part["CONTAINER_PARTIAL_LAST"] for part in parts] == [b"false", b"false", b"true"]
    following = journal.take()
    assert following["MESSAGE"] == b"next"
    assert "CONTAINER_PARTIAL_ORDINAL" not in following
    ended(daemon)


def test_a_journal_that_is_behind_holds_the_command_and_loses_nothing(
    daemon: Daemon, journal: Journal
) -> None:
    # What it has not taken some time after the command's end is lost: so that comes when all was read.
    begin(daemon, "seq 60000; until [ -e /tmp/end ]; do sleep 0.05; done")
    found = journal.lines(1)  # and no further: its queue fills up, then the guardian's, then the pipe
    assert running(daemon)[0]["name"] == "web"
    assert any(one.comm == "seq" for one in daemon.processes())
    found += journal.lines(59_999)
    assert found == [b"%d" % number for number in range(1, 60_001)]
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/end")  # the end that it leads to may be its own
    ended(daemon)


def test_a_journal_that_goes_is_waited_for(daemon: Daemon, journal: Journal) -> None:
    line = "i=10; while [ $i -lt 300 ]; do echo $i; i=$((i + 1)); sleep 0.005; done"
    go, end = (f"until [ -e /tmp/{name} ]; do sleep 0.05; done" for name in ("go", "end"))
    begin(daemon, f"seq 0 9; {go}; {line}; {end}")
    found = journal.lines(10)
    journal.close()  # all that it had was read
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/go", check=True)
    eventually(lambda: "cannot write the container's log" in daemon.log, "it is told")
    journal.open()
    found += journal.lines(290)
    assert found == [b"%d" % number for number in range(300)]
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/end")  # the end that it leads to may be its own
    ended(daemon)


def test_without_blocking_what_was_dropped_is_a_record(daemon: Daemon, journal: Journal) -> None:
    options = ("--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=8k")
    begin(
        daemon, "seq 30000; touch /tmp/all; while ! [ -e /tmp/go ]; do sleep 0.05; done; echo last", *options
    )
    eventually(
        lambda: daemon.dkrctl("exec", "web", "/usr/bin/test", "-e", "/tmp/all").returncode == 0,
        "it was not held up",
    )
    kept: list[int] = []
    dropped = 0
    while len(kept) + dropped < 30_000:  # before there is room again, another line would be dropped as well
        record = journal.take()
        if "DKR_DROPPED" in record:
            dropped += int(record["DKR_DROPPED"])
            assert record["PRIORITY"] == b"3"
        else:
            kept.append(int(record["MESSAGE"]))
    assert dropped > 0
    assert kept == sorted(set(kept))
    assert len(kept) + dropped == 30_000
    daemon.dkrctl("exec", "web", "/bin/touch", "/tmp/go")  # the end that it leads to may be its own
    assert journal.take()["MESSAGE"] == b"last"
    ended(daemon)


def test_a_host_without_a_journal(daemon: Daemon) -> None:
    done = daemon.dkrctl("create", "--log-driver", "journald", "/bin/true")
    assert done.returncode == 1
    assert "cannot log to the journal: there is none on this host" in done.stderr
    assert listed(daemon, every=True) == []


def test_one_whose_journal_has_gone_is_not_started(daemon: Daemon, journal: Journal) -> None:
    daemon.dkrctl("create", "--name", "web", "--log-driver", "journald", "/bin/true", check=True)
    journal.close()
    done = daemon.dkrctl("start", "web")
    assert "there is none on this host" in done.stderr
    journal.open()
    daemon.dkrctl("start", "web", check=True)
    ended(daemon)


# --- the real one


@pytest.fixture
def journald(prefix: Path) -> Iterator[Daemon]:
    """A daemon with a systemd-journald of its own."""
    if not JOURNALD.exists() or not Path("/etc/machine-id").exists():
        pytest.skip("there is no systemd-journald here")
    made = Daemon.create(prefix)
    place = made.directory / "journal"
    place.mkdir()
    (place / "journald.conf").write_text(
        "[Journal]\nStorage=volatile\nRateLimitBurst=0\nReadKMsg=no\nAudit=no\n"
    )
    made.wrapper = (*_WITH_JOURNALD, str(place))
    try:
        yield made.start()
        settle(made)
    finally:
        if (place / "pid").exists():
            process = host.read_process(int((place / "pid").read_text()))
            if process is not None and process.comm == "systemd-journal":
                host.kill(process)
                host.wait_gone(process.pid, GUARD_SECONDS)
        made.close()


def records(daemon: Daemon, *matches: str) -> list[dict[str, Any]]:
    """What journalctl tells."""
    (directory,) = Path(f"/proc/{daemon.pid}/root/run/log/journal").iterdir()
    words = ["journalctl", "-D", str(directory), "--all", "-o", "json", "--no-pager", *matches]
    done = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_real_journald_has_all_of_it(journald: Daemon) -> None:
    line = "seq 3000; printf 'two\\rparts\\n'; echo oops >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; echo last"
    container = begin(journald, line, "--log-opt", "tag=front")
    journald.dkrctl("wait", "web", check=True)
    match = f"CONTAINER_ID_FULL={container}"
    eventually(lambda: len(records(journald, match)) == 3005, "all is there")
    found = records(journald, match)
    ordered = sorted(found, key=lambda one: int(one["CONTAINER_LOG_ORDINAL"]))
    out = [one["MESSAGE"] for one in ordered if one["PRIORITY"] == "6"]
    assert out[:3000] == [str(number) for number in range(1, 3001)]
    assert bytes(out[3000]).decode() if isinstance(out[3000], list) else out[3000] == "two\rparts"
    assert "".join(out[3001:3003]) == "x" * 20000
    assert out[3003] == "last"
    assert [one["MESSAGE"] for one in found if one["PRIORITY"] == "3"] == ["oops"]
    assert {one["SYSLOG_IDENTIFIER"] for one in found} == {"front"}
    assert {one["_TRANSPORT"] for one in found} == {"journal"}
    assert {one["_UID"] for one in found} == {"0"}
    ended(journald)
