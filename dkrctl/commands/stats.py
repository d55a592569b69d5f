"""`dkrctl stats`: what containers use of the machine, once or each second anew."""

import os
import time
from collections.abc import Callable, Iterator, Sequence

from common.errors import DkrError, ProtocolError
from dkrctl import output, tables
from dkrctl.daemon import Daemon, target
from dkrctl.presentation import presentation
from dkrctl.report import report
from dkrctl.templates import Record
from dkrctl.usage import HEADINGS, HISTORY, Meter
from dkrctl.verbs import FAILED, Call

SECONDS = 1.0  # from one table to the next
FIRST = 0.05  # from the first measurement to the second: a share is between two
_COLUMNS = {  # by field
    "ID": tables.Column("CONTAINER ID", 4),
    "Name": tables.Column("NAME", 6, 12),
    "CPUPerc": tables.Column("CPU %"),
    "MemUsage": tables.Column("MEM USAGE / LIMIT"),
    "MemPerc": tables.Column("MEM %", 5),
    "NetIO": tables.Column("NET I/O", 1),
    "BlockIO": tables.Column("BLOCK I/O", 2),
    "PIDs": tables.Column("PIDS", 3),
}
_SHORT, _WIDE = (
    8,
    112,
)  # measurements of a curve; columns of a terminal with room for a long one beside all else
# Of processor time, for people: it stays as long as it can.
_CURVE = {"Curve": tables.Column(" " * _SHORT, 7)}


class _Watched:
    """The containers that are shown. `names`: those alone."""

    def __init__(self, daemon: Daemon, names: Sequence[str], *, every: bool) -> None:
        self._daemon = daemon
        self._every = every
        self.failed = False
        self._meters: dict[str, Meter] = {}
        self._named: dict[str, str] | None = None  # id -> name
        if names:
            self._named = {}
            for name in names:
                try:
                    found = _object(daemon.get(target(name)))
                except DkrError as error:
                    report(error)
                    self.failed = True
                else:
                    self._named[str(found.get("id"))] = str(found.get("name"))

    @property
    def is_worth_it(self) -> bool:
        """Whether there is anything that could be shown: not where each that was named is not there."""
        return self._named != {}

    @property
    def is_over(self) -> bool:
        """Whether only containers were named, and none of them runs."""
        return self._named is not None and not any(meter.now for meter in self._meters.values())

    def measure(self) -> list[tuple[str, str, Meter]]:
        """Id, name and measurements of each, the newest container first."""
        answer = self._daemon.get("/v1/stats")
        if not isinstance(answer, list):
            raise ProtocolError("cannot understand the daemon: what it has measured is no list")
        measured = {str(one.get("id")): one for one in map(_object, answer)}
        shown = {key: str(one.get("name")) for key, one in measured.items()}
        if self._named is not None:
            shown = {key: shown.get(key, name) for key, name in self._named.items()}
        elif self._every:
            everything = self._daemon.get("/v1/containers?all=true")
            for one in map(_object, everything if isinstance(everything, list) else []):
                shown.setdefault(str(one.get("id")), str(one.get("name")))
        meters = {key: self._meters.get(key) if key in measured else None for key in shown}
        self._meters = {key: meter or Meter() for key, meter in meters.items()}
        for key, one in measured.items():
            if key in self._meters:
                self._meters[key].take(one)
        return [(key, name, self._meters[key]) for key, name in shown.items()]


def run(call: Call) -> int:
    """`dkrctl stats [CONTAINER...]`; the exit status. Raises DkrError."""
    once, whole = bool(call.parsed.flag("no-stream")), bool(call.parsed.flag("no-trunc"))
    form = call.text("format") or "table"
    steers = output.is_terminal() and os.environ.get("TERM", "dumb") != "dumb"
    live = steers and not once and form.split(" ")[0] == "table"
    columns = {**_COLUMNS, **_CURVE} if live and form == "table" else _COLUMNS
    show = presentation(form, columns, Record(HEADINGS))
    watched = _Watched(call.daemon(), call.words, every=bool(call.parsed.flag("all")))
    if watched.is_worth_it:
        _show(watched, show, once=once, whole=whole, live=live)
    return FAILED if watched.failed else 0


def _show(
    watched: _Watched, show: Callable[[Sequence[Record]], str], *, once: bool, whole: bool, live: bool
) -> None:
    screen = _Screen()
    for found in _measurements(watched, once=once):
        length = HISTORY if (output.width() or 0) >= _WIDE else _SHORT
        rows = [
            Record(
                {
                    **meter.fields(key, name, whole=whole),
                    **({"Curve": meter.curve(length).ljust(length)} if live else {}),
                }
            )
            for key, name, meter in found
        ]
        text = show(rows)
        output.emit(screen.draw(text) if live else text)


def _measurements(watched: _Watched, *, once: bool) -> Iterator[list[tuple[str, str, Meter]]]:
    watched.measure()
    time.sleep(FIRST)
    while True:
        yield watched.measure()
        if once or watched.is_over:
            return
        time.sleep(SECONDS)


class _Screen:
    """What is drawn over what was drawn before; ECMA-48: cursor up, and erased from there."""

    def __init__(self) -> None:
        self._lines = 0

    def draw(self, text: str) -> str:
        """`text`, as much of it as fits, in the place of what is there."""
        try:
            most = max(2, os.get_terminal_size(1).lines - 1)
        except OSError:
            most = 24
        lines = text.splitlines()[:most]
        back = f"\x1b[{self._lines}A\r" if self._lines else ""
        self._lines = len(lines)
        return back + "\x1b[J" + "".join(f"{line}\n" for line in lines)


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ProtocolError("cannot understand the daemon: what it tells of a container is no object")
    return value
