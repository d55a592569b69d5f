"""Two processes share one request: the lesser of the two counts."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.security.callers import as_user
from tests.security.taken_over import Client, frame, frames_of

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

PLAIN: dict[str, Any] = {"args": ["/bin/true"], "rm": True}
LIFTED: dict[str, Any] = {**PLAIN, "namespaces": {"network": "host"}}
ASKS = ["network:host"]


def _attend(client: Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The session from the hand-over record on."""
    with client.session() as session:
        frame(session, request, {}, asks=ASKS if request is LIFTED else [])
        return frames_of(session)


def _request(client: Client, request: dict[str, Any]) -> list[dict[str, Any]]:
    client.post(request)
    return _attend(client, request)


def _uid_of(daemon: Daemon, frames: list[dict[str, Any]]) -> int:
    """Whose the container was, by the audit."""
    [container] = [f["id"] for f in frames if f["type"] == "started"]
    [line] = [line for line in daemon.log.splitlines() if f"audit shim: started id={container}" in line]
    return int(line.partition(" uid=")[2].split()[0])


def test_roots_connection_in_a_tenants_hands_is_a_tenants(daemon: Daemon, tenant: host.User) -> None:
    client = Client(daemon.socket)
    frames = as_user(tenant, lambda: _request(client, LIFTED))
    client.connection.close()
    assert frames[-1]["error"]["rule"] == "network-host"

    client = Client(daemon.socket)
    frames = as_user(tenant, lambda: _request(client, PLAIN))
    client.connection.close()
    assert frames[-1]["exit"]["code"] == 0
    assert _uid_of(daemon, frames) == tenant.uid


def test_roots_request_whose_session_another_attends_is_a_tenants(daemon: Daemon, tenant: host.User) -> None:
    client = Client(daemon.socket)
    client.post(LIFTED)
    frames = as_user(tenant, lambda: _attend(client, LIFTED))
    client.connection.close()
    assert frames[-1]["error"]["rule"] == "network-host"


def test_a_tenants_connection_stays_a_tenants_in_roots_hands(daemon: Daemon, tenant: host.User) -> None:
    """A program of root's that was steered to go on with a connection somebody else has made (setuid, a helper)."""
    for request in (LIFTED, PLAIN):
        client = _made_by(tenant, daemon)
        frames = _request(client, request)
        if request is LIFTED:
            assert frames[-1]["error"]["rule"] == "network-host"
        else:
            assert frames[-1]["exit"]["code"] == 0
            assert _uid_of(daemon, frames) == tenant.uid


def test_two_ordinary_users_are_nobody_in_particular(
    daemon: Daemon, tenant: host.User, other_tenant: host.User
) -> None:
    client = _made_by(tenant, daemon)
    client.post(PLAIN)
    frames = as_user(other_tenant, lambda: _attend(client, PLAIN))
    client.connection.close()
    assert frames[-1]["error"]["rule"] == "two-callers"


def test_an_admins_connection_gives_another_tenant_nothing(
    daemon: Daemon, tenant: host.User, admin: host.User
) -> None:
    client = _made_by(admin, daemon)
    client.post(LIFTED)
    frames = as_user(tenant, lambda: _attend(client, LIFTED))
    client.connection.close()
    assert frames[-1]["error"]["rule"] == "two-callers"
    # The same request by the admin alone: what was refused is the other's part in it.
    assert as_user(admin, lambda: _request(Client(daemon.socket), LIFTED))[-1]["exit"]["code"] == 0


def test_an_id_of_a_container_is_nobody_at_the_session(daemon: Daemon) -> None:
    client = Client(daemon.socket)
    client.post(PLAIN)
    inside = daemon.settings["ids"]["first"] + 5
    frames = as_user(inside, lambda: _attend(client, PLAIN))
    client.connection.close()
    assert frames[-1]["error"]["rule"] == "nobody"


def test_credentials_in_the_frame_cannot_be_chosen(daemon: Daemon, tenant: host.User) -> None:
    """SCM_CREDENTIALS may be sent along, unix(7), but the kernel checks them: root's are refused to a tenant."""

    def lie() -> str:
        client = Client(daemon.socket)
        client.post(LIFTED)
        first = {
            "type": "start",
            "version": 2,
            "request": LIFTED,
            "asks": ASKS,
            "stdio": [],
            "tty": [],
            "want": [],
            "root": [],
        }
        with client.session() as session:
            try:
                session.sendmsg(
                    [json.dumps(first).encode()],
                    [(socket.SOL_SOCKET, 2, struct.pack("iII", os.getpid(), 0, 0))],  # SCM_CREDENTIALS
                )
            except PermissionError:
                return "refused by the kernel"
            return str(frames_of(session)[-1])

    assert as_user(tenant, lie) == "refused by the kernel"


def _made_by(user: host.User, daemon: Daemon) -> Client:
    """A connection that `user` has made, in our hands."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def make() -> None:
        client = Client(daemon.socket)
        socket.send_fds(theirs, [b"x"], [client.connection.fileno()])

    with ours, theirs:
        as_user(user, make)
        _, [descriptor], _, _ = socket.recv_fds(ours, 1, 1)
    client = Client.__new__(Client)
    client.connection = socket.socket(fileno=descriptor)
    client.connection.settimeout(10)
    return client
