"""`dkrctl explain`: how a container was started."""

from common.errors import BadRequest, ProtocolError
from dkrctl import output
from dkrctl.daemon import target
from dkrctl.explain import told
from dkrctl.verbs import Call


def run(call: Call) -> int:
    """`dkrctl explain CONTAINER`; the exit status. Raises DkrError."""
    names = call.some_words()
    if len(names) > 1:
        raise BadRequest(f"cannot take {names[1]!r}: explain takes one container")
    trace = call.daemon().get(target(names[0], "/explain"))
    if not isinstance(trace, dict):
        raise ProtocolError("cannot understand the daemon: the record of a start is no object")
    output.emit(told(trace, call.text("format"), 1))
    return 0
