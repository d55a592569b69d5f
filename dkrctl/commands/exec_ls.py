"""`dkrctl exec ls`: what is executed in a container."""

import time

from common.errors import BadRequest, ProtocolError
from dkrctl import output, tables
from dkrctl.ages import ago
from dkrctl.cells import ELLIPSIS, plain
from dkrctl.containers import SHORT_COMMAND, SHORT_ID
from dkrctl.daemon import target
from dkrctl.templates import json
from dkrctl.verbs import Call

_COLUMNS = (
    tables.Column("EXEC ID"),
    tables.Column("COMMAND", turn=1, least=8),
    tables.Column("STARTED", turn=2),
    tables.Column("UID"),
    tables.Column("PID"),
)


def run(call: Call) -> int:
    """`dkrctl exec ls CONTAINER`; the exit status. Raises DkrError."""
    [name, *more] = call.some_words()
    if more:
        raise BadRequest(f"cannot list what is executed in {len(more) + 1} containers: one is wanted")
    form, quiet = call.text("format"), bool(call.parsed.flag("quiet"))
    if quiet and form is not None:
        raise BadRequest("cannot show ids only and by a format: give --quiet or --format")
    found = call.daemon().get(target(name, "/execs"))
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in found
    ):
        raise ProtocolError("cannot understand the daemon: its list of execs is none")
    whole = bool(call.parsed.flag("no-trunc"))
    if quiet:
        shown = "".join(f"{_id(entry, whole)}\n" for entry in found)
    elif form == "json":
        shown = "".join(f"{json(entry)}\n" for entry in found)
    else:
        shown = tables.render(_COLUMNS, [_row(entry, whole) for entry in found], output.width())
    output.emit(shown)
    return 0


def _id(entry: dict[str, object], whole: bool) -> str:
    text = str(entry["id"])
    return text if whole else text[:SHORT_ID]


def _row(entry: dict[str, object], whole: bool) -> list[str]:
    args = entry.get("args")
    command = plain(" ".join(map(str, args))) if isinstance(args, list) else ""
    if not whole and len(command) > SHORT_COMMAND:
        command = command[: SHORT_COMMAND - 1] + ELLIPSIS
    started = ago(entry.get("started"), time.time())
    return [_id(entry, whole), f'"{command}"', started, str(entry.get("uid")), str(entry.get("pid"))]
