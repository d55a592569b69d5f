"""The processes of a container, as dkrctl, HTTP and Python tell of them."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common import ps_columns
from tests import host
from tests.integration.conftest import Caller
from tests.integration.kept import asked, logged, remove, sh, shown
from tests.integration.verbs import sweep
from tests.reliability.support import eventually, inits, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
TWO = "sleep 600 & echo up; exec sleep 601"


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line, and has said `up`."""
    begin(caller, name, *options, *sh(line))


def begin(caller: Caller, name: str, *words: str) -> None:
    for verb in (("create", "--name", name, *words), ("start", name)):
        assert dkrctl(caller, *verb).returncode == 0
    logged(caller.daemon, name, "up\r\n" if "-t" in words else "up\n")


def top(caller: Caller, name: str) -> list[dict[str, str]]:
    """GET …/top as the caller: a process by its titles."""
    status, answer = asked(caller, "GET", f"/v1/containers/{name}/top")
    assert status == 200, answer
    assert set(answer) == {"titles", "processes"}
    assert answer["titles"] == TITLES
    return [dict(zip(TITLES, process, strict=True)) for process in answer["processes"]]


def commands(caller: Caller, name: str, *wanted: str) -> list[dict[str, str]]:
    """Its processes, once they are what these lines say: a shell is still one for a moment when it has said that it is up."""
    found: list[dict[str, str]] = []

    def there() -> bool:
        found[:] = top(caller, name)
        return sorted(process["CMD"] for process in found) == sorted(wanted)

    eventually(there, f"{wanted} run")
    return found


