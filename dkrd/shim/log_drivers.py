"""Which log a container has, and who may have it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from common import log_drivers as drivers
from common.errors import BadRequest
from dkrd import policy
from dkrd.shim import log_journal, logs, told
from dkrd.shim.called import Called
from dkrd.shim.log_file import LogFile

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.loop import Loop
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.asks import Ask, Handler
    from dkrd.shim.config import Config
    from dkrd.shim.container import Container
    from dkrd.shim.log_queue import LogQueue
    from dkrd.shim.state import State
    from dkrd.shim.task import ShimTask


def judge(task: ShimTask, config: Config, who: policy.Caller, *, create: bool) -> None:
    """Raise DkrError unless `who` may have the container's log as it is asked for, and the host can have it.

    create  whether its output will be its guardian's; else it goes to its caller's descriptors
    """
    wanted, settings = config.log, task.settings
    if not create and wanted.driver in (drivers.FILE, drivers.JOURNAL):
        raise BadRequest(
            f"cannot keep the output in {wanted.driver}: it goes to its caller's own descriptors, and nothing copies it",
            hint="run it with --detach, which keeps its output, and come to it with dkrctl attach",
            fields=(
                {"path": "log.driver", "message": "needs a container that is started without descriptors"},
            ),
        )
    if create and wanted.driver == drivers.PASSTHROUGH:
        raise BadRequest(
            "cannot create the container: the log driver passthrough needs its caller's descriptors, which cannot be kept",
            hint="dkrctl run --detach --log-driver passthrough starts it at once",
            fields=({"path": "log.driver", "message": "cannot be passthrough where nothing is started"},),
        )
    proven = task.session < 0 or settings.http_lifts
    if wanted.driver == drivers.JOURNAL:
        policy.may_journal(who, proven=proven)
        log_journal.check()
    size, files = sizes(task, config)
    policy.bound_log(who, size * files, settings.log_max_size * settings.log_max_files, proven=proven)


def sizes(task: ShimTask, config: Config) -> tuple[int, int]:
    """Bytes of one file of the log, and how many there are."""
    wanted, settings = config.log, task.settings
    return wanted.max_size or settings.log_max_size, wanted.max_files or settings.log_max_files


def make(
    task: ShimTask, config: Config, container: Container, owner: int, recorder: Recorder
) -> LogQueue | None:
    """The log of a container that is started with its output its guardian's; None where nothing is kept. Raises OSError, HostUnfit."""
    wanted = config.log

    def complain(cause: str) -> None:
        task.log.error("cannot write the container's log", id=task.id, cause=cause)

    if wanted.driver == drivers.NONE:
        return None
    if wanted.driver == drivers.JOURNAL:
        recorder.begin("journal", told.journal)
        log_journal.check()
        return log_journal.JournalLog(task.id, config.name, config.root, owner, wanted, complain)
    recorder.begin("log", partial(told.log, container.directory))
    size, files = sizes(task, config)
    return LogFile(container.directory, size, files, complain, wanted)


def reading(
    loop: Loop, container: Container, config: Config, state: State, log: LogQueue | None
) -> tuple[Handler, tuple[logs.Readers, ...]]:
    """What answers who wants to read the log of a container that runs, and who reads it."""
    name = Called(state)
    if isinstance(log, LogFile):
        readers = logs.Readers(loop, container.directory, name, log)
        return readers.ask, (readers,)

    if isinstance(log, log_journal.JournalLog):
        log.name = name

    def refused(_ask: Ask) -> NoReturn:
        logs.refuse(name, config.log.driver, str(state.values["id"]))

    return refused, ()
