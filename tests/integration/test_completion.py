"""Completion in the real shells, as the install places it: verbs, options, values, names of containers that there are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.exec_verbs import EXEC_KILL, EXEC_LS
from common.lifecycle import RM
from common.verbs import COMMANDS, PS, ROOTS
from scripts import generate
from tests.integration.conftest import Caller
from tests.integration.shells import SHELLS, offered
from tests.integration.verbs import make, running, tidy
from tests.reliability.support import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from common.options import Command
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def containers(daemon: Daemon) -> Iterator[None]:
    """Two that have ended, one that was not started yet, and one that runs, all root's."""
    root = Caller(daemon, None)
    make(daemon, None, "bad-1", "/bin/true")
    make(daemon, None, "bad-2", "busybox", "true")
    for name in ("bad-1", "bad-2"):
        root.ended(name)  # the news of it may be later than its client's exit
    daemon.dkrctl("create", "--name", "made", "/bin/true", check=True)
    with running(root, "alive"):
        yield
    tidy(daemon)


def longs(command: Command) -> list[str]:
    return sorted(f"--{name}" for option in command.options for name in (option.long, *option.aliases))


VERBS = sorted(command.name for command in COMMANDS)
STATIC = [
    ("dkrctl ", VERBS),
    ("dkrctl r", [name for name in VERBS if name.startswith("r")]),
    ("dkrctl --ver", ["--version"]),
    ("dkrctl help p", ["pause", "prune", "ps"]),
    ("dkrctl system ", ["df", "info", "prune"]),
    ("dkrctl system -f pr", ["prune"]),
    ("dkrctl ps --", longs(PS)),
    ("dkrctl rm x --", longs(RM)),  # options may follow words
    ("dkrctl ps --no", ["--no-trunc"]),
    (
        "dkrctl ps --filter sta",
        [f"status={word}" for word in "created creating exited paused restarting running stopped".split()],
    ),
    ("dkrctl ps -af na", ["name="]),
    ("dkrctl ps --format ", ["json", "table"]),
    ("dkrctl run --net ", ["host", "private"]),
    ("dkrctl run -it --stop-signal SIGTE", ["SIGTERM"]),
    ("dkrctl kill -s SIGTE", ["SIGTERM"]),
    ("dkrctl run -e DKR_SOC", ["DKR_SOCKET"]),
    ("dkrctl run --rm bus", ["busybox"]),
    ("dkrctl run /us", ["/usr"]),
    ("dkrctl run --rootfs /usr bus", []),  # the command: no root stands here
    ("dkrctl run --rm --rootfs=/usr bus", []),
    ("dkrctl run --rootfs /usr libe", ["libexec"]),
    ("dkrctl run --rootfs /usr --net ho", ["host"]),
    ("dkrctl run --env-file libe", ["libexec"]),
    ("dkrctl run --on-disconnect k", ["keep", "kill"]),
    ("dkrctl run busybox --on-dis", []),  # an option of the command's, not ours
    ("dkrctl run --name x", []),
    ("dkrctl create --rm bus", ["busybox"]),
    ("dkrctl create --net ", ["host", "private"]),
    ("dkrctl create --deta", []),  # an option of run's that it refuses
    ("dkrctl stop -s SIGTE", ["SIGTERM"]),
    ("dkrctl logs x --t", ["--tail", "--timestamps"]),
    ("dkrctl logs --tail ", ["all"]),
    ("dkrctl start --on-disconnect k", ["keep", "kill"]),
    ("dkrctl stats --format ", ["json", "table"]),
    ("dkrctl doctor -f ", ["json", "text"]),
    ("dkrctl exec l", ["ls"]),
    ("dkrctl exec x /us", ["/usr"]),
    ("dkrctl exec -i l", []),  # no container is called so, and nothing else may stand there
    ("dkrctl exec ls --", longs(EXEC_LS)),
    ("dkrctl exec ls --format ", ["json", "table"]),
    ("dkrctl exec ls x --no", ["--no-trunc"]),  # options may follow words
    ("dkrctl exec kill -s SIGTE", ["SIGTERM"]),
    ("dkrctl exec kill --", longs(EXEC_KILL)),
    ("dkrctl exec --on-disconnect k", ["keep", "kill"]),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "words"), STATIC, ids=[line for line, _ in STATIC])
