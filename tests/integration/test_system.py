"""What containers take of the disk: `GET /v1/system/df`, `dkrctl system`, `ps --size`, against a real daemon."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, logged, remove, sh
from tests.reliability.support import assert_same, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root
DF = "/v1/system/df"
WRITES = "head -c 2000000 /dev/zero >/big; head -c 200000 /dev/zero; echo; echo done; exec sleep 600"


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    """What launcher, api and machine hold is the same behind each test."""
    yield
    for container in listed(daemon, every=True):
        remove(daemon, container["id"])
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def made(caller: Caller, name: str, line: str, *, begin: bool = True) -> None:
    status, container = asked(caller, "POST", "/v1/containers", {"args": sh(line), "name": name})
    assert status == 201, container
    if begin:
        assert asked(caller, "POST", f"/v1/containers/{name}/start")[0] == 204


def usage(caller: Caller) -> dict[str, Any]:
    status, found = asked(caller, "GET", DF)
    assert status == 200, found
    assert isinstance(found, dict)
    return found


def test_what_is_taken(caller: Caller) -> None:
    before = usage(caller)
    assert before["complete"] is True
    assert before["containers"] == {"count": 0, "active": 0, "size": 0, "reclaimable": 0}
    assert before["layers"]["count"] >= 1
    assert before["layers"]["size"] > 4096
    made(caller, "writes", WRITES)
    logged(caller.daemon, "writes", "done\n")
    made(caller, "never", "true", begin=False)
    found = usage(caller)
    assert (found["containers"]["count"], found["containers"]["active"]) == (2, 1)
    assert 2_000_000 <= found["containers"]["size"] < 2_500_000
    assert found["containers"]["reclaimable"] < 100_000
    assert (found["logs"]["count"], found["logs"]["active"]) == (1, 1)
    assert found["logs"]["size"] >= 200_000
    assert found["logs"]["reclaimable"] == 0
    assert asked(caller, "POST", "/v1/containers/writes/kill", {})[0] == 204
    assert asked(caller, "POST", "/v1/containers/writes/wait")[0] == 200
    found = usage(caller)
    for kind in ("containers", "logs"):
        assert found[kind]["active"] == 0
        assert found[kind]["reclaimable"] == found[kind]["size"] > 0


def test_others_are_not_measured(daemon: Daemon, tenant: User, other_tenant: User, admin: User) -> None:
    made(Caller(daemon, tenant), "mine", "true", begin=False)
    assert usage(Caller(daemon, other_tenant))["containers"]["count"] == 0
    assert usage(Caller(daemon, tenant))["containers"]["count"] == 1
    assert usage(Caller(daemon, admin))["containers"]["size"] > 0


def test_the_verb(caller: Caller) -> None:
    made(caller, "writes", WRITES)
    logged(caller.daemon, "writes", "done\n")

    def system(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = caller.daemon.dkrctl("system", *words, user=caller.user, stdin=subprocess.DEVNULL)
        assert done.returncode == status, done
        return done

    heading, layers, containers, logs = system("df").stdout.splitlines()
    assert heading.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert layers.split()[0] == "Layers"
    assert containers.split()[:3] == ["Containers", "1", "1"]
    assert containers.split()[3].endswith("MB")
    assert containers.split()[4:] == ["0B", "(0%)"]
    assert logs.split()[:3] == ["Logs", "1", "1"]
    assert json.loads(system("df", "--format", "json").stdout)["containers"]["count"] == 1
    assert system("df", "--format", "{{.containers.active}} {{.complete}}").stdout == "1 true\n"
    assert system("info", "--format", "{{.containers.running}}").stdout == "1\n"
    assert system("prune", "-f").stdout == "Total reclaimed space: 0B\n"
    assert "nobody can be asked" in system("prune", status=1).stderr
    assert "it has no 'images'" in system("images", status=1).stderr
    assert "dkrctl system df|info|prune" in system(status=1).stderr
    assert "cannot take --force with system df" in system("df", "-f", status=1).stderr
    assert "cannot take --format with system prune" in system("prune", "--format", "json", status=1).stderr
    assert "cannot take 'web'" in system("df", "web", status=1).stderr


def test_sizes_in_the_list(caller: Caller) -> None:
    made(caller, "writes", WRITES)
    logged(caller.daemon, "writes", "done\n")
    assert asked(caller, "GET", "/v1/containers")[1][0].keys().isdisjoint({"size", "logSize"})
    _, [found] = asked(caller, "GET", "/v1/containers?size=true")
    assert found["size"] >= 2_000_000
    assert found["logSize"] >= 200_000

    def ps(*words: str) -> str:
        return str(caller.daemon.dkrctl("ps", *words, user=caller.user, check=True).stdout)

    heading, row = ps("--size").splitlines()
    assert heading.split()[-1] == "SIZE"
    assert "MB (log " in row
    assert ps("-s", "--format", "{{.Names}} {{.Size}}").startswith("writes 2")
    assert ps("--format", "{{.Names}}{{.Size}}") == "writes\n"
    assert "SIZE" not in ps()


async def test_from_python(daemon: Daemon) -> None:
    made(Caller(daemon, None), "one", "true", begin=False)
    async with Client(daemon.socket) as dkr, asyncio.timeout(SHELL_SECONDS):
        found = await dkr.disk_usage()
        assert (found.containers.count, found.containers.active, found.complete) == (1, 0, True)
        [one] = await dkr.containers(all=True, size=True)
        assert one.size == found.containers.size
        assert (await dkr.containers(all=True))[0].size is None