def asleep(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same, once they sleep: what was just executed is still being loaded, and its size and state change."""
    for process in found:
        place = Path(f"/proc/{process['PID']}/wchan")
        eventually(lambda place=place: "nanosleep" in place.read_text(), "it sleeps")  # type: ignore[misc]
    return found


def test_who_runs_and_whose_child_it_is(caller: Caller) -> None:
    started(caller, "it", TWO, "-u", "7:8")
    processes = commands(caller, "it", "sleep 600", "sleep 601")
    first = shown(caller.daemon, "it")["pid"]
    by = {process["CMD"]: process for process in processes}
    assert by["sleep 601"]["PID"] == str(first)
    assert by["sleep 600"]["PPID"] == str(first)
    assert {process["UID"] for process in processes} == {"7"}
    assert {(process["TTY"], process["TIME"], process["C"]) for process in processes} == {
        ("?", "00:00:00", "0")
    }
    done = dkrctl(caller, "top", "it")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == TITLES
    assert sorted(line.split(maxsplit=7)[7] for line in lines) == ["sleep 600", "sleep 601"]
    assert [line.split()[1] for line in lines] == sorted((p["PID"] for p in processes), key=int)


def test_a_terminal_and_processor_time(root: Caller) -> None:
    begun = time.monotonic()
    started(root, "it", "echo up; while :; do :; done", "-t", "-i")
    [process] = top(root, "it")
    assert process["TTY"] == "pts/0"
    eventually(lambda: top(root, "it")[0]["TIME"] != "00:00:00", "a second of its time is over")
    # Of a second at least, however much of the machine others have.
    share = int(top(root, "it")[0]["C"])
    assert 100 // (time.monotonic() - begun) <= share <= 100


# Those that stay as they are between two looks, less terminals, of which the host has none of such a number.
STABLE = "pid,ppid,pgid,pgrp,sid,sess,stat,state,s,ni,nice,pri,nlwp,thcount,vsz,rss,comm,args,command,cmd"


@pytest.mark.parametrize("options", [(), ("-t", "-i")], ids=["pipes", "terminal"])
def test_the_columns_are_those_of_ps(root: Caller, options: tuple[str, ...]) -> None:
    if shutil.which("ps") is None:
        pytest.skip("there is no ps to compare with")
    started(root, "it", "nice -n 5 sleep 600 & echo up; exec sleep 601", *options)
    processes = asleep(commands(root, "it", "sleep 600", "sleep 601"))
    found = dkrctl(root, "top", "it", "-eo", STABLE)
    numbers = ",".join(process["PID"] for process in processes)
    said = subprocess.run(
        ["ps", "-ww", "-o", STABLE, "-p", numbers], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split() for line in found.stdout.splitlines()] == [
        line.split() for line in said.splitlines()
    ]
    every = ",".join(ps_columns.TITLES)
    heading = subprocess.run(
        ["ps", "-ww", "-o", every, "-p", numbers], capture_output=True, text=True, check=True
    )
    assert list(ps_columns.TITLES.values()) == heading.stdout.splitlines()[0].split()
    status, answer = asked(root, "GET", f"/v1/containers/it/top?columns={every.replace('%', '%25')}")
    assert (status, answer["titles"]) == (200, list(ps_columns.TITLES.values()))
    ages = {process[answer["titles"].index("ELAPSED")].count(":") for process in answer["processes"]}
    assert ages == {1}


def test_the_columns_of_aux(caller: Caller) -> None:
    started(caller, "it", TWO, "-u", "7:8")
    commands(caller, "it", "sleep 600", "sleep 601")
    for words in (("aux",), ("-aux",)):
        heading, *lines = dkrctl(caller, "top", "it", *words).stdout.splitlines()
        assert heading.split() == "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND".split()
        assert {line.split()[0] for line in lines} == {"7"}
    assert dkrctl(caller, "top", "it", "-ef").stdout.split()[:8] == TITLES
    status, problem = asked(caller, "GET", "/v1/containers/it/top?columns=pid,nosuch")
    assert (status, problem["fields"][0]["path"]) == (400, "columns")


def test_what_a_process_is_called_does_not_steer_a_terminal(root: Caller) -> None:
    begin(root, "it", "/bin/bash", "-c", "echo up; exec -a $'evil\\033[31m\\nPID' sleep 600")
    commands(root, "it", "evil\x1b[31m\nPID 600")
    done = dkrctl(root, "top", "it")
    assert "\x1b" not in done.stdout
    assert "evil\\x1b[31m\\nPID 600" in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_long_arguments_and_many_processes(root: Caller) -> None:
    line = "x=$(printf '%02000d' 0); for i in $(seq 600); do (exec -a \"$x\" sleep 600) & done; echo up; wait"
    begin(root, "it", "/bin/bash", "-c", line)
    eventually(lambda: top_of_many(root)["omitted"] > 100, "they run")
    answer = top_of_many(root)
    assert 300 < len(answer["processes"]) < 500
    assert max(len(process[7]) for process in answer["processes"]) == 1024
    done = dkrctl(root, "top", "it")
    assert done.returncode == 0
    assert "more are not shown" in done.stderr


def top_of_many(caller: Caller) -> Any:
    status, answer = asked(caller, "GET", "/v1/containers/it/top")
    assert status == 200
    return {"omitted": 0, **answer}


def test_one_that_is_paused_and_one_without_a_guardian(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", TWO)
    commands(root, "it", "sleep 600", "sleep 601")
    assert dkrctl(root, "pause", "it").returncode == 0
    commands(root, "it", "sleep 600", "sleep 601")
    kill_and_wait(the_shim(root.daemon))
    commands(root, "it", "sleep 600", "sleep 601")
    for process in inits(root.daemon):
        host.kill(process)
    eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "its end is found out")
    remove(root.daemon, "it")


def test_only_of_what_runs(caller: Caller) -> None:
    assert dkrctl(caller, "create", "--name", "it", "/bin/true").returncode == 0
    for rule in ("not-started", "ended"):
        status, problem = asked(caller, "GET", "/v1/containers/it/top")
        assert (status, problem["rule"]) == (409, rule)
        assert dkrctl(caller, "top", "it").returncode == 1
        assert dkrctl(caller, "start", "it").returncode == 0
        assert dkrctl(caller, "wait", "it").returncode == 0


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    started(root, "theirs", TWO)
    assert dkrctl(Caller(daemon, tenant), "top", "theirs").returncode == 1
    assert (
        asked(Caller(daemon, tenant), "GET", f"/v1/containers/{shown(daemon, 'theirs')['id']}/top")[0] == 404
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "cannot top: no container is named"),
        (("it", "--forest"), "cannot take --forest: no program ps is run"),
        (("it", "other"), "cannot take other: no program ps is run"),
        (("it", "-o", "pid,nosuch"), "cannot show the column nosuch"),
        (("it", "-o", "pid=X"), "cannot show the column pid=X"),
        (("it", "-o"), "its columns are missing"),
        (("nosuch",), 'cannot find container "nosuch"'),
    ],
)
def test_a_call_that_is_none(root: Caller, words: tuple[str, ...], said: str) -> None:
    done = dkrctl(root, "top", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        found = await dkr.top("it")
        assert list(found.titles) == TITLES
        assert {process[7] for process in found.processes} == {"sleep 600", "sleep 601"}
        chosen = await dkr.top("it", ["args", "s"])
        assert (chosen.titles, set(chosen.processes)) == (
            ("COMMAND", "S"),
            {("sleep 600", "S"), ("sleep 601", "S")},
        )

    started(caller, "it", TWO)
    asleep(commands(caller, "it", "sleep 600", "sleep 601"))
    drive(caller, scenario)
