"""What the files of a cgroup say, on v1 and v2; and what of it is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dkrctl.usage import HEADINGS, Meter, binary, decimal
from dkrd.runtime import usage

if TYPE_CHECKING:
    from pathlib import Path

NONE = usage.Usage(None, None, None, None, None, None, None)
V2 = {
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
    "memory.current": "5000\n",
    "memory.max": "max\n",
    "memory.stat": "anon 1\nfile 2\ninactive_file 1000\nactive_file 3\n",
    "pids.current": "3\n",
    "pids.max": "17\n",
    "io.stat": "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=11 wbytes=22\n254:0 \n",
}
V1 = {
    "cpuacct.usage": "1500000\n",
    "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    "memory.usage_in_bytes": "5000\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
    "pids.current": "3\n",
    "pids.max": "17\n",
    "blkio.throttle.io_service_bytes": "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n8:16 Read 11\n8:16 Write 22\nTotal 333\n",
}


def laid(place: Path, files: dict[str, str]) -> str:
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    return str(place)


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_all_that_is_counted(tmp_path: Path, files: dict[str, str]) -> None:
    expected = usage.Usage(1_500_000, 4000, None, 3, 17, 111, 222)
    assert usage.measure((laid(tmp_path / "all", files),)) == expected
    # Of v1 each controller has a directory of its own.
    apart = [laid(tmp_path / f"{place}", {name: text}) for place, (name, text) in enumerate(files.items())]
    assert usage.measure(tuple(apart)) == expected


def test_what_nobody_counts_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert usage.measure(()) == NONE
    assert usage.measure((str(tmp_path / "gone"),)) == NONE
    torn = {
        "cpu.stat": "usage_usec x\n",
        "memory.current": "",
        "pids.current": "?",
        "io.stat": "8:0 rbytes=x",
    }
    assert usage.measure((laid(tmp_path / "torn", torn),)) == NONE
    assert usage.measure((laid(tmp_path / "idle", {"io.stat": ""}),)) == replace(NONE, read=0, written=0)


def test_the_bounds(tmp_path: Path) -> None:
    assert usage.measure((laid(tmp_path / "a", {**V2, "memory.max": "4096\n"}),)).memory_limit == 4096
    assert (
        usage.measure((laid(tmp_path / "b", {**V1, "memory.limit_in_bytes": "4096\n"}),)).memory_limit == 4096
    )
    assert (usage.machine_memory() or 0) > 1 << 20


# what is shown


@pytest.mark.parametrize(
    ("number", "as_binary", "as_decimal"),
    [
        (0, "0B", "0B"),
        (1023, "1023B", "1.02kB"),
        (1536, "1.5KiB", "1.54kB"),
        (64 << 20, "64MiB", "67.1MB"),
        (5_000_000_000, "4.657GiB", "5GB"),
        (None, "--", "--"),
        (True, "--", "--"),
    ],
)
def test_sizes(number: object, as_binary: str, as_decimal: str) -> None:
    assert (binary(number), decimal(number)) == (as_binary, as_decimal)


def at(second: int, used: int) -> dict[str, object]:
    return {"read": f"2026-01-31T12:00:{second:02}.000000000Z", "cpuUsage": used}


def test_a_share_is_between_two_measurements() -> None:
    meter = Meter()
    meter.take(at(0, 10))
    assert meter.fields("a" * 64, "n", whole=False)["CPUPerc"] == "--"
    meter.take(at(2, 10 + 3_000_000_000))
    assert meter.fields("a" * 64, "n", whole=False)["CPUPerc"] == "150.00%"
    meter.take(at(2, 10 + 4_000_000_000))  # no time between them
    assert meter.share == 150
    meter.take(at(3, 0))  # started anew
    assert meter.share == 0
    meter.take({"read": "x"})
    assert meter.share == 0
    assert meter.curve() == "█▁"


def test_the_fields_are_those_of_the_heading() -> None:
    fields = Meter().fields("a" * 64, "n", whole=True)
    assert set(fields) == set(HEADINGS)
    assert {str(fields[name]) for name in set(HEADINGS) - {"Container", "ID", "Name"}} == {"--"}
    meter = Meter()
    meter.take(
        {"memoryUsage": 1 << 20, "memoryLimit": 4 << 20, "pids": 2, "blockRead": 0, "blockWrite": 1500}
    )
    shown = meter.fields("ab" * 32, "n", whole=False)
    assert (shown["ID"], shown["MemPerc"], shown["MemUsage"]) == ("ab" * 6, "25.00%", "1MiB / 4MiB")
    assert (shown["BlockIO"], shown["PIDs"], shown["NetIO"]) == ("0B / 1.5kB", "2", "--")
