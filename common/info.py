"""What `GET /v1/version` and `GET /v1/info` tell: of the daemon, of its host, and of who asks. No secret, nothing of other tenants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict

from common.model_base import About, Model


class VersionInfo(Model):
    """What answers here."""

    version: str
    api_version: str
    os: str
    arch: str
    kernel: str
    python: str


class HostInfo(Model):
    """The machine."""

    os: str
    arch: str
    kernel: str
    cpus: Annotated[int, About("processors that are online")]
    memory: Annotated[int, About("bytes")]
    cgroups: Annotated[Literal["v1", "v2", "hybrid", "none"], About("layout of the cgroup hierarchies")]
    controllers: Annotated[
        tuple[str, ...], About("of cpu, memory and pids those by which containers can be bounded here")
    ]


class RootInfo(Model):
    """A built-in root filesystem. `why` and `hint` are there where the host cannot have it."""

    name: str
    about: str
    available: bool
    why: str | None = None
    hint: str | None = None


class Limits(Model):
    """Bounds that a caller may run into."""

    containers_per_user: Annotated[
        int | None, About("that live at a time; absent for root, who has no bound")
    ] = None
    kept_per_user: Annotated[
        int | None, About("that stand and do not run; absent for root, who has no bound")
    ] = None
    connections_per_user: Annotated[int | None, About("at a time; absent for root, who has no bound")] = None
    body: Annotated[int, About("bytes of a request")]
    output: Annotated[int, About("bytes of each stream of a run as one request")]
    start_seconds: Annotated[int, About("that a container may take to be built")]
    pids_per_container: Annotated[
        int | None, About("processes and threads; absent for an admin, who has no bound but over plain HTTP")
    ] = None


class You(Model):
    """Who asks, as the kernel says."""

    uid: int
    owner: Annotated[
        int, About("the uid that owns what you make: not yours where that is one of a subuid range")
    ]
    role: Annotated[
        Literal["tenant", "admin"], About("a tenant sees and touches what is their own, an admin all")
    ]


class Counts(Model):
    """Containers by status: the caller's own; of an admin everybody's."""

    creating: int = 0
    created: int = 0
    running: int = 0
    paused: int = 0
    restarting: int = 0
    stopped: int = 0


class Info(Model):
    """The daemon, its host, and what it is to you."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "0.1.0",
                    "apiVersion": "1",
                    "python": "3.11.2",
                    "host": {
                        "os": "linux",
                        "arch": "x86_64",
                        "kernel": "6.18.0",
                        "cpus": 2,
                        "memory": 8589934592,
                        "cgroups": "v2",
                        "controllers": ["cpu", "memory", "pids"],
                    },
                    "roots": [{"name": "host", "about": "the host's /usr, read-only", "available": True}],
                    "defaultRoot": "host",
                    "limits": {
                        "containersPerUser": 256,
                        "connectionsPerUser": 512,
                        "body": 4194304,
                        "output": 16777216,
                        "startSeconds": 30,
                        "pidsPerContainer": 4096,
                    },
                    "features": {"userNamespaces": True, "seccomp": True},
                    "you": {"uid": 1000, "owner": 1000, "role": "tenant"},
                    "containers": {
                        "creating": 0,
                        "created": 0,
                        "running": 1,
                        "paused": 0,
                        "restarting": 0,
                        "stopped": 0,
                    },
                }
            ]
        }
    )

    version: str
    api_version: str
    python: str
    host: HostInfo
    roots: tuple[RootInfo, ...]
    default_root: Annotated[str, About("the root of a command that names none")]
    limits: Limits
    features: Annotated[dict[str, bool], About("what this kernel and this configuration have")]
    you: You
    containers: Counts
