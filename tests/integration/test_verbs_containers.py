"""`dkrctl inspect` and `rm`: one and several, by name and id, one's own and others'; and `version` and `info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from common.version import API_VERSION, VERSION
from dkrd.api.routes import ROUTES
from tests.integration.verbs import make, running, tidy
from tests.unit.canned import canned, http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    tidy(daemon)


def test_inspect_tells_what_the_api_tells(caller: Caller) -> None:
    make(caller.daemon, caller.user, "web", "--label", "team=blau, grün", "/bin/true")
    caller.ended("web")
    done = caller.daemon.dkrctl("inspect", "web", user=caller.user, check=True)
    assert json.loads(done.stdout) == caller.containers()
    assert '"team": "blau, grün"' in done.stdout
    assert done.stdout.startswith("[\n    {\n")


def test_inspect_by_name_id_and_beginning(root: Caller) -> None:
    make(root.daemon, None, "web", "/bin/true")
    make(root.daemon, None, "db", "/bin/true")
    [whole] = root.daemon.dkrctl("ps", "-q", "--no-trunc", "-a", "-f", "name=web", check=True).stdout.split()
    done = root.daemon.dkrctl("inspect", whole, "db", whole[:10], "web", check=True)
    assert [entry["name"] for entry in json.loads(done.stdout)] == ["web", "db", "web", "web"]


def test_inspect_of_one_that_is_not_there_still_tells_the_others(root: Caller) -> None:
    make(root.daemon, None, "web", "/bin/true")
    done = root.daemon.dkrctl("inspect", "nope", "web", "../version", "")
    assert done.returncode == 1
    assert [entry["name"] for entry in json.loads(done.stdout)] == ["web"]
    assert len(done.stderr.splitlines()) == 5  # one of them as the daemon says it, two with a hint
    assert 'cannot find container "nope"' in done.stderr
    assert 'cannot find container "../version"' in done.stderr
    assert root.daemon.dkrctl("inspect", "nope").stdout == "[]\n"


def test_inspect_with_a_template(root: Caller) -> None:
    make(root.daemon, None, "web", "--label", "team=blue", "/bin/sh", "-c", "exit 3", status=3)
    root.ended("web")
    with running(root, "up"):
        form = '{{.Name}} {{.status}} {{.exit.code}} {{index .labels "team"}} {{join .args " "}}'
        done = root.daemon.dkrctl("inspect", "--format", form, "web", "up", check=True)
    assert done.stdout.splitlines() == [
        "web stopped 3 blue /bin/sh -c exit 3",
        "up running   /bin/sh -c echo up; exec sleep 1000",
    ]
    done = root.daemon.dkrctl("inspect", "-f", "{{.State.Status}}", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no field .State" in done.stderr
    assert ".status" in done.stderr


def test_rm_of_several_tells_each_that_cannot_be(caller: Caller) -> None:
    make(caller.daemon, caller.user, "one", "/bin/true")
    make(caller.daemon, caller.user, "two", "/bin/true")
    with running(caller, "up"):
        done = caller.daemon.dkrctl("rm", "one", "up", "nope", "two", user=caller.user)
        assert done.returncode == 1
        assert done.stdout.splitlines() == ["one", "two"]
        complaints = [line for line in done.stderr.splitlines() if line.startswith("dkrctl: ")]
        assert len(complaints) == 2
        assert "it is running" in complaints[0]
        assert 'cannot find container "nope"' in complaints[1]
        assert [entry["name"] for entry in caller.containers()] == ["up"]


def test_options_may_follow_names(root: Caller) -> None:
    make(root.daemon, None, "web", "/bin/true")
    done = root.daemon.dkrctl(
        "rm", "web", "--socket", str(root.daemon.socket), env={"DKR_SOCKET": "/nowhere"}
    )
    assert (done.returncode, done.stdout) == (0, "web\n")
    done = root.daemon.dkrctl("rm", "--", "--force")
    assert done.returncode == 1
    assert 'cannot find container "--force"' in done.stderr


@pytest.mark.parametrize("verb", ["inspect", "rm"])
def test_without_a_container_the_usage_is_told(root: Caller, verb: str) -> None:
    done = root.daemon.dkrctl(verb)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot {verb}: no container is named" in done.stderr
    assert f"dkrctl {verb} [OPTIONS] CONTAINER..." in done.stderr


def test_others_containers_are_not_there(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    make(daemon, tenant, "mine", "/bin/true")
    [whole] = daemon.dkrctl("ps", "-aq", "--no-trunc", user=tenant, check=True).stdout.split()
    for reference in ("mine", whole, whole[:12]):
        for verb in ("inspect", "rm"):
            done = daemon.dkrctl(verb, reference, user=other_tenant)
            assert done.returncode == 1
            assert f'cannot find container "{reference}"' in done.stderr
    assert json.loads(daemon.dkrctl("inspect", "mine", user=admin, check=True).stdout)[0]["uid"] == tenant.uid
    assert daemon.dkrctl("rm", "mine", user=admin, check=True).stdout == "mine\n"
    assert daemon.dkrctl("ps", "-aq", user=tenant, check=True).stdout == ""


# --- version, info


def test_version(caller: Caller) -> None:
    done = caller.daemon.dkrctl("version", user=caller.user, check=True)
    client, daemon = done.stdout.splitlines()
    assert client == f"dkrctl {VERSION} (API {API_VERSION})"
    assert daemon.startswith(f"dkrd   {VERSION} (API {API_VERSION}) on linux, ")
    both = json.loads(
        caller.daemon.dkrctl("version", "--format", "json", user=caller.user, check=True).stdout
    )
    assert both["client"] == {"version": VERSION, "apiVersion": API_VERSION}
    assert both["server"]["version"] == VERSION
    form = "{{.Client.Version}} {{.Server.ApiVersion}}"
    assert (
        caller.daemon.dkrctl("version", "-f", form, user=caller.user, check=True).stdout == f"{VERSION} 1\n"
    )


def test_the_clients_version_needs_no_daemon(root: Caller) -> None:
    done = root.daemon.dkrctl("version", "--format", "json", env={"DKR_SOCKET": "/nonexistent/s"})
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "client": {"version": VERSION, "apiVersion": API_VERSION},
        "server": None,
    }
    assert "there is no such socket" in done.stderr


def test_info(caller: Caller) -> None:
    """Whatever the daemon says of itself; of one that says nothing, that."""
    done = caller.daemon.dkrctl("info", "--format", "json", user=caller.user)
    if "/v1/info" in {route.path for route in ROUTES}:
        assert done.returncode == 0
        assert json.loads(done.stdout)
        assert caller.daemon.dkrctl("info", user=caller.user, check=True).stdout
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert "the API has no such path" in done.stderr


def test_info_of_a_daemon_that_tells(root: Caller, tmp_path: Path) -> None:
    facts = {"version": "1.0", "limits": {"containersPerUser": 3}, "roots": ["host"], "evil": "\x1b[2J"}
    with canned(tmp_path / "s", {"/v1/info": http(facts)}):

        def told(*words: str) -> str:
            return str(
                root.daemon.dkrctl("info", *words, env={"DKR_SOCKET": str(tmp_path / "s")}, check=True).stdout
            )

        assert json.loads(told("--format", "json")) == facts
        assert told("--format", "{{.Version}} {{.limits.containersPerUser}}") == "1.0 3\n"
        assert told() == "version: 1.0\nlimits:\n  containers per user: 3\nroots: host\nevil: \\x1b[2J\n"


def test_a_mistyped_verb_and_option(root: Caller) -> None:
    for words, status, meant in (
        (("pss",), 125, "dkrctl ps`?"),
        (("list",), 125, "dkrctl ps`?"),
        (("inspekt", "x"), 125, "dkrctl inspect`?"),
        (("ps", "--al"), 1, "--all?"),
        (("rm", "--sokcet", "x", "y"), 1, "--socket?"),
        (("help", "inspct"), 1, "dkrctl inspect`?"),
    ):
        done = root.daemon.dkrctl(*words)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert f"did you mean {'`' if 'dkrctl' in meant else ''}{meant}" in done.stderr
