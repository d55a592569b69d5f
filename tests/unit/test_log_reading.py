"""Lines of a log that are read many at a time: as each alone; and a reader that is cut off anywhere has each once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import frames
from common.errors import ProtocolError
from dkrctl.log_lines import Line, parse, parse_all
from dkrctl.log_position import Position
from dkrd.api.log_files import Wanted

ENTRIES = st.fixed_dictionaries(
    {
        "log": st.text(),
        "stream": st.sampled_from(["stdout", "stderr", "stdin"]),
        "time": st.sampled_from("123456"),
    }
)
LINES = ENTRIES.map(lambda entry: json.dumps(entry).encode())
TORN = st.one_of(
    LINES.map(lambda line: line[: len(line) // 2]),
    st.sampled_from([b"", b"null", b"[]", b"5", b'{"log":"\0"}', b"\xff", b'{"log": "x"}', b"{}{}"]),
)
MANY = st.lists(st.one_of(LINES, TORN), max_size=20)


def alone(line: bytes) -> object:
    try:
        return frames.loads(line)
    except ValueError:
        return None


@given(MANY)
def test_many_are_what_each_is(lines: list[bytes]) -> None:
    assert frames.loads_lines(lines) == [alone(line) for line in lines]


@given(
    MANY, st.sets(st.sampled_from(["stdout", "stderr"])), st.none() | st.just("2"), st.none() | st.just("4")
)
def test_those_that_are_wanted(
    lines: list[bytes], streams: set[str], since: str | None, until: str | None
) -> None:
    wanted = Wanted(frozenset(streams), since, until)

    def is_wanted(line: bytes) -> bool:
        entry = alone(line)
        if not isinstance(entry, dict) or entry.get("stream") not in streams:
            return False
        return bool((since or "") <= entry["time"] <= (until or "9"))

    expected = [line for line in lines if is_wanted(line)]
    assert [line for line in lines if wanted.has(line)] == expected
    assert wanted.among(lines) == b"".join(line + b"\n" for line in expected)


@given(st.lists(LINES, max_size=20))
def test_the_client_takes_many_as_each(texts: list[bytes]) -> None:
    if any(b'"stdin"' in text for text in texts):
        with pytest.raises(ProtocolError):
            parse_all(texts)
        return
    found = [(line.stream, line.time, line.data) for line in parse_all(texts)]
    assert found == [(line.stream, line.time, line.data) for line in map(parse, texts)]


@given(
    st.lists(st.integers(0, 6), max_size=30).map(sorted),
    st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6),
)
def test_a_reader_that_is_cut_off_has_each_line_once(times: list[int], answers: list[list[int]]) -> None:
    """Several lines have one time, as of an older guardian; an answer comes in batches, and ends anywhere."""
    log = [Line("stdout", str(time), b"%d" % number) for number, time in enumerate(times)]
    place = Position({"follow": "true"})
    had: list[bytes] = []
    for sizes in [*answers, [len(log) or 1]]:
        [query] = place.queries()
        place.answered(0.0)
        left = [line for line in log if line.time >= query.get("since", "")]
        for size in sizes:
            had += [line.data for line in place.take(left[:size])]
            left = left[size:]
    assert had == [line.data for line in log]
