"""The rooms and their doors: who may import whom, and that what runs as root imports the standard library alone."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "dkrctl", "dkrd")

# Room -> rooms that it may import from besides itself. Whoever runs as root stands on `BASE`.
BASE = frozenset(
    {
        *("common", "dkrd.settings", "dkrd.ids", "dkrd.evidence"),
        *("dkrd.log", "dkrd.loop", "dkrd.journal", "dkrd.removal"),
    }
)
DOORS: dict[str, frozenset[str]] = {
    "common": frozenset(),
    # The Python client has aiohttp and pydantic; nothing else of the client may load it. Before `dkrctl`: the first that fits counts.
    "dkrctl.client": frozenset({"common", "dkrctl.sdk"}),
    "dkrctl.sdk": frozenset({"common", "dkrctl"}),
    "dkrctl": frozenset({"common"}),
    "dkrd.settings": frozenset({"common"}),
    "dkrd.journal": frozenset(),
    "dkrd.log": frozenset({"common", "dkrd.settings", "dkrd.journal"}),
    "dkrd.loop": frozenset(),
    "dkrd.removal": frozenset(),
    "dkrd.ids": BASE,
    "dkrd.evidence": BASE | {"dkrd.policy"},
    "dkrd.policy": BASE | {"dkrd.runtime"},
    "dkrd.runtime": frozenset({"common"}),
    "dkrd.shim": BASE | {"dkrd.runtime", "dkrd.policy"},
    "dkrd.launcher": BASE | {"dkrd.runtime", "dkrd.policy", "dkrd.shim"},
    "dkrd.images": frozenset({"common", "dkrd.settings"}),
    "dkrd.network": frozenset({"common", "dkrd.settings"}),
    "dkrd.state": frozenset({"common", "dkrd.settings"}),
    "dkrd.api": frozenset(
        {"common", "dkrd.settings", "dkrd.ids", "dkrd.state", "dkrd.images", "dkrd.network", "dkrd.journal"}
    ),
}
ROOTS_SIDE = (
    "dkrd.launcher",
    "dkrd.shim",
    "dkrd.runtime",
    "dkrd.policy",
    "dkrd.settings",
    "dkrd.ids",
    "dkrd.evidence",
    "dkrd.log",
    "dkrd.journal",
    "dkrd.loop",
    "dkrd.removal",
)
# The fork server has one thread and no event loop, starts no program by name, and reads JSON through common.frames.
BANNED = frozenset({"asyncio", "concurrent", "json", "multiprocessing", "subprocess", "threading", "pickle"})


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: `what`, dotted, stands in line `line` of module `module`."""

    module: str
    what: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.what}"


def modules(directory: Path = REPOSITORY) -> dict[str, Path]:
    """Dotted name -> file, of every module of ours below `directory`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((directory / package).rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, source: str) -> list[Import]:
    """Every import statement in `source`, inside functions and under TYPE_CHECKING as well; from a package the names too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(module, alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            base = node.module or ""
            found += [Import(module, f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def room_of(name: str) -> str | None:
    """The room that dotted `name` lies in; None where it is none of ours."""
    return next((room for room in DOORS if name == room or name.startswith(f"{room}.")), None)


def wrong_doors(found: list[Import]) -> list[str]:
    """Those imports of ours that go through no door."""
    wrong = []
    for item in found:
        here, there = room_of(item.module), room_of(item.what)
        if item.what.partition(".")[0] not in PACKAGES:
            continue
        if here is None or there is None or (here != there and there not in DOORS[here]):
            wrong.append(str(item))
    return wrong


ALL = modules()
IMPORTS = {name: imports_of(name, path.read_text()) for name, path in ALL.items()}


def test_there_is_something_to_look_at() -> None:
    assert {"common.errors", "dkrctl.lean", "dkrd.policy", "dkrd.runtime.mounts"} <= set(ALL)


@pytest.mark.parametrize("room", DOORS)
def test_arrows_point_one_way(room: str) -> None:
    found = [item for name, items in IMPORTS.items() if room_of(name) == room for item in items]
    assert wrong_doors(found) == []


def test_every_module_is_in_a_room() -> None:
    assert [name for name in ALL if name != "dkrd" and room_of(name) is None] == []


def _behind(names: list[str]) -> list[Import]:
    """The imports of these modules and of everything of ours that they reach."""
    seen: set[str] = set()
    found: list[Import] = []
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        found += IMPORTS[name]
        for item in IMPORTS[name]:
            names += [what for what in (item.what, item.what.rpartition(".")[0]) if what in ALL]
    return found


@pytest.mark.parametrize("room", [*ROOTS_SIDE, "dkrctl"])
def test_standard_library_alone(room: str) -> None:
    found = _behind([name for name in ALL if room_of(name) == room])
    foreign = [
        str(item)
        for item in found
        if item.what.partition(".")[0] not in {*sys.stdlib_module_names, *PACKAGES}
    ]
    assert foreign == []


@pytest.mark.parametrize("room", ROOTS_SIDE)
def test_roots_side_has_one_thread_and_no_loop(room: str) -> None:
    found = _behind([name for name in ALL if room_of(name) == room])
    assert [str(item) for item in found if item.what.partition(".")[0] in BANNED] == []


def test_every_init_is_empty() -> None:
    assert [str(path) for path in ALL.values() if path.name == "__init__.py" and path.stat().st_size] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("common.frames", "from dkrd import settings"),
        ("common.frames", "def late():\n    import dkrctl.lean"),
        ("dkrctl.run", "from dkrd.settings import load"),
        ("dkrctl.run", "from dkrctl.client import Client"),
        ("dkrctl.attach", "def late():\n    import dkrctl.sdk.client"),
        ("dkrd.runtime.mounts", "if TYPE_CHECKING:\n    from dkrd.shim.task import ShimTask"),
        ("dkrd.shim.main", "import dkrd.launcher.main"),
        ("dkrd.api.run", "import dkrd.shim.main"),
        ("dkrd.policy", "import dkrd.api.run"),
    ],
)
def test_a_wrong_door_is_seen(module: str, source: str) -> None:
    assert wrong_doors(imports_of(module, source))
