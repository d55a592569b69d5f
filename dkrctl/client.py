"""The Python client of dkrd: `from dkrctl.client import Client`. How to use it: docs/sdk.md.

Loads aiohttp and pydantic (0.3 s), which the program `dkrctl` never does: nothing else of dkrctl imports this file, or dkrctl/sdk.
"""

from common.errors import (
    BadRequest,
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    DkrError,
    HostUnfit,
    Internal,
    LimitReached,
    NotFound,
    NotPermitted,
    ProtocolError,
    StartFailed,
    Unavailable,
)
from common.exec_models import Exec
from common.info import Info, VersionInfo
from common.models import Container, ExitStatus
from common.trace import Trace, TraceStep
from common.usage import Change, DiskUsage, Pruned
from dkrctl.sdk.client import Client
from dkrctl.sdk.descriptors import DEVNULL, PIPE, STDOUT
from dkrctl.sdk.events import Event
from dkrctl.sdk.execs import ExecOptions
from dkrctl.sdk.logs import LogLine
from dkrctl.sdk.options import Options
from dkrctl.sdk.plain import PlainResult
from dkrctl.sdk.process import Process, Starting
from dkrctl.sdk.terminal import Terminal

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "BadRequest",
    "Change",
    "Client",
    "CommandNotExecutable",
    "CommandNotFound",
    "Conflict",
    "Container",
    "DiskUsage",
    "DkrError",
    "Event",
    "Exec",
    "ExecOptions",
    "ExitStatus",
    "HostUnfit",
    "Info",
    "Internal",
    "LimitReached",
    "LogLine",
    "NotFound",
    "NotPermitted",
    "Options",
    "PlainResult",
    "Process",
    "ProtocolError",
    "Pruned",
    "StartFailed",
    "Starting",
    "Terminal",
    "Trace",
    "TraceStep",
    "Unavailable",
    "VersionInfo",
]
