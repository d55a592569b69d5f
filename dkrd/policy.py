"""May these credentials have this container? A pure function, judged on root's side on the final spec.

Who asks is what the kernel says (evidence.py). What is asked for is what the spec *needs* beyond a tenant's
defaults, whatever the request called it. Three rules, each of which refuses on its own:

1. the spec is the one that the client's own request means (a taken-over api cannot swap it or add to it);
2. needs(spec) ⊆ asks, what the client itself said it wants beyond the defaults;
3. only uid 0 and the members of the admin group may need anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.bundle import bundle_of
from common.errors import DkrError, NotPermitted
from common.oci import DEFAULT_CAPABILITIES, DEFAULT_MOUNTS, MASKED_PATHS, READONLY_PATHS

if TYPE_CHECKING:
    from typing import NoReturn

    from dkrd.runtime.spec import Mount, Spec

NAMESPACES = ("pid", "ipc", "uts", "cgroup", "network", "user")
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a process is, as the host counts: uid, gid, supplementary gids, and its pid when it asked."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    pid: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, after the two sources were weighed. `uid` owns what is made; `admin` may do anything."""

    uid: int
    gid: int
    admin: bool


def caller(
    connection: Credentials,
    frame: Credentials,
    owner: int | None,
    frame_owner: int | None,
    admin_gid: int | None,
) -> Caller:
    """The lesser of the connection's credentials and those of the frame sent over the session socket.

    owner        whose the connection's uid is: its subuid range's owner's, itself, or None (nobody: an id
                 of our own pool)
    frame_owner  the same for the frame's uid

    A root process's leaked connection in another's hands, or a setuid program steered to the socket, counts
    as the weaker of the two. Raises NotPermitted.
    """
    if owner is None or frame_owner is None:
        raise NotPermitted(
            f"cannot act for uid {connection.uid if owner is None else frame.uid}: it is an id of a container",
            rule="nobody",
            hint="a process inside a container has no rights at this socket",
        )
    if owner == frame_owner:
        admin = owner == 0 or (admin_gid is not None and admin_gid in (connection.gid, *connection.groups))
        return Caller(owner, connection.gid, admin)
    if 0 in (owner, frame_owner):
        weaker = frame if owner == 0 else connection
        return Caller(owner or frame_owner, weaker.gid, admin=False)
    raise NotPermitted(
        f"cannot tell who asks: the connection is uid {owner}'s, the session uid {frame_owner}'s",
        rule="two-callers",
        hint="connect and run as one user",
    )


def own_ids(connection: Credentials, frame: Credentials) -> tuple[int, int]:
    """The uid and gid of a tenant's that are theirs on a filesystem: those of the process itself, never of whose uid its
    subuid range is.

    Of root's leaked connection in another's hands the frame's count (`caller`). Raises NotPermitted where the two are not
    the same process's ids: neither pair could do with the files what both together could.
    """
    if connection.uid == 0:
        return frame.uid, frame.gid
    if frame.uid != 0 and (frame.uid, frame.gid) != (connection.uid, connection.gid):
        raise NotPermitted(
            f"cannot tell whose files are meant: the connection is {connection.uid}:{connection.gid}'s, the session "
            f"{frame.uid}:{frame.gid}'s",
            rule="two-callers",
            hint="connect and run as one user and group",
        )
    return connection.uid, connection.gid


def may_touch(who: Caller, uid: int) -> bool:
    """Whether a container of `uid` is there for `who`: their own, or anybody's for an admin."""
    return who.admin or who.uid == uid


def needs(spec: Spec) -> frozenset[str]:
    """What `spec` wants beyond a tenant's defaults, in the words of docs/protocol.md (3)."""
    result = {f"{name}:host" for name in NAMESPACES if name not in spec.namespaces}
    sets = spec.process.capabilities
    allowed = frozenset(DEFAULT_CAPABILITIES)
    for names in (sets.bounding, sets.effective, sets.permitted):
        result |= {f"cap:{name}" for name in names if name not in allowed}
    result |= {f"cap:{name}" for name in (*sets.inheritable, *sets.ambient)}
    result |= {f"unmask:{path}" for path in MASKED_PATHS if path not in spec.masked_paths}
    result |= {f"unmask:{path}" for path in READONLY_PATHS if path not in spec.readonly_paths}
    result |= {f"mount:{m.type}:{m.destination}" for m in spec.mounts if not _ordinary(m)}
    return frozenset(result)


_DEFAULT_MOUNTS: tuple[tuple[object, ...], ...] = tuple(
    (m["destination"], m["type"], m["source"], tuple(m["options"]))  # type: ignore[arg-type]
    for m in DEFAULT_MOUNTS
)


def _ordinary(mount: Mount) -> bool:
    """A default mount as it stands, or a tmpfs outside the kernel's filesystems."""
    if (mount.destination, mount.type, mount.source, mount.options) in _DEFAULT_MOUNTS:
        return True
    first = mount.destination.strip("/").split("/")[0]
    return (
        mount.type == "tmpfs" and first not in ("proc", "sys") and {"nosuid", "nodev"} <= set(mount.options)
    )


