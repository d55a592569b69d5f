"""The handbook's page on how a container starts, held against a start: what it tells is done, and what is done it tells."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.whys import WHYS
from dkrd.runtime import cgroups
from tests.integration.test_readme import shell, shown_in

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/how-a-container-starts.md").read_text()
# The kernel of a helper's start is older than the page's, its steps are another process's.
HELPERS = {"helper", "await helper"}
# Before Linux 6.15 these have other calls, and the layers that are attached have to go again.
BY_DESCRIPTOR = {"layers", "overlay"}
DETACH = "detach layers"


@dataclass(frozen=True, slots=True)
class Told:
    """A step as the page tells it."""

    process: str
    name: str
    calls: tuple[str, ...]
    text: str


def told_in(page: str) -> list[Told]:
    """The page's steps: `### `name``, below a section `## … (process)`."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        process = re.match(r".*\((launcher|shim|init)\)$", section.splitlines()[0])
        for step in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
            assert process, f"a step below no process: {step[:40]}"
            name = re.match(r"`([a-z ]+)`\n", step)
            assert name, f"no name of a step: {step[:40]}"
            blocks = re.findall(r"^```text\n(.*?)^```", step, re.MULTILINE | re.DOTALL)
            found.append(Told(process[1], name[1], tuple("".join(blocks).splitlines()), step))
    return found


STEPS = told_in(PAGE)


@pytest.fixture(scope="module")
def trace(daemon: Daemon) -> list[dict[str, Any]]:
    """The steps of a start such as the page tells."""
    done = daemon.run("--explain", "--format", "json", "/bin/echo", "hello")
    steps = json.loads(done.stderr)["steps"]
    assert isinstance(steps, list)
    return steps


def names_of(steps: list[dict[str, Any]], process: str) -> list[str]:
    """Each name once, where the process first took such a step."""
    return list(dict.fromkeys(step["name"] for step in steps if step["process"] == process))


def test_each_step_is_told_once() -> None:
    names = [step.name for step in STEPS]
    assert len(names) == len(set(names)) > 30


@pytest.mark.parametrize("process", ["launcher", "shim", "init"])
def test_the_page_tells_every_step_in_its_order(trace: list[dict[str, Any]], process: str) -> None:
    page = [step.name for step in STEPS if step.process == process]
    if not cgroups.read_layout().legacy:
        page = [name for name in page if name != "enter cgroup"]
    done = [name for name in names_of(trace, process) if name != DETACH]
    if HELPERS & {step["name"] for step in trace}:
        done = [*done, *(name for name in names_of(trace, "helper") if process == "shim" and name != DETACH)]
        assert set(done) - HELPERS == set(page)
    else:
        assert done == page


def test_every_step_that_a_start_may_have_is_told() -> None:
    rows = re.findall(r"^\| `([a-z -]+)` \|", PAGE, re.MULTILINE)
    assert sorted([*(step.name for step in STEPS), *rows]) == sorted(WHYS)


@pytest.mark.parametrize("told", STEPS, ids=lambda told: told.name)
def test_every_call_on_the_page_is_made(trace: list[dict[str, Any]], told: Told) -> None:
    if told.name == "enter cgroup" and not cgroups.read_layout().legacy:
        return
    if told.name in BY_DESCRIPTOR and DETACH in (step["name"] for step in trace):
        return
    made = [call for step in trace if step["name"] == told.name for call in step["call"].split("; ")]
    assert told.calls
    for line in told.calls:
        assert any(fnmatchcase(call, as_pattern(line)) for call in made), f"{line}\nis none of\n{made}"


def as_pattern(line: str) -> str:
    """`…` stands for anything; all else for itself."""
    return "*".join(re.sub(r"([\[\]?*])", r"[\1]", part) for part in line.split("…"))


@pytest.mark.parametrize("told", STEPS, ids=lambda told: told.name)
def test_every_step_leads_to_its_code(told: Told) -> None:
    """To the same place as `explain` does, among others."""
    files = re.findall(r"`(\w+(?:/\w+)+\.py)`", told.text)
    assert WHYS[told.name].file in files or told.name in ("await execve",)
    assert [path for path in files if not (REPOSITORY / path).is_file()] == []


def test_every_file_of_the_page_is_there() -> None:
    files = re.findall(r"`((?:dkrd|common|dkrctl|tests)/[\w/.]+)`", PAGE)
    assert len(files) > 40
    assert [path for path in files if not (REPOSITORY / path).exists()] == []


def test_what_the_page_shows_at_a_prompt_is_shown(daemon: Daemon, tenant: User) -> None:
    [shown] = shown_in(PAGE)
    done = shell(daemon, shown.command, tenant)
    lines = done.stdout.splitlines()
    assert len(lines) == len(shown.output)
    for line, pattern in zip(lines, shown.output, strict=True):
        assert fnmatchcase(line, as_pattern(pattern)), line


def test_a_masked_file_cannot_be_uncovered(daemon: Daemon) -> None:
    """What the page invites to try."""
    [command] = re.findall(r"Try it: `dkrctl run --rm (.*?)`", PAGE)
    assert command == "/bin/sh -c 'umount /proc/keys'"
    done = daemon.dkrctl("run", "--rm", "/bin/sh", "-c", "umount /proc/keys")
    assert done.returncode != 0
    assert "/proc/keys" in done.stderr
