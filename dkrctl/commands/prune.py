"""`dkrctl prune`: remove containers that do not run."""

import os
import time

from common.errors import BadRequest, ProtocolError, from_wire
from dkrctl import output
from dkrctl.awaited import Awaited
from dkrctl.moments import moment
from dkrctl.report import report
from dkrctl.sizes import human
from dkrctl.verbs import FAILED, Call

SECONDS = 3600.0  # thousands of containers, one after the other
_WARNING = "This removes all containers that do not run"


def run(call: Call) -> int:
    """`dkrctl prune`; the exit status. Raises DkrError."""
    call.no_words()
    return prune(call)


def prune(call: Call) -> int:
    """As `run`, of a call whose positionals somebody else has read."""
    dry = bool(call.parsed.flag("dry-run"))
    now = time.time()
    filters = [_filter(word, now) for word in call.texts("filter")]
    if not dry and not call.parsed.flag("force") and not _is_wanted(filters):
        return FAILED
    daemon = call.daemon()
    daemon.awaited = Awaited(["all that do not run"], "to be " + ("looked at" if dry else "removed"))
    answer = daemon.post("/v1/containers/prune", {"filter": filters, "dryRun": dry}, seconds=SECONDS)
    if not isinstance(answer, dict) or not isinstance(answer.get("removed"), list):
        raise ProtocolError("cannot understand the daemon: it does not tell what was removed")
    removed, space = answer["removed"], answer.get("spaceReclaimed")
    heading = "Would be removed:" if dry else "Deleted Containers:"
    if removed:
        output.emit("\n".join([heading, *map(str, removed)]) + "\n\n")
    what = "Space that would be reclaimed" if dry else "Total reclaimed space"
    output.emit(f"{what}: {human(space if isinstance(space, int) else 0)}\n")
    failed = answer.get("failed") or []
    for one in failed:
        report(from_wire({**one, "message": f"cannot remove {str(one.get('id'))[:12]}: {one.get('detail')}"}))
    return FAILED if failed else 0


def _filter(word: str, now: float) -> str:
    """`until=` in the ways of `--since`; what is wrong with the rest the daemon says."""
    key, equals, value = word.partition("=")
    if key != "until" or not equals or not value:
        return word
    try:
        return f"until={moment(value, 'filter', now)}"
    except BadRequest as err:
        raise BadRequest(f"cannot take --filter {word}: it is no time", hint=err.hint) from err


def _is_wanted(filters: list[str]) -> bool:
    """Ask. Raises BadRequest where nobody is there to be asked."""
    if not os.isatty(0):
        raise BadRequest(
            "cannot prune: nobody can be asked whether that is wanted, for the input is no terminal",
            hint="--force removes without asking, --dry-run tells what would be removed",
        )
    chosen = f" and match {', '.join(filters)}" if filters else ""
    output.write(2, f"{output.shown(_WARNING + chosen)}.\nAre you sure you want to continue? [y/N] ".encode())
    answer = b""
    while not answer.endswith(b"\n") and (got := os.read(0, 256)):
        answer = (answer + got)[-256:]
    return answer.strip().lower() in (b"y", b"yes")
