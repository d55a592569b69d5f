"""The systemd units as `make install` places them: whole, known to systemd 252, and doing what the design forbids nowhere."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "systemd" / "system"
NAMES = ("dkr-containers-stop.target", "dkr-containers.service", "dkrd.service", "dkrd.socket")
# What `systemd-analyze security` says of each service (0 is none, 10 is all): dkrd makes namespaces and mounts on the host for its
# living and confines its own children itself, so that its number is high; it must not grow unseen.
EXPOSURE = {"dkrd.service": 9.6, "dkr-containers.service": 4.0}
# systemd.exec(5): each of these gives the service a mount namespace, in which trees that clients hand over cannot be cloned.
MOUNT_NAMESPACE = re.compile(
    r"(Private(Tmp|Devices|Mounts|Users|IPC|Network)|Protect\w+|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|ExecPaths"
    r"|NoExecPaths|Bind\w+|Temporary\w+|Root\w+|Mount\w+|DynamicUser|ProcSubset|ExtensionImages|ExtensionDirectories)"
)
# What the launcher has, its containers would inherit: filters, lost capabilities, flags.
INHERITED = re.compile(
    r"(SystemCall\w+|Restrict\w+|NoNewPrivileges|CapabilityBoundingSet|AmbientCapabilities|SecureBits|LockPersonality"
    r"|MemoryDenyWriteExecute|Personality|AppArmorProfile|SELinuxContext|CPUSchedulingPolicy|IOSchedulingClass|Nice|UMask)"
)
# Keys that came after systemd 252, whose Debian 12 is the oldest that is promised.
LATER = re.compile(
    r"(DelegateSubgroup|ReloadSignal|OpenFile|RestartSteps|RestartMaxDelaySec|RestartMode|MemoryPressure\w+|CoredumpReceive"
    r"|SurviveFinalKillSignal|PassFileDescriptorsToExec|PollLimit\w+|ImportCredential|RootEphemeral|MemoryZSwapWriteback)"
)


class Unit(configparser.RawConfigParser):
    """A unit's file; keys keep their case."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=True, interpolation=None, delimiters="=", comment_prefixes="#")
        self.read(UNITS / name)

    def optionxform(self, optionstr: str) -> str:
        return optionstr

    @property
    def keys_used(self) -> set[str]:
        """The keys of all sections."""
        return {key for section in self.sections() for key in self[section]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install DESTDIR=...` leaves, in a root that has systemd's own units besides."""
    place = tmp_path_factory.mktemp("destdir")
    installer("install", place)
    return place


def installer(what: str, place: Path) -> str:
    """Runs scripts/install.sh as the Makefile does; what it says."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DESTDIR": str(place),
        "PREFIX": "/opt/dkr",
        "BINDIR": "/usr/bin",
        "SBINDIR": "/usr/sbin",
        "SYSUSERSDIR": "/usr/lib/sysusers.d",
        "TMPFILESDIR": "/usr/lib/tmpfiles.d",
        "UNITDIR": "/usr/lib/systemd/system",
        "MANDIR": "/usr/share/man",
        "BASHCOMPDIR": "/usr/share/bash-completion/completions",
        "ZSHCOMPDIR": "/usr/share/zsh/vendor-completions",
        "FISHCOMPDIR": "/usr/share/fish/vendor_completions.d",
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        [REPOSITORY / "scripts/install.sh", what],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(place: Path) -> set[str]:
    """Every file below `place` but the environment's."""
    found = {str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith("opt/dkr/")}


def test_the_install_places_exactly_these_files(root: Path) -> None:
    assert files(root) == {
        "usr/bin/dkrctl",
        "usr/sbin/dkrd",
        "usr/lib/sysusers.d/dkr.conf",
        "usr/lib/tmpfiles.d/dkr.conf",
        *(f"usr/lib/systemd/system/{name}" for name in NAMES),
        *(f"usr/share/man/{page}" for page in ("man1/dkrctl.1", "man5/dkrd.toml.5", "man8/dkrd.8")),
        "usr/share/bash-completion/completions/dkrctl",
        "usr/share/zsh/vendor-completions/_dkrctl",
        "usr/share/fish/vendor_completions.d/dkrctl.fish",
    }
    for name in NAMES:
        path = root / "usr/lib/systemd/system" / name
        assert "@" not in re.sub(r"#.*|@system-service", "", path.read_text())
        assert path.stat().st_mode & 0o777 == 0o644


def test_uninstall_leaves_nothing_and_an_install_takes_what_is_outdated_away(
    root: Path, tmp_path: Path
) -> None:
    place = tmp_path / "root"
    shutil.copytree(root, place, symlinks=True)
    outdated = "usr/lib/systemd/system/dkr-old.service"
    (place / outdated).write_text("# dkr\n")
    with (place / "opt/dkr/manifest").open("a") as manifest:
        manifest.write(f"/{outdated}\n")
    (place / "opt/dkr/stamp").write_text("older\n")
    installer("install", place)
    assert files(place) == files(root)
    installer("uninstall", place)
    assert files(place) == set()
    assert not (place / "opt/dkr").exists()


@pytest.fixture(scope="module")
def analysed(root: Path) -> Path:
    """The same, with what systemd-analyze looks for."""
    known = Path("/usr/lib/systemd/system")
    ignored = shutil.ignore_patterns("dkr*")  # an install on this very machine
    shutil.copytree(known, root / known.relative_to("/"), symlinks=True, dirs_exist_ok=True, ignore=ignored)
    (root / "bin").mkdir()
    for name in ("sh", "sleep"):
        shutil.copy(f"/bin/{name}", root / "bin")
    return root


def analyse(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze below a root."""
    command = ["systemd-analyze", f"--root={root}", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )


def test_systemd_finds_nothing_to_say(analysed: Path) -> None:
    done = analyse(analysed, "verify", "--man=no", *NAMES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("line", ["ExecStart=/bin/sleep 1\nDelegateSubgroup=x", "ExecStart=/usr/sbin/nosuch"])
def test_systemd_would_say_something(analysed: Path, line: str) -> None:
    """The test above can fail."""
    unit = analysed / "usr/lib/systemd/system/dkr-broken.service"
    unit.write_text(f"[Service]\n{line}\n")
    try:
        assert analyse(analysed, "verify", "--man=no", unit.name).stderr != ""
    finally:
        unit.unlink()


@pytest.mark.parametrize("name", EXPOSURE)
def test_no_service_is_more_exposed_than_it_says(analysed: Path, name: str) -> None:
    said = analyse(analysed, "security", "--offline=true", "--no-pager", name).stdout
    found = re.search(r"Overall exposure level for \S+ ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= EXPOSURE[name]
    assert f"| `{name}` | {found[1]} |" in (REPOSITORY / "docs/systemd.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_known_to_the_oldest_systemd(name: str) -> None:
    assert [key for key in Unit(name).keys_used if LATER.fullmatch(key)] == []
    assert "notify-reload" not in (UNITS / name).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_no_unit_makes_a_mount_namespace(name: str) -> None:
    assert [key for key in Unit(name).keys_used if MOUNT_NAMESPACE.fullmatch(key)] == []


def test_containers_inherit_nothing_from_the_daemons_unit() -> None:
    assert [key for key in Unit("dkrd.service").keys_used if INHERITED.fullmatch(key)] == []
    # The soft limit is what a command gets; a high one breaks programs that use select(2).
    assert Unit("dkrd.service")["Service"]["LimitNOFILE"].startswith("1024:")


def test_no_unit_ends_what_is_not_its_own_process() -> None:
    for name in ("dkrd.service", "dkr-containers.service"):
        assert Unit(name)["Service"]["KillMode"] == "process"


def test_the_daemon_is_told_the_cgroup_that_the_other_unit_owns() -> None:
    assert Unit("dkr-containers.service")["Service"]["Delegate"] == "yes"
    assert "Slice" not in Unit("dkr-containers.service")["Service"]
    command = Unit("dkrd.service")["Service"]["ExecStart"]
    assert command.endswith(" --cgroup-parent /system.slice/dkr-containers.service")


def test_a_killed_holder_comes_to_the_daemons_unit_on_no_way() -> None:
    """Whatever ties the two directly stops or restarts the daemon at each try to bring the holder back (tests/vm/test_systemd.py)."""
    tied = ("BindsTo", "PartOf", "PropagatesStopTo", "Requires", "Requisite", "StopPropagatedFrom", "Upholds")
    found = {
        (name, key): Unit(name)["Unit"][key]
        for name in NAMES
        for key in tied
        if key in Unit(name)["Unit"] and Unit(name)["Unit"][key] != "dkrd.socket"
    }
    # What the target lets through is a stop alone, and only while it is active: the daemon brings it along.
    assert found == {
        ("dkr-containers-stop.target", "PartOf"): "dkr-containers.service",
        ("dkr-containers-stop.target", "PropagatesStopTo"): "dkrd.service",
    }
    assert "dkr-containers-stop.target" in Unit("dkrd.service")["Unit"]["Wants"].split()


def test_the_socket_is_the_one_that_clients_look_for() -> None:
    section = Unit("dkrd.socket")["Socket"]
    assert section["ListenStream"] == "/run/dkr/dkr.sock"
    assert (section["SocketGroup"], section["SocketMode"]) == ("dkr", "0660")
