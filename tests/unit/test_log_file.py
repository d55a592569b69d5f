"""A container's log: lines of JSON in files of a bounded size."""

from __future__ import annotations

import base64
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.log_drivers import Logging
from dkrd.loop import Loop
from dkrd.shim import log_file
from dkrd.shim.log_file import NAME, LogFile, open_files
from dkrd.shim.log_lines import MAX_LINE
from dkrd.shim.log_queue import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def entries(directory: Path) -> list[dict[str, Any]]:
    """All entries of all files, the oldest first; a torn line is passed over."""
    found = []
    for fd in open_files(str(directory)):
        with os.fdopen(fd, "rb") as file:
            for line in file:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
    return found


def text(found: list[dict[str, Any]]) -> bytes:
    return b"".join(
        base64.b64decode(entry["logBase64"]) if "logBase64" in entry else entry["log"].encode()
        for entry in found
    )


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def log(tmp_path: Path, complaints: list[str]) -> Iterator[LogFile]:
    made = LogFile(str(tmp_path), 1024 * 1024, 3, complaints.append)
    yield made
    made.close()


def test_a_line_is_an_entry(log: LogFile, tmp_path: Path) -> None:
    log.put("stdout", b"one\ntwo\nthr")
    log.put("stderr", b"oh\n")
    log.put("stdout", b"ee\n")
    found = entries(tmp_path)
    assert [(entry["stream"], entry["log"]) for entry in found] == [
        ("stdout", "one\n"),
        ("stdout", "two\n"),
        ("stderr", "oh\n"),
        ("stdout", "three\n"),
    ]
    assert all(len(entry["time"]) == len("2026-01-31T12:00:00.010000000Z") for entry in found)


def test_what_has_no_end_of_line_is_written_at_the_end(log: LogFile, tmp_path: Path) -> None:
    log.put("stdout", b"no end")
    assert entries(tmp_path) == []
    log.end("stdout")
    assert text(entries(tmp_path)) == b"no end"


def test_a_long_line_is_cut_between_characters(log: LogFile, tmp_path: Path) -> None:
    line = ("ä" * MAX_LINE).encode() + b"\n"  # an odd byte in front would shift the cuts
    log.put("stdout", b"x" + line)
    found = entries(tmp_path)
    assert text(found) == b"x" + line
    assert not any("logBase64" in entry for entry in found)
    assert all(len(entry["log"].encode()) <= MAX_LINE for entry in found)


@pytest.mark.parametrize("data", [b"\xff\xfe\n", bytes(range(256)) + b"\n", b"\x80" * (2 * MAX_LINE) + b"\n"])
def test_bytes_that_are_no_text_are_kept_exactly(log: LogFile, tmp_path: Path, data: bytes) -> None:
    log.put("stdout", data)
    log.end("stdout")
    assert text(entries(tmp_path)) == data


def test_a_character_that_comes_in_two_reads_is_text(log: LogFile, tmp_path: Path) -> None:
    log.put("stdout", b"caf\xc3")
    log.put("stdout", b"\xa9\n")
    assert [entry["log"] for entry in entries(tmp_path)] == ["café\n"]


def test_files_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), 4096, 3, lambda cause: None)
    for number in range(400):
        log.put("stdout", f"line {number}\n".encode())
    log.close()
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.1", f"{NAME}.2"]
    assert all(os.path.getsize(tmp_path / name) <= 4096 for name in os.listdir(tmp_path))
    found = [entry["log"] for entry in entries(tmp_path)]
    assert found[-1] == "line 399\n"
    assert found == [f"line {number}\n" for number in range(400 - len(found), 400)]


def test_one_read_of_many_lines_is_bounded_too(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), 4096, 3, lambda cause: None)
    log.put("stdout", b"".join(b"%d\n" % number for number in range(1000)))
    log.close()
    assert all(os.path.getsize(tmp_path / name) <= 4096 for name in os.listdir(tmp_path))
    found = [int(entry["log"]) for entry in entries(tmp_path)]
    assert found == list(range(1000 - len(found), 1000))


