"""The record of a start (docs/protocol.md, section 7) as a story for people: each step in order, and why.

Not on the lean path: loaded only to tell it.
"""

import errno
import os
from collections.abc import Iterator
from typing import Any

from dkrctl.cells import plain
from dkrctl.lines import BOLD, FAINT, RED, WIDTH, Repeats, indented, paint
from dkrctl.whys import SECTIONS, WHYS, Why

SLOWEST = 3
_INDENT = 5  # of what is said of a step; its calls stand two further in
_SHORT_ID = 12  # characters
_UNKNOWN = Why("", "", ())

Json = dict[str, Any]


def story(trace: Json, width: int = WIDTH, *, coloured: bool = False) -> str:
    """The whole text. What is missing in `trace`, or of another type, is told as if it were empty."""
    return "\n".join(_Story(trace, width, coloured).lines()) + "\n"


class _Step:
    """One step of the record, as far as it can be read."""

    __slots__ = ("calls", "duration", "failed", "name", "number", "process", "start", "why")

    def __init__(self, entry: Json, id: str) -> None:
        self.name = plain(str(entry.get("name", "?")))
        self.process = plain(str(entry.get("process", "?")))
        self.start = _number(entry.get("start"))
        self.duration = _number(entry.get("duration"))
        self.failed = entry.get("failed") is True
        call = plain(str(entry.get("call", "")))
        if id:
            # 64 digits are in the way of reading; the first line has them.
            call = call.replace(id, f"{id[:_SHORT_ID]}…")
        self.calls = call.split("; ") if call else []
        self.why = WHYS.get(self.name, _UNKNOWN)
        self.number = 0


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f} ms"


class _Story:
    def __init__(self, trace: Json, width: int, coloured: bool) -> None:
        self.trace = trace
        self.width = max(width, 40)
        self.coloured = coloured
        self.id = plain(str(trace.get("id", "")))
        steps = trace.get("steps")
        entries = [e for e in steps if isinstance(e, dict)] if isinstance(steps, list) else []
        self.steps = [_Step(entry, self.id) for entry in entries]
        self.sections = _sections(self.steps)
        for number, step in enumerate((step for _, steps in self.sections for step in steps), 1):
            step.number = number
        own = sorted((s for s in self.steps if not s.why.waits), key=lambda s: s.duration, reverse=True)
        self.slowest = own[:SLOWEST]

    def lines(self) -> Iterator[str]:
        yield from self._head()
        told: set[str] = set()
        for title, steps in self.sections:
            yield ""
            yield self._title(title, steps)
            repeats = Repeats()
            for step in steps:
                short = repeats.short(step.name, step.calls)
                yield from self._step(step, short, again=step.name in told)
                told.add(step.name)
        yield ""
        yield from self._foot()

    def _head(self) -> Iterator[str]:
        command = self.trace.get("command")
        words = " ".join(map(str, command)) if isinstance(command, list) else ""
        how = "did not start" if self.trace.get("outcome") == "failed" else "was started"
        yield from indented(f"How {plain(words)} {how}, step by step", self.width, 0)
        yield from indented(f"container {self.id}, {plain(str(self.trace.get('begun', '')))}", self.width, 0)

    def _title(self, title: str, steps: list[_Step]) -> str:
        where = f"{steps[0].process}, at {_ms(steps[0].start)}"
        return self._row(title, where, BOLD)

    def _step(self, step: _Step, short: str | None, *, again: bool) -> Iterator[str]:
        took = self._took(step)
        if short is not None and not step.failed:
            yield self._row(f"{step.number:3}    {short}", took, "")
            return
        yield self._row(f"{step.number:3}  {step.name}", took, RED if step.failed else BOLD)
        # Where a step makes several calls nobody knows here which of them it was.
        told = step.failed and len(step.calls) == 1
        for call in step.calls:
            yield from indented(call + (self._errno(" = -1 ") if told else ""), self.width, _INDENT + 2, 4)
        if step.failed:
            yield from self._error(told)
        if step.why.sentence and not again:
            yield from indented(step.why.sentence, self.width, _INDENT)
            read = ", ".join((step.why.file, *step.why.pages))
            yield from self._painted(indented(f"[{read}]", self.width, _INDENT), FAINT)

    def _row(self, left: str, right: str, code: str) -> str:
        room = self.width - len(right) - 1
        if len(left) > room:
            left = left[: room - 1] + "…"
        return (paint(left, code, coloured=self.coloured) + right.rjust(self.width - len(left))).rstrip()

    def _took(self, step: _Step) -> str:
        mark = "*" if step in self.slowest else "~" if step.why.waits else " "
        return ("failed  " if step.failed else "") + _ms(step.duration) + f" {mark}"

    def _errno(self, before: str) -> str:
        """`before` and the error's number in words, or nothing where it has none."""
        number = self._said().get("errno")
        if not isinstance(number, int) or number not in errno.errorcode:
            return ""
        return f"{before}{errno.errorcode[number]} ({os.strerror(number).lower()})"

    def _error(self, told: bool) -> Iterator[str]:
        number = "" if told else self._errno("")
        if number:
            which = f"one of these failed with {number}, and those after it were not made"
            yield from self._painted(indented(which, self.width, _INDENT), RED)
        for key, before in (("message", ""), ("hint", "hint: ")):
            text = self._said().get(key)
            if isinstance(text, str):
                yield from self._painted(indented(before + plain(text), self.width, _INDENT), RED)

    def _said(self) -> Json:
        error = self.trace.get("error")
        return error if isinstance(error, dict) else {}

    def _foot(self) -> Iterator[str]:
        total = max((s.start + s.duration for s in self.steps), default=0)
        busy: dict[str, int] = {}
        for step in self.steps:
            busy[step.process] = busy.get(step.process, 0) + (0 if step.why.waits else step.duration)
        shares = ", ".join(f"{process} {_ms(spent)}" for process, spent in busy.items())
        yield from indented(
            f"{len(self.steps)} steps, {_ms(total)} in all; at work, partly at the same time: {shares}",
            self.width,
            0,
        )
        omitted = self.trace.get("omitted")
        if isinstance(omitted, int):
            yield f"{omitted} more steps are left out in the middle: the record would be too long"
        slow = ", ".join(f"{s.number} {s.name} ({_ms(s.duration)})" for s in self.slowest)
        yield from indented(f"* the slowest: {slow}", self.width, 0, 2)
        yield from indented("~ waits for another process, whose time it is", self.width, 0, 2)

    def _painted(self, lines: list[str], code: str) -> list[str]:
        return [paint(line, code, coloured=self.coloured) for line in lines]


def _sections(steps: list[_Step]) -> list[tuple[str, list[_Step]]]:
    """The steps under their titles: sections in the order in which they begin, each of one process."""
    current: dict[str, list[_Step]] = {}
    found: list[tuple[str, list[_Step]]] = []
    titles: dict[str, set[str]] = {}
    for step in steps:
        title = SECTIONS.get((step.process, step.name))
        begun = titles.setdefault(step.process, set())
        if step.process not in current or (title is not None and title not in begun):
            title = title or step.process
            begun.add(title)
            current[step.process] = []
            found.append((title, current[step.process]))
        current[step.process].append(step)
    return found
