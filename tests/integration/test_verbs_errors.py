"""Errors that teach: each way in which the daemon cannot be reached or understood, with its own cause and way out."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from common.errors import BadRequest
from common.options import RUN
from dkrctl.parse import parse
from dkrctl.wording import in_options
from tests import host
from tests.integration.terminals import Terminal
from tests.reliability.support import eventually, kill_and_wait, shims, the_shim
from tests.unit.canned import canned, fault, http

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root
VERBS = (
    *(("ps",), ("inspect", "x"), ("rm", "x"), ("info",), ("version",)),
    *(("create", "/bin/true"), ("start", "x"), ("logs", "x")),
)


def told(daemon: Daemon, *words: str, user: User | None = None, status: int = 1, **env: str) -> str:
    """What a verb complains of; it prints nothing else than its own version."""
    done = daemon.dkrctl(*words, user=user, env=env)
    assert done.returncode == status, done.stderr
    assert not done.stdout or words[0] in ("version", "inspect")
    assert "Traceback" not in done.stderr
    return str(done.stderr)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_without_a_daemon(daemon: Daemon, words: tuple[str, ...]) -> None:
    said = told(daemon, *words, DKR_SOCKET="/run/dkr-nowhere/dkr.sock")
    assert "cannot reach dkrd at /run/dkr-nowhere/dkr.sock: there is no such socket" in said
    assert "systemctl start dkrd.socket" in said
    assert "dkrctl doctor" in said


def test_run_is_told_the_same(daemon: Daemon) -> None:
    said = told(daemon, "run", "/bin/true", status=125, DKR_SOCKET="/nowhere")
    assert "there is no such socket" in said


def test_nobody_listens(daemon: Daemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "s"))
    assert "nobody listens there" in told(daemon, "ps", DKR_SOCKET=str(tmp_path / "s"))


def test_what_is_no_socket(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "datagrams"))
        for name, cause in (
            ("file", "that is a file, no socket"),
            ("fifo", "that is a pipe, no socket"),
            (".", "that is a directory, no socket"),
            ("datagrams", "a socket of another type"),
            ("file/s", "a part of the path is no directory"),
            ("x" * 200, "at most 107 bytes"),
        ):
            said = told(daemon, "ps", DKR_SOCKET=str(tmp_path / name))
            assert cause in said
            assert "--socket PATH" in said


def test_at_a_terminal_lines_break_between_words(root: Caller) -> None:
    with Terminal(root, rows=24, columns=60) as terminal:
        client = root.daemon.popen("ps", "--socket", "/nowhere", stderr=terminal.slave)
        assert client.wait() == 1
        said = terminal.until(r"variable\s+DKR_SOCKET\r\n").string.decode()
    lines = said.split("\r\n")
    assert all(len(line) <= 60 for line in lines)
    assert len(lines) > len(told(root.daemon, "ps", "--socket", "/nowhere").splitlines()) + 1
    assert " ".join(said.split()) == " ".join(told(root.daemon, "ps", "--socket", "/nowhere").split())


# --- without permission


def test_a_stranger_is_told_which_group_to_join(daemon: Daemon, stranger: User) -> None:
    for words, status in (*((words, 1) for words in VERBS), (("run", "/bin/true"), 125)):
        said = told(daemon, *words, user=stranger, status=status)
        assert "permission denied: the socket is for the group dkr" in said
        assert f"as root: `usermod -aG dkr {stranger.name}`, then log in again" in said


def test_who_joined_after_the_login_is_told_to_log_in_again(daemon: Daemon, tenant: User) -> None:
    """The host's database has the user in the group; the process, like a session from before, does not."""
    done = subprocess.run(
        [daemon.prefix / "bin/dkrctl", "ps"],
        env=daemon.environment(),
        user=tenant.uid,
        group=tenant.gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{tenant.name} is a member of dkr, but this session began before: log in again" in done.stderr
    assert "newgrp dkr" in done.stderr
    assert "usermod" not in done.stderr


def test_a_socket_for_its_owner_only(make_daemon: MakeDaemon, tenant: User) -> None:
    own = make_daemon(socket_mode="0600")
    said = told(own, "ps", user=tenant)
    assert "the socket is for its owner only (mode 0600)" in said
    assert "socket_mode" in said


def test_a_closed_directory_on_the_way(daemon: Daemon, open_tmp: Path, stranger: User) -> None:
    (open_tmp / "closed").mkdir(mode=0o700)
    said = told(daemon, "ps", user=stranger, DKR_SOCKET=str(open_tmp / "closed/run/dkr.sock"))
    assert f"the directory {open_tmp}/closed is for its owner only (mode 0700)" in said
    assert "chmod a+x" in said


# --- something else, or somebody else's release


def test_a_socket_of_something_else(daemon: Daemon, tmp_path: Path) -> None:
    with canned(tmp_path / "s", default=b"SSH-2.0-OpenSSH_9.2\r\n", hold=True):
        for words, status in (*((words, 1) for words in VERBS), (("run", "/bin/true"), 125)):
            said = told(daemon, *words, status=status, DKR_SOCKET=str(tmp_path / "s"))
            assert 'it is no dkrd, it says "SSH-2.0-OpenSSH_9.2' in said


def test_the_socket_of_docker(daemon: Daemon, tmp_path: Path) -> None:
    answer = http({"message": "page not found"}, "404 Not Found", "Docker/24.0.7 (linux)")
    with canned(tmp_path / "s", default=answer):
        for words, status in (*((words, 1) for words in VERBS), (("run", "/bin/true"), 125)):
            said = told(daemon, *words, status=status, DKR_SOCKET=str(tmp_path / "s"))
            assert "it is no dkrd, it is Docker/24.0.7 (linux)" in said


def test_a_daemon_that_hangs(daemon: Daemon, tmp_path: Path) -> None:
    with canned(tmp_path / "s", hold=True):
        for words in VERBS:
            said = told(daemon, *words, DKR_SOCKET=str(tmp_path / "s"), DKR_TIMEOUT="0.2")
            assert "none came within 0.2 s, it hangs" in said
    assert "DKR_TIMEOUT=soon" in told(daemon, "ps", DKR_TIMEOUT="soon")


@pytest.mark.parametrize(
    ("release", "api", "advice"), [("9.0.0", "2", "upgrade the client"), ("0.0.1", "0", "upgrade dkrd")]
)
def test_a_daemon_of_another_version(
    daemon: Daemon, tmp_path: Path, release: str, api: str, advice: str
) -> None:
    answers = {"/v1/version": http({"version": release, "apiVersion": api})}
    gone = fault("not-found", "404 Not Found", "cannot find it: the API has no such path")
    with canned(tmp_path / "s", answers, gone):
        for words in VERBS:
            said = told(daemon, *words, DKR_SOCKET=str(tmp_path / "s"))
            assert f"API version {api}" in said
            assert advice in said


PRINTING = (
    *("ps -a", "ps -q", "version", "info", "system df", "events --until 0s", "stats --no-stream", "help run"),
    *(
        "top web",
        "logs web",
        "inspect web",
        "exec ls web",
        "diff web",
        "explain web",
        "cp web:/etc/hostname -",
    ),
    *("pause web", "unpause web", "kill -s CONT web", "update --pids-limit 99 web", "stop web", "start web"),
)


def test_an_output_that_is_closed_is_an_error(root: Caller) -> None:
    """And no connection gets its number: what is printed would go to the daemon as a request."""
    line = "echo working; touch /new; exec sleep 600"
    with root.standing("/bin/sh", "-c", line):
        assert root.exec("web", "/bin/sh", "-c", "until test -e /new; do sleep 0.01; done").returncode == 0
        for verb in PRINTING:
            done = root.shell(f"dkrctl {verb} >&-")
            assert "bad file descriptor" in done.stderr, verb
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), verb
    assert "bad request" not in root.daemon.log.lower()


