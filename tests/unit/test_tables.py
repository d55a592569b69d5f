"""Tables: cells as terminals count them, columns that never break, times in words."""

from __future__ import annotations

import unicodedata

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkrctl.ages import ago, duration, parse
from dkrctl.cells import cell_width, cut, pad, plain, width_of
from dkrctl.tables import Column, render

# Blocks with characters of every width: Latin, Greek, combining marks, Thai, Hangul in parts and whole, kana, CJK, full width, emoji.
BLOCKS = (
    *(range(0x20, 0x7F), range(0xA1, 0x180), range(0x300, 0x370), range(0x370, 0x500), range(0xE01, 0xE5C)),
    *(range(0x1100, 0x1200), range(0x3041, 0x3100), range(0x4E00, 0x4F00), range(0xAC00, 0xAC80)),
    *(range(0xFF01, 0xFFA0), range(0x1F300, 0x1F32D), range(0x1F400, 0x1F43F), range(0x20000, 0x20080)),
)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]:x}")
def test_widths_are_those_of_a_terminal(block: range) -> None:
    screen = pyte.Screen(80, 2)
    stream = pyte.Stream(screen)
    wrong = []
    for character in filter(str.isprintable, map(chr, block)):
        screen.reset()
        stream.feed("x" + character)
        if screen.cursor.x - 1 != cell_width(character):
            wrong.append(f"{character} {unicodedata.name(character)}: {screen.cursor.x - 1}")
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("grün", 4), ("世界", 4), ("e\u0301", 1), ("ｆ", 2), ("🐳", 2), ("각", 2)]
)
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[2J\x07\x9b\x7f", "\\x1b[2J\\x07\\x9b\\x7f"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\ud800", "\\ud800"),
        ("grün 世界", "grün 世界"),
    ],
)
def test_nothing_steers_a_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(), st.integers(0, 40))
def test_cut_never_takes_more_than_there_is(text: str, cells: int) -> None:
    shown = cut(plain(text), cells)
    assert width_of(shown) <= cells
    if width_of(plain(text)) <= cells:
        assert shown == plain(text)
        assert width_of(pad(shown, cells)) == cells


COLUMNS = (Column("ID"), Column("WHAT", 1, 6), Column("NAME", 2, 4))


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    text = render(COLUMNS, [["1", "世界", "a"], ["22", "x\ny", "bb"]], None)
    assert text.splitlines() == ["ID   WHAT   NAME", "1    世界   a", "22   x\\ny   bb"]


def test_an_empty_table_has_its_heading() -> None:
    assert render(COLUMNS, [], None) == "ID   WHAT   NAME\n"


def test_at_a_narrow_terminal_columns_give_way_in_their_turn() -> None:
    row = ["1234567890", "a long command", "a-long-name"]
    assert render(COLUMNS, [row], 40).splitlines()[1] == "1234567890   a long comma…   a-long-name"
    narrow = render(COLUMNS, [row], 30).splitlines()[1]
    assert narrow == "1234567890   a lon…   a-long-…"
    assert render(COLUMNS, [row], 12).splitlines()[1] == "1234567890 …"


def test_a_column_may_be_left_out() -> None:
    columns = (Column("ID"), Column("AGE", 1), Column("NAME", 2, 4))
    rows = [["1", "2 days", "abcdef"]]
    assert render(columns, rows, 20).splitlines() == ["ID   AGE      NAME", "1    2 days   abcdef"]
    assert render(columns, rows, 19).splitlines() == ["ID   NAME", "1    abcdef"]
    assert render(columns, rows, 10).splitlines() == ["ID   NAME", "1    abcd…"]


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5),
    st.none() | st.integers(1, 100),
)
def test_a_line_a_row_and_never_wider_than_the_terminal(rows: list[list[str]], width: int | None) -> None:
    lines = render(COLUMNS, rows, width).split("\n")
    assert len(lines) == len(rows) + 2
    assert all(line.isprintable() for line in lines)
    if width is not None:
        assert all(width_of(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47.9 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13.9 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
        (1e10, "317 years"),
    ],
)
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_times() -> None:
    assert parse("1970-01-01T00:01:00.5Z") == 60.5
    assert parse("2026-01-31T12:00:00.123456789Z") is not None
    assert ago("1970-01-01T00:01:00Z", 65) == "5 seconds ago"
    for text in (None, "", "yesterday", "2026-01-31", 5):
        assert ago(text, 0) == "unknown"
