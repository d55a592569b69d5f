"""`dkrctl stop`: have containers end."""

from common.bundle import MAX_SECONDS
from common.errors import BadRequest
from dkrctl.awaited import Awaited
from dkrctl.daemon import FOREVER, SECONDS
from dkrctl.parse import seconds
from dkrctl.several import act
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl stop CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    body, patience = wished(call)
    awaited = Awaited(names, "to end", killed(body))
    return act(call.daemon(patience), names, "/stop", body, patience, awaited)


def killed(body: dict[str, object] | None) -> str:
    """When SIGKILL ends the wait, in words."""
    seconds = (body or {}).get("timeout")
    if not isinstance(seconds, float):
        return "killed when its stop timeout is over"
    return "however long it takes; ctrl-C ends waiting" if seconds < 0 else f"killed after {seconds:g} s"


def wished(call: Call) -> tuple[dict[str, object] | None, float]:
    """The body of the request, None where nothing is wished, and for how long its answer is waited for. Raises BadRequest."""
    body: dict[str, object] = {}
    patience = FOREVER  # the container's own time is known to the daemon
    signal, limit = call.text("signal"), call.text("timeout")
    if signal is not None:
        body["signal"] = signal
    if limit is not None:
        body["timeout"] = given = -1.0 if limit == "-1" else seconds(limit, "timeout")
        if given >= MAX_SECONDS:
            raise BadRequest(
                f"cannot {call.command.name} --timeout {limit:.20}: less than {MAX_SECONDS:g} seconds"
            )
        # What is killed ends, and a daemon that does not say so hangs.
        patience = FOREVER if given < 0 else given + 6 * SECONDS
    return body or None, patience
