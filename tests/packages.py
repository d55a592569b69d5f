"""The Debian package and what it is made of, built from this tree as `make deb` builds it: once a run, in a copy."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NEXT = "99.0.0"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """A command that must succeed; what it wrote."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def built() -> Path:
    """A directory with the package, the wheel and the source distribution, removed at the end of the run."""
    place = Path(tempfile.mkdtemp(prefix="dkr-packages-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, place)
    tree = place / "tree"
    # What git ignores stays behind, so that what is built is what a clean clone would build.
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name)
    # The tools are fetched once for all trees.
    if (REPOSITORY / "build/wheels").is_dir():
        (tree / "build").mkdir()
        (tree / "build/wheels").symlink_to(REPOSITORY / "build/wheels")
        (tree / "build/venv").symlink_to(REPOSITORY / "build/venv")
    run("make", "-s", "deb", cwd=tree)
    return tree / "dist"


def deb() -> Path:
    """The package."""
    [found] = built().glob("dkr_*.deb")
    return found


@functools.cache
def newer_deb() -> Path:
    """The same as version NEXT: what stands in it, its programs and its control file say so."""
    place = built() / "next"
    tree = place / "tree"
    place.mkdir()
    run("dpkg-deb", "--raw-extract", deb(), tree)
    control = tree / "DEBIAN/control"
    control.write_text(_with_version(control.read_text(), "Version: ", "\n"))
    [module] = tree.glob("usr/lib/dkr/lib/*/site-packages/common/version.py")
    module.write_text(_with_version(module.read_text(), 'VERSION = "', '"\n'))
    options = ("-q", "-f", "-s", tree, "-p", "/", "--invalidation-mode", "unchecked-hash")
    run("/usr/bin/python3", "-I", "-m", "compileall", *options, module)
    archive = place / "newer.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, archive)
    shutil.rmtree(tree)
    return archive


def _with_version(text: str, before: str, after: str) -> str:
    head, _, tail = text.partition(before)
    return f"{head}{before}{NEXT}{after}{tail.partition(after)[2]}"
