"""Acts on containers: what a taken-over api cannot do by them, with a connection that is another's, or none."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.reliability.support import eventually, inits
from tests.security.evil_api import ACTS
from tests.security.test_attach import all_told
from tests.security.test_evidence import FORGERIES
from tests.security.test_kept import create, launch, sent_to, verdict
from tests.sessions import gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root

WISHES = [
    wish for wish in ACTS if wish != "stats"
]  # which is about several, and leaves out what is another's


def files(daemon: Daemon, container: str) -> dict[str, bytes]:
    """What root has written down of it."""
    places = (daemon.state_dir / "containers" / container, daemon.run_dir / "containers" / container)
    return {str(path): path.read_bytes() for place in places for path in place.glob("*.json")}


@pytest.fixture(params=["made", "runs"])
def victim(taken_over: TakenOver, request: pytest.FixtureRequest) -> Iterator[str]:
    """Root's container, which is what it was when the test is over."""
    daemon = taken_over.daemon
    container = create(daemon, args=["/bin/sleep", "600"])
    if request.param == "runs":
        with sent_to(taken_over, container, None, "launch") as client:
            launch(client, container)
        resting = daemon.state_dir / "containers" / container / "state.json"
        eventually(lambda: not resting.exists(), "the state of the running one counts")
    before = files(daemon, container)
    yield container
    assert files(daemon, container) == before
    assert len(inits(daemon)) == (1 if request.param == "runs" else 0)
    if request.param == "runs":
        assert verdict(taken_over, container, None, "kill")[0] == "done"
        eventually(lambda: not inits(daemon), "it has ended")
        gone(daemon)
    taken_over.run(f"remove {container}")
    gone(daemon)


@pytest.mark.parametrize("wish", WISHES)
def test_a_tenants_connection_has_nothing_of_others(
    taken_over: TakenOver, victim: str, tenant: host.User, wish: str
) -> None:
    for container in (victim, "0" * 64):
        assert verdict(taken_over, container, tenant, wish) == ("refused", "not-found", None)


def test_what_others_use_is_not_told(taken_over: TakenOver, victim: str, tenant: host.User) -> None:
    for container in (victim, "0" * 64):
        assert verdict(taken_over, container, tenant, "stats")[0] == "done"
        assert all_told(taken_over, "answer")[-1]["value"] == {}
    assert verdict(taken_over, victim, None, "stats")[0] == "done"
    told = all_told(taken_over, "answer")[-1]["value"]
    assert set(told) == ({victim} if inits(taken_over.daemon) else set())


@pytest.mark.parametrize("wish", ACTS)
@pytest.mark.parametrize("forgery", ["client end of our listener", "another listener"])
def test_a_descriptor_of_roots_is_no_evidence(
    taken_over: TakenOver, victim: str, forgery: str, wish: str, tmp_path: Path
) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        assert verdict(taken_over, victim, None, wish, "given") == ("refused", "not-permitted", rule)


@pytest.mark.parametrize("wish", ACTS)
def test_what_is_no_id_becomes_no_path(taken_over: TakenOver, victim: str, wish: str) -> None:
    assert verdict(taken_over, "../../../etc", None, wish) == ("refused", "bad-request", None)


def test_the_truth_does_it(taken_over: TakenOver, tenant: host.User) -> None:
    container = create(taken_over.daemon, tenant, args=["/bin/sleep", "600"])
    with sent_to(taken_over, container, tenant, "launch") as client:
        launch(client, container)
    for wish in ("pause", "top", "stats", "unpause", "rename", "update"):
        for user in (tenant, None) if wish in ("top", "stats", "update") else (tenant,):
            assert verdict(taken_over, container, user, wish) == ("done", None, None), wish
    assert verdict(taken_over, container, tenant, "stop") == ("done", None, None)
    gone(taken_over.daemon)
    taken_over.run(f"remove {container}", user=tenant)
    gone(taken_over.daemon)
