"""`dkrctl run --detach`: a container that is made and started at once, and its client leaves.

With `--log-driver passthrough` it has the client's own descriptors, as of a run, and the client leaves all the same.

Not on the lean path: loaded only for it.
"""

import contextlib
import posix

from common.errors import BadRequest, DkrError
from common.lifecycle import CREATE
from common.options import RUN
from dkrctl.commands.create import create, request_of
from dkrctl.commands.start import start
from dkrctl.daemon import Daemon, target
from dkrctl.output import emit
from dkrctl.parse import Parsed
from dkrctl.run import Run, pidfile_of
from dkrctl.session import Attendance
from dkrctl.signals import Signals

_HARMLESS = ("detach", "quiet", "pidfile")
OF_DRY_RUN = ("dry-run", "explain", "format")  # which says itself what it cannot take
_OF_DESCRIPTORS = ("rootfs", "preserve-fds", "no-tty")


def run_detached(parsed: Parsed, socket: str, found: tuple[int, ...]) -> int:
    """Make, start, print the id; the exit status. A start that fails leaves nothing. Raises DkrError.

    found  those of 0-2 that the caller has
    """
    passes = parsed.last("log-driver") == "passthrough"
    harmless = (*_HARMLESS, *_OF_DESCRIPTORS) if passes else _HARMLESS
    dry = bool(parsed.flag("dry-run"))
    if dry:
        harmless = (*harmless, *OF_DRY_RUN)
    for option, _, _ in CREATE.refused:
        if option.long not in harmless and parsed.last(option.long) is not None:
            raise BadRequest(
                f"cannot run with --detach and --{option.long}: that is for who stays until it ends",
                hint="leave out one of the two",
            )
    if passes:
        return _PassingRun(parsed, socket, found).go()
    request = request_of(parsed, RUN)
    Signals()
    daemon = Daemon(socket)
    if dry:
        from dkrctl.dry_run import run_made

        return run_made(parsed, daemon, request)
    pidfile = pidfile_of(parsed)
    try:
        container = create(daemon, request, parsed.last("cidfile"))
        try:
            start(daemon, container, pidfile)
        except DkrError:
            with contextlib.suppress(DkrError):
                daemon.delete(
                    f"{target(container)}?force=true"
                )  # it may run, and its pid could not be written
            raise
    finally:
        if pidfile is not None:
            pidfile.close()
    emit(f"{container}\n")
    return 0


class _PassingRun(Run):
    """A run that is left as soon as its command runs. The id is not printed: stdout is the command's."""

    def _build(self) -> dict[str, object]:
        for number in self.found:
            if posix.isatty(number):
                raise BadRequest(
                    f"cannot pass descriptor {number} to a container without a client: it is a terminal, and none enters a container",
                    hint="redirect it, as in </dev/null >output 2>&1; or leave out --log-driver passthrough",
                )
        # With --rm as well: that the client goes is what is wanted.
        return {**super()._build(), "onDisconnect": "keep"}

    def _typed(self) -> bool:
        if self.parsed.flag("tty"):
            raise BadRequest(
                "cannot give the command a terminal: with --log-driver passthrough it has its caller's descriptors"
            )
        return False

    def _until_exit(self, attendance: Attendance) -> dict[str, object] | int:
        return 0
