"""The pack of the client's modules that `make install` makes: what is in it, and who loads from it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.client_harness import PYTHON

REPOSITORY = Path(__file__).resolve().parents[2]

PROBE = """
import sys
sys.path[:0] = [{site!r}]
sys.argv = ["dkrctl", {verb!r}]
from dkrctl.packed import use
use()
import dkrctl.lean, dkrctl.exec, dkrctl.session
ours = {{name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("common", "dkrctl")}}
one_by_one = sorted(name for name, module in ours.items() if type(module.__spec__.loader).__name__ != "Finder")
import json, dkrctl.help
files = [ours["dkrctl.run"].__file__, *sys.modules["common"].__path__, ours["dkrctl.run"].run.__code__.co_filename]
print(json.dumps([len(ours), one_by_one, files, dkrctl.help.__spec__.origin]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An install of the client alone."""
    site = tmp_path_factory.mktemp("site")
    for package in ("common", "dkrctl"):
        shutil.copytree(REPOSITORY / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    compile_for = "import compileall, sys; sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1))"
    subprocess.run([PYTHON, "-I", "-c", compile_for, str(site)], check=True)
    subprocess.run([PYTHON, "-IS", str(REPOSITORY / "scripts/pack_client.py"), str(site)], check=True)
    return site


def probe(site: Path, verb: str) -> tuple[int, list[str], list[str], str]:
    words = [PYTHON, "-IS", "-c", PROBE.format(site=str(site), verb=verb)]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    count, one_by_one, files, other = json.loads(done.stdout)
    return count, one_by_one, files, other


@pytest.mark.parametrize("verb", ["run", "exec", "attach"])
def test_what_a_lean_verb_loads_comes_from_the_pack(site: Path, verb: str) -> None:
    count, one_by_one, files, other = probe(site, verb)
    assert count > 12
    assert one_by_one == ["dkrctl", "dkrctl.packed"]
    # As if loaded from its own file, for tracebacks and for what is not packed.
    run = str(site / "dkrctl/run.py")
    assert files == [run, str(site / "common"), run]
    assert other == str(site / "dkrctl/help.py")


def test_other_verbs_load_one_by_one(site: Path) -> None:
    count, one_by_one, _, _ = probe(site, "ps")
    assert len(one_by_one) == count


@pytest.mark.parametrize("by", ["name", "magic"])
def test_the_pack_of_another_release_of_python_is_none(site: Path, tmp_path: Path, by: str) -> None:
    other = tmp_path / "site"
    shutil.copytree(site, other)
    [pack] = (other / "dkrctl").glob("*.pack")
    if by == "name":
        pack.rename(pack.with_name("cpython-39.pack"))
    else:
        pack.write_bytes(b"\xa6\r\r\n" + pack.read_bytes()[4:])
    count, one_by_one, _, _ = probe(other, "run")
    assert len(one_by_one) == count
