"""The API: the table. What a line says is read, judged, answered and described by it; route.py tells its fields.

`who` is judged here for what is only shown; what is done is judged again by root's side, on the client's connection.
"""

from __future__ import annotations

from common.errors import CommandNotExecutable, CommandNotFound, Conflict, HostUnfit, NotFound, StartFailed
from common.info import Info, VersionInfo
from common.models import (
    Container,
    ContainersQuery,
    KillRequest,
    PlainRun,
    RunAnswer,
    RunRequest,
    WaitAnswer,
    WaitQuery,
)
from common.trace import Trace
from dkrd.api import containers, life, version
from dkrd.api.attach import attach
from dkrd.api.info import info
from dkrd.api.openapi import openapi
from dkrd.api.plain import plain_run
from dkrd.api.route import Json, Plain, Route, Switched, Who
from dkrd.api.run import run
from dkrd.api.upgrade import PROTOCOL

ROUTES = (
    Route("GET", "/_ping", Who.ANYONE, None, None, Plain, version.ping, "Alive", example="OK"),
    Route("GET", "/v1/version", Who.ANYONE, None, None, VersionInfo, version.version, "What answers here"),
    Route("GET", "/v1/openapi.json", Who.ANYONE, None, None, Json, openapi, "This description"),
    Route(
        "GET", "/v1/info", Who.OWNER, None, None, Info, info, "The daemon, its host, and what it is to you"
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
        errors=(NotFound, Conflict, StartFailed, CommandNotFound, CommandNotExecutable, HostUnfit),
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
        about="Behind the 101 comes one record, with the client's end of a session socket as descriptor: docs/protocol.md.",
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
        None,
        None,
        None,
        containers.remove,
        "Remove a container that has stopped",
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
        about="Answers at once where it has ended already.",
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
        "POST",
        "/v1/containers/{container}/attach",
        Who.OWNER,
        None,
        None,
        Switched,
        attach,
        "Come to a running container's terminal",
        upgrade=PROTOCOL,
        about="Behind the 101 comes one record, with the client's end of a session socket as descriptor: docs/protocol.md.",
    ),
)
