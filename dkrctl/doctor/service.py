"""The daemon: its socket, who may connect, whether it answers, what systemd says of it."""

import grp
import os
import pwd
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common.errors import DkrError
from common.version import VERSION
from dkrctl import diagnosis
from dkrctl.daemon import Daemon
from dkrctl.doctor.checks import PROBLEM, Check, is_root, ok, problem, warning
from dkrctl.doctor.settings import Settings

SYSTEMD = Path("/run/systemd/system")  # there only where systemd is process 1, sd_booted(3)
UNITS = ("dkrd.socket", "dkrd.service", "dkr-containers.service")  # docs/systemd.md
_PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,Result"
SYSTEMCTL_SECONDS = 10


def checks(path: str, settings: Settings | None) -> Iterator[Check]:
    """All of them, for the socket at `path`."""
    there = _socket(path, settings)
    yield there
    if there.status != PROBLEM:  # else nothing more can be said of it
        yield from _answer(path)
    yield _session(settings)
    yield from _systemd()


def daemon_pid(path: str) -> int | None:
    """The launcher behind the socket at `path`; None where nobody answers or it is not known.

    SO_PEERCRED tells who called listen(2) last, unix(7): the launcher, its child the api, or systemd.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            while pid > 1:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "dkrd":
                    return int(pid)
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return None
    return None


def _socket(path: str, settings: Settings | None) -> Check:
    name = "socket"
    shown = diagnosis.shown(path)
    wanted = settings.text("socket") if settings else path
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if wanted != path and os.path.exists(wanted):
            return problem(name, f"{shown} is not there, but {wanted} is", f"export DKR_SOCKET={wanted}")
        return problem(name, f"{shown} is not there", diagnosis.start_hint().splitlines()[0])
    except PermissionError:
        cause, hint = diagnosis.no_permission(path)
        return problem(name, f"{shown}: {cause}", hint)
    except OSError as err:
        return problem(name, f"{shown}: {(err.strerror or str(err)).lower()}", "name another: --socket PATH")
    if not stat.S_ISSOCK(status.st_mode):
        return problem(name, f"{shown} is no socket", "name another: --socket PATH, or DKR_SOCKET")
    mode = stat.S_IMODE(status.st_mode)
    owner = f"{_user(status.st_uid)}:{_group(status.st_gid)}"
    found = f"{shown}, {owner}, {mode:04o}"
    if status.st_uid != 0:
        return problem(
            name, f"{found}: its owner is not root", "this is not dkrd's socket, or somebody took its place"
        )
    if not os.access(path, os.W_OK):
        cause, hint = diagnosis.no_permission(path)
        return problem(name, f"{found}: {cause}", hint)
    if mode & stat.S_IWOTH:
        return warning(name, f"{found}: every user may connect", "if that is not meant: setting socket_mode")
    return ok(name, found)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _answer(path: str) -> Iterator[Check]:
    try:
        said = Daemon(path).get("/v1/version")
    except DkrError as error:
        hint = (error.hint or "").splitlines() or [diagnosis.LOG]
        yield problem("daemon", error.message.partition(": ")[2] or error.message, hint[0])
        return
    facts = said if isinstance(said, dict) else {}
    release = facts.get("version")
    yield ok("daemon", f"answers, release {diagnosis.word(release)}")
    found = diagnosis.skew(release, facts.get("apiVersion"))
    if found is None:
        yield ok("versions", f"client and daemon are of release {VERSION}")
    else:
        yield warning("versions", found[0], found[1])


def _session(settings: Settings | None) -> Check:
    """What this user may, by the groups of this process and by those of the host's databases."""
    name = "this user"
    if is_root():
        return ok(name, "root: may do anything")
    user = diagnosis.user_name()
    if settings is None:
        return warning(name, f"{user}: the groups to be in are not known", "see what is told of the settings")
    mine = {os.getegid(), *os.getgroups()}
    for key, rights in (("admin_group", "may do anything"), ("socket_group", "may have containers")):
        group = settings.text(key)
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            continue
        if gid in mine:
            return ok(name, f"{user}, in the group {group}: {rights}")
        if diagnosis.is_listed(gid):
            return problem(
                name,
                f"{user} is a member of {group}, but this session began before",
                f"log in again, or go on in a shell of `newgrp {group}`",
            )
    group = settings.text("socket_group")
    return problem(
        name,
        f"{user} is in neither {group} nor {settings.text('admin_group')}",
        f"as root: usermod -aG {group} {user}, then log in again",
    )


def _systemd() -> Iterator[Check]:
    if not SYSTEMD.is_dir():
        yield ok("systemd", "not here: dkrd is started by hand, or by another service manager")
        return
    words = ["systemctl", "show", f"--property={_PROPERTIES}", *UNITS]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        yield warning("systemd", f"systemctl cannot be asked: {err}", "see `systemctl status` by hand")
        return
    yield from units(done.stdout)


def units(told: str) -> Iterator[Check]:
    """The checks of our units, out of what `systemctl show` told of them."""
    facts = [
        dict(line.partition("=")[::2] for line in block.splitlines()) for block in told.strip().split("\n\n")
    ]
    by_name = {entry.get("Id", ""): entry for entry in facts}
    listening = by_name.get("dkrd.socket", {}).get("ActiveState") == "active"
    for unit in UNITS:
        yield _unit(unit, by_name.get(unit, {}), listening)


def _unit(unit: str, facts: dict[str, str], listening: bool) -> Check:
    if facts.get("LoadState") != "loaded":
        return warning(unit, "not installed", "as root: make install, then systemctl daemon-reload")
    state = f"{facts.get('ActiveState')} ({facts.get('SubState')})"
    if facts.get("UnitFileState"):
        state += f", {facts['UnitFileState']}"
    if facts.get("ActiveState") == "failed":
        return problem(
            unit, f"{state}: {facts.get('Result')}", f"journalctl -u {unit}, then systemctl restart {unit}"
        )
    if facts.get("ActiveState") in ("active", "activating", "reloading"):
        if unit == "dkrd.socket" and facts.get("UnitFileState") == "disabled":
            return warning(unit, f"{state}: gone after the next boot", f"as root: systemctl enable {unit}")
        return ok(unit, state)
    if unit != "dkrd.socket" and listening:
        return ok(unit, f"{state}: started by the first client")
    return problem(unit, state, "as root: systemctl enable --now dkrd.socket")
