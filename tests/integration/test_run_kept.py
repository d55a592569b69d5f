"""`dkrctl run --log-driver json-file`: as a run, and what it writes is kept as well."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SHELL_SECONDS
from tests.integration.kept import sh
from tests.integration.terminals import Terminal
from tests.integration.verbs import sweep
from tests.reliability.support import assert_same, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root

KEPT = ("run", "--name", "web", "--log-driver", "json-file")


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    yield
    sweep(daemon)
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


def run(caller: Caller, *words: str, **options: Any) -> Any:
    return caller.daemon.dkrctl(*words, user=caller.user, **options)


def logged(caller: Caller) -> Any:
    return run(caller, "logs", "web")


def test_it_is_as_a_run_and_its_output_is_kept(caller: Caller) -> None:
    line = "read word; echo got $word; echo oops >&2; test -t 1 || echo none; exit 3"
    done = run(caller, *KEPT, *sh(line), input="one\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "got one\nnone\n", "oops\n")
    kept = logged(caller)
    assert (kept.stdout, kept.stderr) == (done.stdout, done.stderr)
    assert run(caller, "start", "-ai", "web", input="two\n").returncode == 3
    assert logged(caller).stdout == "got one\nnone\ngot two\nnone\n"


def test_nothing_is_lost_split_or_doubled(caller: Caller) -> None:
    number = 30_000
    line = f"seq {number}; seq {number} >&2; cat | sha256sum"
    data = b"x\n" * 500_000
    done = run(caller, *KEPT, *sh(line), input=data, text=False)
    whole = b"".join(b"%d\n" % n for n in range(1, number + 1))
    assert done.returncode == 0
    assert done.stderr == whole
    assert done.stdout == whole + hashlib.sha256(data).hexdigest().encode() + b"  -\n"
    kept = caller.daemon.dkrctl("logs", "web", user=caller.user, text=False)
    assert done.stderr.endswith(kept.stderr[-100_000:])  # what the files have room for
    assert done.stdout.endswith(kept.stdout)


def test_a_client_that_does_not_read_holds_the_command(root: Caller) -> None:
    with root.daemon.popen(*KEPT, *sh("seq 200000"), stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"1\n"
        assert any(one.comm == "seq" for one in root.daemon.processes())
        rest = client.stdout.read()
        assert client.wait(SHELL_SECONDS) == 0
    assert rest == b"".join(b"%d\n" % n for n in range(2, 200_001))


def test_at_a_terminal(caller: Caller) -> None:
    with Terminal(caller, 31, 87) as terminal:
        terminal.client = caller.daemon.popen(
            *KEPT, *sh("stty size; read word; echo got $word; exit 4"), user=caller.user, **terminal.here()
        )
        terminal.until("31 87")
        terminal.type("one\r")
        terminal.until("got one")
        assert terminal.status() == 4
    assert "31 87\r\n" in logged(caller).stdout.replace("\n", "\r\n").replace("\r\r", "\r")
    assert "got one" in logged(caller).stdout


def test_signals_are_the_commands(caller: Caller) -> None:
    line = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    with caller.daemon.popen(*KEPT, *sh(line), user=caller.user, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGTERM)
        assert client.stdout.read() == b"bye\n"
        assert client.wait(SHELL_SECONDS) == 9
    assert logged(caller).stdout == "up\nbye\n"


def test_a_client_that_is_killed(caller: Caller) -> None:
    """Leaves the command, or with --rm ends it, as of any run."""
    line = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
    for options, stays in (((), True), (("--rm",), False)):
        with caller.daemon.popen(
            *KEPT, *options, *sh(line), user=caller.user, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"up\n"
            client.kill()
        if stays:
            assert run(caller, "ps", "--format", "{{.Names}}").stdout == "web\n"
            assert logged(caller).stdout == "up\n"
            run(caller, "rm", "-f", "web")
        else:
            eventually(lambda: run(caller, "ps", "-aq").stdout == "", "it is stopped and removed")


def test_with_rm_nothing_is_left(caller: Caller) -> None:
    done = run(caller, *KEPT, "--rm", "/bin/echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n")
    eventually(lambda: run(caller, "ps", "-aq").stdout == "", "it is removed")


def test_what_cannot_be_started_leaves_nothing(caller: Caller) -> None:
    for options in ((), ("--rm",)):
        done = run(caller, *KEPT, *options, "/nothing/there")
        assert (done.returncode, done.stdout) == (127, "")
        assert run(caller, "ps", "-aq").stdout == ""


def test_a_time_limit_is_told(root: Caller) -> None:
    done = run(root, *KEPT, "--timeout", "0.3", "/bin/sleep", "600")
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "dkrctl: the time limit of 0.3 s ended the command\n"


def test_what_it_cannot_have(root: Caller, tmp_path: Path) -> None:
    for options, said in (
        (("--rootfs", "/"), "--log-driver json-file and --rootfs"),
        (("--preserve-fds", "1"), "and --preserve-fds"),
        (("--explain",), "and --explain"),
        (("-t",), "the input is not a terminal"),
        (("--record", str(tmp_path / "cast")), "cannot record: the command has no terminal"),
        (("--log-opt", "max-file=0"), "--log-opt max-file=0: "),
    ):
        done = run(root, *KEPT, *options, "/bin/true")
        assert done.returncode == 125, options
        assert said in done.stderr, options
    assert run(root, "ps", "-aq").stdout == ""
