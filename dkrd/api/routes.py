"""The API: the table. What a line says is read, judged, answered and described by it; route.py tells its fields.

`who` is judged here for what is only shown; what is done is judged again by root's side, on the client's connection.
"""

from __future__ import annotations

from common.detached import AttachQuery, CreateRequest, LogLine, LogsQuery, RemoveQuery
from common.errors import Conflict, NotFound
from common.events import EventLine, EventsQuery
from common.info import Info, VersionInfo
from common.models import (
    Container,
    ContainersQuery,
    PlainRun,
    RunAnswer,
    RunRequest,
)
from common.usage import DiskUsage, Pruned, PruneRequest
from dkrd.api import containers, launch, streams, version
from dkrd.api.act_routes import ACTS, BEHIND, FRAMES, MESSAGES, STARTING
from dkrd.api.attach import attach
from dkrd.api.create import create, create_by_session
from dkrd.api.events import events
from dkrd.api.info import info
from dkrd.api.logs import logs
from dkrd.api.metrics import metrics
from dkrd.api.openapi import openapi
from dkrd.api.plain import plain_run
from dkrd.api.prune import prune
from dkrd.api.route import Json, Lines, Plain, Route, Switched, Who
from dkrd.api.run import run
from dkrd.api.upgrade import PROTOCOL, STREAM
from dkrd.api.usage import disk_usage

ROUTES = (
    Route("GET", "/_ping", Who.ANYONE, None, None, Plain, version.ping, "Alive", example="OK"),
    Route("GET", "/v1/version", Who.ANYONE, None, None, VersionInfo, version.version, "What answers here"),
    Route(
        "GET",
        "/metrics",
        Who.ADMIN,
        None,
        None,
        Plain,
        metrics,
        "Counts and durations for Prometheus",
        about="In its text format; counted since the api process began. Everybody's, so admins' alone.",
        example="dkr_starts_total 4.0",
    ),
    Route("GET", "/v1/openapi.json", Who.ANYONE, None, None, Json, openapi, "This description"),
    Route(
        "GET", "/v1/info", Who.OWNER, None, None, Info, info, "The daemon, its host, and what it is to you"
    ),
    Route(
        "GET",
        "/v1/system/df",
        Who.OWNER,
        None,
        None,
        DiskUsage,
        disk_usage,
        "What containers, logs and layers take of the disk",
        about="Measured when it is asked for, within seconds.",
    ),
    Route(
        "GET",
        "/v1/events",
        Who.OWNER,
        EventsQuery,
        None,
        Lines[EventLine],
        events,
        "What has happened to containers, and what happens",
        about="In the order in which it became known, each once. Without `until` the answer goes on. Who reads so slowly that what comes "
        "next is not kept any more is told so in a last line.",
    ),
    Route(
        "POST",
        "/v1/run",
        Who.OWNER,
        None,
        PlainRun,
        RunAnswer,
        plain_run,
        "Run a command to its end",
        errors=(NotFound, Conflict, *STARTING),
        about="Answers when the command has ended. Nothing beyond a tenant's defaults is given (rule `http`), unless the setting "
        "`http_lifts` lets admins. A client that goes away before the answer is a client that has vanished: onDisconnect.",
    ),
    Route(
        "POST",
        "/v1/run",
        Who.OWNER,
        None,
        RunRequest,
        Switched,
        run,
        "Run a command with descriptors of the caller's own",
        upgrade=PROTOCOL,
        errors=(NotFound, Conflict),
        about=BEHIND,
    ),
    Route(
        "GET",
        "/v1/containers",
        Who.OWNER,
        ContainersQuery,
        None,
        list[Container],
        containers.list_containers,
        "Containers, the newest first",
    ),
    Route(
        "POST",
        "/v1/containers",
        Who.OWNER,
        None,
        CreateRequest,
        Container,
        create,
        "Make a container, to be started later",
        made=True,
        errors=(NotFound, Conflict, *STARTING),
        about="Its input and output are its guardian's: a log, and whoever attaches. Nothing beyond a tenant's defaults is given (rule "
        "`http`), unless the setting `http_lifts` lets admins.",
    ),
    Route(
        "POST",
        "/v1/containers",
        Who.OWNER,
        None,
        CreateRequest,
        Switched,
        create_by_session,
        "Make a container, and say so in a session",
        upgrade=PROTOCOL,
        errors=(NotFound, Conflict),
        about=BEHIND,
    ),
    Route(
        "POST",
        "/v1/containers/prune",
        Who.OWNER,
        None,
        PruneRequest,
        Pruned,
        prune,
        "Remove containers that do not run",
        about="Those that were made only too. One after the other, each judged by root's side; what somebody starts meanwhile stays.",
    ),
    Route(
        "GET",
        "/v1/containers/{container}",
        Who.OWNER,
        None,
        None,
        Container,
        containers.inspect,
        "One container",
    ),
    Route(
        "DELETE",
        "/v1/containers/{container}",
        Who.OWNER,
        RemoveQuery,
        None,
        None,
        containers.remove,
        "Remove a container that does not run",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/start",
        Who.OWNER,
        None,
        None,
        None,
        launch.start,
        "Start a container that was made, or has ended",
        errors=STARTING,
        about="Answers when its command runs, also where it ran already. One that has ended is started in the root it left behind.",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/start",
        Who.OWNER,
        None,
        None,
        Switched,
        launch.start_by_session,
        "Start a container, attached by a session",
        upgrade=PROTOCOL,
        about=BEHIND,
    ),
    Route(
        "POST",
        "/v1/containers/{container}/start",
        Who.OWNER,
        AttachQuery,
        None,
        Switched,
        streams.start_stream,
        "Start a container, attached by a stream",
        upgrade=STREAM,
        errors=STARTING,
        about=f"The client is attached before the command runs, so nothing is missed. {FRAMES}",
    ),
    Route(
        "POST",
        "/v1/containers/{container}/attach",
        Who.OWNER,
        None,
        None,
        Switched,
        attach,
        "Come to a running container's terminal",
        upgrade=PROTOCOL,
        about=BEHIND,
    ),
    Route(
        "POST",
        "/v1/containers/{container}/attach",
        Who.OWNER,
        AttachQuery,
        None,
        Switched,
        streams.attach_stream,
        "Come to a running container's input and output by a stream",
        upgrade=STREAM,
        about=FRAMES,
    ),
    Route(
        "GET",
        "/v1/containers/{container}/attach",
        Who.OWNER,
        AttachQuery,
        None,
        Switched,
        streams.attach_websocket,
        "Come to a running container's input and output by a WebSocket",
        upgrade="websocket",
        about=f"{MESSAGES} What goes wrong before the 101 is a problem.",
    ),
    Route(
        "GET",
        "/v1/containers/{container}/logs",
        Who.OWNER,
        LogsQuery,
        None,
        Lines[LogLine],
        logs,
        "What a container has written",
        about="As long as its files are kept: the settings log_max_size and log_max_files bound them.",
    ),
    *ACTS,
)
