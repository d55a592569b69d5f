"""`dkrctl wait`: wait until containers have ended, and print how."""

from common.errors import DkrError
from dkrctl import output
from dkrctl.daemon import target
from dkrctl.parse import seconds
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call

_FOREVER = 86400.0 * 365  # seconds


def run(call: Call) -> int:
    """`dkrctl wait CONTAINER...`: a line for each, its exit code, 128 and the signal, or ? where nobody learnt it.

    The exit status. Raises DkrError.
    """
    names = call.some_words()
    limit = call.text("timeout")
    patience = _FOREVER if limit is None else seconds(limit, "timeout")
    daemon = call.daemon()
    status = 0
    for name in names:
        try:
            answer = daemon.post(target(name, "/wait"), seconds=patience)
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{_told(answer)}\n")
    return status


def _told(answer: object) -> str:
    ended = answer.get("exit") if isinstance(answer, dict) else None
    if isinstance(ended, dict):
        code, signal = ended.get("code"), ended.get("signal")
        if isinstance(code, int):
            return str(code)
        if isinstance(signal, int):
            return str(128 + signal)
    return "?"
