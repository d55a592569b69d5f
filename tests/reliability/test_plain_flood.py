"""Many runs as one request at once: each is answered, those beyond a bound with what the bound is, and nothing is left."""

from __future__ import annotations

import collections
import contextlib
import json
import select
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_bad_input import JSON, Raw, is_served, request
from tests.reliability.support import Manager, assert_same, count, eventually, listed
from tests.security.callers import as_user

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


def run(*args: str) -> bytes:
    return request("POST", "/v1/run", JSON, json.dumps({"args": args}).encode())


def answers(clients: list[Raw]) -> dict[str, int]:
    """How often each status and code came from clients that are to be answered now."""
    told: collections.Counter[str] = collections.Counter()
    for client in clients:
        status, _, value = client.answer()
        told[f"{status} {value.get('code', '')}".strip()] += 1
    return dict(told)


def test_the_bound_of_a_user(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(limits={"containers_per_user": 4})
    before = count(daemon)

    def ask() -> Any:
        clients = [Raw(str(daemon.socket)) for _ in range(500)]
        for client in clients:
            client.send(run("/bin/sleep", "600"))
        answered: list[Raw] = []
        while len(answered) < 496:
            ready, _, _ = select.select([c.sock for c in clients if c not in answered], [], [], 30)
            assert ready, f"only {len(answered)} are answered"
            answered += [client for client in clients if client.sock in ready]
        told = answers(answered)
        is_served(daemon)
        return told

    assert as_user(tenant, ask) == {"429 limit-reached": 496}
    eventually(lambda: not listed(daemon), "the four are gone with their clients")
    assert_same(daemon, before)
    daemon.run("/bin/true", user=tenant)


def test_all_at_once_are_all_answered(daemon: Daemon) -> None:
    before = count(daemon)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(str(daemon.socket))) for _ in range(100)]
        for client in clients:
            client.send(run("/bin/true"))
        assert answers(clients) == {"200": 100}
    assert_same(daemon, before)


def test_an_api_out_of_descriptors_says_so(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.stop()
    manager = Manager(daemon)
    try:
        manager.start(descriptors=100)
        before = count(daemon)
        api = daemon.child("dkr-api")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Raw(str(daemon.socket))) for _ in range(60)]
            for client in clients:
                client.send(run("/bin/true"))
            told = answers(clients)
        assert "200" in told
        assert told.keys() <= {"200", "429 limit-reached", "503 unavailable"}
        assert "429 limit-reached" in told
        is_served(daemon)
        assert_same(daemon, before)
        assert daemon.child("dkr-api") == api
        daemon.stop()
    finally:
        manager.close()
