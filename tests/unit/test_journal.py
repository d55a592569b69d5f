"""The log in the journal: a real datagram socket stands where systemd's is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import struct
from contextvars import copy_context
from typing import TYPE_CHECKING

import pytest

from dkrd import journal
from dkrd.api import log as api_log
from dkrd.api import request_ids
from dkrd.journal import Journal
from dkrd.log import Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def decode(data: bytes) -> dict[str, str]:
    """A record as the journal reads it."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            [size] = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields[key.decode()] = value.decode()
    return fields


class Receiver:
    """The journal's end."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def take(self) -> dict[str, str]:
        """The next record, out of the datagram or of the file that came with it."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 22, 1)
        if not descriptors:
            return decode(data)
        assert data == b""
        with os.fdopen(descriptors[0], "rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
            assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            return decode(os.pread(file.fileno(), 1 << 22, 0))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path / "socket")
    try:
        yield made
    finally:
        made.socket.close()


@pytest.fixture
def stderr() -> Iterator[tuple[int, int]]:
    """A pipe in the place of standard error: what to read from, what to write to."""
    read, write = os.pipe2(os.O_NONBLOCK)
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def said(pipe: int) -> str:
    """What has come by it."""
    try:
        return os.read(pipe, 65536).decode()
    except BlockingIOError:
        return ""


def test_a_record_has_its_facts_as_fields(receiver: Receiver, stderr: tuple[int, int]) -> None:
    log = Log(fd=stderr[1], journal=Journal("dkrd.service", receiver.path))
    log.of("shim").audit(
        "started", id="ab" * 32, uid=1000, rule=None, errorCode="conflict", command=["a b", "c"]
    )
    fields = receiver.take()
    assert fields.pop("CODE_FILE") == __file__
    assert int(fields.pop("CODE_LINE")) > 0
    assert fields == {
        "MESSAGE": f'shim: started id={"ab" * 32} uid=1000 errorCode=conflict command=["a b","c"]',
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "dkrd",
        "CODE_FUNC": "test_a_record_has_its_facts_as_fields",
        "OBJECT_SYSTEMD_UNIT": "dkrd.service",
        "DKR_PROCESS": "shim",
        "DKR_CONTAINER_ID": "ab" * 32,
        "DKR_UID": "1000",
        "DKR_ERROR_CODE": "conflict",
        "DKR_COMMAND": '["a b","c"]',
    }
    assert said(stderr[0]) == ""


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("audit", "5")]
)
def test_levels_are_priorities(
    receiver: Receiver, stderr: tuple[int, int], level: str, priority: str
) -> None:
    log = Log("debug", fd=stderr[1], journal=Journal("", receiver.path))
    getattr(log, level)("x")
    assert receiver.take()["PRIORITY"] == priority


def test_a_value_cannot_look_like_another_field(receiver: Receiver, stderr: tuple[int, int]) -> None:
    log = Log(fd=stderr[1], journal=Journal("", receiver.path))
    evil = "a\nPRIORITY=0\nDKR_UID=0\n"
    log.info(f"odd {evil}", name=evil, uid=7)
    fields = receiver.take()
    assert (fields["DKR_NAME"], fields["DKR_UID"], fields["PRIORITY"]) == (evil, "7", "6")
    assert "\n" not in fields["MESSAGE"]


def test_json_stays_json(receiver: Receiver, stderr: tuple[int, int]) -> None:
    Log("info", "json", fd=stderr[1], journal=Journal("", receiver.path)).info("hello", uid=3)
    record = {"level": "info", "process": "launcher", "message": "hello", "uid": 3}
    assert json.loads(receiver.take()["MESSAGE"]) == record


def test_a_long_record_goes_as_a_sealed_file(receiver: Receiver, stderr: tuple[int, int]) -> None:
    log = Log(fd=stderr[1], journal=Journal("", receiver.path))
    long = "x" * 200_000
    log.info("long", cause=long, other=long)
    fields = receiver.take()
    assert (fields["DKR_CAUSE"], fields["DKR_OTHER"]) == (long, long)


