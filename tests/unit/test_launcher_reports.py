"""The launcher's reports: numbered, and kept until they are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dkrd.launcher import reports as reports_module
from dkrd.launcher.reports import Reports

if TYPE_CHECKING:
    import pytest


def test_they_are_kept_until_they_are_noted() -> None:
    sent: list[dict[str, object]] = []
    reports = Reports(sent.append)
    for letter in "abc":
        reports.tell({"type": "gone", "id": letter})
    assert sent == reports.unheard()
    assert [message["number"] for message in sent] == [1, 2, 3]
    reports.noted(2)
    assert [message["id"] for message in reports.unheard()] == ["c"]
    reports.noted(99)
    assert reports.unheard() == []


def test_what_only_counts_is_neither_numbered_nor_kept() -> None:
    sent: list[dict[str, object]] = []
    reports = Reports(sent.append)
    reports.tell({"type": "steps", "id": "a", "steps": {"fork": 1}})
    reports.tell({"type": "gone", "id": "a"})
    assert [message.get("number") for message in sent] == [None, 1]
    assert reports.unheard() == sent[1:]


def test_of_too_many_the_oldest_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_module, "MAX_BYTES", 500)
    reports = Reports(lambda message: None)
    for _ in range(reports_module.MAX_KEPT + 10):
        reports.tell({"type": "gone", "id": "a"})
    found = [message["number"] for message in reports.unheard()]
    assert found[-1] == reports_module.MAX_KEPT + 10
    assert 5 < len(found) < 30
    assert found == sorted(found, key=lambda number: int(str(number)))


def test_each_launcher_has_its_own_epoch() -> None:
    assert Reports(print).epoch != Reports(print).epoch