def test_what_the_table_knows(root: Caller, tmp_path: Path, shell: str, line: str, words: list[str]) -> None:
    # Shells mark directories, and options that take a value, each in its manner.
    assert [word.rstrip("/=") for word in offered(shell, root, tmp_path, line)] == [
        word.rstrip("=") for word in words
    ]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dkrctl run --net=h", ["--net=host"]),
        ("dkrctl ps --filter=status=ru", ["--filter=status=running"]),
        ("dkrctl run --stop-signal=SIGTE", ["--stop-signal=SIGTERM"]),
        ("dkrctl kill --signal=SIGTE", ["--signal=SIGTERM"]),
    ],
)
def test_a_value_behind_an_equals_sign(
    root: Caller, tmp_path: Path, shell: str, line: str, words: list[str]
) -> None:
    assert offered(shell, root, tmp_path, line) == words


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dkrctl inspect ", ["alive", "bad-1", "bad-2", "made"]),
        ("dkrctl logs -f ", ["alive", "bad-1", "bad-2", "made"]),
        ("dkrctl attach ", ["alive"]),
        ("dkrctl start ", ["bad-1", "bad-2", "made"]),  # only what can be started
        ("dkrctl start -ai m", ["made"]),
        ("dkrctl stop ", ["alive"]),
        ("dkrctl restart -t 1 b", ["bad-1", "bad-2"]),
        ("dkrctl pause ", ["alive"]),
        ("dkrctl rename b", ["bad-1", "bad-2"]),
        ("dkrctl update -m 64m m", ["made"]),
        ("dkrctl top ", ["alive"]),
        ("dkrctl stats --no-stream a", ["alive"]),
        ("dkrctl unpause ", []),  # only what is paused
        ("dkrctl rm ", ["bad-1", "bad-2", "made"]),  # only what can be removed
        ("dkrctl rm b", ["bad-1", "bad-2"]),
        ("dkrctl rm bad-1 ", ["bad-2", "made"]),  # none twice
        ("dkrctl inspect --format json a", ["alive"]),
        ("dkrctl exec ", ["alive", "kill", "ls"]),
        ("dkrctl exec -it ", ["alive"]),
        ("dkrctl exec ls ", ["alive"]),
        ("dkrctl exec ls --no-trunc a", ["alive"]),
        ("dkrctl exec kill ", ["alive"]),
        ("dkrctl exec kill -s INT a", ["alive"]),
        ("dkrctl exec kill alive ", []),  # nothing is executed there
        ("dkrctl exec x aliv", []),  # behind the container stands a command
        ("dkrctl top x aliv", []),  # or options of ps
    ],
)
def test_names_of_containers(root: Caller, tmp_path: Path, shell: str, line: str, words: list[str]) -> None:
    assert offered(shell, root, tmp_path, line) == words


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_socket_of_the_line_is_asked(root: Caller, tmp_path: Path, shell: str) -> None:
    assert offered(shell, root, tmp_path, f"dkrctl --socket {root.daemon.socket} rm b") == ["bad-1", "bad-2"]
    assert offered(shell, root, tmp_path, "dkrctl --socket /nonexistent/s rm b") == []


@pytest.fixture
def execs(daemon: Daemon, containers: None) -> Iterator[list[str]]:
    """What is executed in the one that runs: two ids as `exec ls` shows them, in order."""
    start = ("exec", "-d", "alive", "/bin/sleep")
    found = [daemon.dkrctl(*start, f"60{n}", check=True).stdout.strip()[:12] for n in range(2)]
    yield sorted(found)
    daemon.dkrctl("exec", "kill", "alive", *found, check=True)
    eventually(lambda: not daemon.dkrctl("exec", "ls", "-q", "alive", check=True).stdout, "they have ended")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_executed(root: Caller, tmp_path: Path, shell: str, execs: list[str]) -> None:
    first, second = execs
    assert offered(shell, root, tmp_path, "dkrctl exec kill alive ") == execs
    assert offered(shell, root, tmp_path, f"dkrctl exec kill -s TERM alive {first[:6]}") == [first]
    assert offered(shell, root, tmp_path, f"dkrctl exec kill alive {first} ") == [second]  # none twice
    line = f"dkrctl --socket {root.daemon.socket} exec kill alive --signal=9 {second[:6]}"
    assert offered(shell, root, tmp_path, line) == [second]
    assert offered(shell, root, tmp_path, "dkrctl exec kill bad-1 ") == []


# --- __complete, which answers them


def test_what_it_answers_of_execs(daemon: Daemon, tenant: User, execs: list[str]) -> None:
    done = asked(daemon, "execs", "exec", "kill", "alive", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == execs
    assert {line.split("\t")[1] for line in done.stdout.splitlines()} == {"/bin/sleep 600", "/bin/sleep 601"}
    assert asked(daemon, "execs", "exec", "kill", "alive", user=tenant).stdout == ""
    for words in (
        [],
        ["exec"],
        ["exec", "kill"],
        ["exec", "kill", ".."],
        ["exec", "kill", "a/b"],
        ["exec", "kill", "nosuch"],
    ):
        done = asked(daemon, "execs", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def asked(daemon: Daemon, *words: str, user: User | None = None) -> subprocess.CompletedProcess[str]:
    return daemon.dkrctl("__complete", *words, user=user)


@pytest.mark.usefixtures("containers")
def test_what_it_answers(daemon: Daemon, tenant: User, stranger: User) -> None:
    done = asked(daemon, "containers")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        "alive\thost, running",
        "bad-1\thost, stopped",
        "bad-2\tbusybox, stopped",
        "made\thost, created",
    ]
    assert asked(daemon, "running").stdout == "alive\thost, running\n"
    assert asked(daemon, "containers", user=tenant).stdout == ""
    for user, words in ((stranger, ["containers"]), (None, []), (None, ["nonsense"])):
        done = asked(daemon, *words, user=user)
        assert (done.returncode, done.stdout, done.stderr) == (
            1,
            "",
            "",
        )  # a shell is in the middle of a line


def test_what_is_installed_is_what_the_table_makes(prefix: Path) -> None:
    for name, text in generate.files().items():
        if name.startswith("completion/"):
            assert (prefix / "share" / name).read_text() == text, "run `make test-install`"


def test_the_roots_are_those_of_the_daemon() -> None:
    from dkrd.images.roots import BUILTIN

    assert tuple(BUILTIN) == ROOTS
