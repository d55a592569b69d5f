"""`dkrctl rm`: remove containers."""

from common.errors import DkrError, NotFound
from dkrctl import output
from dkrctl.awaited import Awaited
from dkrctl.daemon import target
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl rm CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    force = bool(call.parsed.flag("force"))
    daemon = call.daemon()
    status = 0
    for name in names:
        daemon.awaited = Awaited([name], "to be removed")
        try:
            daemon.delete(target(name, "?force=true" if force else ""))
        except DkrError as error:
            report(error)
            if not (force and isinstance(error, NotFound)):  # what is wanted is so
                status = FAILED
        else:
            output.emit(f"{name}\n")
    return status
