"""What is published: wheel, source distribution, Debian package. How the package behaves is tried in a machine (tests/vm/test_deb.py)."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.version import VERSION
from tests import packages

# The package is built once, in some 20 s on an idle machine; on one that is not the usual minute is too short.
pytestmark = pytest.mark.timeout(600)

REPOSITORY = packages.REPOSITORY
MINOR = subprocess.run(
    ["/usr/bin/python3", "-IS", "-c", "import sys; print(sys.version_info.minor)"],
    capture_output=True,
    text=True,
).stdout.strip()


@pytest.fixture(scope="module")
def wheel() -> Path:
    return packages.built() / f"dkr_runtime-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the Debian package."""
    place = tmp_path_factory.mktemp("deb")
    packages.run("dpkg-deb", "--extract", packages.deb(), place)
    return place


def field(name: str) -> str:
    """A field of the package's control file."""
    return packages.run("dpkg-deb", "--field", packages.deb(), name).strip()


def test_the_wheel_installs_and_imports(wheel: Path, tmp_path: Path) -> None:
    packages.run("/usr/bin/python3", "-I", "-m", "venv", "--without-pip", tmp_path)
    python = tmp_path / "bin/python"
    pip = (REPOSITORY / "build/venv/bin/python", "-I", "-m", "pip", "--python", python)
    packages.run(*pip, "install", "--no-deps", "--no-index", wheel)
    # The dependencies are those of the tests: what is asked here is whether all modules are in the wheel.
    script = f"""
import sys
sys.path.append({sysconfig.get_path("purelib")!r})
import common, dkrctl.client, dkrctl.lean, dkrd.api.app, dkrd.launcher.main
print(*(module.__file__ for module in (dkrctl.lean, dkrd.api.app, dkrd.launcher.main)))
"""
    found = packages.run(python, "-I", "-c", script, cwd=tmp_path).split()
    assert [path.startswith(str(tmp_path)) for path in found] == [True] * 3


