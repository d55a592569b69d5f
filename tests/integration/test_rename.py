"""Calling containers otherwise: everybody does from then on, whoever is killed and started anew."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import Stream, asked, logged, remove, sh, shown
from tests.integration.verbs import sweep
from tests.reliability.support import eventually, inits, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

PLAIN = "echo up; exec sleep 600"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, *options: str) -> None:
    for words in (("create", "--name", name, *options, *sh(PLAIN)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0
    logged(caller.daemon, name, "up\n")


def rename(caller: Caller, container: str, body: Any) -> tuple[int, Any]:
    """POST …/rename as the caller."""
    return asked(caller, "POST", f"/v1/containers/{container}/rename", body)


def names(caller: Caller) -> list[str]:
    return sorted(dkrctl(caller, "ps", "-a", "--format", "{{.Names}}").stdout.split())


def written(daemon: Daemon, container: str) -> set[str]:
    """What root's files call it."""
    told = set()
    for directory in (daemon.run_dir, daemon.state_dir):
        place: Path = directory / "containers" / container
        for file in ("state.json", "config.json"):
            if (place / file).exists():
                document = json.loads((place / file).read_text())
                told.add(document["dkr"]["name"] if file == "config.json" else document["name"])
    return told


def test_in_each_of_its_lives(caller: Caller) -> None:
    # Names that are the beginning of no id.
    made = dkrctl(caller, "create", "--name", "p", *sh(PLAIN)).stdout.strip()
    for name, act in (
        ("q", ("start", "q")),
        ("r", ("pause", "r")),
        ("s", ("stop", "s")),
        ("t", ("start", "t")),
    ):
        before = names(caller)
        done = dkrctl(caller, "rename", *before, name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert names(caller) == [name]
        assert shown(caller.daemon, made)["name"] == name
        assert written(caller.daemon, made) == {name}
        assert dkrctl(caller, "inspect", *before).returncode == 1
        assert dkrctl(caller, *act).returncode == 0
    # What the guardian says has the name, too, and its old one is free.
    with Stream(caller.daemon, f"{made}/attach") as stream:
        assert stream.until("attached")["name"] == "t"
    for name in "pqrs":
        assert dkrctl(caller, "create", "--name", name, "/bin/true").returncode == 0


def test_one_that_goes_when_it_ends(caller: Caller) -> None:
    with caller.start("--name", "old", *sh("echo up; read x"), text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert dkrctl(caller, "rename", "old", "new").returncode == 0
        assert dkrctl(caller, "logs", "new").stderr.count("cannot read the log of new") == 1
        assert client.communicate("x\n")[0] == ""
        assert client.returncode == 0
    eventually(lambda: not caller.containers(), "it is gone")
    assert dkrctl(caller, "create", "--name", "new", "/bin/true").returncode == 0


def test_a_name_that_is_taken(caller: Caller) -> None:
    started(caller, "runs")
    assert dkrctl(caller, "create", "--name", "made", "/bin/true").returncode == 0
    for container, name in (("runs", "made"), ("made", "runs"), ("runs", "runs")):
        status, problem = rename(caller, container, {"name": name})
        assert (status, problem["code"]) == (409, "conflict")
        assert f'cannot use the name "{name}"' in problem["detail"]
    assert names(caller) == ["made", "runs"]
    # What was refused has taken nothing.
    assert rename(caller, "nosuch", {"name": "free"})[0] == 404
    assert dkrctl(caller, "rename", "made", "free").returncode == 0


def test_of_two_at_once_one_has_it(root: Caller) -> None:
    for name in "ab":
        assert dkrctl(root, "create", "--name", name, "/bin/true").returncode == 0
    clients = [root.daemon.popen("rename", name, "c", stderr=subprocess.DEVNULL) for name in "ab"]
    assert sorted(client.wait(SHELL_SECONDS) for client in clients) == [0, 1]
    assert len(names(root)) == 2
    assert "c" in names(root)


def test_names_are_of_each_user(daemon: Daemon, root: Caller, tenant: User) -> None:
    them = Caller(daemon, tenant)
    started(root, "one")
    started(them, "two")
    assert dkrctl(them, "rename", "two", "one").returncode == 0
    theirs, own = (shown(daemon, one["id"]) for one in sorted(root.containers(), key=lambda c: -c["uid"]))
    assert (theirs["name"], own["name"]) == ("one", "one")
    assert rename(them, own["id"], {"name": "x"})[0] == 404
    # An admin may; the name is among its owner's.
    assert rename(root, theirs["id"], {"name": "three"}) == (204, None)
    assert dkrctl(them, "inspect", "-f", "{{.name}}", "three").stdout == "three\n"


def test_whoever_is_started_anew_knows(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    daemon = root.daemon
    started(root, "runs")
    assert dkrctl(root, "create", "--name", "made", "/bin/true").returncode == 0
    for old, new in (("runs", "running"), ("made", "resting")):
        assert dkrctl(root, "rename", old, new).returncode == 0
    [api] = [process for process in daemon.processes() if process.comm == "dkr-api"]
    kill_and_wait(api)
    eventually(lambda: dkrctl(root, "version").returncode == 0, "another one answers")
    assert names(root) == ["resting", "running"]
    daemon.kill()
    daemon.start()
    assert names(root) == ["resting", "running"]
    assert rename(root, "running", {"name": "resting"})[0] == 409
    assert dkrctl(root, "rename", "running", "later").returncode == 0
    kill_and_wait(the_shim(daemon))
    assert names(root) == ["later", "resting"]
    status, problem = rename(root, "later", {"name": "x"})
    assert (status, problem["rule"]) == (409, "unguarded")
    [init] = inits(daemon)
    host.kill(init)
    eventually(lambda: shown(daemon, "later")["status"] == "stopped", "its end is found out")
    assert rename(root, "later", {"name": "last"}) == (204, None)
    daemon.kill()
    daemon.start()
    assert names(root) == ["last", "resting"]
    for name in ("last", "resting"):
        assert dkrctl(root, "start", name).returncode == 0
        remove(daemon, name)


def test_one_whose_rename_was_cut_off_is_called_as_its_state_says(root: Caller) -> None:
    made = dkrctl(root, "create", "--name", "it", *sh(PLAIN)).stdout.strip()
    file = root.daemon.state_dir / "containers" / made / "config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "dkr": {**document["dkr"], "name": "half"}}))
    assert dkrctl(root, "start", "it").returncode == 0
    with Stream(root.daemon, "it/attach") as stream:
        assert stream.until("attached")["name"] == "it"


@pytest.mark.parametrize("name", ["", "-x", "a b", "ä", "x" * 129, None, 1])
def test_a_name_that_is_none(root: Caller, name: Any) -> None:
    status, problem = rename(root, "x", {"name": name})
    assert (status, problem["fields"][0]["path"]) == (400, "name")


@pytest.mark.parametrize("words", [(), ("a",), ("a", "b", "c"), ("nosuch", "b"), ("../a", "b")])
def test_a_call_that_is_none(root: Caller, words: tuple[str, ...]) -> None:
    done = dkrctl(root, "rename", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot " in done.stderr


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        await dkr.rename("it", "other")
        assert (await dkr.inspect("other")).name == "other"

    started(caller, "it")
    drive(caller, scenario)
