"""`dkrctl run --log-driver json-file|journald`: a run whose output is kept as well. Its guardian stands between: it is made, and started
with this client attached, as by `create` and `start -ai`.

Not on the lean path: loaded only for it.
"""

import contextlib
import posix

from common.errors import BadRequest, DkrError
from common.lifecycle import CREATE
from common.options import RUN
from dkrctl.attach import Attachment
from dkrctl.commands.create import create
from dkrctl.daemon import Daemon, target
from dkrctl.detached import OF_DRY_RUN
from dkrctl.parse import Parsed
from dkrctl.request import build
from dkrctl.run import is_typed, remark
from dkrctl.signals import Signals

# Of what `create` cannot take what is for who attaches.
_TAKEN = ("quiet", "detach-keys", "record", "on-disconnect", "no-tty", "pidfile")


def run_kept(parsed: Parsed, socket: str, found: tuple[int, ...]) -> int:
    """Make, start, attend; the exit status of the command. A start that fails leaves nothing. Raises DkrError.

    found  those of 0-2 that the caller has
    """
    driver = parsed.last("log-driver")
    dry = bool(parsed.flag("dry-run"))
    taken = (*_TAKEN, *OF_DRY_RUN) if dry else _TAKEN
    for option, _, _ in CREATE.refused:
        if option.long not in taken and parsed.last(option.long) not in (None, "false"):
            raise BadRequest(
                f"cannot run with --log-driver {driver} and --{option.long}: its guardian has its output, as of `dkrctl create`",
                hint="leave out one of the two",
            )
    typed = is_typed(parsed, found)
    if typed and not posix.isatty(0):
        raise BadRequest(
            "cannot give the command a terminal: the input is not a terminal",
            hint="leave out -t; the command gets the input as it is",
        )
    if parsed.last("record") is not None and not typed:
        raise BadRequest("cannot record: the command has no terminal", hint="give it one: -t")
    given = parsed.flag("interactive") is not False and 0 in found
    request = build(parsed, RUN)
    vanished = str(request.pop("onDisconnect", "stop" if request.get("rm") else "keep"))
    request["terminal"], request["openStdin"] = typed, given
    name = parsed.last("name")
    daemon = Daemon(socket)
    if dry:
        from dkrctl.dry_run import run_made

        return run_made(parsed, daemon, request)
    Signals()
    container = create(daemon, request, parsed.last("cidfile"))
    try:
        attachment = Attachment(name or container[:12], parsed, found, given=given, starts=True)
        attachment.vanished = vanished
        status = attachment.go(socket, target(container, "/start"))
    except BaseException:
        _remove_unstarted(daemon, container)
        raise
    if attachment.ended and not parsed.flag("quiet"):
        remark(attachment.ended.get("cause"), request.get("timeout"))
    return status


def _remove_unstarted(daemon: Daemon, container: str) -> None:
    with contextlib.suppress(DkrError):
        there = daemon.get(target(container))
        if isinstance(there, dict) and there.get("status") == "created":
            daemon.delete(target(container))
