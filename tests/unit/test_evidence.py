"""Evidence: a true connection passes, every forgery is refused by its own rule. Real sockets, a real other user."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import NotPermitted
from dkrd import evidence
from dkrd.policy import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SIOCUNIXFILE wants CAP_NET_ADMIN")

UID, GID, GROUPS = 3001, 3002, (3003, 3004)


class Sockets:
    """The daemon's listener, another root daemon's, and a user who makes what a test asks for."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stack = contextlib.ExitStack()
        self.ours = self.listen("dkr.sock")
        self.other = self.listen("other.sock")
        self.identity = evidence.listener_identity(self.ours)

    def listen(self, name: str) -> socket.socket:
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(self.place / name))
        os.chmod(self.place / name, 0o666)
        sock.listen()
        return sock

    def from_user(
        self, make: Callable[[], list[socket.socket]], groups: tuple[int, ...] = GROUPS
    ) -> socket.socket:
        """The first socket that `make` returns in a process of another user, which lives until the test ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stack.enter_context(ours)
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                os.setgroups(groups)
                os.setresgid(GID, GID, GID)
                os.setresuid(UID, UID, UID)
                made = make()
                socket.send_fds(theirs, [b"x"], [made[0].fileno()])
                theirs.recv(1)
            finally:
                os._exit(0)
        theirs.close()
        self.stack.callback(os.waitpid, pid, 0)
        self.stack.callback(ours.close)
        descriptor = socket.recv_fds(ours, 1, 1)[1][0]
        return self.stack.enter_context(evidence.open_connection(descriptor))

    def connected(self, name: str = "dkr.sock") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.place / name))
        return sock


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    place = Path(tempfile.mkdtemp(prefix="dkr-evidence-"))
    place.chmod(0o755)
    made = Sockets(place)
    with made.stack:
        yield made
    shutil.rmtree(place)


def refused(sock: socket.socket, sockets: Sockets) -> str | None:
    with pytest.raises(NotPermitted) as caught:
        evidence.prove(sock, sockets.identity)
    return caught.value.rule


def test_true_connection_tells_who_it_is(sockets: Sockets) -> None:
    keep: list[socket.socket] = []

    def connect() -> list[socket.socket]:
        keep.append(sockets.connected())
        return [sockets.ours.accept()[0]]

    got = evidence.prove(sockets.from_user(connect), sockets.identity)
    assert (got.uid, got.gid, set(got.groups)) == (UID, GID, set(GROUPS))
    assert got.pid > 0


def test_more_groups_than_python_reads_at_once(sockets: Sockets) -> None:
    many = tuple(range(5000, 5700))
    keep: list[socket.socket] = []

    def connect() -> list[socket.socket]:
        keep.append(sockets.connected())
        return [sockets.ours.accept()[0]]

    got = evidence.prove(sockets.from_user(connect, many), sockets.identity)
    assert set(got.groups) == set(many)


def test_credentials_are_those_of_the_connect(sockets: Sockets) -> None:
    """Not those of whoever holds the client's end now."""
    client = sockets.connected()
    accepted = sockets.ours.accept()[0]
    with client, accepted:
        assert evidence.prove(accepted, sockets.identity) == Credentials(
            uid=0, gid=0, groups=tuple(os.getgroups()), pid=os.getpid()
        )


def test_listener_itself(sockets: Sockets) -> None:
    assert struct.unpack("3i", sockets.ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == 0
    assert refused(sockets.ours, sockets) == "evidence-listening"


def test_pairs_made_by_root(sockets: Sockets) -> None:
    for kind, rule in (
        (socket.SOCK_STREAM, "evidence-origin"),
        (socket.SOCK_SEQPACKET, "evidence-type"),
        (socket.SOCK_DGRAM, "evidence-type"),
    ):
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        with left, right:
            assert struct.unpack("3i", left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == 0
            assert refused(left, sockets) == rule


def test_connection_to_another_root_daemon(sockets: Sockets) -> None:
    sock = sockets.from_user(lambda: [sockets.connected("other.sock")])
    assert struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == 0
    assert refused(sock, sockets) == "evidence-origin"


def test_connection_accepted_by_another_root_daemon(sockets: Sockets) -> None:
    with sockets.connected("other.sock"):
        accepted = sockets.other.accept()[0]
        with accepted:
            assert refused(accepted, sockets) == "evidence-origin"


def test_clients_end_of_our_own_socket(sockets: Sockets) -> None:
    sock = sockets.from_user(lambda: [sockets.connected()])
    assert struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] == 0
    assert refused(sock, sockets) == "evidence-origin"


def test_own_connection_says_its_maker(sockets: Sockets) -> None:
    """Who connects to the daemon is only ever who they are."""
    keep: list[socket.socket] = []

    def connect() -> list[socket.socket]:
        keep.append(sockets.connected())
        return [sockets.ours.accept()[0]]

    assert evidence.prove(sockets.from_user(connect), sockets.identity).uid == UID


@pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_WR, None])
def test_client_that_is_gone(sockets: Sockets, how: int | None) -> None:
    client = sockets.connected()
    with sockets.ours.accept()[0] as accepted:
        if how is None:
            client.close()
        else:
            client.shutdown(how)
        assert refused(accepted, sockets) == "evidence-gone"
        client.close()


def test_socket_bound_by_the_user(sockets: Sockets) -> None:
    def bind() -> list[socket.socket]:
        os.chdir("/tmp")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("\0dkr-evidence-test")
        return [sock]

    assert refused(sockets.from_user(bind), sockets) == "evidence-origin"


def test_unconnected_socket_bound_by_root(sockets: Sockets) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(sockets.place / "bound.sock"))
        identity = evidence.listener_identity(sock)
        with pytest.raises(NotPermitted) as caught:
            evidence.prove(sock, identity)
        assert caught.value.rule == "evidence-gone"


def test_internet_socket(sockets: Sockets) -> None:
    with socket.socket(socket.AF_INET) as sock:
        assert refused(sock, sockets) == "evidence-type"


def test_no_socket_at_all() -> None:
    descriptor = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(NotPermitted) as caught:
        evidence.open_connection(descriptor)
    assert caught.value.rule == "evidence-type"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_identity_follows_the_socket_not_its_path(sockets: Sockets) -> None:
    """Another socket at our path is not ours."""
    with sockets.connected():
        old = sockets.ours.accept()[0]
        os.unlink(sockets.place / "dkr.sock")
        newer = sockets.listen("dkr.sock")
        assert evidence.listener_identity(sockets.ours) == sockets.identity
        assert evidence.listener_identity(newer) != sockets.identity
        with old:
            assert evidence.prove(old, sockets.identity).uid == 0
