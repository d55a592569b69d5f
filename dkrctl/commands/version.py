"""`dkrctl version`: who is who."""

from common.errors import DkrError
from common.version import API_VERSION, VERSION
from dkrctl import diagnosis, output
from dkrctl.documents import document
from dkrctl.report import note, report
from dkrctl.templates import Record, Template
from dkrctl.verbs import FAILED, Call

SERVER_FIELDS = (
    "version",
    "apiVersion",
    "os",
    "arch",
    "kernel",
    "python",
)  # common/models.py; a test compares


def run(call: Call) -> int:
    """`dkrctl version`; the exit status. Raises DkrError.

    Where no daemon answers, the client's version alone, the reason on stderr, and its status.
    """
    call.no_words()
    form = call.text("format")
    template = None if form in (None, "", "json") else Template(form or "")
    server: Record | None = None
    status = 0
    try:
        said = call.daemon().get("/v1/version")
    except DkrError as error:
        report(error)
        status = FAILED
    else:
        server = Record(dict.fromkeys(SERVER_FIELDS))
        server.update(said if isinstance(said, dict) else {})
        status = _compare(server)
    both = Record({"client": Record({"version": VERSION, "apiVersion": API_VERSION}), "server": server})
    if template is not None:
        output.emit(template.fill(both, terminal=output.is_terminal()) + "\n")
    elif form == "json":
        output.emit(document(both))
    else:
        output.emit(_lines(server))
    return status


def _compare(server: Record) -> int:
    """Tell of versions that do not go together; the exit status."""
    found = diagnosis.skew(server["version"], server["apiVersion"])
    if found is None:
        return 0
    what, hint = found
    note(f"{what}: {hint}")
    return 0 if server["apiVersion"] == API_VERSION else FAILED


def _lines(server: Record | None) -> str:
    lines = [f"dkrctl {VERSION} (API {API_VERSION})"]
    if server is not None:
        place = ", ".join(str(server[key]) for key in ("os", "arch", "kernel") if server[key])
        lines.append(
            f"dkrd   {server['version']} (API {server['apiVersion']}) on {place}, Python {server['python']}"
        )
    return "".join(f"{output.shown(line)}\n" for line in lines)