def test_what_a_container_writes_to_a_closed_output_is_lost(root: Caller) -> None:
    root.daemon.dkrctl("create", "--name", "web", "/bin/sh", "-c", "echo one; exit 7", check=True)
    try:
        done = root.shell("dkrctl start -a web >&-")
        assert (done.returncode, done.stderr) == (7, "")
        assert root.daemon.dkrctl("logs", "web", check=True).stdout == "one\n"
    finally:
        root.daemon.dkrctl("rm", "-f", "web", check=True)


def test_what_is_not_done_is_told_of_the_name(root: Caller) -> None:
    """Of several one could not tell by an id which is meant."""
    daemon = root.daemon
    with root.standing():
        for verb, words in (("remove", ("rm",)), ("start", ("start", "-a"))):
            assert f"cannot {verb} web: it is running" in told(
                daemon, *words, "web", status=1 if verb == "remove" else 125
            )
        daemon.dkrctl("kill", "web", check=True)
        daemon.dkrctl("wait", "web", check=True)
        for words in (("top",), ("exec", "kill"), ("pause",), ("kill",), ("attach",)):
            extra = ("0123456789",) if words == ("exec", "kill") else ()
            said = told(daemon, *words, "web", *extra, status=125 if words == ("attach",) else 1)
            assert " web: it has ended" in said, words


