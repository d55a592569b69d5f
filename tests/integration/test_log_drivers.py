"""Where a container's output goes (`--log-driver`, `--log-opt`), against a real daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import asked, lines, made, sh, start, wait
from tests.integration.verbs import sweep
from tests.reliability.support import ask, assert_same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    yield
    sweep(daemon)
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def run(caller: Caller, *words: str) -> Any:
    return caller.daemon.dkrctl(*words, user=caller.user)


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [int(line["log"]) for line in found]


def test_its_files_are_as_small_as_was_asked(caller: Caller) -> None:
    words = ("--log-driver", "json-file", "--log-opt", "max-size=8k", "--log-opt", "max-file=2")
    done = run(caller, "run", "-d", "--name", "small", *words, *sh("seq 5000"))
    assert done.returncode == 0, done.stderr
    run(caller, "wait", "small")
    found = run(caller, "logs", "small").stdout.split()
    assert found[-1] == "5000"
    assert 50 < len(found) < 400
    directory = caller.daemon.state_dir / "containers" / done.stdout.strip()
    files = sorted(path.name for path in directory.iterdir() if path.name.startswith("container.log"))
    assert files == ["container.log", "container.log.1"]
    assert all((directory / name).stat().st_size <= 8192 for name in files)


def test_options_alone_are_of_the_usual_driver_and_count_at_each_start(daemon: Daemon) -> None:
    wanted = {"options": {"max-size": "4096", "max-file": "1"}}
    with made(daemon, *sh("seq 1000"), log=wanted) as name:
        for _ in range(2):
            wait(daemon, name)
            assert numbers(lines(daemon, name))[-1] == 1000
            assert len(lines(daemon, name)) < 100
            start(daemon, name)
        wait(daemon, name)


def test_none_is_kept_and_logs_says_so(caller: Caller) -> None:
    done = run(caller, "run", "-d", "--name", "quiet", "--log-driver", "none", *sh("seq 200000; sleep 600"))
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        said = run(caller, "logs", "quiet")
        assert (said.returncode, said.stdout) == (1, "")
        assert "its log driver is none, nothing of its output is kept" in said.stderr
        assert "rule: log-none" in said.stderr
        run(caller, "kill", "quiet")  # the second time no guardian is there to say it
        run(caller, "wait", "quiet")
    directory = caller.daemon.state_dir / "containers" / done.stdout.strip()
    assert not [path for path in directory.iterdir() if path.name.startswith("container.log")]


def test_who_is_attached_gets_what_nobody_keeps(caller: Caller) -> None:
    assert run(caller, "create", "--name", "quiet", "--log-driver", "none", *sh("echo out")).returncode == 0
    assert run(caller, "start", "-a", "quiet").stdout == "out\n"


def test_that_of_others_is_not_found(daemon: Daemon, tenant: User) -> None:
    with made(daemon, "/bin/sleep", "600", log={"driver": "none"}) as name:
        said = run(Caller(daemon, tenant), "logs", name)
        assert "rule" not in said.stderr
        assert "cannot find" in said.stderr


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"driver": "syslog"}, "log.driver", "one of json-file, none, passthrough, journald is wanted"),
    ({"driver": "none", "options": {"mode": "blocking"}}, "log.options.mode", "which takes none"),
    ({"options": {"max-fil": "3"}}, "log.options.max-fil", "no option of the log driver json-file"),
    ({"options": {"tag": "x"}}, "log.options.tag", "no option of the log driver json-file"),
    ({"options": {"max-size": "10"}}, "log.options.max-size", "a size from 4096 bytes"),
    ({"options": {"max-size": "-1"}}, "log.options.max-size", "a size from 4096 bytes"),
    ({"options": {"max-size": "1.5m"}}, "log.options.max-size", "a size from 4096 bytes"),
    ({"options": {"max-size": 5000}}, "log.options.max-size", "a string is wanted"),
    ({"options": {"max-file": "0"}}, "log.options.max-file", "from 1 to 100"),
    ({"options": {"max-file": "101"}}, "log.options.max-file", "from 1 to 100"),
    ({"options": {"mode": "fast"}}, "log.options.mode", "blocking or non-blocking is wanted"),
    (
        {"options": {"max-buffer-size": "1m"}, "driver": "journald"},
        "log.options.max-buffer-size",
        "mode=non-b",
    ),
    ({"options": {"mode": "non-blocking", "max-buffer-size": "1g"}}, "log.options.max-buffer-size", "to 4m"),
    ({"driver": "journald", "options": {"tag": "{{.Name}}"}}, "log.options.tag", "templates"),
    ({"name": "json-file"}, "log.name", "an unknown key"),
    ({"driver": "passthrough"}, "log.driver", "they cannot be kept"),
    ({"options": []}, "log.options", "an object of strings is wanted"),
]


def test_what_is_refused_by_name(daemon: Daemon) -> None:
    for log, path, message in WRONG:
        status, problem = ask(daemon, "POST", "/v1/containers", {"args": ["/bin/true"], "log": log})
        assert (status, problem["code"]) == (400, "bad-request")
        assert [field["path"] for field in problem["fields"]] == [path]
        assert message in problem["fields"][0]["message"]


def test_what_is_refused_on_the_command_line(root: Caller) -> None:
    for words, said in (
        (("create", "--log-driver", "syslog", "/bin/true"), "--log-driver"),
        (("create", "--log-opt", "max-size", "/bin/true"), "KEY=VALUE is wanted"),
        (("create", "--log-opt", "size=1m", "/bin/true"), "--log-opt size=1m: no option"),
        (("create", "--log-driver", "passthrough", "/bin/true"), "--log-driver passthrough: "),
    ):
        done = run(root, *words)
        assert done.returncode in (1, 125), words
        assert said in done.stderr, words


def test_a_run_may_say_that_nothing_is_kept(caller: Caller) -> None:
    for driver in ("none", "passthrough"):
        assert run(caller, "run", "--rm", "--log-driver", driver, "/bin/echo", "here").stdout == "here\n"


def test_of_a_plain_run_nothing_can_be_kept(daemon: Daemon) -> None:
    for driver in ("json-file", "passthrough", "journald"):
        status, problem = ask(daemon, "POST", "/v1/run", {"args": ["/bin/true"], "log": {"driver": driver}})
        assert (status, problem["fields"][0]["path"]) == (400, "log.driver")
    assert ask(daemon, "POST", "/v1/run", {"args": ["/bin/true"], "log": {"driver": "none"}})[0] == 200


# --- how much a tenant may keep


def test_a_tenants_log_has_a_ceiling(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(limits={"log_max_size": 8192, "log_max_files": 4})

    def made_by(user: Any, *options: str) -> Any:
        return daemon.dkrctl("create", *options, "/bin/true", user=user)

    many = ("--log-opt", "max-size=4096", "--log-opt", "max-file=8")
    assert made_by(tenant, *many).returncode == 0  # as much, in other pieces
    more = ("--log-opt", "max-size=4097", "--log-opt", "max-file=8")
    done = made_by(tenant, *more)
    assert done.returncode == 1
    assert "at most 32768 are possible" in done.stderr
    assert "rule: log-size" in done.stderr
    assert made_by(None, *more).returncode == 0  # root
    # Over plain HTTP nothing proves that an admin asked for it.
    log = {"options": {"max-size": "1m"}}
    status, problem = ask(daemon, "POST", "/v1/containers", {"args": ["/bin/true"], "log": log})
    assert (status, problem["rule"]) == (403, "http")
    body = {"args": ["/bin/true"], "log": log}
    status, problem = asked(Caller(daemon, tenant), "POST", "/v1/containers", body)
    assert (status, problem["rule"]) == (403, "log-size")
    sweep(daemon)


def test_the_journal_is_for_admins(daemon: Daemon, tenant: User) -> None:
    done = run(Caller(daemon, tenant), "create", "--log-driver", "journald", "/bin/true")
    assert done.returncode == 1
    assert "rule: log-journald" in done.stderr
    body = {"args": ["/bin/true"], "log": {"driver": "journald"}}
    status, problem = ask(daemon, "POST", "/v1/containers", body)
    assert (status, problem["rule"]) == (403, "http")


def test_the_python_client_says_it_too(daemon: Daemon) -> None:
    async def scenario() -> list[bytes]:
        async with Client(daemon.socket) as dkr:
            log = {"driver": "json-file", "options": {"max-size": "4k", "max-file": "1"}}
            await dkr.create(*sh("seq 1000"), name="small", log=log)
            await dkr.start("small")
            await dkr.wait("small")
            return [line.data async for line in dkr.logs("small")]

    found = asyncio.run(scenario())
    assert found[-1] == b"1000\n"
    assert len(found) < 100


# --- the caller's own descriptors


def test_a_detached_one_has_the_descriptors_of_who_started_it(caller: Caller) -> None:
    """And runs on when that has gone, also where it is to be removed at its end."""
    words = ("run", "-d", "--rm", "--name", "own", "--log-driver", "passthrough")
    read, write = os.pipe()
    with os.fdopen(read, "rb") as output:
        line = "read word; echo got $word; echo oops >&2; read word; echo got $word"
        client = caller.daemon.popen(
            *words, *sh(line), user=caller.user, stdin=subprocess.PIPE, stdout=write, stderr=write
        )
        os.close(write)
        with client:
            assert client.stdin is not None
            assert client.wait(SHELL_SECONDS) == 0
            said = run(caller, "logs", "own")
            assert "rule: no-log" in said.stderr
            assert run(caller, "ps", "--format", "{{.Names}}").stdout == "own\n"
            client.stdin.write(b"one\ntwo\n")
            client.stdin.close()
            # The end of the file: nobody else has the descriptor any more, no client and no guardian.
            assert output.read() == b"got one\noops\ngot two\n"


def test_its_id_is_in_the_file_of_that(root: Caller, tmp_path: Path) -> None:
    words = ("--name", "own", "--log-driver", "passthrough", "--cidfile", str(tmp_path / "id"))
    done = run(root, "run", "-d", *words, "/bin/echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n")
    container = (tmp_path / "id").read_text()
    run(root, "wait", "own")
    again = run(root, "start", "own")
    assert "rule: descriptors" in again.stderr
    assert container == run(root, "inspect", "--format", "{{.id}}", "own").stdout.strip()


def test_no_terminal_is_passed(root: Caller) -> None:
    master, theirs = os.openpty()
    try:
        words = ("run", "-d", "--name", "own", "--log-driver", "passthrough")
        done = root.daemon.dkrctl(*words, "/bin/true", stdout=theirs)
        assert done.returncode == 125
        assert "cannot pass descriptor 1 to a container without a client: it is a terminal" in done.stderr
        done = run(root, *words, "-t", "/bin/true")
        assert "cannot give the command a terminal" in done.stderr
    finally:
        os.close(master)
        os.close(theirs)
    assert run(root, "ps", "-aq").stdout == ""


def test_a_command_that_is_not_there_is_told_to_who_leaves(caller: Caller) -> None:
    done = run(caller, "run", "-d", "--log-driver", "passthrough", "/nothing/there")
    assert (done.returncode, done.stdout) == (127, "")
    assert run(caller, "ps", "-aq").stdout == ""
