"""GET /v1/info: what root's side has told of the host, the caller's own numbers, and what changes while the api lives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from common.version import VERSION
from tests.unit.api_process import Api, api_directory, state

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = 65533


@pytest.fixture
def api() -> Iterator[Api]:
    with api_directory() as made:
        made.start(
            [
                state("a" * 64),
                state("b" * 64, status="stopped", pid=None),
                state("c" * 64, uid=OTHER),
                state("d" * 64, status="creating"),
            ]
        )
        yield made


def test_what_it_tells(api: Api) -> None:
    told = api.ask("GET", "/v1/info").json()
    assert told["version"] == VERSION
    assert told["host"]["kernel"] == os.uname().release
    assert told["host"]["cgroups"] == "hybrid"
    assert told["host"]["controllers"] == ["cpu", "pids"]
    assert told["host"]["cpus"] >= 1
    assert told["features"] == {"seccomp": True, "flying": False}
    assert [(root["name"], root["available"]) for root in told["roots"]] == [
        ("host", True),
        ("busybox", False),
    ]
    assert told["roots"][1]["why"] == "cannot use it: none is here"
    assert told["roots"][1]["hint"] == "bring one"
    assert told["defaultRoot"] == "host"
    assert told["limits"]["body"] == 4 * 1024 * 1024
    assert (told["you"]["uid"], told["you"]["owner"]) == (os.getuid(), os.getuid())


def test_numbers_are_ones_own(api: Api) -> None:
    told = api.ask("GET", "/v1/info").json()
    everyones = 2 if os.geteuid() == 0 else 1
    assert told["containers"] == {
        "creating": 1,
        "created": 0,
        "running": everyones,
        "paused": 0,
        "restarting": 0,
        "stopped": 1,
    }


def test_root_has_no_bound(api: Api) -> None:
    told = api.ask("GET", "/v1/info").json()
    for bound in ("containersPerUser", "pidsPerContainer"):
        assert (bound in told["limits"]) == (os.geteuid() != 0)
    assert told["you"]["role"] == ("admin" if os.geteuid() == 0 else "tenant")


def test_no_secret_is_in_it(api: Api) -> None:
    """Nor a place of the host's, which nobody needs to know."""
    body = api.ask("GET", "/v1/info").body.decode()
    assert api.directory not in body
    for word in ("token", "secret", "seccomp/", "stateDir", "idsFirst"):
        assert word not in body


def test_what_the_launcher_says_anew(api: Api) -> None:
    facts = api.facts()
    facts["settings"] = {**facts["settings"], "startSeconds": 7, "logLevel": "warning"}
    facts["host"] = {"cgroups": "v2", "controllers": [], "features": {"flying": True}, "missingRoots": {}}
    api.say({"type": "changed", **facts})
    api.settle()
    told = api.ask("GET", "/v1/info").json()
    assert (told["host"]["cgroups"], told["host"]["controllers"]) == ("v2", [])
    assert told["features"] == {"flying": True}
    assert all(root["available"] for root in told["roots"])
    assert told["limits"]["startSeconds"] == 7
    before = api.told()
    api.ask("GET", "/v1/version")
    assert api.told() == before  # at `debug` each request would be told


@pytest.mark.parametrize(
    "host",
    [
        None,
        {},
        {"cgroups": "v3", "controllers": [], "features": {}, "missingRoots": {}},
        {"cgroups": "v2", "controllers": [], "features": [], "missingRoots": {}},
        {"cgroups": "v2", "controllers": "pids", "features": {}, "missingRoots": {}},
        {"cgroups": "v2", "features": {}, "missingRoots": {}},
        {"cgroups": "v2", "controllers": [], "features": {}, "missingRoots": {}, "more": 1},
    ],
)
def test_facts_that_are_none_end_the_api(api: Api, host: object) -> None:
    api.say({"type": "changed", "settings": api.settings.to_wire(), "host": host})
    assert api.wait() == 1
    assert "cannot read the launcher's facts" in api.told()
