"""Where a reader of events goes on: of `dkrctl events`, and of the Python client."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import LimitReached
from dkrctl.event_position import Position

OLD, NEW = "2026-01-31T12:00:00Z", "2100-01-31T12:00:00Z"


def events(*times: str) -> list[dict[str, Any]]:
    return [{"time": time} for time in times]


def test_it_goes_on_with_the_last_one_which_comes_once_more() -> None:
    place = Position([("filter", "event=die"), ("since", OLD), ("filter", "label=a")])
    assert place.query() == [("filter", "event=die"), ("since", OLD), ("filter", "label=a")]
    place.answered(0.0)
    assert place.take(events("1", "2")) == events("1", "2")
    assert place.query() == [("filter", "event=die"), ("filter", "label=a"), ("since", "2")]
    assert place.take(events("2", "3")) == events("3")
    assert place.take(events("4")) == events("4")
    assert place.query()[-1] == ("since", "4")


def test_who_was_told_nothing_yet_begins_when_they_asked() -> None:
    place = Position([("filter", "event=die")])
    place.answered(0.0)
    (_, (key, asked)) = place.query()
    assert (key, asked > OLD) == ("since", True)
    assert place.take(events("5")) == events("5")
    place = Position([("since", OLD)])
    place.answered(0.0)
    assert place.query() == [("since", OLD)]


def test_what_is_not_kept_any_more_is_told() -> None:
    place = Position([])
    place.answered(0.0)
    place.take(events("1"))
    place.query()
    with pytest.raises(LimitReached, match="those between 1 and 3 are lost"):
        place.take(events("3", "4"))


@pytest.mark.parametrize(
    ("query", "expected"), [([], True), ([("until", NEW)], True), ([("until", OLD)], False)]
)
def test_what_is_past_is_no_matter_of_waiting(query: list[tuple[str, str]], expected: bool) -> None:
    assert Position(query).follows is expected
