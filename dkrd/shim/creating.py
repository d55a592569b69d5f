"""A container that is made and not started: its files, its id range and its grant, and no process at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from common import frames, restarts
from common.errors import BadRequest
from dkrd.shim import begun
from dkrd.shim import container as containers
from dkrd.shim.descriptors import close_soon
from dkrd.shim.state import write_file

if TYPE_CHECKING:
    from dkrd import policy
    from dkrd.runtime import mounts
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.config import Config
    from dkrd.shim.first import First
    from dkrd.shim.session import Session
    from dkrd.shim.task import ShimTask


def create(
    task: ShimTask,
    config: Config,
    who: policy.Caller,
    first: First,
    root: mounts.Root,
    session: Session,
    recorder: Recorder,
) -> None:
    """Make the container, and tell its client. Raises DkrError, OSError; then nothing of it is left."""
    close_soon(root.descriptors)  # that it can be had was found out; it is opened anew at each start
    check_kept(config)
    with contextlib.ExitStack() as undo:
        claim = containers.lay(task, config, who.uid, recorder)
        undo.callback(containers.unlay, task, claim)
        first_state = begun.first_state(task, config, who.uid, claim.slot if claim else None)
        state = restarts.begun(first_state, config.restart, unwell=config.restarts_unwell, asked=True)
        write_file(f"{containers.directory_of(task)}/state.json", frames.dumps(state))
        containers.keep(task, config, who.uid, first.asks, claim)
        undo.pop_all()
    recorder.finish()
    if claim is not None:
        os.close(claim.fd)
    begun.tell(task, {"type": "state", "state": state})
    task.log.audit("created", id=task.id, uid=who.uid, name=config.name, command=config.spec.process.args[0])
    session.send({"type": "created", "id": task.id, "name": config.name})
    session.close()


def check_kept(config: Config) -> None:
    """Raise BadRequest where the container needs descriptors of a caller's, which nobody keeps."""
    for path, wanted in (("rootfs", config.root_kind == "rootfs"), ("preserveFds", config.preserve_fds)):
        if wanted:
            raise BadRequest(
                f"cannot create the container: {path} needs descriptors of its caller's, and they cannot be kept",
                hint="use run",
                fields=({"path": path, "message": "cannot be there where nothing is started"},),
            )
