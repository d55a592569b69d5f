"""`dkrctl top`: the processes of a container."""

from urllib.parse import quote

from common.errors import ProtocolError
from common.ps_columns import EF, columns_of
from dkrctl import output, report, tables
from dkrctl.daemon import target
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl top CONTAINER`; the exit status. Raises DkrError."""
    name, *rest = call.some_words()
    columns = columns_of(rest)
    query = "" if columns == EF else f"?columns={quote(','.join(columns), safe=',')}"
    answer = call.daemon().get(target(name, f"/top{query}"))
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
