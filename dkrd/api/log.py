"""The api's log: lines on stderr, which is the launcher's; text for people or JSON for collectors; fields where that is
the journal.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from common import frames
from dkrd import journal as journals
from dkrd.api import request_ids

if TYPE_CHECKING:
    from dkrd.journal import Journal


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.123Z info dkr.api: message`."""

    def format(self, record: logging.LogRecord) -> str:
        told = "".join(f" {name}={value}" for name, value in _facts(record).items())
        line = f"{_time(record)} {record.levelname.lower()} {record.name}: {_one_line(record.getMessage())}{told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Json(logging.Formatter):
    """One object a line: time, level, logger, message, the ids that it is about, and the traceback of a defect."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return frames.dumps(entry).decode("ascii")


class JournalHandler(logging.StreamHandler[TextIO]):
    """A record as the journal has it, traceback and all in one; a line on stderr where the journal does not take it."""

    def __init__(self, journal: Journal, *, json: bool) -> None:
        super().__init__(sys.stderr)
        self._journal = journal
        self._json = json
        self.setFormatter(Json() if json else Text())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._journal.send(self._fields(record)):
                return
        except OSError:
            pass  # no journal just now: its stream may still be open
        super().emit(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        facts = _facts(record)
        told = "".join(f" {name}={value}" for name, value in facts.items())
        text = f"api: {_one_line(record.getMessage())}{told}"
        if record.exc_info and self.formatter is not None:
            text += f"\n{self.formatter.formatException(record.exc_info)}"
        return {
            "MESSAGE": self.format(record) if self._json else text,
            "PRIORITY": str(journals.PRIORITIES.get(record.levelname.lower(), 6)),
            "SYSLOG_IDENTIFIER": journals.IDENTIFIER,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "DKR_PROCESS": "api",
            **{journals.field_of(name): value for name, value in facts.items()},
        }


def about(container: str) -> dict[str, str]:
    """What a line is said with (`extra`) that is about a container: its whole id."""
    return {"container": container}


def _facts(record: logging.LogRecord) -> dict[str, str]:
    """The ids by which a line is found: those of root's side have the same names."""
    found = {"id": getattr(record, "container", ""), "request": getattr(record, "request", "")}
    return {name: _one_line(value)[:64] for name, value in found.items() if value}


class OfRequest(logging.Filter):
    """Notes of which request a record is, and which container it is about, where it comes to be."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request = request_ids.current()
        record.container = getattr(record, "container", "") or request_ids.container()
        return True


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"


def _one_line(text: str) -> str:
    """What a caller sent must not look like a line of ours, nor speak to the terminal of who reads the log."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(level: str, form: str) -> None:
    """Log from `level` (debug, info, warning, error) on, as `form` (text, json). Unknown levels mean info."""
    journal = journals.connected(os.environ)
    handler: logging.Handler
    if journal is not None:
        handler = JournalHandler(journal, json=form == "json")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Json() if form == "json" else Text())
    # The name of the thread, process or task is not told: do not look for it at each line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    handler.addFilter(OfRequest())
    root.handlers[:] = [handler]
    root.setLevel(getattr(logging, level.upper(), logging.INFO))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
