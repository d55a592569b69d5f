"""`dkrctl run --detach`: a container that is made and started at once, and its client leaves.

Not on the lean path: loaded only for it.
"""

import contextlib

from common.errors import BadRequest, DkrError
from common.lifecycle import CREATE
from common.options import RUN
from dkrctl.commands.create import create, request_of
from dkrctl.daemon import START_SECONDS, Daemon, target
from dkrctl.output import emit
from dkrctl.parse import Parsed
from dkrctl.signals import Signals

_HARMLESS = ("detach", "quiet")


def run_detached(parsed: Parsed, socket: str) -> int:
    """Make, start, print the id; the exit status. A start that fails leaves nothing. Raises DkrError."""
    for option, _, _ in CREATE.refused:
        if option.long not in _HARMLESS and parsed.last(option.long) is not None:
            raise BadRequest(
                f"cannot run with --detach and --{option.long}: that is for who stays until it ends",
                hint="leave out one of the two",
            )
    request = request_of(parsed, RUN)
    Signals()
    daemon = Daemon(socket)
    container = create(daemon, request, parsed.last("cidfile"))
    try:
        daemon.post(target(container, "/start"), seconds=START_SECONDS)
    except DkrError:
        with contextlib.suppress(DkrError):
            daemon.delete(target(container))
        raise
    emit(f"{container}\n")
    return 0
