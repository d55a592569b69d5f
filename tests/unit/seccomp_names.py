"""The names of system calls, as libseccomp has them for a table of the default filter."""

from __future__ import annotations

from dkrd.launcher.jobs import seccomp as job


def names_of(library: str, table: job._Table) -> dict[int, str]:
    """The names by their numbers."""
    name_of = job._resolver(library)
    numbers = (n for first, end in table.numbers for n in range(first, end))
    return {n: name for n in numbers if (name := name_of(table.scmp, n))}
