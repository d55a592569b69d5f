"""`dkrctl kill`: send a signal to the commands of running containers."""

from common.errors import DkrError
from dkrctl import output
from dkrctl.daemon import target
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl kill CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    body = {"signal": call.text("signal") or "KILL"}
    daemon = call.daemon()
    status = 0
    for name in names:
        try:
            daemon.post(target(name, "/kill"), body)
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{name}\n")
    return status