def test_what_is_endless_is_cut_off(receiver: Receiver, stderr: tuple[int, int]) -> None:
    log = Log(fd=stderr[1], journal=Journal("", receiver.path))
    log.info("long", **dict.fromkeys("abcdefgh", "y" * 1_000_000))
    fields = receiver.take()
    assert sum(map(len, fields.values())) <= 1024 * 1024
    assert {len(value) for key, value in fields.items() if key[:5] == "DKR_A"} == {256 * 1024}
    assert "DKR_H" not in fields


def test_a_journal_that_is_busy_costs_a_line_and_says_so_later(
    receiver: Receiver, stderr: tuple[int, int]
) -> None:
    log = Log(fd=stderr[1], journal=Journal("", receiver.path))
    for _ in range(5000):  # more than a socket's queue holds (net.unix.max_dgram_qlen)
        log.info("again")
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while receiver.take():
            taken += 1
    assert 0 < taken < 5000
    log.info("after")
    assert receiver.take()["DKR_DROPPED_LINES"] == str(5000 - taken)
    assert said(stderr[0]) == ""


@pytest.mark.parametrize("what", ["missing", "nobody listens"])
def test_without_a_journal_it_is_a_line(
    tmp_path: Path, receiver: Receiver, stderr: tuple[int, int], what: str
) -> None:
    path = receiver.path
    if what == "missing":
        path = str(tmp_path / "nowhere")
    else:
        receiver.socket.close()
    log = Log(fd=stderr[1], journal=Journal("", path))
    log.info("hello", uid=3)
    assert said(stderr[0]).endswith("info launcher: hello uid=3\n")


def test_it_is_the_journal_only_where_systemd_says_so(stderr: tuple[int, int]) -> None:
    status = os.fstat(stderr[1])
    mine = f"{status.st_dev}:{status.st_ino}"
    assert journal.connected({"JOURNAL_STREAM": mine}, stderr[1]) is not None
    # Standard error was redirected since.
    assert journal.connected({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, stderr[1]) is None
    assert journal.connected({}, stderr[1]) is None


def test_errors_other_than_length_are_the_callers(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        Journal("", str(tmp_path / "x")).send({"MESSAGE": "x"})
    assert caught.value.errno == errno.ENOENT


def test_the_api_logs_the_same_way(receiver: Receiver, capfd: pytest.CaptureFixture[str]) -> None:
    handler = api_log.JournalHandler(Journal("", receiver.path), json=False)
    logger = logging.Logger("dkr.api")
    logger.addHandler(handler)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("request %d\nfailed", 3)
    fields = receiver.take()
    message, _, traceback = fields["MESSAGE"].partition("\n")
    assert message == "api: request 3\\nfailed"
    assert traceback.startswith("Traceback")
    assert traceback.endswith("ValueError: why")
    assert (fields["PRIORITY"], fields["DKR_PROCESS"], fields["CODE_FILE"]) == ("3", "api", __file__)
    receiver.socket.close()
    logger.info("later")
    assert capfd.readouterr().err.endswith("info dkr.api: later\n")


def test_what_the_api_logs_is_of_its_request(receiver: Receiver, capfd: pytest.CaptureFixture[str]) -> None:
    copy_context().run(_of_request, receiver, capfd)  # no other test is in it


def _of_request(receiver: Receiver, capfd: pytest.CaptureFixture[str]) -> None:
    handler = api_log.JournalHandler(Journal("", receiver.path), json=False)
    handler.addFilter(api_log.OfRequest())
    logger = logging.Logger("dkr.api")
    logger.addHandler(handler)
    request = request_ids.begin()
    request_ids.concerns("ab" * 32)
    logger.warning("slow")
    fields = receiver.take()
    assert fields["MESSAGE"] == f"api: slow id={'ab' * 32} request={request}"
    assert (fields["DKR_CONTAINER_ID"], fields["DKR_REQUEST"]) == ("ab" * 32, request)
    receiver.socket.close()
    logger.info("later")
    assert capfd.readouterr().err.endswith(f"info dkr.api: later id={'ab' * 32} request={request}\n")
