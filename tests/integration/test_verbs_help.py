"""Help: at 80 columns, for each verb; and its examples, which are run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from common.acts import TOP
from common.exec_options import EXEC
from common.options import GLOBAL, Command, Option
from common.verbs import COMMANDS
from dkrd.api.routes import ROUTES
from tests.integration.verbs import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

# Examples that cannot be run here, with the reason.
NOT_RUN = {
    "dkrctl attach 4f6b": "the beginning of some container's id",
    "dkrctl run --rm --rootfs ./alpine sh": "a directory of the reader's; tests/integration/test_rootfs.py",
    "dkrctl rename web old-web": "and other examples would not find it; tests/integration/test_rename.py",
    "dkrctl events": "goes on until ctrl-C; tests/integration/test_events.py",
    "dkrctl events --format '{{.action}} {{.name}} {{.exit.code}}'": "the same",
    "dkrctl wait --condition removed web": "goes on as long as it is there; tests/integration/test_kill_and_wait.py",
    "dkrctl stats web": "goes on as long as the container runs; tests/integration/test_stats.py",
    "dkrctl attach --no-stdin build": "looks on as long as the container runs; tests/integration/test_attach.py",
}
EXAMPLES = [line for command in COMMANDS for line, _ in command.examples if line not in NOT_RUN]
# Examples that end with another status than 0: because that is what they show, or because this API has not what they ask for.
STATUSES = {
    "dkrctl run --rm --timeout 1.5s busybox sleep 60": 143,
    # it has ended here, and the client says so
    "dkrctl kill -s HUP web": 1,
    **{line: 1 for line, _ in TOP.examples},
    "dkrctl pause web": 1,
    "dkrctl unpause web": 1,
}
STATUSES |= {line: 125 for line, _ in EXEC.examples}  # the same; tests/integration/test_exec.py
# What is to be copied is neither there nor here, but for /srv: tests/integration/test_cp.py; tar complains of it in its own way.
STATUSES |= {
    "dkrctl cp web:/var/log/app.log .": 1,
    "dkrctl cp conf/. web:/etc/app": 1,
    "tar c src | dkrctl cp - web:/tmp": 2,
}
if "/v1/info" not in {route.path for route in ROUTES}:
    STATUSES |= {"dkrctl info": 1, "dkrctl info --format json": 1}


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    sweep(daemon)


def names(option: Option) -> list[str]:
    return [f"--{option.long}", *(f"--{alias}" for alias in option.aliases)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_verb(daemon: Daemon, command: Command) -> None:
    text = daemon.dkrctl(command.name, "--help", check=True).stdout
    assert text == daemon.dkrctl("help", command.name, check=True).stdout
    assert text.startswith(f"usage: {command.usage}\n")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert [name for option in command.options for name in names(option) if name not in text] == []
    assert all(line in text for line, _ in command.examples)
    assert command.examples


def test_the_overview(daemon: Daemon) -> None:
    text = daemon.dkrctl("--help", check=True).stdout
    assert text == daemon.dkrctl("help", check=True).stdout == daemon.dkrctl("-h", check=True).stdout
    assert [line for line in text.splitlines() if len(line) > 80] == []
    listed = re.findall(r"^  ([a-z]+) {2,}\S", text, re.MULTILINE)
    assert listed == [command.name for command in COMMANDS]
    assert all(f"--{option.long}" in text for option in GLOBAL)


@pytest.mark.parametrize(
    "words", ["--help", "--version", "run --help", "attach -h", "ps --help", "help", "help rm"]
)
def test_help_that_cannot_be_written_is_an_error(daemon: Daemon, words: str) -> None:
    with open("/dev/full", "wb") as full:
        done = daemon.dkrctl(*words.split(), stdout=full)
    assert done.returncode == (1 if words in ("ps --help", "help", "help rm") else 125)
    assert done.stderr == "dkrctl: cannot write the output: no space left on device\n"


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_does_what_it_shows(root: Caller, line: str) -> None:
    """In a shell, as root, beside a container called `web` that has ended."""
    root.daemon.dkrctl("create", "--name", "web", "--label", "team=blue", "/bin/echo", "hi", check=True)
    root.daemon.dkrctl("start", "-a", "web", check=True)
    root.ended("web")
    done = root.shell(f"set -o pipefail; cd /usr/games || cd /; {line}", env={"LANG": "C.UTF-8"})
    if line.startswith("dkrctl doctor"):
        assert done.returncode in (0, 1), done.stderr  # what it finds is this host's affair
    else:
        assert done.returncode == STATUSES.get(line, 0), done.stderr


def test_what_is_not_run_is_still_shown() -> None:
    assert set(NOT_RUN) <= {line for command in COMMANDS for line, _ in command.examples}


def test_the_overviews_examples(root: Caller) -> None:
    lines = re.findall(r"^  (dkrctl .*)$", root.daemon.dkrctl("--help", check=True).stdout, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        assert root.shell(line).returncode == 0, line
