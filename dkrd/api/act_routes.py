"""The part of the API's table (routes.py) that acts on containers that stand, looks at them, and executes in them."""

from __future__ import annotations

from common.act_models import RenameRequest, Stats, StatsQuery, StopRequest, Top, TopQuery, UpdateRequest
from common.errors import CommandNotExecutable, CommandNotFound, HostUnfit, StartFailed
from common.exec_models import Exec, ExecRequest, PlainExec, StreamExec
from common.models import (
    KillRequest,
    RunAnswer,
    WaitAnswer,
    WaitQuery,
)
from common.trace import Trace
from common.usage import Change
from dkrd.api import containers, execs, life
from dkrd.api.archive_routes import ARCHIVE
from dkrd.api.attach import execute
from dkrd.api.diff import diff
from dkrd.api.exec_streams import exec_stream, exec_websocket
from dkrd.api.pause import pause, unpause
from dkrd.api.rename import rename
from dkrd.api.route import Lines, Route, Switched, Who
from dkrd.api.stats import all_stats, stats
from dkrd.api.stop import restart, stop
from dkrd.api.top import top
from dkrd.api.update import update
from dkrd.api.upgrade import PROTOCOL, STREAM

BEHIND = "Behind the 101 comes one record, with the client's end of a session socket as descriptor: docs/protocol.md."
FRAMES = (
    "Behind the 101 both sides send frames: input, output, errors and JSON apart by their first byte: docs/protocol.md. What goes "
    "wrong before is a problem."
)
MESSAGES = "Binary messages begin with the byte 0 (input), 1 (output) or 2 (errors); text is JSON."
STARTING = (StartFailed, CommandNotFound, CommandNotExecutable, HostUnfit)

ACTS = (
    Route(
        "POST",
        "/v1/containers/{container}/stop",
        Who.OWNER,
        None,
        StopRequest,
        None,
        stop,
        "Stop a container",
        optional=True,
        about="Its command gets the stop signal, and SIGKILL when the time is over. Answers when it has ended, at once where it does not "
        "run. Of several stops of one container each may shorten the time.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/restart",
        Who.OWNER,
        None,
        StopRequest,
        None,
        restart,
        "Stop a container, and start it again",
        optional=True,
        errors=STARTING,
        about="Answers when its command runs anew, in the root that it left behind; one that does not run is started. What cannot be "
        "started again (rules `descriptors`, `rm`) is not stopped. Who goes away before it has ended leaves it stopped.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/pause",
        Who.OWNER,
        None,
        None,
        None,
        pause,
        "Pause a container",
        errors=(HostUnfit,),
        about="Answers when all of its processes stand still. It may be stopped, killed and removed by force; other signals wait.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/unpause",
        Who.OWNER,
        None,
        None,
        None,
        unpause,
        "Let a container that is paused go on",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/rename",
        Who.OWNER,
        None,
        RenameRequest,
        None,
        rename,
        "Call a container otherwise",
        about="Whether or not it runs. Its host name stays.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/update",
        Who.OWNER,
        None,
        UpdateRequest,
        None,
        update,
        "Bound a container otherwise",
        errors=(HostUnfit,),
        about="Now, if it runs, and at its next starts: all that is named, or nothing.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/kill",
        Who.OWNER,
        None,
        KillRequest,
        None,
        life.kill,
        "Send a signal to a container's command",
        about="What it does is what it would do to the same command outside a container.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/wait",
        Who.OWNER,
        WaitQuery,
        None,
        WaitAnswer,
        life.wait,
        "Wait for a container's end",
        about="Answers at once where it has ended already, but for `next-exit`.",
    ),
    Route(
        "GET",
        "/v1/containers/{container}/explain",
        Who.OWNER,
        None,
        None,
        Trace,
        containers.explain,
        "How a container was started, step by step",
    ),
    Route(
        "GET", "/v1/stats", Who.OWNER, None, None, list[Stats], all_stats, "What all containers that run use"
    ),
    Route(
        "GET",
        "/v1/containers/{container}/stats",
        Who.OWNER,
        StatsQuery,
        None,
        Lines[Stats],
        stats,
        "What a container uses of the machine",
        about="One line; with `stream` one each second, until it ends.",
    ),
    Route(
        "GET",
        "/v1/containers/{container}/top",
        Who.OWNER,
        TopQuery,
        None,
        Top,
        top,
        "The processes of a container",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/exec",
        Who.OWNER,
        None,
        PlainExec,
        RunAnswer,
        execs.plain_exec,
        "Execute a further command in a running container, to its end",
        errors=STARTING,
        about="Answers when the command has ended; the id is that of the exec. Refused in a container that has anything beyond a tenant's "
        "defaults (rule `http`), unless the setting `http_lifts` lets admins. A client that goes away before the answer has vanished: "
        "onDisconnect.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/exec",
        Who.OWNER,
        None,
        ExecRequest,
        Switched,
        execute,
        "Execute a further command in a running container, with descriptors of the caller's own",
        upgrade=PROTOCOL,
        about=BEHIND,
    ),
    Route(
        "POST",
        "/v1/containers/{container}/exec",
        Who.OWNER,
        None,
        StreamExec,
        Switched,
        exec_stream,
        "Execute a further command in a running container, with its input and output by a stream",
        upgrade=STREAM,
        errors=STARTING,
        about=f"The 101 comes when the command runs. Refused where a plain one is (rule `http`). {FRAMES}",
    ),
    Route(
        "GET",
        "/v1/containers/{container}/exec",
        Who.OWNER,
        None,
        None,
        Switched,
        exec_websocket,
        "Execute a further command in a running container, with its input and output by a WebSocket",
        upgrade="websocket",
        about="The first message is the request: the JSON of a `StreamExec`, as text; what is wrong with it, or cannot be started, is "
        f"answered in a message. Refused where a plain one is (rule `http`). {MESSAGES}",
    ),
    Route(
        "GET",
        "/v1/containers/{container}/diff",
        Who.OWNER,
        None,
        None,
        list[Change],
        diff,
        "What a container has changed of its root",
        about="At most 50000 changes are told.",
    ),
    *ARCHIVE,
    Route(
        "GET",
        "/v1/containers/{container}/execs",
        Who.OWNER,
        None,
        None,
        list[Exec],
        execs.list_execs,
        "What is executed in a container, the oldest first",
        about="What has ended is not told any more.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/execs/{exec}/kill",
        Who.OWNER,
        None,
        KillRequest,
        None,
        execs.kill_exec,
        "Send a signal to what is executed in a container",
    ),
)
