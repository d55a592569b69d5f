"""`dkrctl top`: the processes of a container."""

from common.errors import BadRequest, ProtocolError
from dkrctl import output, report, tables
from dkrctl.daemon import target
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl top CONTAINER`; the exit status. Raises DkrError."""
    name, *rest = call.some_words()
    if rest:
        raise BadRequest(
            f"cannot take {rest[0]!r}: one container is named, and options of ps are not taken",
            hint="the columns are those of ps -ef",
        )
    answer = call.daemon().get(target(name, "/top"))
    titles, processes = (
        (answer.get(key) for key in ("titles", "processes")) if isinstance(answer, dict) else (0, 0)
    )
    if not isinstance(titles, list) or not isinstance(processes, list):
        raise ProtocolError("cannot understand the daemon: its table of processes is none")
    rows = [
        [str(cell) for cell in row] for row in processes if isinstance(row, list) and len(row) == len(titles)
    ]
    output.emit(tables.render([tables.Column(str(title)) for title in titles], rows, output.width()))
    omitted = answer.get("omitted") if isinstance(answer, dict) else None
    if omitted:
        report.note(f"{omitted} more are not shown")
    return 0
