"""Who is at the other end of a connection. For the log and for what is shown, never for what is done: that
is judged by root's side on the connection itself.
"""

from __future__ import annotations

import grp
import socket
import struct
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import LimitReached, NotPermitted
from dkrd.ids import Pool, owner_of, read_subids

if TYPE_CHECKING:
    from dkrd.settings import Settings

SO_PEERGROUPS = 59
MAX_CONNECTIONS = 512  # of one user at a time: one must not take the descriptors of all; uid 0 has no bound


@dataclass(frozen=True, slots=True)
class Peer:
    """SO_PEERCRED of a connection, unix(7), and whose rights that means.

    owner  the uid to which its containers belong; None for ids that belong to a container
    admin  sees the containers of everyone
    """

    uid: int
    pid: int
    owner: int | None
    admin: bool

    def account(self) -> int:
        """The uid to which containers of this peer belong. Raises NotPermitted where there is none."""
        if self.owner is None:
            raise NotPermitted(
                f"cannot serve uid {self.uid}: it is an id of a container, and owns nothing here",
                rule="owner",
            )
        return self.owner

    def check_admin(self) -> None:
        """Raises NotPermitted for who is none."""
        if not self.admin:
            raise NotPermitted(
                f"cannot tell uid {self.uid} what concerns everybody: it is no admin",
                rule="admin",
                hint="root and members of the admin group are",
            )

    def scope(self) -> int | None:
        """Whose containers are visible: of one uid, or of everyone (None)."""
        return None if self.admin else self.account()


class Peers:
    """The connections that stand, counted by user."""

    def __init__(self, settings: Settings) -> None:
        self._pool = Pool(settings.ids_first, settings.ids_last, settings.ids_directory)
        self._subids = read_subids()
        self._admin_gid = _gid(settings.admin_group)
        self._counts: Counter[int] = Counter()

    def enter(self, sock: socket.socket) -> Peer:
        """The peer of a new connection. Raises LimitReached where its user has too many, OSError where
        nobody is there.
        """
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _gid = struct.unpack("iII", credentials)
        if uid and self._counts[uid] >= MAX_CONNECTIONS:
            raise LimitReached(
                f"cannot serve uid {uid}: it has {MAX_CONNECTIONS} connections", hint="close some"
            )
        owner = owner_of(uid, self._pool, self._subids)
        peer = Peer(uid, pid, owner, uid == 0 or (owner == uid and self._is_admin(sock)))
        self.count(peer)
        return peer

    def count(self, peer: Peer) -> None:
        """`peer` has one connection more; `leave` is called for each."""
        self._counts[peer.uid] += 1

    def leave(self, peer: Peer) -> None:
        """The connection of `peer` has ended."""
        self._counts[peer.uid] -= 1
        if not self._counts[peer.uid]:
            del self._counts[peer.uid]

    def _is_admin(self, sock: socket.socket) -> bool:
        if self._admin_gid is None:
            return False
        groups = array("I")
        try:
            groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024))
        except OSError:
            return False  # more than 256 groups: sees its own containers, which is never too much
        return self._admin_gid in groups


def _gid(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
