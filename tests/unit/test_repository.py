"""Promises of the repository itself: locks, sizes, words, lists that must agree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from common.version import VERSION
from dkrd.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
MADE = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
}
LOCKS = sorted((REPOSITORY / "requirements").glob("*.txt"))
FILE_LINES = 460
FUNCTION_LINES = 60


def files(*endings: str) -> list[Path]:
    """The files of the repository that end so, without what `make` makes."""
    found = []
    for directory, names, entries in os.walk(REPOSITORY):
        names[:] = [name for name in names if name not in MADE]
        found += [Path(directory) / name for name in entries if not endings or name.endswith(endings)]
    return sorted(found)


def own_modules() -> list[Path]:
    """The modules that are installed."""
    return [path for package in ("common", "dkrctl", "dkrd") for path in (REPOSITORY / package).rglob("*.py")]


def name_of(path: Path) -> str:
    """The path from the repository's top, for messages and test ids."""
    return str(path.relative_to(REPOSITORY))


def pins(lock: Path) -> dict[str, str]:
    """Package -> version of a lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=name_of)
def test_a_lock_names_no_index_and_no_place(lock: Path) -> None:
    lines = [
        line for line in lock.read_text().splitlines() if re.search(r"://|^-|@ ?file|/tmp|localhost", line)
    ]
    assert lines == []


@pytest.mark.parametrize("lock", LOCKS, ids=name_of)
def test_every_package_of_a_lock_has_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())[1:]
    assert entries
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_what_is_tested_is_what_is_installed() -> None:
    runtime, development = (pins(REPOSITORY / f"requirements/{name}.txt") for name in ("runtime", "dev"))
    assert runtime.items() <= development.items()


@pytest.mark.parametrize("path", own_modules(), ids=name_of)
def test_files_and_functions_can_be_read_at_once(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= FILE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


def test_nothing_tells_of_a_machine_it_was_written_on() -> None:
    # Put together here, so that this file does not hold them itself.
    places = [
        "/".join(("", "work", "")),
        "/".join(("", "root", ".")),
        "-".join(("/opt/dkr", "dev")),
        "py" + "pi.",
    ]
    pattern = re.compile("|".join(rf"(?<![\w}}>.]){re.escape(place)}" for place in places), re.IGNORECASE)
    assert _lines_with(pattern) == []


def test_nothing_is_put_off() -> None:
    pattern = re.compile("|".join(rf"\b{a}{b}\b" for a, b in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"))))
    assert _lines_with(pattern) == []


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        lines = enumerate(text.splitlines(), 1)
        found += [
            f"{name_of(path)}:{number}: {line.strip()}" for number, line in lines if pattern.search(line)
        ]
    return found


@pytest.mark.parametrize("path", files(".md"), ids=name_of)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    near = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in near if not (path.parent / link).exists()] == []


def test_the_names_that_the_install_creates_are_those_the_daemon_looks_for() -> None:
    lines = (REPOSITORY / "systemd/sysusers.d/dkr.conf").read_text().splitlines()
    created = {tuple(line.split()[:2]) for line in lines if line and not line.startswith("#")}
    settings = Settings()
    assert created == {("u", settings.api_user), ("g", settings.socket_group), ("g", settings.admin_group)}


def test_every_debian_package_has_a_set_and_a_reason() -> None:
    lines = (REPOSITORY / "scripts/debian-packages.txt").read_text().splitlines()
    entries = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    assert entries
    assert [
        entry for entry in entries if len(entry) != 3 or entry[1] not in {"run", "test", "bench", "deb", "vm"}
    ] == []
    assert len({(entry[0], entry[1]) for entry in entries}) == len(entries)


@pytest.mark.parametrize("path", [*files(".sh"), REPOSITORY / ".ci/run"], ids=name_of)
def test_scripts_are_sound_and_can_be_executed(path: Path) -> None:
    shell = path.read_text().partition("\n")[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", path], capture_output=True, text=True).stderr == ""
    assert path.stat().st_mode & 0o111 == 0o111


def test_the_changelog_tells_of_this_release() -> None:
    assert re.search(rf"^## {re.escape(VERSION)}\b", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_dependency_is_argued() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    wanted += (REPOSITORY / "requirements/build.in").read_text().splitlines()
    names = {re.split(r"[<>=\[ ]", line)[0] for line in wanted if line and not line.startswith("#")}
    text = (REPOSITORY / "docs/dependencies.md").read_text()
    assert sorted(name for name in names if f"| {name} |" not in text) == []