PIECES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([b"\n", b"\r\n", b'{"a":"\\\\ %d"}\n', "ä\n".encode(), b"x" * 127 + b"\n", b"\xff\n"]),
    st.builds(bytes.__mul__, st.sampled_from([b"\n", b"x\n", b"x" * 127 + b"\n"]), st.integers(0, 1500)),
    st.builds(bytes.__mul__, st.just(b"x"), st.integers(MAX_LINE - 2, 3 * MAX_LINE)),
    st.builds(bytes.__mul__, st.just("ä€".encode()), st.integers(MAX_LINE // 5 - 2, MAX_LINE)),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), PIECES), max_size=12),
    st.sampled_from([4096, 20_000, 10_000_000]),
)
def test_whatever_comes_however_it_is_cut(puts: list[tuple[str, bytes]], max_size: int) -> None:
    """Each line is there once, as one entry, or as many as its length makes; whole, in files that are no larger than they may be."""
    with tempfile.TemporaryDirectory() as name:
        log = LogFile(name, max_size, 1000, lambda cause: None)
        for stream, data in puts:
            log.put(stream, data)
        log.close()
        found = entries(Path(name))
        for stream in ("stdout", "stderr"):
            whole = b"".join(data for of, data in puts if of == stream).split(b"\n")
            lines = [line + b"\n" for line in whole[:-1]] + ([whole[-1]] if whole[-1] else [])
            expected = [part for line in lines for part in parts_of(line)]
            assert [text([entry]) for entry in found if entry["stream"] == stream] == expected
        times = [entry["time"] for entry in found]
        assert times == sorted(set(times))
        for path in Path(name).iterdir():
            data = path.read_bytes()
            assert len(data) <= max_size or data.count(b"\n") == 1
            assert not data or data.endswith(b"\n")


def test_many_short_lines_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a short line the log makes many times as much; what that takes is not to be held at once."""
    log = LogFile(str(tmp_path), 100 * 1024 * 1024, 3, lambda cause: None)
    sizes: list[int] = []
    write = os.write

    def noted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr("os.write", noted)
    for line in (b"", b"x" * 127, b"x"):
        log.put("stdout", (line + b"\n") * (32 * 1024 // (len(line) + 1)))
    log.close()
    assert max(sizes) < 128 * 1024
    assert sum(size > 32 * 1024 for size in sizes) > 40  # and not one by one
    assert len(entries(tmp_path)) == 32 * 1024 + 256 + 16 * 1024


def test_no_file_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 would write it to the disk then."""
    rename = os.rename

    def onto_nothing(old: str, new: str) -> None:
        assert not os.path.lexists(new)
        rename(old, new)

    monkeypatch.setattr("os.rename", onto_nothing)
    log = LogFile(str(tmp_path), 4096, 3, lambda cause: None)
    log.put("stdout", b"x" * 127 + b"\n" + b"y\n" * 1000)
    log.close()
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.1", f"{NAME}.2"]


def test_one_file_alone(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), 4096, 1, lambda cause: None)
    for number in range(100):
        log.put("stdout", f"line {number}\n".encode())
    log.close()
    assert os.listdir(tmp_path) == [NAME]
    assert entries(tmp_path)[-1]["log"] == "line 99\n"


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    for word in (b"first\n", b"second\n"):
        log = LogFile(str(tmp_path), 4096, 3, lambda cause: None)
        log.put("stdout", word)
        log.close()
    assert text(entries(tmp_path)) == b"first\nsecond\n"


def test_a_torn_line_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"log": "half a li')
    log = LogFile(str(tmp_path), 4096, 3, lambda cause: None)
    log.put("stdout", b"whole\n")
    log.close()
    assert text(entries(tmp_path)) == b"whole\n"


