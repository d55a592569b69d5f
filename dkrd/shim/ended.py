"""What is answered for a container that no guardian stands for (any more): jobs of the launcher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import Conflict
from dkrd.shim import cleanup

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.ids import Pool
    from dkrd.policy import Credentials
    from dkrd.settings import Settings

_LOST = "its command runs on until it ends by itself, or by SIGKILL: dkrctl kill, or rm --force"


def kill(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> NoReturn:
    """Why there is nobody to pass a signal on. Raises NotFound for another's container, else Conflict."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    raise _unable(settings, container, "signal")


def pause(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> NoReturn:
    """Why there is nobody who could. Raises NotFound for another's container, else Conflict."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    raise _unable(settings, container, "pause")


def unpause(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> NoReturn:
    """Why there is nobody who could. Raises NotFound for another's container, else Conflict."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    state = cleanup.read_state(settings, container)
    if state.get("status") == "paused" and cleanup.lives(state):
        raise Conflict(
            f"cannot unpause {container[:12]}: its guardian was killed, and nobody else may",
            rule="unguarded",
            hint="SIGKILL ends it: dkrctl kill, or rm --force",
        )
    raise _unable(settings, container, "unpause")


def stop(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> dict[str, object]:
    """`rests` where nothing of it runs, which is what was wanted. Raises NotFound for another's container, Conflict for one that
    runs on without its guardian.
    """
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    if cleanup.lives(cleanup.read_state(settings, container)):
        raise unguarded(f"cannot stop {container[:12]}")
    return {"rests": True}


def attach(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> NoReturn:
    """Why there is nothing to attach to. Raises NotFound for another's container, else Conflict."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    _nobody(settings, container, "attach to", "its guardian was killed, and its terminal went with it")


def execute(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> NoReturn:
    """Why nothing can be executed there. Raises NotFound for another's container, else Conflict."""
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    _nobody(settings, container, "execute in", "its guardian was killed, and nobody else may")


def copy(
    settings: Settings,
    pool: Pool,
    container: str,
    credentials: Credentials,
    admin_gid: int | None,
    *ask: object,
) -> dict[str, object]:
    """`rests` where it does not run: then a porter is asked (porter.py). Raises NotFound for another's container, Conflict for one
    that runs on without its guardian, or is about to run.
    """
    cleanup.check_owner(settings, pool, container, credentials, admin_gid)
    state = cleanup.read_state(settings, container)
    if state.get("status") not in ("created", "stopped"):
        _nobody(settings, container, "copy from or to", "its guardian was killed, and nobody else may")
    return {"rests": True}


def _nobody(settings: Settings, container: str, verb: str, why: str) -> NoReturn:
    state = cleanup.read_state(settings, container)
    if state.get("status") == "created":
        raise not_started(f"cannot {verb} {container[:12]}")
    if state.get("status") == "restarting":
        raise waits(f"cannot {verb} {container[:12]}")
    if cleanup.lives(state):
        raise Conflict(
            f"cannot {verb} {container[:12]}: {why}",
            rule="unguarded",
            hint=_LOST,
        )
    raise Conflict(f"cannot {verb} {container[:12]}: it has ended", rule="ended")


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


def _unable(settings: Settings, container: str, verb: str) -> Conflict:
    """Why something cannot be done to a container that has no guardian."""
    state = cleanup.read_state(settings, container)
    if state.get("status") == "created":
        return not_started(f"cannot {verb} {container[:12]}")
    if state.get("status") == "restarting":
        return waits(f"cannot {verb} {container[:12]}")
    if cleanup.lives(state):
        return unguarded(f"cannot {verb} {container[:12]}")
    return Conflict(f"cannot {verb} {container[:12]}: it has ended", rule="ended")
