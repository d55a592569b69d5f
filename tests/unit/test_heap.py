"""What is free in the C library's heap is the kernel's again, as behind much output of a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dkrd.loop import Loop
from dkrd.shim.log_file import LogFile

ROOT = Path(__file__).parents[2]

FREES = """
import sys
sys.path.insert(0, sys.argv[1])
from dkrd.runtime import heap

def dirty():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty:"))

much = [b"x" * 100_000 for _ in range(200)]
del much[:99], much[1:]  # the one in the middle keeps the heap from shrinking by itself
before = dirty()
heap.trim()
print(before - dirty())
"""


def test_what_is_free_is_given_back() -> None:
    said = subprocess.run([sys.executable, "-c", FREES, ROOT], capture_output=True, text=True, check=True)
    assert int(said.stdout) > 5000  # KiB, of some 9 700


def test_what_much_output_took_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a moment later; for a few lines nobody is woken."""
    monkeypatch.setattr("dkrd.shim.log_file._TIDY", 0.0)
    given: list[str] = []
    monkeypatch.setattr("dkrd.runtime.heap.trim", lambda: given.append("back"))
    log, loop = LogFile(str(tmp_path), 1024 * 1024, 3, lambda cause: None), Loop()
    log.begin(loop)
    log.put("stdout", b"few\n" * 10)
    loop.turn(0)
    assert given == []
    for expected in (["back"], ["back", "back"]):
        for _ in range(10):
            log.put("stdout", b"x" * 127 + b"\n" + b"y" * 9000 + b"\n")
        loop.turn(0)
        loop.turn(0)
        assert given == expected
    log.close()


def test_nothing_is_given_back_when_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dkrd.shim.log_file._TIDY", 0.0)
    monkeypatch.setattr("dkrd.runtime.heap.trim", lambda: pytest.fail("it has ended"))
    log, loop = LogFile(str(tmp_path), 1024 * 1024, 3, lambda cause: None), Loop()
    log.begin(loop)
    log.put("stdout", b"x" * 9000 + b"\n")
    log.close()
    loop.turn(0)
