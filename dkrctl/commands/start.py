"""`dkrctl start`: start containers that were made before, or have ended."""

from common.errors import BadRequest, DkrError, exit_code
from dkrctl import output, stdio
from dkrctl.attach import Attachment
from dkrctl.daemon import START_SECONDS, target
from dkrctl.report import report
from dkrctl.verbs import FAILED, Call


def run(call: Call) -> int:
    """`dkrctl start CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    if call.parsed.flag("attach") or call.parsed.flag("interactive"):
        return _attached(call, names)
    for option in ("detach-keys", "record", "on-disconnect"):
        if call.parsed.last(option) is not None:
            raise BadRequest(
                f"cannot start with --{option}: nobody is attached",
                hint="it goes with --attach or --interactive",
            )
    daemon = call.daemon()
    status = 0
    for name in names:
        try:
            daemon.post(target(name, "/start"), seconds=START_SECONDS)
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{name}\n")
    return status


def _attached(call: Call, names: list[str]) -> int:
    if len(names) > 1:
        raise BadRequest(
            f"cannot attach to {len(names)} containers: one can be started with --attach or --interactive",
            hint="start the others without",
        )
    found = stdio.survey()  # before anything is opened
    given = bool(call.parsed.flag("interactive"))
    where = target(names[0], "/start")
    attachment = Attachment(names[0], call.parsed, found, given=given, starts=True)
    try:
        return attachment.go(call.socket, where)
    except DkrError as error:
        # As of `run`: 1 is a status that the command might have had.
        report(call.daemon().aged(error))
        return exit_code(error.code)
