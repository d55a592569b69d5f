"""What a container is called, which may change while it runs and after: in its state, and in its config.json where it is kept."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import frames
from common.errors import BadRequest, Conflict
from dkrd.shim import begun, cleanup
from dkrd.shim.config import MAX_NAME
from dkrd.shim.ended import unguarded
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from dkrd.shim.asks import Ask
    from dkrd.shim.matter import Matter
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask

_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


@dataclass(frozen=True, slots=True)
class Called:
    """The name as it is now, wherever it is told."""

    state: State

    def __str__(self) -> str:
        return str(self.state.values["name"])


class Renaming:
    """Of a container that runs. `directory`: where its config.json is, if it is kept."""

    def __init__(self, task: ShimTask, directory: str, state: State) -> None:
        self._task = task
        self._directory = directory
        self._state = state

    def ask(self, ask: Ask) -> dict[str, object]:
        """Answer `{"type": "rename", "name": …}`: it is called so. That no other is, is for who keeps the names."""
        name = _wanted(ask.body)
        # First what may not work, as on a full disk.
        _write_config(self._directory, name)
        begun.record(self._task, self._state, name=name)
        self._task.log.audit("renamed", id=self._task.id, uid=ask.who.uid, name=name)
        return {}


def rename_kept(matter: Matter, ask: dict[str, object], given: int) -> dict[str, object]:
    """The same for one that does not run: a job of the launcher's. Raises NotFound for another's, Conflict for one that runs on
    without its guardian, or is about to be started.
    """
    matter.check_owner()
    name = _wanted(ask)
    if cleanup.lives(matter.state()):
        raise unguarded(f"cannot rename {matter.short}")
    claim = cleanup.take_over(matter.settings, matter.pool, matter.id, "rename")
    try:
        directory = matter.directory
        state = cleanup.document(f"{directory}/state.json")
        if not state:
            raise Conflict(
                f"cannot rename {matter.short}: its end is still being written down", hint="try again"
            )
        _write_config(directory, name)
        # The state counts where one of the two was not written.
        write_file(f"{directory}/state.json", frames.dumps({**state, "name": name}))
    finally:
        if claim is not None:
            os.close(claim.fd)
    return {}


def _wanted(ask: dict[str, object]) -> str:
    name = ask.get("name")
    if set(ask) != {"type", "name"} or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadRequest(
            f"cannot read the ask: rename has a name of 1 to {MAX_NAME} characters, and no further keys"
        )
    if not _CHARACTERS.issuperset(name) or name[0] in "_.-":
        raise BadRequest("cannot read the ask: that is no name")
    return name


def _write_config(directory: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # of a run with `rm` there is none
        document = cleanup.document(f"{directory}/config.json")
        dkr = document.get("dkr")
        if isinstance(dkr, dict):
            write_file(f"{directory}/config.json", frames.dumps({**document, "dkr": {**dkr, "name": name}}))