def judge(
    who: Caller,
    spec: Spec,
    bundle: dict[str, object],
    request: dict[str, object],
    asks: frozenset[str],
    default_root: str,
) -> None:
    """Raise NotPermitted, with the rule's name, unless `who` may have the container of `bundle`."""
    _same(bundle, request, default_root)
    needed = needs(spec)
    unasked = sorted(needed - asks)
    if unasked:
        raise NotPermitted(
            f"cannot start the container: it would have {unasked[0]}, which its caller did not ask for",
            rule="asks",
            hint="the daemon's api sent another container than was asked for; look at its log",
        )
    if needed and not who.admin:
        need = min(needed)
        raise NotPermitted(
            f"cannot give {need} to uid {who.uid}: only root and members of the admin group may have it",
            rule=need.replace(":", "-"),
            hint=_HINTS.get(need.split(":")[-1], "leave the option away, or ask an administrator"),
        )


def judge_http(who: Caller, spec: Spec, *, http_lifts: bool) -> None:
    """Raise NotPermitted where `spec` needs anything beyond a tenant's defaults and came over plain HTTP: there the api alone
    says what was asked, and it could say more than its caller. An admin may let it (the setting `http_lifts`).
    """
    needed = needs(spec)
    if needed and not (http_lifts and who.admin):
        raise NotPermitted(
            f"cannot give {min(needed)} over plain HTTP: nothing there proves that its caller asked for it",
            rule="http",
            hint="use dkrctl, or a client with a session; or the setting http_lifts, for admins",
        )


def judge_unasked(who: Caller, spec: Spec) -> None:
    """Raise NotPermitted where `who`, in whose name nobody asks, may not have a container of `spec` any more (adr/0029)."""
    needed = needs(spec)
    if needed and not who.admin:
        raise NotPermitted(
            f"cannot restart the container: uid {who.uid} may not have {min(needed)} any more",
            rule=min(needed).replace(":", "-"),
            hint="its owner, or an administrator, can start it",
        )


def bound_pids(who: Caller, wanted: int | None, bound: int, *, proven: bool) -> int | None:
    """How many processes `who` may have in a container; None or below 0: as many as the machine has.

    wanted  what was asked for, None where nothing was
    bound   the setting limits.pids_per_container, which only admins may lift
    proven  that it was asked for by nobody but `who`, or may be by the settings; over plain HTTP it is not

    Raises NotPermitted.
    """
    if who.admin and proven:
        return wanted
    if wanted is None:
        return bound
    if 0 <= wanted <= bound:
        return wanted
    most = "no bound" if wanted < 0 else f"{wanted} processes"
    if who.admin:
        _refuse_unproven(most)
    raise NotPermitted(
        f"cannot give {most} to a container of uid {who.uid}: at most {bound} are possible",
        rule="pids-limit",
        hint="ask for fewer, or have limits.pids_per_container raised in dkrd.toml",
    )


def bound_log(who: Caller, wanted: int, most: int, *, proven: bool) -> None:
    """Raise NotPermitted where `who` may not keep so many bytes of a container's output; `proven` as of `bound_pids`.

    most  what the settings limits.log_max_size and limits.log_max_files make together, which only admins may pass
    """
    if wanted <= most or (who.admin and proven):
        return
    if who.admin:
        _refuse_unproven(f"a log of {wanted} bytes")
    raise NotPermitted(
        f"cannot keep {wanted} bytes of the output of a container of uid {who.uid}: at most {most} are possible",
        rule="log-size",
        hint="max-size times max-file counts; or have limits.log_max_size raised in dkrd.toml",
    )


def may_journal(who: Caller, *, proven: bool) -> None:
    """Raise NotPermitted where `who` may not write into the host's journal: who writes much there has others' records rotated out
    or held back, this daemon's among them. `proven` as of `bound_pids`.
    """
    if who.admin and proven:
        return
    if who.admin:
        _refuse_unproven("the log driver journald")
    raise NotPermitted(
        f"cannot give the log driver journald to a container of uid {who.uid}: the host's journal is for admins' containers",
        rule="log-journald",
        hint="use the log driver json-file",
    )


def _refuse_unproven(what: str) -> NoReturn:
    raise NotPermitted(
        f"cannot give {what} over plain HTTP: nothing there proves that its caller asked for it",
        rule="http",
        hint="use dkrctl, or a client with a session; or the setting http_lifts, for admins",
    )


_HINTS = {"host": "leave the option away: containers of ordinary users have namespaces of their own"}


def _same(bundle: dict[str, object], request: dict[str, object], default_root: str) -> None:
    """The bundle must be what the request means; a name the api has made up is the one thing left to it."""
    dkr = bundle.get("dkr")
    name = dkr.get("name") if isinstance(dkr, dict) else None
    try:
        expected = bundle_of(request, default_root, str(name))
    except (DkrError, KeyError, TypeError, ValueError, AttributeError) as err:
        raise NotPermitted(
            f"cannot start the container: the session's request is malformed: {err}", rule="request"
        ) from None
    if bundle != expected:
        raise NotPermitted(
            f"cannot start the container: what the api sent is not what was asked for: {_difference(expected, bundle)}",
            rule="request",
            hint="look at the daemon's log: its api may have been taken over",
        )


def _difference(expected: object, got: object, path: str = "") -> str:
    """The path of the first place where two documents differ."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in (*expected, *got):
            if key not in expected or key not in got or expected[key] != got[key]:
                below = f"{path}.{key}" if path else str(key)
                return _difference(expected.get(key), got.get(key), below)
    return path or "everything"
