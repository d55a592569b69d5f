"""`dkrctl start`: start containers that were made before, or have ended."""

import contextlib
import os
from typing import TYPE_CHECKING

from common.errors import BadRequest, DkrError, NotFound, exit_code
from dkrctl import output
from dkrctl.attach import Attachment
from dkrctl.awaited import Awaited
from dkrctl.containers import record_of
from dkrctl.daemon import START_SECONDS, Daemon, target
from dkrctl.report import note, report
from dkrctl.run import pidfile_of
from dkrctl.verbs import FAILED, Call

if TYPE_CHECKING:
    from dkrctl.pidfile import Pidfile


def run(call: Call) -> int:
    """`dkrctl start CONTAINER...`; the exit status. Raises DkrError."""
    names = call.some_words()
    if len(names) > 1 and call.parsed.last("pidfile") is not None:
        raise BadRequest(
            f"cannot write the pids of {len(names)} containers to one file",
            hint="start them one after the other",
        )
    if call.parsed.flag("attach") or call.parsed.flag("interactive"):
        return _attached(call, names)
    for option in ("detach-keys", "record", "on-disconnect"):
        if call.parsed.last(option) is not None:
            raise BadRequest(
                f"cannot start with --{option}: nobody is attached",
                hint="it goes with --attach or --interactive",
            )
    daemon = call.daemon()
    pidfile = pidfile_of(call.parsed)
    status = 0
    for name in names:
        daemon.awaited = Awaited([name], "to start")
        try:
            start(daemon, name, pidfile)
        except DkrError as error:
            report(error)
            status = FAILED
        else:
            output.emit(f"{name}\n")
    return status


def start(daemon: Daemon, container: str, pidfile: "Pidfile | None" = None) -> None:
    """Have a container started, and its number written where that is wanted. Raises DkrError."""
    try:
        daemon.post(target(container, "/start"), seconds=START_SECONDS)
        if pidfile is not None:
            _write(daemon, container, pidfile)
    finally:
        if pidfile is not None:
            pidfile.close()


def _write(daemon: Daemon, container: str, pidfile: "Pidfile") -> None:
    with contextlib.suppress(NotFound):  # it has ended, and was removed
        pidfile.fill(record_of(daemon.get(target(container))).get("pid"))
    if not pidfile.written:
        note(f"no pid was written: {container[:64]} has ended")


def _attached(call: Call, names: list[str]) -> int:
    if len(names) > 1:
        raise BadRequest(
            f"cannot attach to {len(names)} containers: one can be started with --attach or --interactive",
            hint="start the others without",
        )
    if 1 not in call.found:
        _discard(1)
    given = bool(call.parsed.flag("interactive"))
    where = target(names[0], "/start")
    attachment = Attachment(names[0], call.parsed, call.found, given=given, starts=True)
    try:
        return attachment.go(call.socket, where)
    except DkrError as error:
        # As of `run`: 1 is a status that the command might have had.
        report(call.daemon().aged(error))
        return exit_code(error.code)


def _discard(number: int) -> None:
    """What the command writes to a descriptor that the caller has closed is lost, as of `attach`."""
    sink = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(sink, number, inheritable=False)
    os.close(sink)
