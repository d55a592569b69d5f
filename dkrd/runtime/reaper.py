"""`--init`: a PID 1 of ours, which reaps what is orphaned and forwards every signal to the command.

Runs in the container, after the filter is loaded and all capabilities but CAP_KILL are gone. It is not
dumpable, so nobody inside may trace it or open its /proc files.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from dkrd.runtime import signals


def run(child: int) -> NoReturn:
    """Wait for `child`, forwarding and reaping meanwhile; exit as it did: its code, or 128 + the signal
    that ended it.
    """
    signals.block_catchable()
    # A signal whose action is "ignore" is thrown away even while it is blocked: sigwait(3) would never see
    # it.
    signals.set_default()
    while True:
        status = _reap(child)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
        number = signal.sigwait(signals.CATCHABLE)
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                continue  # it has just ended: the next turn reaps it


def _reap(child: int) -> int | None:
    """Reap all that has ended; the wait status of `child` if it was among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return status
