"""The users and groups that dkr goes by, and the pool of ids that containers get."""

import grp
import pwd
from collections.abc import Iterator

from common import id_files
from dkrctl.doctor.checks import Check, ok, problem
from dkrctl.doctor.settings import Settings

_MAKE = "as root: make install makes it, or: systemd-sysusers, or: "


def checks(settings: Settings) -> Iterator[Check]:
    """All of them."""
    user = settings.text("api_user")
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        yield problem(
            f"user {user}", "does not exist", f"{_MAKE}useradd --system --user-group --no-create-home {user}"
        )
    else:
        if entry.pw_uid == 0:
            yield problem(f"user {user}", "it is root", "the api needs a user of its own: setting api_user")
        else:
            yield ok(f"user {user}", f"uid {entry.pw_uid}")
    for key in ("socket_group", "admin_group"):
        group = settings.text(key)
        try:
            members = grp.getgrnam(group)
        except KeyError:
            yield problem(f"group {group}", "does not exist", f"{_MAKE}groupadd --system {group}")
        else:
            names = ", ".join(members.gr_mem[:5]) + (" …" if len(members.gr_mem) > 5 else "")
            yield ok(
                f"group {group}",
                f"gid {members.gr_gid}" + (f", members: {names}" if names else ", no members"),
            )
    yield _pool(settings.number("ids.first"), settings.number("ids.last"))


def _pool(first: int, last: int) -> Check:
    for other in id_files.overlaps(first, last):
        return problem(
            "id pool",
            f"{first} to {last} overlaps {other}",
            "choose another range for [ids] first and last in dkrd.toml, or remove the other one",
        )
    return ok("id pool", f"{first} to {last}: {(last + 1 - first) // 65536} ranges, no overlap with /etc")