def test_the_wheel_has_all_modules_and_no_programs(wheel: Path) -> None:
    modules = {
        str(path.relative_to(REPOSITORY))
        for package in ("common", "dkrctl", "dkrd")
        for path in (REPOSITORY / package).rglob("*")
        if path.suffix in (".py", ".typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        information = f"dkr_runtime-{VERSION}.dist-info"
        metadata = archive.read(f"{information}/METADATA").decode()
    assert {name for name in names if not name.startswith(information)} == modules
    assert f"{information}/entry_points.txt" not in names
    assert f"\nVersion: {VERSION}\n" in metadata


def test_the_source_distribution_has_what_a_clone_has() -> None:
    with tarfile.open(packages.built() / f"dkr_runtime-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = packages.run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY
    ).split("\0")
    here = {name for name in listed if name and (REPOSITORY / name).exists() and not name.startswith(".ci/")}
    assert names - {"PKG-INFO"} == here


def test_the_same_sources_give_the_same_bytes() -> None:
    def digests() -> dict[str, str]:
        found = packages.built().glob("dkr_runtime-*")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    before = digests()
    packages.run("make", "-s", "dist", cwd=packages.built().parent)
    assert digests() == before
    assert len(before) == 2


def test_the_package_says_what_it_needs() -> None:
    assert (field("Package"), field("Version")) == ("dkr", VERSION)
    needed = {word.strip() for word in field("Depends").split(",")}
    # What is compiled is of one CPython.
    assert {f"python3 (>= 3.{MINOR}~)", f"python3 (<< 3.{int(MINOR) + 1})", "libseccomp2"} <= needed
    assert any(word.startswith("libc6 ") for word in needed)
    assert any("sysusers" in word for word in needed)


def test_the_package_places_exactly_these_files(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if not path.is_dir()}
    documents = {name for name in files if name.startswith("usr/share/doc/dkr/")}
    assert {name for name in files - documents if not name.startswith("usr/lib/dkr/")} == {
        "usr/bin/dkrctl",
        "usr/sbin/dkrd",
        "usr/lib/sysusers.d/dkr.conf",
        "usr/lib/tmpfiles.d/dkr.conf",
        *(f"lib/systemd/system/{path.name}" for path in (REPOSITORY / "systemd/system").iterdir()),
        *(f"usr/share/man/{page}.gz" for page in ("man1/dkrctl.1", "man5/dkrd.toml.5", "man8/dkrd.8")),
        "usr/share/bash-completion/completions/dkrctl",
        "usr/share/zsh/vendor-completions/_dkrctl",
        "usr/share/fish/vendor_completions.d/dkrctl.fish",
        "usr/share/lintian/overrides/dkr",
    }
    plain = {name.removesuffix(".gz") for name in documents}
    handbook = {f"usr/share/doc/dkr/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")}
    assert (
        handbook | {f"usr/share/doc/dkr/{name}" for name in ("copyright", "CHANGELOG.md", "changelog")}
        <= plain
    )
    for line in packages.run("dpkg-deb", "--contents", packages.deb()).splitlines():
        assert re.match(r"l|[d-]rw[x-]r-[x-]r-[x-] root/root ", line), line


def test_the_packages_environment_is_whole(unpacked: Path) -> None:
    site = unpacked / f"usr/lib/dkr/lib/python3.{MINOR}/site-packages"
    compiled = {
        path.parent.parent / path.name.replace(f".cpython-3{MINOR}.pyc", ".py"): path
        for path in site.rglob("*.pyc")
    }
    assert set(compiled) == set(site.rglob("*.py"))
    # Believed whatever the file's time is (PEP 552): dpkg's is not the one that it was compiled with.
    assert {path.read_bytes()[4:8] for path in compiled.values()} == {b"\x01\x00\x00\x00"}
    for record in site.glob("*.dist-info/RECORD"):
        listed = [line.partition(",")[0] for line in record.read_text().splitlines()]
        assert [name for name in listed if not (site / name).exists()] == [], record
    tree = str(packages.built().parent).encode()
    assert [path for path in unpacked.rglob("*") if path.is_file() and tree in path.read_bytes()] == []
    interpreter = (unpacked / "usr/lib/dkr/bin/python3").readlink()
    assert os.path.normpath(Path("/usr/lib/dkr/bin") / interpreter) == "/usr/bin/python3"
    for program in ("usr/bin/dkrctl", "usr/sbin/dkrd"):
        assert f'"/usr/lib/dkr/lib/python3.{MINOR}/site-packages"' in (unpacked / program).read_text()
        assert (unpacked / program).read_text().startswith("#!/usr/bin/python3 -IS\n")


def test_every_library_in_the_package_is_named_with_its_licence() -> None:
    names = re.findall(
        r"^([a-z0-9-]+)==", (REPOSITORY / "requirements/runtime.txt").read_text(), re.MULTILINE
    )
    text = (REPOSITORY / "debian/copyright").read_text()
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_lintian_has_nothing_to_say() -> None:
    # It keeps quiet about what the package argues (debian/dkr.lintian-overrides).
    done = subprocess.run(
        ["lintian", "--allow-root", packages.deb()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_no_script_of_the_package_restarts_what_holds_the_containers(tmp_path: Path) -> None:
    packages.run("dpkg-deb", "--control", packages.deb(), tmp_path)
    acts = {
        name: re.findall(
            r"deb-systemd-invoke (.+?)(?: >|\s*\|\||$)", (tmp_path / name).read_text(), re.MULTILINE
        )
        for name in ("preinst", "postinst", "prerm", "postrm")
    }
    assert acts == {
        "preinst": [],
        "postinst": ["start 'dkrd.socket'", "try-restart dkrd.service"],
        "prerm": ["stop dkrd.socket dkrd.service dkr-containers.service", "stop 'dkrd.socket'"],
        "postrm": [],
    }
