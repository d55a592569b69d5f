"""What a taken-over api, or another user, does not learn of a container by having it measured or compared."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.security.test_attach import all_told
from tests.security.test_evidence import FORGERIES
from tests.security.test_kept import create, launch, sent_to, verdict
from tests.sessions import gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import host
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root
WISHES = ("measure", "diff")


@pytest.fixture
def victim(taken_over: TakenOver) -> Iterator[str]:
    """Root's container, which has written a file and ended."""
    container = create(taken_over.daemon, args=["/bin/touch", "/secret"])
    with sent_to(taken_over, container, None, "launch") as client:
        launch(client, container)
    gone(taken_over.daemon)
    yield container
    taken_over.run(f"remove {container}")
    gone(taken_over.daemon)


def test_the_truth_tells_its_owner(taken_over: TakenOver, victim: str) -> None:
    assert verdict(taken_over, victim, None, "diff")[0] == "done"
    assert taken_over.told("changes")[-1] == '{"kind":"A","path":"/secret"}\n'
    assert verdict(taken_over, victim, None, "measure")[0] == "done"
    assert all_told(taken_over, "answer")[-1]["value"]["containers"].keys() == {victim}


def test_a_tenants_connection_learns_nothing_of_others(
    taken_over: TakenOver, victim: str, tenant: host.User
) -> None:
    for container in (victim, "0" * 64):
        assert verdict(taken_over, container, tenant, "diff") == ("refused", "not-found", None)
        assert taken_over.told("changes")[-1] == ""
        assert verdict(taken_over, container, tenant, "measure")[0] == "done"
        assert all_told(taken_over, "answer")[-1]["value"] == {"containers": {}, "layers": {}}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_descriptor_of_roots_is_no_evidence(
    taken_over: TakenOver, victim: str, forgery: str, wish: str, tmp_path: Path
) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        assert verdict(taken_over, victim, None, wish, "given") == ("refused", "not-permitted", rule)


@pytest.mark.parametrize("wish", WISHES)
def test_what_the_api_has_itself_is_no_evidence(taken_over: TakenOver, victim: str, wish: str) -> None:
    assert verdict(taken_over, victim, None, wish, "own") == ("refused", "not-permitted", "evidence-api")


@pytest.mark.parametrize("word", ["../../../etc", "0" * 63])
def test_what_is_no_id_becomes_no_path(taken_over: TakenOver, victim: str, word: str) -> None:
    assert verdict(taken_over, word, None, "diff") == ("refused", "bad-request", None)
