"""The file that a terminal is recorded to."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

from dkrctl.recording import Recording

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def events(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_character_that_comes_in_pieces_is_one(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path / "cast"))
    see = recording.begin((24, 80), whole=True)
    data = "aä€🦊\r\n".encode()
    for place in range(len(data)):
        assert see(data[place : place + 1]) == (data[place : place + 1], False)
    assert recording.close() == recording.close() == ""
    assert [event[2] for event in events(tmp_path / "cast")] == ["a", "ä", "€", "🦊", "\r", "\n"]


def test_what_is_no_character_is_marked(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path / "cast"))
    see = recording.begin(None, whole=True)
    see(b"a\xffb\xe2\x82")
    recording.close()
    header = json.loads((tmp_path / "cast").read_text().splitlines()[0])
    assert (header["width"], header["height"]) == (80, 24)
    assert [event[2] for event in events(tmp_path / "cast")] == ["a\ufffdb", "\ufffd"]


def test_a_size_is_told_when_it_is_another(tmp_path: Path) -> None:
    recording = Recording(str(tmp_path / "cast"))
    recording.resized((1, 2))
    recording.begin((24, 80), whole=True)
    for size in ((24, 80), (25, 81), (25, 81)):
        recording.resized(size)
    recording.close()
    assert [event[1:] for event in events(tmp_path / "cast")] == [["r", "81x25"]]


def test_a_full_disk_ends_it_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(str(tmp_path / "cast"))
    see = recording.begin((24, 80), whole=True)
    see(b"one")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("posix.write", full)
    assert see(b"two") == (b"two", False)
    monkeypatch.undo()
    see(b"three")
    assert "is not whole: no space left on device" in recording.close()
    assert [event[2] for event in events(tmp_path / "cast")] == ["one"]
