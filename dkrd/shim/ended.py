"""What is answered for a container that no guardian stands for (any more): jobs of the launcher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import Conflict
from dkrd.shim import cleanup

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.shim.matter import Matter

_LOST = "its command runs on until it ends by itself, or by SIGKILL: dkrctl kill, or rm --force"


def kill(matter: Matter, *ask: object) -> NoReturn:
    """Why there is nobody to pass a signal on. Raises NotFound for another's container, else Conflict."""
    matter.check_owner()
    raise _unable(matter, "signal")


def pause(matter: Matter, *ask: object) -> NoReturn:
    """Why there is nobody who could. Raises NotFound for another's container, else Conflict."""
    matter.check_owner()
    raise _unable(matter, "pause")


def unpause(matter: Matter, *ask: object) -> NoReturn:
    """Why there is nobody who could. Raises NotFound for another's container, else Conflict."""
    matter.check_owner()
    state = matter.state()
    if state.get("status") == "paused" and cleanup.lives(state):
        raise Conflict(
            f"cannot unpause {matter.short}: its guardian was killed, and nobody else may",
            rule="unguarded",
            hint="SIGKILL ends it: dkrctl kill, or rm --force",
        )
    raise _unable(matter, "unpause")


def stop(matter: Matter, *ask: object) -> dict[str, object]:
    """`rests` where nothing of it runs, which is what was wanted. Raises NotFound for another's container, Conflict for one that
    runs on without its guardian.
    """
    matter.check_owner()
    if cleanup.lives(matter.state()):
        raise unguarded(f"cannot stop {matter.short}")
    return {"rests": True}


def attach(matter: Matter, *ask: object) -> NoReturn:
    """Why there is nothing to attach to. Raises NotFound for another's container, else Conflict."""
    matter.check_owner()
    _nobody(matter, "attach to", "its guardian was killed, and its terminal went with it")


def execute(matter: Matter, *ask: object) -> NoReturn:
    """Why nothing can be executed there. Raises NotFound for another's container, else Conflict."""
    matter.check_owner()
    _nobody(matter, "execute in", "its guardian was killed, and nobody else may")


def copy(matter: Matter, *ask: object) -> dict[str, object]:
    """`rests` where it does not run: then a porter is asked (porter.py). Raises NotFound for another's container, Conflict for one
    that runs on without its guardian, or is about to run.
    """
    matter.check_owner()
    state = matter.state()
    if state.get("status") not in ("created", "stopped"):
        _nobody(matter, "copy from or to", "its guardian was killed, and nobody else may")
    return {"rests": True}


def _nobody(matter: Matter, verb: str, why: str) -> NoReturn:
    state = matter.state()
    if state.get("status") == "created":
        raise not_started(f"cannot {verb} {matter.short}")
    if state.get("status") == "restarting":
        raise waits(f"cannot {verb} {matter.short}")
    if cleanup.lives(state):
        raise Conflict(
            f"cannot {verb} {matter.short}: {why}",
            rule="unguarded",
            hint=_LOST,
        )
    raise Conflict(f"cannot {verb} {matter.short}: it has ended", rule="ended")


def not_started(what: str) -> Conflict:
    """Why something cannot be had of a container that was only made."""
    return Conflict(f"{what}: it has not been started", rule="not-started", hint="start it")


def waits(what: str) -> Conflict:
    """Why something cannot be done to a container between two of its runs."""
    return Conflict(
        f"{what}: it waits to be restarted",
        rule="restarting",
        hint="try again when it runs, or start it now",
    )


def unguarded(what: str) -> Conflict:
    """Why something cannot be done to a container that has lost its guardian."""
    return Conflict(
        f"{what}: its guardian was killed, and nobody else may",
        rule="unguarded",
        hint=_LOST,
    )


def _unable(matter: Matter, verb: str) -> Conflict:
    """Why something cannot be done to a container that has no guardian."""
    state = matter.state()
    if state.get("status") == "created":
        return not_started(f"cannot {verb} {matter.short}")
    if state.get("status") == "restarting":
        return waits(f"cannot {verb} {matter.short}")
    if cleanup.lives(state):
        return unguarded(f"cannot {verb} {matter.short}")
    return Conflict(f"cannot {verb} {matter.short}: it has ended", rule="ended")
