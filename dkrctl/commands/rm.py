"""`dkrctl rm`: remove containers that have ended."""

from common.errors import DkrError
from dkrctl import output
from dkrctl.daemon import target
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl rm CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    daemon = call.daemon()
    status = 0
    for name in names:
        try:
            daemon.delete(target(name))
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{name}\n")
    return status
