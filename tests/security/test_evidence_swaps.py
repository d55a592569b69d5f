"""A taken-over api that sends another container than was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.security.callers import as_user
from tests.security.evil_api import SWAPS
from tests.security.taken_over import Client, frame, frames_of

if TYPE_CHECKING:
    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

# Refused by the schema before anybody asks whether it was wanted.
NOT_EVEN_READ = ("seccomp", "hooks", "id map")


@pytest.mark.parametrize("who", ["admin", "tenant"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_swapped_container_does_not_start(
    taken_over: TakenOver, tenant: host.User, swap: str, who: str
) -> None:
    done = taken_over.run(f"swap {swap}", user=tenant if who == "tenant" else None)
    assert done.returncode != 0
    assert done.stdout == ""
    if swap in NOT_EVEN_READ:
        assert "cannot read the bundle" in done.stderr
    else:
        assert "rule: request" in done.stderr, done.stderr
    answer = taken_over.told("answer")[-1]
    assert answer["type"] == "accepted"
    assert not taken_over.has_started(answer["id"])
    taken_over.assert_nothing()


@pytest.mark.parametrize("kind", ["network", "user", "pid"])
def test_an_admins_lift_is_not_carried_over_to_more(
    taken_over: TakenOver, admin: host.User, kind: str
) -> None:
    """Who asked for the host's IPC gets no other namespace of the host's with it."""
    done = taken_over.run(f"swap {kind}:host", user=admin, options=("--ipc", "host"))
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "rule: request" in done.stderr
    taken_over.assert_nothing()


def _start(daemon: Daemon, request: dict[str, Any], asks: list[str]) -> dict[str, Any]:
    client = Client(daemon.socket)
    client.post(request)
    session = client.session()
    with session:
        frame(session, request, {}, asks=asks)
        return frames_of(session)[-1]


def test_what_a_client_did_not_ask_for_in_its_frame_is_refused_to_root(daemon: Daemon) -> None:
    """The request may have been made from what somebody else typed; the asks are the client's own word."""
    request = {"args": ["/bin/true"], "rm": True, "namespaces": {"network": "host", "ipc": "host"}}
    assert _start(daemon, request, [])["error"]["rule"] == "asks"
    assert _start(daemon, request, ["network:host"])["error"]["rule"] == "asks"
    ended = _start(daemon, request, ["network:host", "ipc:host"])
    assert ended["exit"] == {"code": 0, "signal": None, "cause": "exited"}


def test_asking_for_everything_gives_a_tenant_nothing(daemon: Daemon, tenant: host.User) -> None:
    """Asks bound what may be granted; they grant nothing."""

    def ask() -> Any:
        everything = ["user:host", "network:host", "pid:host", "cap:CAP_SYS_ADMIN", "unmask:/proc/kcore"]
        plain = _start(daemon, {"args": ["/bin/true"], "rm": True}, everything)
        host_network = {"args": ["/bin/true"], "rm": True, "namespaces": {"network": "host"}}
        return [plain, _start(daemon, host_network, everything)]

    plain, lifted = as_user(tenant, ask)
    assert plain["exit"]["code"] == 0
    assert lifted["error"]["rule"] == "network-host"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("args", ["/bin/sh"]),
        ("env", {"A": "b"}),
        ("cwd", "/tmp"),
        ("user", "1:1"),
        ("readonly", True),
        ("surprise", 1),
        ("args", []),
        ("namespaces", {"network": "somebody's"}),
    ],
)
def test_a_frame_that_asks_something_else_than_the_request_is_refused(
    daemon: Daemon, key: str, value: object
) -> None:
    request: dict[str, Any] = {"args": ["/bin/true"], "rm": True}
    client = Client(daemon.socket)
    client.post(request)
    with client.session() as session:
        frame(session, {**request, key: value}, {})
        last = frames_of(session)[-1]
    assert last["type"] == "error"
    assert last["error"].get("rule") == "request"