def test_one_without_a_guardian_is_called_by_its_name_too(root: Caller) -> None:
    daemon = root.daemon
    with root.standing() as container:
        # That of the test before has nothing left to do and may not have ended yet.
        eventually(lambda: len(shims(daemon)) == 1, "it is the only one")
        kill_and_wait(the_shim(daemon))
        for words in (("stop", "web"), ("unpause", "web"), ("cp", "web:/etc", "-")):
            said = told(daemon, *words)
            assert " web: " in said, words
            assert container[:12] not in said
        host.kill(root.command("sleep"))
        daemon.dkrctl("wait", "web", check=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("create", "--stop-signal", "NOSUCH", "/bin/true"),
            ["--stop-signal NOSUCH: no signal is named 'NOSUCH'"],
        ),
        (("run", "-d", "-m", "1", "/bin/true"), ["--memory 1: it is less than 6291456"]),
        (
            ("run", "-d", "--health-http", "ftp://x", "/bin/true"),
            ["--health-http ftp://x: it is no URL that begins"],
        ),
        (
            ("run", "--log-opt", "max-file=3", "--log-opt", "mode=x", "--log-driver=json-file", "/bin/true"),
            ["--log-opt mode=x: "],
        ),
        (
            ("run", "-w", "x", "-m", "1", "/bin/true"),
            ["--workdir x: it is not absolute", "--memory 1: it is less"],
        ),
        (("run", "-w", "x" * 5000, "/bin/true"), ["--workdir " + "x" * 80 + "…: it is 5000 bytes long"]),
        (("exec", "-u", "1:2:3", "web", "/bin/true"), ["--user 1:2:3: UID[:GID] or NAME[:GROUP] is wanted"]),
        (("stop", "-s", "NOSUCH", "web"), ["--signal NOSUCH: no signal"]),
        (("update", "--cpus", "0.001", "web"), ["--cpus 0.001: it is not within"]),
        (("prune", "--filter", "until=x"), ["--filter until=x: it is no time"]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_the_daemon_refuses_is_told_by_the_option(
    root: Caller, words: tuple[str, ...], said: list[str]
) -> None:
    """Each once, with its value; the request's keys are not what people write."""
    with root.standing():
        status = 125 if words[0] in ("run", "exec") else 1
        lines = [
            line for line in told(root.daemon, *words, status=status).splitlines() if "hint:" not in line
        ]
    assert len(lines) == len(said)
    assert lines[0].startswith(f"dkrctl: cannot take {said[0]}")
    for line, beginning in zip(lines[1:], said[1:], strict=True):
        assert line.startswith(f"  {beginning}")


def test_a_filter_that_is_none_is_told_once(root: Caller) -> None:
    assert told(root.daemon, "ps", "--filter", "nosuch=1").count("there is no such key") == 1
    assert told(root.daemon, "prune", "-f", "--filter", "nosuch=1").count("there is no such key") == 1


def test_a_variable_is_not_told_with_its_value() -> None:
    parsed = parse(RUN.options, ["--env", "A=secret", "--label", "x=secret", "/bin/true"], "dkrctl run")
    for path, shown in (("env.A", "--env A"), ("labels.x", "--label x")):
        error = BadRequest("cannot read", fields=({"path": path, "message": "is too long"},))
        assert in_options(error, parsed, RUN.options).message == f"cannot take {shown}: it is too long"
    other = BadRequest("cannot read", fields=({"path": "args[0]", "message": "is empty"},))
    assert in_options(other, parsed, RUN.options).message == "cannot read"
