"""The table of kernel features (docs/kernel-features.md) and what dkr does, in both directions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from common.kernel_probes import KERNEL, release
from dkrd.launcher import features
from dkrd.runtime import syscalls
from dkrd.settings import Settings
from tests import kernel_table

REPOSITORY = Path(__file__).resolve().parents[2]
# What no kernel decides.
SETTINGS = {"httpLifts"}


@pytest.fixture(scope="module")
def found() -> dict[str, bool]:
    """What this machine has."""
    return {name: there for name, there in features.found(Settings()).items() if name not in SETTINGS}


@pytest.mark.root
def test_the_table_has_the_features_that_are_told_and_no_others(found: dict[str, bool]) -> None:
    assert {row.feature for row in kernel_table.rows() if row.feature} == set(found)


@pytest.mark.root
def test_this_machine_takes_the_side_that_its_kernel_has(found: dict[str, bool]) -> None:
    assert found == kernel_table.expected(os.uname().release)


def test_what_is_newer_than_the_oldest_kernel_has_a_fallback() -> None:
    rows = kernel_table.rows()
    assert len(rows) > 20
    assert [row.what for row in rows if row.since > KERNEL and not row.without] == []


def test_the_sides_are_those_of_the_table() -> None:
    sides = kernel_table.sides()
    assert len(sides) == 3
    optional = {row.feature for row in kernel_table.rows() if row.without and row.feature}
    for kernel, answers in sides.items():
        assert set(answers) == optional
        assert answers.items() <= kernel_table.expected(kernel).items(), kernel


def test_every_call_of_ours_is_in_the_table() -> None:
    text = " ".join(row.what for row in kernel_table.rows())
    # From 424 on, numbers are the same everywhere: those are the calls that came with Linux 5.
    new = [name for name, number in syscalls._NUMBERS.items() if number >= 424]
    assert new
    assert [name for name in new if f"`{name}`" not in text] == []


def test_every_release_that_a_comment_names_is_on_the_page() -> None:
    told = kernel_table.PAGE.read_text()
    named = {}
    for package in ("common", "dkrd"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for version in re.findall(r"\bLinux (\d+\.\d+)", path.read_text()):
                named[version] = str(path.relative_to(REPOSITORY))
    newer = {version: path for version, path in named.items() if release(version) > KERNEL}
    assert newer
    assert {version: path for version, path in newer.items() if version not in told} == {}
