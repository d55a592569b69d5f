"""Lines of a log, many at a time: as JSON reads them, they are the lines there were, in the form that each alone has."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import nanoseconds, timestamp
from dkrd.shim import log_lines
from dkrd.shim.log_lines import MAX_LINE, MOST, encode, entry, lines_from

TIME = 2_000_000_000_123_456_789
TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
LINES = st.lists(TEXT, min_size=1)


@given(LINES, st.integers(TIME, TIME + 2_000_000_000))
def test_lines_come_back_as_they_were(lines: list[str], earliest: int) -> None:
    written, first, count = encode("\n".join(lines).encode(), "stderr", earliest)
    assert count == len(lines)
    assert earliest <= first < earliest + 1000
    assert [json.loads(one) for one in written.decode()[:-1].split("\n")] == [
        {"log": f"{line}\n", "stream": "stderr", "time": timestamp(first + place)}
        for place, line in enumerate(lines)
    ]
    assert written == b"".join(
        entry("stderr", f"{line}\n".encode(), timestamp(first + place)) for place, line in enumerate(lines)
    )


def test_the_form() -> None:
    assert encode(b"100%d\n", "stdout", TIME) == (
        b'{"log":"100%d\\n","stream":"stdout","time":"2033-05-18T03:33:20.123456789Z"}\n'
        b'{"log":"\\n","stream":"stdout","time":"2033-05-18T03:33:20.123456790Z"}\n',
        TIME,
        2,
    )


@pytest.mark.parametrize("count", [1, 2, 500, 999, 1000])
@pytest.mark.parametrize("behind", [0, 1, 999, 1000, 123_456_789, 999_990_000, 999_999_000, 999_999_999])
def test_times_rise_by_one_wherever_they_begin(count: int, behind: int) -> None:
    earliest = TIME - TIME % 1_000_000_000 + behind
    written, first, told = encode(b"\n" * (count - 1), "stdout", earliest)
    times = [nanoseconds(json.loads(line)["time"]) for line in written.splitlines()]
    assert told == count
    assert times == list(range(first, first + count))
    assert first >= earliest


def test_more_than_go_together_are_counted() -> None:
    for count in (MOST + 1, 30_000):
        written, _, told = encode(b"%\n" * (count - 1), "stdout", TIME)
        assert (written, told) == (b"", count)


def test_what_a_terminal_would_take_for_an_order_or_a_reader_for_an_end_is_escaped() -> None:
    every = "".join(map(chr, range(0x3000))).replace("\n", "") * 2  # more than what is looked up byte by byte
    for text in (every, *(every[place : place + 9] for place in range(0, 0x2100, 9))):
        written = encode(text.encode(), "stdout", TIME)[0].decode()
        assert not [c for c in written[:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
        assert json.loads(written)["log"] == f"{text}\n"


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), st.integers(0, 99))
def test_one_alone(text: str | bytes, dropped: int) -> None:
    part = text if isinstance(text, bytes) else text.encode()
    said = json.loads(entry("stderr", part, timestamp(TIME), dropped))
    assert said.pop("dropped", 0) == dropped
    assert said.pop("time") == timestamp(TIME)
    if "log" in said:
        assert said == {"log": part.decode(), "stream": "stderr"}
    else:
        with pytest.raises(UnicodeDecodeError):
            part.decode()


def taken(data: bytes, most: int) -> list[bytes]:
    """The blocks at the beginning of `data`."""
    found, begin = [], 0
    while (block := lines_from(data, begin, most)) is not None:
        found.append(block)
        begin += len(block) + 1
    return found


PIECE = st.one_of(st.binary(), TEXT.map(str.encode), st.sampled_from([b"\n", b"\n\n\n", b"x" * 40]))


@given(st.lists(PIECE).map(b"".join), st.integers(1, 200))
def test_blocks_are_whole_lines_up_to_one_that_goes_otherwise(data: bytes, most: int) -> None:
    longest, log_lines.MAX_LINE = log_lines.MAX_LINE, 30
    try:
        blocks = taken(data, most)
    finally:
        log_lines.MAX_LINE = longest
    joined = b"".join(block + b"\n" for block in blocks)
    assert data.startswith(joined)
    joined.decode()
    assert all(len(line) < 30 for block in blocks for line in block.split(b"\n"))
    assert all(len(block) < most or b"\n" not in block for block in blocks)
    following, newline, _ = data[len(joined) :].partition(b"\n")
    if newline and len(following) < 30:
        with pytest.raises(UnicodeDecodeError):
            following.decode()


def test_the_longest_line() -> None:
    most = b"x" * (MAX_LINE - 1) + b"\n"
    for first, expected in ((most, [most[:-1]]), (b"x" + most, [])):
        assert taken(first, 1024) == expected
        assert taken(b"a\n" + first, 4 * MAX_LINE) == ([b"a\n" + most[:-1]] if expected else [b"a"])
