"""docs/kernel-features.md as data: what a kernel of some release must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common.kernel_probes import release

PAGE = Path(__file__).resolve().parents[1] / "docs/kernel-features.md"


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel feature: since when, what happens without it (empty: it must be there), its name in GET /v1/info (may be empty)."""

    what: str
    since: tuple[int, int]
    without: str
    feature: str


def rows() -> list[Row]:
    """The page's first two tables."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] and len(cells) in (4, 5) and re.fullmatch(r"\d+\.\d+", cells[1]):
            without = cells[3] if len(cells) == 5 else ""
            found.append(Row(cells[0], release(cells[1]), without, cells[-1].strip("`")))
    return found


def sides() -> dict[str, dict[str, bool]]:
    """The page's last table: release -> feature -> whether it is there."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    head = next(line for line in lines if line.startswith("| | "))
    releases = head.strip("| ").split(" | ")
    found: dict[str, dict[str, bool]] = {name: {} for name in releases}
    for line in lines[lines.index(head) + 2 :]:
        feature, *answers = line.strip("| ").split(" | ")
        for name, answer in zip(releases, answers, strict=True):
            found[name][feature.strip("`")] = answer == "yes"
    return found


def expected(kernel: str) -> dict[str, bool]:
    """Feature -> whether a kernel of this release has it."""
    return {row.feature: release(kernel) >= row.since for row in rows() if row.feature}
