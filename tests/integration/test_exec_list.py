"""What is executed in a container: listed, signalled; `dkrctl exec ls` and `exec kill`, and the same over HTTP."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import Caller
from tests.integration.kept import asked
from tests.integration.terminals import GUARD, Terminal
from tests.reliability.support import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture
def web(caller: Caller) -> Iterator[Caller]:
    """Somebody whose container `web` stands."""
    with caller.standing():
        yield caller


@contextmanager
def executing(caller: Caller, *words: str) -> Iterator[subprocess.Popen[str]]:
    """An exec that says `up`, for the block."""
    with caller.start_exec("web", *words) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "up\n"
            yield client
        finally:
            client.kill()


def ls(caller: Caller, *options: str) -> str:
    """What `dkrctl exec ls web` prints."""
    done = caller.exec("ls", *options, "web", check=True)
    assert done.stderr == ""
    return str(done.stdout)


def listed(caller: Caller) -> list[dict[str, Any]]:
    """As JSON."""
    return [json.loads(line) for line in ls(caller, "--format", "json").splitlines()]


def test_what_runs_is_listed_until_it_has_ended(web: Caller) -> None:
    assert listed(web) == []
    assert ls(web).split("\n")[1:] == [""]
    detached = web.exec("-d", "web", "/bin/sleep", "589", check=True).stdout.strip()
    with executing(web, "/bin/sh", "-c", "echo up; read word") as client:
        first, second = listed(web)
        assert (first["id"], first["args"], first["uid"], first["terminal"]) == (
            detached,
            ["/bin/sleep", "589"],
            web.uid,
            False,
        )
        assert second["pid"] in [process.pid for process in web.daemon.processes()]
        assert ls(web, "-q").splitlines() == [first["id"][:12], second["id"][:12]]
        assert ls(web, "-q", "--no-trunc").splitlines() == [first["id"], second["id"]]
        heading, row, _ = ls(web).splitlines()
        assert heading.split("   ")[0] == "EXEC ID"
        assert row.split()[:3] == [first["id"][:12], '"/bin/sleep', '589"']
        assert asked(web, "GET", "/v1/containers/web/execs") == (200, [first, second])
        client.communicate("go\n", GUARD)
    assert [entry["id"] for entry in listed(web)] == [detached]


def test_a_terminal_is_told(web: Caller) -> None:
    with Terminal(web) as terminal:
        terminal.exec("web", "/bin/sh", "-c", "echo up; read word")
        terminal.until("up\r\n")
        assert [entry["terminal"] for entry in listed(web)] == [True]
        terminal.type("go\r")
        assert terminal.status() == 0


def test_a_signal_for_one_of_them(web: Caller) -> None:
    line = "import signal; signal.signal(10, lambda *_: print('told', flush=True)); print('up', flush=True)\nwhile 1: signal.pause()"
    python = ("/usr/bin/python3", "-ISc", line)
    with executing(web, *python) as one, executing(web, *python) as other:
        ids = [entry["id"] for entry in listed(web)]
        done = web.exec("kill", "-s", "USR1", "web", ids[0][:12], check=True)
        assert done.stdout == f"{ids[0][:12]}\n"
        assert one.stdout is not None
        assert one.stdout.readline() == "told\n"
        assert asked(web, "POST", f"/v1/containers/web/execs/{ids[1]}/kill", {}) == (204, None)
        assert other.wait(GUARD) == 137
        assert [entry["id"] for entry in listed(web)] == [ids[0]]
        done = web.exec("kill", "web", "0" * 64, ids[0])
        assert (done.returncode, done.stdout) == (1, f"{ids[0]}\n")
        assert "nothing of this id is executed there" in done.stderr
        assert one.wait(GUARD) == 137


def test_a_detached_one_is_ended(web: Caller) -> None:
    container = web.exec("-d", "web", "/bin/sleep", "588", check=True).stdout.strip()
    web.exec("kill", "-s", "TERM", "web", container, check=True)
    eventually(lambda: listed(web) == [], "it has ended")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("ls",), "no container is named"),
        (("ls", "web", "other"), "one is wanted"),
        (("ls", "-q", "--format", "json", "web"), "cannot show ids only and by a format"),
        (("ls", "nosuch"), "cannot find"),
        (("kill",), "no container is named"),
        (("kill", "web"), "no exec is named"),
        (("kill", "web", "../x"), "that is no id"),
        (("kill", "web", "abc"), "cannot find exec 'abc'"),
        (("kill", "-s", "NOSUCH", "web", "abc"), "signal"),
    ],
)
def test_what_cannot_be_is_told(web: Caller, words: tuple[str, ...], error: str) -> None:
    done = web.exec(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert error in done.stderr


def test_an_id_of_which_two_begin_so(root: Caller) -> None:
    with root.standing():
        for _ in range(17):  # two of them have the same first digit
            root.exec("-d", "web", "/bin/sleep", "587", check=True)
        first = [entry["id"][0] for entry in listed(root)]
        twice = next(digit for digit in first if first.count(digit) > 1)
        done = root.exec("kill", "web", twice)
        assert (done.returncode, "give more of it" in done.stderr) == (1, True)


def test_anothers_are_not_there(root: Caller, tenant: User) -> None:
    mine = Caller(root.daemon, tenant)
    with root.standing() as container, executing(root, "/bin/sh", "-c", "echo up; read word"):
        [one] = listed(root)
        for name in ("web", container):
            assert asked(mine, "GET", f"/v1/containers/{name}/execs")[0] == 404
            target = f"/v1/containers/{name}/execs/{one['id']}/kill"
            assert asked(mine, "POST", target, {"signal": "KILL"})[0] == 404
        assert listed(root) == [one]


def test_of_one_that_does_not_run_nothing_is_told(root: Caller) -> None:
    root.daemon.dkrctl("create", "--name", "made", "/bin/true", check=True)
    try:
        assert asked(root, "GET", "/v1/containers/made/execs")[0] == 409
        assert asked(root, "POST", "/v1/containers/made/execs/abc/kill", {})[0] == 409
    finally:
        root.daemon.dkrctl("rm", "made", check=True)


def test_a_container_of_such_a_name_is_reached_by_its_id(root: Caller) -> None:
    with root.standing(name="ls") as container:
        assert root.exec(container, "/bin/echo", "here").stdout == "here\n"
