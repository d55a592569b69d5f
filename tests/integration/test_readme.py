"""The README's tour, the calls of the API's page and HACKING's, taken from their text and run as an ordinary user who may connect."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.host import User

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Shown:
    """A command as a page shows it, and the lines that it is said to print; `…` stands for anything."""

    command: str
    output: tuple[str, ...]


def shown_in(text: str) -> list[Shown]:
    """The commands of the page's ```console blocks, in their order: a line after `$ `, then what it prints."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = part.splitlines()
            found.append(Shown(command, tuple(output)))
    return found


TOUR = [
    *shown_in((REPOSITORY / "README.md").read_text()),
    *shown_in((REPOSITORY / "docs/api.md").read_text()),
]
CALLS = re.findall(r"^curl .*$", (REPOSITORY / "HACKING.md").read_text(), re.MULTILINE)


def shell(daemon: Daemon, command: str, user: User) -> subprocess.CompletedProcess[str]:
    """Runs a line as `user` would type it, with the installed client first on PATH."""
    environment = daemon.environment()
    environment["PATH"] = f"{daemon.prefix}/bin:{environment['PATH']}"
    return subprocess.run(
        ["/bin/bash", "-c", command],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
    )


def at(daemon: Daemon, command: str) -> str:
    """The command, with the socket of this daemon in place of the one in use."""
    return command.replace("/run/dkr/dkr.sock", str(daemon.socket))


def test_there_is_a_tour() -> None:
    assert len(TOUR) >= 20
    assert len(CALLS) >= 3


@pytest.mark.parametrize("shown", TOUR, ids=lambda shown: shown.command)
def test_the_tour_is_true(daemon: Daemon, tenant: User, shown: Shown) -> None:
    done = shell(daemon, at(daemon, shown.command), tenant)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert len(printed) == len(shown.output), f"{printed} {done.stderr}"
    for line, pattern in zip(printed, shown.output, strict=True):
        assert fnmatchcase(line, pattern.replace("[", "[[]").replace("…", "*")), (
            f"{line!r} is not {pattern!r}"
        )


@pytest.mark.parametrize("command", CALLS)
def test_the_api_answers_curl(daemon: Daemon, tenant: User, command: str) -> None:
    done = shell(daemon, f"{at(daemon, command)} --fail", tenant)
    assert done.returncode == 0, done.stderr
    assert done.stdout
