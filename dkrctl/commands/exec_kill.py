"""`dkrctl exec kill`: send a signal to what is executed in a container."""

from common.errors import BadRequest, DkrError
from dkrctl import output
from dkrctl.daemon import target
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call

_HEX = "0123456789abcdef"


def run(call: Call) -> int:
    """`dkrctl exec kill CONTAINER EXEC...`; the exit status. Raises DkrError."""
    name, *execs = call.some_words()
    if not execs:
        raise BadRequest(
            f"cannot signal what is executed in {name}: no exec is named", hint=f"see `dkrctl exec ls {name}`"
        )
    body = {"signal": call.text("signal") or "KILL"}
    daemon = call.daemon()
    status = 0
    for one in execs:
        try:
            if not one or one.strip(_HEX):
                raise BadRequest(f"cannot signal exec {one!r}: that is no id")
            daemon.post(target(name, f"/execs/{one}/kill"), body)
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{one}\n")
    return status
