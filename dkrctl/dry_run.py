"""`dkrctl run --dry-run`: what the run would do, judged as the run would be, and nothing of it done.

Not on the lean path: loaded only for it.
"""

import _socket
import os
from typing import Any

from common.errors import BadRequest, ProtocolError, from_wire
from dkrctl.daemon import Daemon
from dkrctl.documents import document
from dkrctl.explain import is_coloured, width_of
from dkrctl.http import ask_run
from dkrctl.output import emit
from dkrctl.parse import Parsed
from dkrctl.plan import text
from dkrctl.request import asks
from dkrctl.session import Session


def check(form: str | None, cidfile: str | None) -> None:
    """Raise BadRequest for what a run would refuse before it asks, or a dry run alone."""
    if form == "trace":
        raise BadRequest(
            "cannot show a plan as a trace: nothing has been timed", hint="--format text or json"
        )
    if cidfile is not None and os.path.lexists(cidfile):
        raise BadRequest(
            f"cannot write the id to {ascii(cidfile)[1:-1]}: the file exists",
            hint="its container may still run; remove the file, or name another",
        )


def run(path: str, first: dict[str, Any], descriptors: list[int], form: str | None) -> int:
    """Ask the daemon at `path` with the first frame `first`; print the plan. Raises DkrError."""
    return _tell(ask_run(path, first["request"])[1], first, descriptors, form)


def run_made(parsed: Parsed, daemon: Daemon, request: dict[str, object]) -> int:
    """The same of a container that would be made, and started then. Raises DkrError."""
    form = parsed.last("format")
    check(form, parsed.last("cidfile"))
    if parsed.flag("explain"):
        raise BadRequest("cannot explain a start that does not take place: --dry-run and --explain")
    first = {"type": "create", "request": request, "asks": asks(request)}
    return _tell(daemon.session("/v1/containers", request)[1], first, [], form)


def _tell(descriptor: int, first: dict[str, Any], descriptors: list[int], form: str | None) -> int:
    session = Session(descriptor)
    session.first({**first, "want": ["plan"]}, descriptors)
    got = session.receive()
    if got is None:
        raise ProtocolError(
            "cannot tell the plan: lost the container's guardian", hint="see the daemon's log"
        )
    frame, sent = got
    for number in sent:
        _socket.close(number)
    if frame.get("type") == "error":
        raise from_wire(frame.get("error"))
    plan = frame.get("plan")
    if frame.get("type") != "plan" or not isinstance(plan, dict):
        raise ProtocolError(f"cannot understand the container's guardian: a frame {frame.get('type')!a}")
    if form == "json":
        emit(document(plan))
    else:
        emit(text(plan, width_of(1), coloured=is_coloured(1)))
    return 0