def test_a_full_disk_is_told_once_and_nothing_else_suffers(
    log: LogFile, tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.put("stdout", b"before\n")
    full = os.open("/dev/full", os.O_WRONLY)
    kept = log._fd
    log._fd = full
    log.put("stdout", b"waits\n")
    log.put("stdout", b"waits as well\n")
    log._fd = kept
    os.close(full)
    log.put("stdout", b"after\n")
    assert complaints == ["No space left on device"]
    assert text(entries(tmp_path)) == b"before\nwaits\nwaits as well\nafter\n"


def test_the_path_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    os.symlink(target, tmp_path / NAME)
    with pytest.raises(OSError, match="Too many levels"):
        LogFile(str(tmp_path), 4096, 3, lambda cause: None)


def test_it_is_roots_alone(log: LogFile, tmp_path: Path) -> None:
    assert os.stat(tmp_path / NAME).st_mode & 0o777 == 0o600


def test_words_for_readers(log: LogFile) -> None:
    told: list[str] = []
    log.on_written = lambda: told.append("written")
    log.on_rotated = lambda: told.append("rotated")
    log.put("stdout", b"part")
    assert told == []
    log.put("stdout", b" and end\n")
    assert told == ["written"]
    log._max_size = 10
    log.put("stdout", b"next\n")
    assert told == ["written", "rotated", "written"]


def test_open_files_of_none(tmp_path: Path) -> None:
    assert open_files(str(tmp_path)) == []
    assert log_file.NAME == "container.log"


def test_each_line_has_a_time_of_its_own(
    tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come together, and where the clock is set back, within one life of the guardian's and over it."""
    clock = [2_000_000_000_000_000_000]
    monkeypatch.setattr("time.time_ns", lambda: clock[0])
    for _ in range(3):
        log = LogFile(str(tmp_path), 4096, 9, complaints.append)
        log.put("stdout", b"one\ntwo\n" * 20)
        log.put("stderr", b"x" * 50_000 + b"\n")
        clock[0] -= 1_000_000_000
        log.put("stdout", b"three\n")
        log.close()
    times = [entry["time"] for entry in entries(tmp_path)]
    assert len(times) > 60
    assert times == sorted(set(times))


def test_the_time_of_a_line_that_is_torn_does_not_count(tmp_path: Path, complaints: list[str]) -> None:
    with (tmp_path / NAME).open("w") as file:
        file.write('{"log":"a","stream":"stdout","time":"2200-01-01T00:00:00.000000000Z"}\n{"log":"b","str')
    log = LogFile(str(tmp_path), 4096, 2, complaints.append)
    log.put("stdout", b"c\n")
    log.close()
    assert entries(tmp_path)[-1]["time"] == "2200-01-01T00:00:00.000000001Z"


class Disk:
    """write(2) with room for so many bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 10**9
        self._write = os.write
        monkeypatch.setattr("os.write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def test_wherever_the_disk_is_full_each_line_is_kept_once(
    tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    log = LogFile(str(tmp_path), 4096, 99, complaints.append)
    for number in range(300):
        disk.room = number  # also nothing of a line, all but its newline, and the newline alone
        log.put("stdout", b"%d\nand\n" % number)
    disk.room = 10**9
    log.close()
    assert [entry["log"] for entry in entries(tmp_path)] == [
        text for number in range(300) for text in (f"{number}\n", "and\n")
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 60)), max_size=30))
def test_wherever_the_disk_is_full_each_line_of_many_is_kept_once(turns: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        log = LogFile(name, 4096, 99, lambda cause: None)
        number = 0
        for room, count in turns:
            disk.room = room
            log.put("stdout", b"".join(b"%d\n" % (number + more) for more in range(count)))
            number += count
        disk.room = 10**9
        log.close()
        found = entries(Path(name))
        assert [entry["log"] for entry in found] == [f"{each}\n" for each in range(number)]
        times = [entry["time"] for entry in found]
        assert times == sorted(set(times))


def test_what_has_no_room_is_counted(
    tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    log = LogFile(str(tmp_path), 1024 * 1024, 3, complaints.append, Logging(buffer=4096))
    disk.room = 0
    for number in range(100):
        log.put("stdout", b"%099d\n" % number)
    assert not log.full
    disk.room = 10**9
    log.put("stderr", b"after\n")
    log.close()
    found = entries(tmp_path)
    assert [int(entry["log"]) for entry in found[:-2]] == list(range(11))
    assert (found[-2]["dropped"], found[-2]["stream"]) == (89, "stderr")
    assert found[-1]["log"] == "after\n"
    assert complaints == ["No space left on device"]


def test_one_that_blocks_says_when_there_is_room(
    tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    log = LogFile(str(tmp_path), 1024 * 1024, 3, complaints.append, Logging(blocking=True))
    loop, told = Loop(), []
    log.begin(loop)
    log.on_room = lambda: told.append("room")
    disk.room = 0
    for _ in range(20):
        log.put("stdout", b"x" * 8191 + b"\n")
    assert (log.full, told) == (True, [])
    loop.turn(None)  # it is tried again, in vain
    assert (log.full, told) == (True, [])
    disk.room = 10**9
    loop.turn(None)
    assert (log.full, told) == (False, ["room"])
    assert len(entries(tmp_path)) == 20
    log.close()


def test_what_is_lost_at_the_end_is_told(
    tmp_path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    log = LogFile(str(tmp_path), 1024 * 1024, 3, complaints.append)
    disk.room = 0
    log.put("stdout", b"one\ntwo\nthree")
    log.close()
    assert complaints == ["No space left on device", "3 lines are lost at its end"]
