"""`dkrctl doctor`: what dkr needs of this host, and what of it is missing."""

import textwrap
from collections.abc import Iterator

from common.version import VERSION
from dkrctl import output
from dkrctl.cells import plain
from dkrctl.doctor import checks, identities, kernel, limits, programs, service, settings, storage
from dkrctl.doctor.checks import OK, PROBLEM, WARNING, Check, warning
from dkrctl.documents import document
from dkrctl.verbs import FAILED, Call

_COLOURS = {OK: output.GREEN, WARNING: output.YELLOW, PROBLEM: output.RED}
_WIDTH = 80  # where there is no terminal
_NAME = 30


def run(call: Call) -> int:
    """`dkrctl doctor`; the exit status: 1 where there is a problem. Raises DkrError."""
    call.no_words()
    found = list(gather(call.socket, call.text("config")))
    if call.text("format") == "json":
        entries = [{"group": group, **check.to_json()} for group, check in found]
        output.emit(document({"version": VERSION, "root": checks.is_root(), "checks": entries}))
    else:
        output.emit(_page(found))
    return FAILED if any(check.status == PROBLEM for _, check in found) else 0


def gather(socket: str, config: str | None) -> Iterator[tuple[str, Check]]:
    """Every check with the group that it belongs to."""
    yield from _group("Kernel", kernel.checks())
    known, told = settings.read(config)
    yield from _group("Install", iter(told))
    yield from _group("Install", programs.checks())
    if known is None:
        unknown = warning("storage, users, id pool", "not looked at: the settings are not known", "see above")
        yield "Install", unknown
    else:
        yield from _group("Users and ids", identities.checks(known))
        yield from _group("Storage", storage.checks(known))
    yield from _group("Limits", limits.checks(service.daemon_pid(socket)))
    yield from _group("Daemon", service.checks(socket, known))


def _group(name: str, found: Iterator[Check]) -> Iterator[tuple[str, Check]]:
    """The checks, each under `name`; a file that cannot be read stops a group, not the doctor."""
    try:
        for check in found:
            yield name, check
    except (OSError, KeyError, ValueError) as err:
        yield (
            name,
            warning("the rest of these", f"cannot be looked at: {err}", "a defect of dkr: please report it"),
        )


def _page(found: list[tuple[str, Check]]) -> str:
    width = min(output.width() or _WIDTH, 120)
    coloured = output.is_coloured()
    lines: list[str] = []
    group = ""
    for name, check in found:
        if name != group:
            lines += ([""] if lines else []) + [name]
            group = name
        lines += _entry(check, width, coloured)
    counts = {
        status: sum(1 for _, check in found if check.status == status) for status in (PROBLEM, WARNING, OK)
    }
    total = ", ".join(f"{count} {_plural(status, count)}" for status, count in counts.items())
    return "\n".join([*lines, "", total]) + "\n"


def _plural(status: str, count: int) -> str:
    return status if status == OK or count == 1 else f"{status}s"


def _entry(check: Check, width: int, coloured: bool) -> list[str]:
    word = output.coloured(check.status.ljust(8), _COLOURS[check.status], wanted=coloured)
    indent = 2 + 8 + 1
    room = max(width - indent - 2, 30)
    name = f"{plain(check.name)}: "
    body = textwrap.wrap(name + plain(check.found), room, break_on_hyphens=False)
    lines = [f"  {word} {body[0]}", *(" " * indent + "  " + line for line in body[1:])]
    if check.advice:
        advice = textwrap.wrap(plain(check.advice), room - 3, break_on_hyphens=False)
        lines += [" " * indent + ("-> " if place == 0 else "   ") + line for place, line in enumerate(advice)]
    return lines
