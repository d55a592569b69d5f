"""`dkrctl wait`: wait until containers have ended, and print how."""

from urllib.parse import urlencode

from common.bundle import MAX_SECONDS
from common.errors import BadRequest
from dkrctl import output
from dkrctl.awaited import Awaited
from dkrctl.daemon import FOREVER, SECONDS
from dkrctl.parse import seconds as seconds_of
from dkrctl.report import report
from dkrctl.several import each
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl wait CONTAINER...`: a line for each, its exit code, 128 and the signal, or ? where nobody learnt it.

    The exit status. Raises DkrError.
    """
    names = call.some_words()
    limit = call.text("timeout")
    patience = None if limit is None else _patience(limit)
    condition = call.text("condition")
    query = _query(condition, patience)
    # The daemon keeps the time: a wait that runs out is no daemon that hangs.
    seconds = FOREVER if patience is None else patience + SECONDS
    further = "ctrl-C ends waiting" if patience is None else f"at most {patience:g} s; ctrl-C ends waiting"
    awaited = Awaited(names, "to be removed" if condition == "removed" else "to end", further)
    status = 0
    # At the same time: one that ended and went meanwhile could not be asked for any more, and of a next end nobody would tell.
    for _, answer, error in each(call.daemon(seconds), names, f"/wait{query}", None, seconds, awaited):
        if error is None:
            output.emit(f"{_told(answer)}\n")
        else:
            report(error)
            status = FAILED
    return status


def _query(condition: str | None, patience: float | None) -> str:
    query = {}
    if condition not in (None, "stopped", "not-running"):
        query["condition"] = condition
    if patience is not None:
        query["timeout"] = f"{patience:.3f}"
    return f"?{urlencode(query)}" if query else ""


def _patience(text: str) -> float:
    given = seconds_of(text, "timeout")
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
