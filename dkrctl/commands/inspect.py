"""`dkrctl inspect`: all that is known of containers."""

from common.errors import DkrError
from dkrctl import output
from dkrctl.containers import record_of
from dkrctl.daemon import target
from dkrctl.documents import document
from dkrctl.report import report
from dkrctl.templates import Template
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl inspect CONTAINER...`; the exit status. Raises DkrError.

    Those that are found are printed, each that is not is told.
    """
    names = call.some_words()
    form = call.text("format")
    template = None if form in (None, "", "json") else Template(form or "")
    daemon = call.daemon()
    status = 0
    found: list[object] = []
    for name in names:
        try:
            value = daemon.get(target(name))
            if template is not None:
                line = template.fill(record_of(value), terminal=output.is_terminal())
                output.emit(f"{line}\n")
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            found.append(value)
    if template is None:
        output.emit(document(found))
    return status
