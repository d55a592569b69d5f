"""What the launcher hands to a shim at the fork."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.errors import DkrError
    from dkrd.ids import Pool, SubordinateRange
    from dkrd.log import Log
    from dkrd.settings import Settings


@dataclass(frozen=True, slots=True)
class ShimTask:
    """One container to be.

    id          64 hex digits, drawn by the launcher
    connection  descriptor of the client's connection, the evidence
    session     descriptor of a session that the api has made, for a client that speaks plain HTTP; else -1
    bundle      the bundle's bytes as the api sent them, not yet parsed; None: the container stands already
    listener    (st_dev, st_ino) of our listening socket's file
    reports     descriptor of the sending end of the launcher's reports
    pool        where id ranges are claimed
    slot_hint   slot at which to begin looking for a free range
    subids      /etc/subuid's ranges: a peer uid inside one counts as its owner
    api_uid     uid that the api runs as: nobody at this socket
    admin_gid   gid of the group whose members may do anything; None where it does not exist
    seccomp     path of the compiled default filter
    begun       when the launcher began to fork, or to hand over, monotonic nanoseconds
    layers      built-in root -> name of its layer below state_dir/layers, or why the host cannot have it
    log         where audit lines and warnings go
    unasked     restart or boot: nobody asks, it is started for its restart policy; without connection and session
    request     id of the api's request, for the log; empty without one
    ahead       whether the guardian was forked before anybody asked (launcher/spare.py)
    """

    id: str
    connection: int
    session: int
    bundle: bytes | None
    settings: Settings
    listener: tuple[int, int]
    reports: int
    pool: Pool
    slot_hint: int
    subids: tuple[SubordinateRange, ...]
    api_uid: int
    admin_gid: int | None
    seccomp: str
    layers: Mapping[str, str | DkrError]
    log: Log
    begun: int
    request: str = ""
    ahead: bool = False
    unasked: str = ""
