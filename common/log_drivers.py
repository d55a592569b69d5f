"""Where a container's output goes, and how much of it is kept: the key `log` of a request, as everybody reads it.

Names and values are Docker's (`--log-driver`, `--log-opt`); docs/logging.md. Standard library only: root's side reads it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FILE, NONE, PASSTHROUGH, JOURNAL = "json-file", "none", "passthrough", "journald"
DRIVERS = (FILE, NONE, PASSTHROUGH, JOURNAL)
_BUFFER = ("mode", "max-buffer-size")
OPTIONS = {
    FILE: ("max-size", "max-file", *_BUFFER),
    NONE: (),
    PASSTHROUGH: (),
    JOURNAL: (*_BUFFER, "tag"),
}
BUFFER = 1024 * 1024  # bytes
MAX_BUFFER = 4 * 1024 * 1024  # bytes: it is the guardian's memory
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_BYTES = "409[6-9]|4[1-9][0-9]{2}|[5-9][0-9]{3}"  # from 4096 on
# What each option's value must look like, which is also what the API's description says; and in words.
VALUES = {
    "max-size": (
        rf"{_BYTES}|[1-9][0-9]{{4,11}}|(?:[4-9]|[1-9][0-9]{{1,5}})[kK][bB]?|[1-9][0-9]{{0,5}}[mM][bB]?|[1-9][0-9]{{0,2}}[gG][bB]?",
        "a size from 4096 bytes to 999g is wanted, as in 65536, 512k, 10m, 1g",
    ),
    "max-file": ("[1-9][0-9]?|100", "a whole number from 1 to 100 is wanted"),
    "mode": ("blocking|non-blocking", "blocking or non-blocking is wanted"),
    "max-buffer-size": (
        rf"{_BYTES}|[1-9][0-9]{{4,5}}|[1-3][0-9]{{6}}|(?:[4-9]|[1-9][0-9]{{1,2}}|[1-3][0-9]{{3}})[kK][bB]?|[1-4][mM][bB]?",
        "a size from 4096 bytes to 4m is wanted, as in 65536, 512k, 1m",
    ),
    "tag": (
        "[A-Za-z0-9_./:@-]{1,128}",
        "1 to 128 letters, digits, or _./:@- are wanted; templates are not filled in",
    ),
}


class LogFault(ValueError):
    """What does not fit, `path` below the key `log` ("" for itself)."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"log{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Logging:
    """What is wanted of one container's log.

    driver     one of DRIVERS; None: what fits, a file where nobody holds the output
    max_size   bytes of one file; None: the daemon's
    max_files  how many; None: the daemon's
    blocking   whether the command waits while the log takes nothing; else what does not fit into `buffer` bytes is dropped
    tag        of its records in the journal; None: the short id
    """

    driver: str | None = None
    max_size: int | None = None
    max_files: int | None = None
    blocking: bool = False
    buffer: int = BUFFER
    tag: str | None = None


def parse(value: object) -> Logging:
    """What the JSON `value` means; None is nothing said. Raises LogFault."""
    if value is None:
        return Logging()
    if not isinstance(value, dict):
        raise LogFault("", "an object is wanted")
    for key in value:
        if key not in ("driver", "options"):
            raise LogFault(f".{str(key)[:80]}", "an unknown key; driver and options are known")
    driver, options = value.get("driver"), value.get("options", {})
    if "driver" in value and driver not in DRIVERS:
        raise LogFault(".driver", "one of " + ", ".join(DRIVERS) + " is wanted")
    if not isinstance(options, dict):
        raise LogFault(".options", "an object of strings is wanted")
    kind = FILE if driver is None else str(driver)
    for name, text in options.items():
        _check(kind, name, text)
    if "max-buffer-size" in options and options.get("mode") != "non-blocking":
        raise LogFault(".options.max-buffer-size", "has a meaning with mode=non-blocking only")
    size, files, buffer = (options.get(name) for name in ("max-size", "max-file", "max-buffer-size"))
    return Logging(
        driver=None if driver is None else kind,
        max_size=None if size is None else _size(size),
        max_files=None if files is None else int(files),
        # A full disk is to hold up nobody who has not asked for it; that the journal is behind happens every day.
        blocking=options.get("mode", "blocking" if kind == JOURNAL else "non-blocking") == "blocking",
        buffer=BUFFER if buffer is None else _size(buffer),
        tag=options.get("tag"),
    )


def _check(driver: str, name: object, text: object) -> None:
    known = OPTIONS[driver]
    path = f".options.{str(name)[:80]}"
    if name not in known:
        takes = "takes " + ", ".join(known) if known else "takes none"
        raise LogFault(path, f"no option of the log driver {driver}, which {takes}")
    if not isinstance(text, str):
        raise LogFault(path, "a string is wanted")
    pattern, words = VALUES[str(name)]
    if re.fullmatch(pattern, text) is None:
        raise LogFault(path, words)


def _size(text: str) -> int:
    number = text.rstrip("bBkKmMgG")
    return int(number) << _UNITS[text[len(number) :].lower().removesuffix("b")]
