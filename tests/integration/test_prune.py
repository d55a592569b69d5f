"""What does not run is removed: over HTTP, by `dkrctl prune` and from Python, against a real daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from common.clock import now
from dkrctl.client import Client
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, create, remove, sh, start, wait
from tests.reliability.support import ask, assert_same, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root
PRUNE = "/v1/containers/prune"


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    """What launcher, api and machine hold is the same behind each test."""
    yield
    for container in listed(daemon, every=True):
        remove(daemon, container["id"])
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def made(caller: Caller, name: str, line: str = "true", **wanted: Any) -> str:
    status, container = asked(caller, "POST", "/v1/containers", {"args": sh(line), "name": name, **wanted})
    assert status == 201, container
    return str(container["id"])


def names(daemon: Daemon) -> set[str]:
    return {container["name"] for container in listed(daemon, every=True)}


def test_what_does_not_run_goes(caller: Caller) -> None:
    never = made(caller, "never")
    ended = made(caller, "ended", "head -c 3000000 /dev/zero >/big; ln -s / /all; ln /big /again")
    made(caller, "runs", "sleep 600")
    assert asked(caller, "POST", "/v1/containers/ended/start")[0] == 204
    assert asked(caller, "POST", "/v1/containers/ended/wait")[0] == 200
    assert asked(caller, "POST", "/v1/containers/runs/start")[0] == 204
    status, would = asked(caller, "POST", PRUNE, {"dryRun": True})
    assert (status, set(would["removed"])) == (200, {never, ended})
    # The file of two names once, and nothing of what the link names.
    assert 3_000_000 <= would["spaceReclaimed"] < 3_500_000
    assert names(caller.daemon) == {"never", "ended", "runs"}
    status, done = asked(caller, "POST", PRUNE, {})
    assert (status, set(done["removed"])) == (200, {never, ended})
    assert 3_000_000 <= done["spaceReclaimed"] < 3_500_000
    assert "failed" not in done
    assert names(caller.daemon) == {"runs"}
    assert asked(caller, "POST", PRUNE, {}) == (200, {"removed": [], "spaceReclaimed": 0})


def test_a_tenants_are_pruned_and_nobody_elses(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    made(Caller(daemon, tenant), "mine")
    theirs = made(Caller(daemon, other_tenant), "theirs")
    made(Caller(daemon, None), "roots")
    status, done = asked(Caller(daemon, other_tenant), "POST", PRUNE, {})
    assert (status, done["removed"]) == (200, [theirs])
    assert names(daemon) == {"mine", "roots"}
    status, done = asked(Caller(daemon, admin), "POST", PRUNE, {})
    assert (status, len(done["removed"])) == (200, 2)
    assert names(daemon) == set()


def test_filters(caller: Caller) -> None:
    made(caller, "old", labels={"team": "blue"})
    between = now()
    made(caller, "young", labels={"team": "red", "keep": ""})
    made(caller, "plain")

    def meant(*filters: str) -> set[str]:
        status, found = asked(caller, "POST", PRUNE, {"filter": list(filters), "dryRun": True})
        assert status == 200, found
        ids = {container["id"]: container["name"] for container in listed(caller.daemon, every=True)}
        return {ids[name] for name in found["removed"]}

    assert meant() == {"old", "young", "plain"}
    assert meant(f"until={between}") == {"old"}
    assert meant(f"until={now()}", f"until={between}") == {"old"}
    assert meant("label=team") == {"old", "young"}
    assert meant("label=team=red") == {"young"}
    assert meant("label!=team") == {"plain"}
    assert meant("label!=keep", "label!=team=blue") == {"plain"}
    assert meant("label=team", "label!=keep") == {"old"}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"filter": ["status=stopped"]}, "cannot filter by 'status': there is no such key"),
        ({"filter": ["until=24h"]}, "cannot filter by until=24h: a time of RFC 3339 is wanted"),
        ({"filter": ["label"]}, "cannot filter by label: its value is missing"),
        ({"filter": "label=x"}, "filter: a list of strings is wanted"),
        ({"dryrun": True}, "dryrun: unknown key"),
    ],
)
def test_what_means_nothing(root: Caller, body: dict[str, Any], wanted: str) -> None:
    made(root, "stays")
    status, problem = asked(root, "POST", PRUNE, body)
    assert (status, problem["code"]) == (400, "bad-request")
    assert wanted in problem["detail"]
    assert names(root.daemon) == {"stays"}


def test_the_verb(caller: Caller) -> None:
    gone = made(caller, "gone")
    kept = made(caller, "kept", labels={"keep": ""})

    def prune(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = caller.daemon.dkrctl("prune", *words, user=caller.user, stdin=subprocess.DEVNULL)
        assert done.returncode == status, done
        return done

    assert "nobody can be asked" in prune(status=1).stderr
    told = prune("--dry-run").stdout
    assert told.startswith("Would be removed:\n")
    assert {gone, kept} < set(told.split())
    told = prune("-f", "--filter", "label!=keep", "--filter", "until=0s").stdout
    assert told.startswith(f"Deleted Containers:\n{gone}\n\nTotal reclaimed space: ")
    assert names(caller.daemon) == {"kept"}
    assert prune("--force", "--filter", "label=nosuch").stdout == "Total reclaimed space: 0B\n"
    assert "cannot take --filter" in prune("-f", "--filter", "until=soon", status=1).stderr


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", set()), (b"n\n", {"asked"}), (b"\x04", {"asked"})])
def test_it_asks_at_a_terminal(root: Caller, answer: bytes, left: set[str]) -> None:
    made(root, "asked")
    ours, theirs = os.openpty()
    pipe = subprocess.PIPE
    with root.daemon.popen("prune", stdin=theirs, stdout=pipe, stderr=pipe) as asking:
        os.close(theirs)
        assert asking.stderr is not None
        question = b""
        while not question.endswith(b"[y/N] "):
            question += asking.stderr.read(1)
        assert b"removes all containers that do not run.\n" in question
        os.write(ours, answer)
        out, err = asking.communicate(timeout=SHELL_SECONDS)
    os.close(ours)
    assert (asking.returncode, err) == (1 if left else 0, b"")
    assert (b"Total reclaimed space" in out) is not bool(left)
    assert names(root.daemon) == left


async def test_from_python(daemon: Daemon) -> None:
    container = str(create(daemon, *sh("head -c 500000 /dev/zero >/big"))["id"])
    start(daemon, container)
    wait(daemon, container)
    async with Client(daemon.socket) as dkr, asyncio.timeout(SHELL_SECONDS):
        would = await dkr.prune(dry_run=True)
        done = await dkr.prune(filters=[f"until={now()}"])
    assert would == done
    assert done.removed == (container,)
    assert done.space_reclaimed >= 500_000
    assert ask(daemon, "GET", f"/v1/containers/{container}")[0] == 404
