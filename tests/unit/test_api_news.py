"""What a guardian has told its client comes to the api by another way: who asks next is told it all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.api_process import Api, Client, api_directory, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def api() -> Iterator[Api]:
    with api_directory() as made:
        made.start([state(ONE, status="creating", name="one", pid=0, started=None)])
        made.answers_pings = False
        yield made


def asked(api: Api, path: str) -> Client:
    client = api.client()
    client.send("GET", path)
    return client


def tell(api: Api, *states: dict[str, object]) -> None:
    """What the launcher has to tell before its pong."""
    assert api.hear()[0] == {"type": "ping"}
    for known in states:
        api.say({"type": "state", "state": known})
    api.say({"type": "pong"})


def test_one_that_is_being_started_runs(api: Api) -> None:
    client = asked(api, "/v1/containers/one")
    tell(api, state(ONE, name="one"))
    assert client.answer().json()["status"] == "running"


def test_one_that_was_just_made_is_there(api: Api) -> None:
    client = asked(api, f"/v1/containers/{TWO[:12]}")
    tell(api, state(TWO, status="created", name="two", pid=0, started=None))
    assert client.answer().json()["status"] == "created"


def test_the_list_has_it_too(api: Api) -> None:
    client = asked(api, "/v1/containers")
    tell(api, state(ONE, name="one"), state(TWO, name="two"))
    assert {found["id"]: found["status"] for found in client.answer().json()} == {
        ONE: "running",
        TWO: "running",
    }


def test_of_one_that_runs_nobody_is_asked(api: Api) -> None:
    api.say({"type": "state", "state": state(ONE, name="one")})
    api.settle()
    assert asked(api, "/v1/containers/one").answer().json()["status"] == "running"
    api.settle()  # which fails where a ping came before


def test_a_launcher_that_does_not_answer_is_not_waited_for(api: Api) -> None:
    assert asked(api, "/v1/containers/one").answer().json()["status"] == "creating"
    assert asked(api, "/v1/containers/nosuch").answer().status == 404
    assert len(asked(api, "/v1/containers").answer().json()) == 1
