"""Who asks, on root's side: proof first, then whose rights that means, then whether a container is theirs."""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING

from common.errors import NotFound, NotPermitted
from dkrd import evidence, ids, policy

if TYPE_CHECKING:
    import socket

    from dkrd.shim.task import ShimTask


def prove(task: ShimTask, connection: socket.socket, listener: tuple[int, int]) -> policy.Credentials:
    """The client's credentials. Raises NotPermitted where `connection` was not accepted from `listener`, or
    is the api's.
    """
    credentials = evidence.prove(connection, listener)
    if credentials.uid == task.api_uid:
        raise NotPermitted("cannot act for the api itself: it is nobody at this socket", rule="evidence-api")
    return credentials


def weigh(task: ShimTask, connection: policy.Credentials, frame: policy.Credentials) -> policy.Caller:
    """The lesser of who connected and who sent the first frame. Raises NotPermitted."""
    return policy.caller(
        connection,
        frame,
        ids.owner_of(connection.uid, task.pool, task.subids),
        ids.owner_of(frame.uid, task.pool, task.subids),
        task.admin_gid,
    )


def of_grant(task: ShimTask, owner: int) -> policy.Caller:
    """The user whose a container is, as the host knows them now: nobody asks, and so there is no connection that would tell.
    Raises NotPermitted where they could not come to the socket themselves.
    """
    if owner == 0:
        return policy.Caller(0, 0, admin=True)
    try:
        entry = pwd.getpwuid(owner)
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        raise NotPermitted(
            f"cannot restart the container: the host knows no user {owner}", rule="no-user"
        ) from None
    admin = task.admin_gid is not None and task.admin_gid in groups
    if not admin and not _may_connect(task, groups):
        raise NotPermitted(
            f"cannot restart the container: {entry.pw_name} may not use {task.settings.socket} any more",
            rule="socket",
            hint="put them into its group again; then the container can be started",
        )
    return policy.Caller(owner, entry.pw_gid, admin)


def _may_connect(task: ShimTask, groups: list[int]) -> bool:
    """Whether the socket lets somebody in these groups connect, for which it has to be writable: unix(7)."""
    settings = task.settings
    try:
        status = os.stat(settings.socket)
        gid, mode = status.st_gid, status.st_mode
    except OSError:
        # Made by systemd at another place: then as it would be by the settings.
        mode = settings.socket_mode
        try:
            gid = grp.getgrnam(settings.socket_group).gr_gid
        except KeyError:
            gid = 0
    return bool(mode & (0o020 if gid in groups else 0o002))


def check_owner(who: policy.Caller, owner: int, container: str) -> None:
    """Raise NotFound for another's container: that it exists is nobody else's business."""
    if not policy.may_touch(who, owner):
        raise NotFound(f"cannot find {container[:12]}: there is no such container")
