"""Who asks, on root's side: proof first, then whose rights that means, then whether a container is theirs."""

from __future__ import annotations

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


def check_owner(who: policy.Caller, owner: int, container: str) -> None:
    """Raise NotFound for another's container: that it exists is nobody else's business."""
    if not policy.may_touch(who, owner):
        raise NotFound(f"cannot find {container[:12]}: there is no such container")
