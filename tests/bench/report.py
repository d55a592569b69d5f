"""Medians, ratios, tables on standard output, and the raw samples as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUT = Path(__file__).resolve().parents[2] / "build/bench"


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: `value` is at most (or at least) `bound`."""

    what: str
    value: float
    bound: float
    at_most: bool = True

    @property
    def passed(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'pass ' if self.passed else 'short'}  {self.what}: {self.value:.2f} {sign} {self.bound:g}"


@dataclass(slots=True)
class Result:
    """What one measurement gives: a table, raw samples for whoever wants to reckon anew, targets, remarks."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    samples: dict[str, Any]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
    }


def show(result: Result) -> None:
    """The table on standard output, the samples to build/bench/<name>.json."""
    widths = [max(map(len, column)) for column in zip(result.header, *result.rows, strict=True)]
    print(f"\n{result.title}\n")
    for row in (result.header, tuple("-" * width for width in widths), *result.rows):
        first, *others = zip(row, widths, strict=True)
        print(
            "  "
            + "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()
        )
    for note in result.notes:
        print(f"  {note}")
    for target in result.targets:
        print(f"  {target}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    document = {
        "name": result.name,
        "machine": machine(),
        "samples": result.samples,
        "targets": [{"what": str(t), "passed": t.passed} for t in result.targets],
    }
    (OUTPUT / f"{result.name}.json").write_text(json.dumps(document, indent=1) + "\n")
