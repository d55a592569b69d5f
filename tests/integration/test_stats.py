"""What containers use of the machine, as dkrctl, HTTP and Python tell of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.daemon import Daemon
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, logged, remove, sh, shown
from tests.integration.terminals import Terminal
from tests.integration.verbs import sweep
from tests.reliability.support import ask, ask_bytes, eventually, inits, kill_and_wait, the_shim
from tests.sdk import drive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dkrctl.client import Client
    from tests.conftest import MakeDaemon
    from tests.host import User

pytestmark = pytest.mark.root

PLAIN = "echo up; exec sleep 600"
BUSY = "echo up; while :; do :; done"
HEADINGS = ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]
V1_ALONE = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'umount /sys/fs/cgroup/unified && exec "$@"',
    "sh",
)


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def dkrctl(caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
    return caller.daemon.dkrctl(*words, user=caller.user)


def started(caller: Caller, name: str, line: str, *options: str) -> None:
    """One that runs a line, and has said `up`."""
    for words in (("create", "--name", name, *options, *sh(line)), ("start", name)):
        assert dkrctl(caller, *words).returncode == 0
    logged(caller.daemon, name, "up\n")


def measured(caller: Caller) -> dict[str, dict[str, Any]]:
    """GET /v1/stats as the caller, by name."""
    status, answer = asked(caller, "GET", "/v1/stats")
    assert status == 200, answer
    return {one["name"]: one for one in answer}


def once(caller: Caller, *words: str) -> list[dict[str, Any]]:
    """What `stats --no-stream --format json` prints."""
    done = dkrctl(caller, "stats", "--no-stream", "--format", "json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


# what is measured


def test_what_the_kernel_counts(caller: Caller) -> None:
    line = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 600 & echo up; wait"
    started(caller, "it", line, "-m", "64m", "--pids-limit", "17")
    found = measured(caller)["it"]
    assert found["id"] == shown(caller.daemon, "it")["id"]
    assert found["memoryLimit"] == 64 << 20
    assert 20_000_000 < found["memoryUsage"] < 64 << 20
    assert (found["pids"], found["pidsLimit"]) == (2, 17)
    assert found["cpuUsage"] > 0
    [shown_] = once(caller, "it")
    assert shown_["MemUsage"].endswith(" / 64MiB")
    assert shown_["PIDs"] == "2"
    assert float(shown_["MemPerc"].removesuffix("%")) > 30


def test_without_bounds_there_is_the_machine(root: Caller) -> None:
    started(root, "it", PLAIN)
    found = measured(root)["it"]
    assert found["memoryLimit"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert "pidsLimit" not in found


def test_a_share_of_a_processor(root: Caller) -> None:
    started(root, "busy", BUSY)
    started(root, "idle", PLAIN)
    shares = {one["Name"]: float(one["CPUPerc"].removesuffix("%")) for one in once(root)}
    assert shares["busy"] > 5 * shares["idle"]
    assert 5 < shares["busy"] < 150


def test_on_cgroup_v1(prefix: Path) -> None:
    daemon = Daemon.create(prefix)
    daemon.wrapper = V1_ALONE
    try:
        daemon.start()
        root = Caller(daemon, None)
        started(root, "it", PLAIN, "-m", "64m")
        found = measured(root)["it"]
        assert (found["memoryLimit"], found["pids"]) == (64 << 20, 1)
        [line] = once(root)
        assert line["MemUsage"].endswith(" / 64MiB")
        remove(daemon, "it")
    finally:
        daemon.close()


def test_one_that_is_paused_and_one_without_a_guardian(make_daemon: MakeDaemon) -> None:
    root = Caller(make_daemon(), None)
    started(root, "it", PLAIN)
    assert dkrctl(root, "pause", "it").returncode == 0
    assert measured(root)["it"]["pids"] == 1
    kill_and_wait(the_shim(root.daemon))
    assert measured(root)["it"]["pids"] == 1
    for process in inits(root.daemon):
        host.kill(process)
    eventually(lambda: shown(root.daemon, "it")["status"] == "stopped", "its end is found out")
    assert measured(root) == {}
    remove(root.daemon, "it")


# by HTTP


def test_a_line_of_one(caller: Caller) -> None:
    started(caller, "it", PLAIN)
    status, data = ask_bytes(caller.daemon, "GET", "/v1/containers/it/stats")
    assert status == 200
    [line] = data.splitlines()
    assert json.loads(line)["name"] == "it"


def test_lines_until_it_ends(root: Caller) -> None:
    started(root, "it", BUSY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SHELL_SECONDS)
        sock.connect(str(root.daemon.socket))
        connection = http.client.HTTPConnection("dkr")
        connection.sock = sock
        connection.request("GET", "/v1/containers/it/stats?stream=true")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        first, second = (json.loads(answer.readline()) for _ in range(2))
        assert second["cpuUsage"] > first["cpuUsage"]
        assert second["read"] > first["read"]
        assert dkrctl(root, "kill", "it").returncode == 0
        # Another line may have come before its end.
        while last := answer.readline():
            assert json.loads(last)["name"] == "it"
        answer.close()


def test_who_does_not_read_holds_nobody(root: Caller) -> None:
    started(root, "it", PLAIN)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(root.daemon.socket))
        sock.sendall(b"GET /v1/containers/it/stats?stream=true HTTP/1.1\r\nHost: dkr\r\n\r\n")
        assert sock.recv(1) == b"H"
        assert measured(root)["it"]["pids"] == 1
        assert dkrctl(root, "stop", "it").returncode == 0


def test_only_of_what_runs(caller: Caller) -> None:
    assert dkrctl(caller, "create", "--name", "it", "/bin/true").returncode == 0
    for rule in ("not-started", "ended"):
        status, problem = asked(caller, "GET", "/v1/containers/it/stats")
        assert (status, problem["rule"]) == (409, rule)
        assert measured(caller) == {}
        assert dkrctl(caller, "start", "it").returncode == 0
        assert dkrctl(caller, "wait", "it").returncode == 0


def test_others_containers_are_not_there(daemon: Daemon, root: Caller, tenant: User) -> None:
    theirs, them = shown_after(root, "theirs"), Caller(daemon, tenant)
    started(them, "own", PLAIN)
    assert set(measured(them)) == {"own"}
    assert set(measured(root)) == {"theirs", "own"}
    assert asked(them, "GET", f"/v1/containers/{theirs['id']}/stats")[0] == 404
    assert [one["Name"] for one in once(them)] == ["own"]
    done = dkrctl(them, "stats", "--no-stream", "theirs", "own")
    assert done.returncode == 1
    assert "no container has this id or name" in done.stderr
    assert "own" in done.stdout


def shown_after(caller: Caller, name: str) -> dict[str, Any]:
    started(caller, name, PLAIN)
    return shown(caller.daemon, name)


@pytest.mark.parametrize("query", ["stream=yes", "stream=true&stream=true", "x=1"])
def test_a_query_that_is_none(root: Caller, query: str) -> None:
    assert ask(root.daemon, "GET", f"/v1/containers/x/stats?{query}")[0] == 400
    assert ask(root.daemon, "GET", f"/v1/stats?{query}")[0] == 400


# dkrctl


def test_a_table_once(caller: Caller) -> None:
    for name in ("one", "two"):
        started(caller, name, PLAIN)
    assert dkrctl(caller, "create", "--name", "made", "/bin/true").returncode == 0
    done = dkrctl(caller, "stats", "--no-stream")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = done.stdout.splitlines()
    assert re.split(r" {2,}", heading.strip()) == HEADINGS
    assert [row.split()[1] for row in rows] == ["two", "one"]
    assert {row.split()[0] for row in rows} == {one["id"][:12] for one in measured(caller).values()}
    every = dkrctl(caller, "stats", "--no-stream", "-a").stdout.splitlines()[1:]
    assert [row.split()[1] for row in every] == ["two", "one", "made"]
    assert set(every[2].split()[2:]) == {"--"}
    assert (
        dkrctl(caller, "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "two").stdout == "two 1\n"
    )
    [whole] = once(caller, "--no-trunc", "one")
    assert whole["ID"] == measured(caller)["one"]["id"]


def test_into_a_pipe_nothing_steers(root: Caller) -> None:
    started(root, "it", PLAIN)
    with root.daemon.popen("stats", "it", stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        lines = [client.stdout.readline() for _ in range(4)]
        assert lines[0].split() == lines[2].split() == " ".join(HEADINGS).split()
        assert [line.split()[1] for line in lines[1::2]] == ["it", "it"]
        assert dkrctl(root, "stop", "it").returncode == 0
        rest = client.stdout.read()
    assert client.returncode == 0  # none that was named runs any more
    assert "\x1b" not in "".join(lines) + rest


@pytest.mark.parametrize(("columns", "last"), [(140, "PIDS"), (80, "MEM %")])
def test_at_a_terminal_it_is_drawn_anew(root: Caller, columns: int, last: str) -> None:
    """With its curve, on one of 80 columns too: there other columns give way."""
    started(root, "it", BUSY)
    with Terminal(root) as terminal:
        terminal.resize(24, columns)
        with root.daemon.popen("stats", env={"TERM": "xterm"}, **terminal.here()) as client:
            terminal.client = client
            terminal.until(f"CONTAINER ID.*{last}")
            terminal.until("it .*%.*\r\n")
            # Two lines up, erased, and a longer curve.
            terminal.until("\x1b\\[2A\r\x1b\\[J")
            terminal.until("it .*[▁▂▃▄▅▆▇█]{2}")
            terminal.type("\x03")
            assert terminal.status() == -signal.SIGINT


def test_a_terminal_that_knows_no_cursor_gets_one_table_after_the_other(root: Caller) -> None:
    started(root, "it", BUSY)
    with (
        Terminal(root) as terminal,
        root.daemon.popen("stats", env={"TERM": "dumb"}, **terminal.here()) as client,
    ):
        terminal.client = client
        for _ in range(2):
            terminal.until("^CONTAINER ID.*\r\n.* it .*%.*\r\n")
        terminal.type("\x03")
        assert terminal.status() == -signal.SIGINT


def test_names_that_are_not_there(root: Caller) -> None:
    done = dkrctl(root, "stats", "nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'cannot find container "nosuch"' in done.stderr
    done = dkrctl(root, "stats", "--format", "{{.Nosuch}}")
    assert done.returncode == 1
    assert "Nosuch" in done.stderr


def test_one_that_is_named_and_does_not_run(root: Caller) -> None:
    assert dkrctl(root, "create", "--name", "made", "/bin/true").returncode == 0
    done = dkrctl(root, "stats", "made")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[1:] == ["made", *["--"] * 6]


def test_by_python(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        [one] = await dkr.stats()
        assert (one.name, one.pids) == ("it", 1)
        seen = []
        async for found in dkr.follow_stats("it"):
            seen.append(found)
            if len(seen) == 2:
                await dkr.kill("it")
        assert seen[0].read < seen[1].read
        assert await dkr.stats() == []

    started(caller, "it", PLAIN)
    drive(caller, scenario)
