"""The skeleton of the root `host`: its description, its making, and what of the host is bound into it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from common.errors import HostUnfit
from dkrd.launcher.jobs import host_root, layers
from dkrd.launcher.jobs.host_root import describe
from dkrd.launcher.jobs.layers import Directory, Entry, File, Link, Program
from dkrd.settings import Settings
from dkrd.shim import host_binds
from dkrd.shim.host_binds import Bind, Host, scan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MERGED = Host(
    binds=(
        Bind("/usr", "/usr", is_dir=True),
        Bind("/etc/ssl/certs", "/etc/ssl/certs", is_dir=True),
        Bind("/etc/services", "/etc/services", is_dir=False),
    ),
    links=(("bin", "usr/bin"), ("lib64", "usr/lib64")),
    zone="/usr/share/zoneinfo/Etc/UTC",
)
UNMERGED = Host(
    binds=(*MERGED.binds, *(Bind(f"/{n}", f"/{n}", is_dir=True) for n in ("bin", "sbin", "lib"))),
    links=(("lib64", "lib"),),
    zone=None,
)


def build(state_dir: Path, host: Host = MERGED) -> Path:
    return state_dir / "layers" / layers.build(str(state_dir), "host", describe(host))


def name_of(entries: tuple[Entry, ...]) -> str:
    return layers.name_of("host", entries)


def snapshot(layer: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [layer, *layer.rglob("*")]:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        owner = (status.st_uid, status.st_gid)
        found[str(path.relative_to(layer))] = (status.st_mode, owner, status.st_mtime_ns, content)
    return found


@pytest.fixture
def tight_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (".", 0o755),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("run/lock", 0o1777),
        ("root", 0o700),
        ("home", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("dev", 0o755),
        ("etc/shadow", 0o640),
        ("etc/passwd", 0o644),
        ("etc/services", 0o644),
        ("etc/ssl", 0o755),
        ("etc/ssl/certs", 0o755),
    ],
)
@pytest.mark.usefixtures("tight_umask")
def test_modes_whatever_the_umask(path: str, mode: int, tmp_path: Path) -> None:
    assert stat.S_IMODE((build(tmp_path) / path).stat().st_mode) == mode


def test_everything_belongs_to_root_and_has_the_fixed_time(tmp_path: Path) -> None:
    entries = snapshot(build(tmp_path))
    assert len(entries) > 35
    assert {owner for _mode, owner, _time, _content in entries.values()} == {(0, 0)}
    assert {time for _mode, _owner, time, _content in entries.values()} == {946_684_800 * 10**9}


def test_nothing_in_it_is_setuid_a_device_or_writable_by_all(tmp_path: Path) -> None:
    for path, (mode, *_rest) in snapshot(build(tmp_path)).items():
        assert isinstance(mode, int)
        assert not mode & 0o6000, path
        assert stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode), path
        if mode & 0o002 and not stat.S_ISLNK(mode):
            assert mode & stat.S_ISVTX, path


def test_links(tmp_path: Path) -> None:
    layer = build(tmp_path)
    found = {str(p.relative_to(layer)): os.readlink(p) for p in layer.rglob("*") if p.is_symlink()}
    assert found == {
        "bin": "usr/bin",
        "lib64": "usr/lib64",
        "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
        "etc/mtab": "../proc/self/mounts",
        "etc/os-release": "../usr/lib/os-release",
        "var/lock": "/run/lock",
        "var/run": "/run",
    }


def test_unmerged_host_gets_directories_to_bind_on(tmp_path: Path) -> None:
    layer = build(tmp_path, UNMERGED)
    for name in ("bin", "sbin", "lib"):
        assert (layer / name).is_dir()
        assert not (layer / name).is_symlink()
    assert os.readlink(layer / "lib64") == "lib"
    assert not (layer / "etc/localtime").is_symlink()


def test_every_bind_has_its_target_and_the_targets_are_empty(tmp_path: Path) -> None:
    layer = build(tmp_path, UNMERGED)
    for bind in UNMERGED.binds:
        target = layer / bind.destination.lstrip("/")
        assert target.is_dir() == bind.is_dir
        assert not (os.listdir(target) if bind.is_dir else target.read_bytes())


def test_users_and_groups_fit_together(tmp_path: Path) -> None:
    etc = build(tmp_path) / "etc"
    users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
    groups = {line.split(":")[0]: line.split(":")[2] for line in (etc / "group").read_text().splitlines()}
    shadow = [line.split(":") for line in (etc / "shadow").read_text().splitlines()]
    assert all(len(user) == 7 for user in users)
    assert all(len(entry) == 9 and entry[1] == "*" for entry in shadow)
    assert [user[0] for user in users] == [entry[0] for entry in shadow]
    assert {user[3] for user in users} <= set(groups.values())
    assert users[0] == ["root", "x", "0", "0", "root", "/root", "/bin/sh"]
    assert {user[0]: user[2] for user in users}["nobody"] == "65534"
    assert groups["tty"] == "5"
    assert groups["users"] == "100"


def test_numbers_are_those_of_debian(tmp_path: Path) -> None:
    etc = build(tmp_path) / "etc"
    for line in (etc / "passwd").read_text().splitlines():
        name, _, uid, gid, *_rest = line.split(":")
        entry = pwd.getpwnam(name)
        assert (entry.pw_uid, entry.pw_gid) == (int(uid), int(gid))
    for line in (etc / "group").read_text().splitlines():
        assert grp.getgrnam(line.split(":")[0]).gr_gid == int(line.split(":")[2])


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_profile_is_read_without_a_word(shell: str, tmp_path: Path) -> None:
    profile = build(tmp_path) / "etc/profile"
    done = subprocess.run(
        [shell, "-euc", f'BASH="${{BASH:-}}"; . {profile}; echo "$PATH|$PS1"'],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin"},
    )
    path, prompt = done.stdout.rstrip("\n").split("|")
    assert done.stderr == ""
    assert path.startswith("/usr/local/sbin:")
    assert prompt == {"/bin/sh": "# ", "/bin/bash": "\\h:\\w# "}[shell]


def test_second_call_changes_nothing(tmp_path: Path) -> None:
    layer = build(tmp_path)
    inode, before = layer.stat().st_ino, snapshot(layer)
    assert build(tmp_path) == layer
    assert (layer.stat().st_ino, snapshot(layer)) == (inode, before)
    assert os.listdir(tmp_path / "layers") == [layer.name]


def test_the_name_follows_the_description() -> None:
    base = describe(MERGED)
    names = {
        name_of(base),
        name_of(describe(UNMERGED)),
        name_of((*base, Directory("x", 0o755))),
        name_of((*base, Directory("x", 0o700))),
        name_of((*base, File("x", 0o755, ""))),
        name_of((*base, File("x", 0o755, "a"))),
        name_of((*base, Link("x", "a"))),
        name_of((*base, Program("x", 0o755, b"a"))),
        name_of((*base, Program("x", 0o755, b"b"))),
    }
    assert len(names) == 9
    assert all(len(name) == len("host-") + 12 for name in names)
    assert name_of(base) == name_of(describe(MERGED))


def test_parents_come_first() -> None:
    seen = {""}
    for entry in describe(UNMERGED):
        assert os.path.dirname(entry.path) in seen, entry
        seen.add(entry.path)


def test_many_at_once_make_one(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom dkrd.launcher.jobs import host_root\nfrom dkrd.settings import Settings\n"
        "sys.stdin.read()\nprint(host_root.ensure(Settings(state_dir=sys.argv[1])))"
    )
    gate_read, gate_write = os.pipe()
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdin=gate_read, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    os.close(gate_read)
    os.close(gate_write)  # end of input for all of them: go
    names = {builder.communicate()[0].strip() for builder in builders}
    assert [builder.returncode for builder in builders] == [0] * 6
    assert names == set(os.listdir(tmp_path / "layers"))
    assert len(names) == 1


def test_what_a_dead_builder_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "layers" / ".builtin-host-000000000000"
    (left / "etc").mkdir(parents=True)
    (tmp_path / "layers").chmod(0o700)
    (left / "etc/passwd").write_text("half")
    other = tmp_path / "layers" / ".image-1"
    other.mkdir()
    layer = build(tmp_path)
    assert sorted(os.listdir(tmp_path / "layers")) == [".image-1", layer.name]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    entries = (*describe(MERGED), Directory("missing/parent", 0o755))
    with pytest.raises(HostUnfit, match="cannot make the layer"):
        layers.build(str(tmp_path), "host", entries)
    assert os.listdir(tmp_path / "layers") == []


def test_layers_directory_is_made_for_root_alone(tmp_path: Path) -> None:
    build(tmp_path)
    status = (tmp_path / "layers").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, 0)


@pytest.mark.parametrize("spoil", ["mode", "owner", "link"])
def test_a_layers_directory_of_others_is_refused(spoil: str, tmp_path: Path) -> None:
    place = tmp_path / "layers"
    if spoil == "link":
        (tmp_path / "elsewhere").mkdir(0o700)
        place.symlink_to("elsewhere")
    else:
        place.mkdir(0o700)
    if spoil == "mode":
        place.chmod(0o711)
    if spoil == "owner":
        os.chown(place, 1, 1)
    with pytest.raises(HostUnfit, match=str(place)):
        build(tmp_path)


def test_something_else_of_that_name_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "layers"
    place.mkdir(0o700)
    (place / name_of(describe(MERGED))).symlink_to("/etc")
    with pytest.raises(HostUnfit, match="not a directory of root's"):
        build(tmp_path)


# --- looking at a host


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A merged host that has all of everything."""
    for directory in ("usr/bin", "usr/lib", "etc/alternatives", "etc/python3.11", "etc/ssl/certs"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/ssl/private").mkdir()
    for file in ("etc/services", "etc/shadow", "etc/ld.so.cache", "etc/java-17-openjdk"):
        (tmp_path / file).touch()
        (tmp_path / file).chmod(0o644)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").symlink_to("/usr/lib")
    (tmp_path / "etc/localtime").symlink_to("../usr/share/zoneinfo/Europe/Paris")
    return tmp_path


def destinations(host: Path) -> set[str]:
    return {bind.destination for bind in scan(str(host)).binds}


def test_only_what_is_there_is_bound(host: Path) -> None:
    assert destinations(host) == {
        "/usr",
        "/etc/alternatives",
        "/etc/ssl/certs",
        "/etc/services",
        "/etc/ld.so.cache",
        "/etc/python3.11",
        "/etc/java-17-openjdk",
    }
    assert {bind.destination for bind in scan(str(host)).binds if not bind.is_dir} == {
        "/etc/services",
        "/etc/ld.so.cache",
        "/etc/java-17-openjdk",
    }


def test_merged_and_unmerged_tops(host: Path) -> None:
    assert scan(str(host)).links == (("bin", "usr/bin"), ("lib", "usr/lib"))
    (host / "bin").unlink()
    (host / "bin").mkdir()
    (host / "lib64").symlink_to("../../outside")
    assert scan(str(host)).links == (("lib", "usr/lib"),)
    assert "/bin" in destinations(host)


@pytest.mark.parametrize("path", ["etc/services", "etc/ssl/certs"])
def test_what_others_cannot_read_or_root_does_not_own_is_not_bound(path: str, host: Path) -> None:
    assert f"/{path}" in destinations(host)
    os.chown(host / path, 1, 0)
    assert f"/{path}" not in destinations(host)
    os.chown(host / path, 0, 0)
    (host / path).chmod(0o750)
    assert f"/{path}" not in destinations(host)


def test_a_device_or_fifo_is_not_bound(host: Path) -> None:
    (host / "etc/services").unlink()
    os.mkfifo(host / "etc/services", 0o644)
    assert "/etc/services" not in destinations(host)


def test_time_zone_only_from_usr(host: Path) -> None:
    assert scan(str(host)).zone == "/usr/share/zoneinfo/Europe/Paris"
    (host / "etc/localtime").unlink()
    (host / "etc/localtime").symlink_to("/home/someone/zone")
    assert scan(str(host)).zone is None
    (host / "etc/localtime").unlink()
    (host / "etc/localtime").touch()
    assert scan(str(host)).zone is None


def test_the_table_has_reasons_and_no_secrets() -> None:
    paths = [path for path, _why in host_binds.TABLE]
    assert len(set(paths)) == len(paths)
    assert all(why for _path, why in host_binds.TABLE)
    for secret in ("shadow", "ssh", "private", "passwd", "preload", "sudoers"):
        assert not any(secret in path for path in paths)


def test_the_host_is_looked_at_once_and_a_fork_inherits_it() -> None:
    first = host_binds.present()
    assert Bind("/usr", "/usr", is_dir=True) in host_binds.present_binds()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if host_binds.present() is first else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_this_hosts_skeleton_runs_a_shell(tmp_path: Path) -> None:
    """The layer with the binds on it, as a container will see it: names, libraries and certificates resolve."""
    layer = tmp_path / "layers" / host_root.ensure(Settings(state_dir=str(tmp_path)))
    binds = "; ".join(f"mount --bind {b.source} {layer}{b.destination}" for b in host_binds.present_binds())
    inside = (
        "id -un; id -gn nobody; test -s /etc/ld.so.cache; awk 'BEGIN { print 6 * 7 }'; cat /etc/os-release"
    )
    done = subprocess.run(
        [
            "/usr/bin/unshare",
            "-m",
            "/bin/sh",
            "-euc",
            f'{binds}; exec chroot {layer} /bin/sh -euc "$0"',
            inside,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.stderr == ""
    assert done.stdout.startswith("root\nnogroup\n42\n")
    assert "ID=" in done.stdout
