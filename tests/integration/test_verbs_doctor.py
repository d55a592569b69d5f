"""`dkrctl doctor`: on this host as it is, and on one where something is missing: the kernel's own walls are put in its way."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from common.version import VERSION
from tests.unit.canned import canned, http

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root
Checks = dict[str, dict[str, Any]]


def examine(
    daemon: Daemon, *words: str, user: User | None = None, status: int | None = None, **options: Any
) -> Checks:
    """The checks by their names; `status` is the exit status that it must have, None: what they say."""
    command = ("doctor", "--format", "json", "--config", f"{daemon.directory}/dkrd.toml", *words)
    done = daemon.dkrctl(*command, user=user, **options)
    return judged(done, status)


def judged(done: subprocess.CompletedProcess[str], status: int | None = None) -> Checks:
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["version"] == VERSION
    found = {check["name"]: check for check in told["checks"]}
    assert len(found) == len(told["checks"])
    for check in found.values():
        assert check.keys() - {"advice"} == {"group", "name", "status", "found"}
        assert check["status"] in ("ok", "warning", "problem")
        assert ("advice" in check) == (check["status"] != "ok")
    problems = [check for check in found.values() if check["status"] == "problem"]
    assert done.returncode == (1 if problems else 0) == (done.returncode if status is None else status), (
        problems
    )
    return found


def behind_walls(daemon: Daemon, walls: str, *words: str) -> Checks:
    """Examines from within a mount namespace of its own, after the shell commands `walls`."""
    line = f'{walls} && exec {daemon.prefix}/bin/dkrctl doctor --format json --config {daemon.directory}/dkrd.toml "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, "sh", *words],
        env=daemon.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return judged(done)


def settings(daemon: Daemon, place: Path, **changes: str) -> str:
    """A settings file like the daemon's with lines changed; its path."""
    lines = (daemon.directory / "dkrd.toml").read_text().splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{key} =")]
        lines.insert(0, f"{key} = {json.dumps(value)}")
    (place / "dkrd.toml").write_text("\n".join(lines) + "\n")
    return str(place / "dkrd.toml")


def test_on_a_host_that_works_nothing_is_a_problem(daemon: Daemon) -> None:
    before = sorted(path.name for path in daemon.state_dir.iterdir())
    found = examine(daemon, status=0)
    for name in ("idmapped mounts", "overlay", "user namespaces", "cgroup namespaces", "mount calls"):
        assert found[name]["status"] == "ok"
        assert "tried" in found[name]["found"]
    assert found["daemon"]["found"] == f"answers, release {VERSION}"
    assert found["this user"]["found"] == "root: may do anything"
    assert found["socket"]["found"] == f"{daemon.socket}, root:dkr, 0660"
    assert "in use" in found["open files of dkrd"]["found"]
    assert "capability" in found["security modules"]["found"].split(", ")
    assert sorted(path.name for path in daemon.state_dir.iterdir()) == before


def test_what_needs_root_is_not_taken_for_well(daemon: Daemon, tenant: User) -> None:
    found = examine(daemon, user=tenant, status=0)
    for name in ("idmapped mounts", "overlay", "open files of dkrd"):
        assert found[name]["status"] == "warning"
        assert "not tried: that needs root" in found[name]["found"]
        assert "as root" in found[name]["advice"]
    assert "capabilities" not in found
    assert found["this user"]["found"] == f"{tenant.name}, in the group dkr: may have containers"


def test_an_admin_is_told_so(daemon: Daemon, admin: User) -> None:
    assert (
        "in the group dkr-admin: may do anything"
        in examine(daemon, user=admin, status=0)["this user"]["found"]
    )


def test_a_stranger_is_told_what_is_missing(daemon: Daemon, stranger: User) -> None:
    found = examine(daemon, user=stranger, status=1)
    assert f"usermod -aG dkr {stranger.name}" in found["socket"]["advice"]
    assert found["this user"]["status"] == "problem"
    assert "daemon" not in found
    assert found["kernel"]["status"] == "ok"


