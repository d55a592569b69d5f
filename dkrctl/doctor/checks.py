"""What a check of `dkrctl doctor` gives."""

import os

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Check:
    """One thing that was looked at.

    name    what it is; stable, programs go by it
    status  ok, warning (it works, or could not be tried) or problem (dkr does not work without it)
    found   what was found
    advice  what to do, empty where it is ok
    """

    __slots__ = ("advice", "found", "name", "status")

    def __init__(self, name: str, status: str, found: str, advice: str = "") -> None:
        self.name = name
        self.status = status
        self.found = found
        self.advice = advice

    def to_json(self) -> dict[str, object]:
        """The check as JSON's types; `advice` is left out where there is none."""
        entry: dict[str, object] = {"name": self.name, "status": self.status, "found": self.found}
        if self.advice:
            entry["advice"] = self.advice
        return entry


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, OK, found)


def warning(name: str, found: str, advice: str) -> Check:
    """Something to know of."""
    return Check(name, WARNING, found, advice)


def problem(name: str, found: str, advice: str) -> Check:
    """Something that dkr does not work without."""
    return Check(name, PROBLEM, found, advice)


def is_root() -> bool:
    """Whether what only root can try can be tried."""
    return os.geteuid() == 0


def untried(name: str, found: str = "") -> Check:
    """What cannot be known without root: said, and not taken for well."""
    begin = f"{found}; " if found else ""
    return warning(name, f"{begin}not tried: that needs root", "run `dkrctl doctor` as root")
