"""`dkrctl wait`: wait until containers have ended, and print how."""

from common.bundle import MAX_SECONDS
from common.errors import BadRequest, DkrError
from dkrctl import output
from dkrctl.daemon import FOREVER, SECONDS, Daemon, target
from dkrctl.parse import seconds
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl wait CONTAINER...`: a line for each, its exit code, 128 and the signal, or ? where nobody learnt it.

    The exit status. Raises DkrError.
    """
    names = call.some_words()
    limit = call.text("timeout")
    patience = None if limit is None else _patience(limit)
    # The daemon keeps the time: a wait that runs out is no daemon that hangs.
    tail = "/wait" if patience is None else f"/wait?timeout={patience:.3f}"
    daemon = Daemon(call.socket, FOREVER if patience is None else patience + SECONDS)
    status = 0
    for name in names:
        try:
            answer = daemon.post(target(name, tail))
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{_told(answer)}\n")
    return status


def _patience(text: str) -> float:
    given = seconds(text, "timeout")
    if given > MAX_SECONDS:
        raise BadRequest(f"cannot wait --timeout {text:.20}: at most {MAX_SECONDS:g} seconds")
    return max(given, 0.001)


def _told(answer: object) -> str:
    ended = answer.get("exit") if isinstance(answer, dict) else None
    if isinstance(ended, dict):
        code, signal = ended.get("code"), ended.get("signal")
        if isinstance(code, int):
            return str(code)
        if isinstance(signal, int):
            return str(128 + signal)
    return "?"