def test_who_joined_after_the_login(daemon: Daemon, tenant: User) -> None:
    words = [
        f"{daemon.prefix}/bin/dkrctl",
        "doctor",
        "--format",
        "json",
        "--config",
        f"{daemon.directory}/dkrd.toml",
    ]
    done = subprocess.run(
        words,
        env=daemon.environment(),
        user=tenant.uid,
        group=tenant.gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    found = judged(done, 1)
    assert "this session began before" in found["this user"]["found"]
    assert "newgrp dkr" in found["this user"]["advice"]


def test_without_a_daemon_the_rest_is_still_told(daemon: Daemon) -> None:
    found = examine(daemon, "--socket", "/nonexistent/dkr.sock", status=1)
    assert f"/nonexistent/dkr.sock is not there, but {daemon.socket} is" in found["socket"]["found"]
    assert found["socket"]["advice"] == f"export DKR_SOCKET={daemon.socket}"
    assert [name for name, check in found.items() if check["status"] == "problem"] == ["socket"]
    assert found["overlay"]["status"] == "ok"


def test_a_daemon_that_hangs_and_one_of_another_release(daemon: Daemon, tmp_path: Path) -> None:
    with canned(tmp_path / "hung", hold=True):
        found = examine(daemon, "--socket", str(tmp_path / "hung"), env={"DKR_TIMEOUT": "0.2"}, status=1)
    assert "it hangs" in found["daemon"]["found"]
    with canned(tmp_path / "new", default=http({"version": "9.9", "apiVersion": "1"})):
        found = examine(daemon, "--socket", str(tmp_path / "new"), status=0)
    assert "dkrd is of release 9.9" in found["versions"]["found"]
    assert "upgrade the client" in found["versions"]["advice"]


def test_settings_that_dkrd_refuses(daemon: Daemon, open_tmp: Path, tenant: User) -> None:
    file = settings(daemon, open_tmp, state_dri="/x")
    found = examine(daemon, "--config", file, status=1)
    assert found["settings"]["status"] == "problem"
    assert f"{file}:1: unknown key state_dri" in found["settings"]["found"]
    assert "not looked at" in found["storage, users, id pool"]["found"]
    (open_tmp / "dkrd.toml").chmod(0o600)
    found = examine(daemon, "--config", file, user=tenant, status=0)
    assert found["settings"]["status"] == "warning"
    assert "closed to this user" in found["settings"]["found"]


def test_groups_and_users_that_do_not_exist(daemon: Daemon, tmp_path: Path) -> None:
    file = settings(daemon, tmp_path, socket_group="dkr-nobodys", api_user="dkr-none")
    found = examine(daemon, "--config", file, status=1)
    assert "groupadd --system dkr-nobodys" in found["group dkr-nobodys"]["advice"]
    assert "useradd --system" in found["user dkr-none"]["advice"]


def test_a_filesystem_that_cannot_carry_containers(daemon: Daemon, tmp_path: Path) -> None:
    found = examine(daemon, "--config", settings(daemon, tmp_path, state_dir="/sys/kernel"), status=1)
    assert found["idmapped mounts"]["status"] == found["overlay"]["status"] == "problem"
    assert "sysfs" in found["idmapped mounts"]["found"]
    assert "ext4, xfs or btrfs" in found["overlay"]["advice"]


def test_nothing_is_tried_where_others_could_put_their_own(
    daemon: Daemon, open_tmp: Path, tmp_path: Path, tenant: User
) -> None:
    (open_tmp / "theirs").mkdir()
    shutil.chown(open_tmp / "theirs", tenant.uid)
    file = settings(daemon, tmp_path, state_dir=f"{open_tmp}/theirs/state")
    found = examine(daemon, "--config", file, status=1)
    assert f"belongs to uid {tenant.uid}" in found["state directory"]["found"]
    assert "overlay" not in found
    assert list((open_tmp / "theirs").iterdir()) == []


def test_a_disk_without_room(daemon: Daemon, open_tmp: Path, tmp_path: Path) -> None:
    file = settings(daemon, tmp_path, state_dir=f"{open_tmp}/state")
    found = behind_walls(daemon, f"mount -t tmpfs -o size=4m,mode=755 none {open_tmp}", "--config", file)
    assert found["disk space"]["status"] == "problem"
    assert "dkrctl rm" in found["disk space"]["advice"]


def test_packages_that_are_missing(daemon: Daemon) -> None:
    libraries = "for f in /usr/lib/*/libseccomp.so.2*; do mount --bind /dev/null $f; done"
    found = behind_walls(daemon, f"mount --bind /dev/null /bin/busybox && {libraries}")
    assert found["static busybox"]["status"] == "warning"
    assert "/bin/busybox is not a regular file" in found["static busybox"]["found"]
    assert "apt-get install busybox-static" in found["static busybox"]["advice"]
    assert found["libseccomp"]["status"] == "problem"
    assert "apt-get install libseccomp2" in found["libseccomp"]["advice"]


def test_ids_that_overlap(daemon: Daemon, tmp_path: Path) -> None:
    first = daemon.settings["ids"]["first"]
    (tmp_path / "subuid").write_text(f"alice:{first + 65536}:65536\n")
    found = behind_walls(daemon, f"mount --bind {tmp_path}/subuid /etc/subuid")
    assert found["id pool"]["status"] == "problem"
    assert (
        f"overlaps the range {first + 65536}:65536 of alice in /etc/subuid, line 1"
        in found["id pool"]["found"]
    )


def test_namespaces_that_are_forbidden(daemon: Daemon) -> None:
    """The bound is that of a user namespace; in one of its own root may set it."""
    line = f"echo 0 >/proc/sys/user/max_user_namespaces && {daemon.prefix}/bin/dkrctl doctor --format json"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", line],
        env=daemon.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = judged(done, 1)
    assert found["user namespaces"]["status"] == "problem"
    assert "user.max_user_namespaces is 0" in found["user namespaces"]["found"]
    assert "sysctl -w user.max_user_namespaces=15000" in found["user namespaces"]["advice"]


def test_the_page_that_people_read(daemon: Daemon, stranger: User) -> None:
    done = daemon.dkrctl("doctor", "--config", f"{daemon.directory}/dkrd.toml", user=stranger)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert {"Kernel", "Install", "Storage", "Daemon"} <= set(lines)
    assert any(line.startswith("  problem  socket: ") for line in lines)
    assert any(line.strip().startswith("-> join the group") for line in lines)
    assert "problems, " in lines[-1]
