"""From the request to the bundle: the one function that says which container a request means.

The api uses it to build what it sends; root's side uses it again on the request that the client itself sent
over the session socket, and demands the same result. So a taken-over api can neither swap a spec nor add to
it. Pure; standard library only.
"""

from __future__ import annotations

import signal

from common import health, restarts
from common.errors import BadRequest
from common.oci import CPU_PERIOD, DEFAULT_ENV, DEFAULT_HOSTNAME, MAX_CPUS, NAMESPACES, default_spec

Json = dict[str, object]

# Namespaces that a request may name, and what they are when it does not; `mount` is always private.
DEFAULT_NAMESPACES = {name: "host" if name == "time" else "private" for name in NAMESPACES if name != "mount"}
TMPFS_OPTIONS = ("nosuid", "nodev", "noexec", "mode=1777")
_SIGNALS = {name: int(member) for name, member in signal.Signals.__members__.items()}
MAX_ID = 65535
MAX_SECONDS = 1e9  # of any time limit
# Every key of the table in docs/protocol.md (1): what is not known would be ignored, and nothing is.
REQUEST_KEYS = frozenset(
    "image rootfs args entrypoint env cwd user name hostname labels readonly tmpfs terminal consoleSize namespaces preserveFds "
    "init rm stopSignal stopTimeout timeout onDisconnect "
    "openStdin memory swap cpus pidsLimit log health restart".split()
)


def bundle_of(request: Json, default_image: str, name: str) -> Json:
    """The bundle (docs/protocol.md, 5) for a request (1).

    default_image  the setting `default_root`: the root where the request names none; a directory where it begins with /
    name           the container's name where the request names none

    Raises BadRequest, KeyError, TypeError or ValueError where the request is not of its schema; the api has
    validated before.
    """
    unknown = sorted(request.keys() - REQUEST_KEYS)
    if unknown:
        raise BadRequest(
            f"cannot read the request: {unknown[0]!r} is not a key of it",
            fields=({"path": unknown[0], "message": "an unknown key"},),
        )
    namespaces = {**DEFAULT_NAMESPACES, **_strings(request.get("namespaces", {}))}
    private = [n for n in NAMESPACES if n == "mount" or namespaces[n] == "private"]
    own_uts = "uts" in private
    hostname = str(request.get("hostname") or DEFAULT_HOSTNAME)
    terminal = bool(request.get("terminal", False))
    args = [*_list(request.get("entrypoint") or []), *_list(request["args"])]
    env = _environment(request, hostname if own_uts else None, terminal)
    spec = default_spec(args, env, hostname, private)
    if not own_uts:
        del spec["hostname"]
    spec["root"] = {"path": "rootfs", "readonly": bool(request.get("readonly", False))}
    mounts = spec["mounts"]
    assert isinstance(mounts, list)
    mounts += [_tmpfs(path, options) for path, options in _strings(request.get("tmpfs", {})).items()]
    bounds = resources(request)
    if bounds:
        linux = spec["linux"]
        assert isinstance(linux, dict)
        linux["resources"] = bounds
    user = str(request.get("user") or "0:0")
    process = spec["process"]
    assert isinstance(process, dict)
    process.update(cwd=str(request.get("cwd") or "/"), terminal=terminal)
    if "user" not in private:
        _without_mknod(process)
    numbers = numeric_user(user)
    if numbers is not None:
        process["user"] = {"uid": numbers[0], "gid": numbers[1]}
    if terminal and request.get("consoleSize") is not None:
        process["consoleSize"] = request["consoleSize"]
    return {
        "spec": spec,
        "dkr": {
            "root": _root(request, default_image),
            "user": user if numbers is None else None,
            "name": str(request.get("name") or name),
            "labels": _strings(request.get("labels", {})),
            "preserveFds": request.get("preserveFds", 0),
            "seccomp": "default",
            "log": request.get("log"),
            **_life(request),
            **_health(request),
        },
    }


def _root(request: Json, default_image: str) -> Json:
    """Where the root comes from. A directory is never opened by the name that stands here: of `rootfs` the client brings a
    descriptor, and the one of the settings root's side takes from its own.
    """
    rootfs, image = request.get("rootfs"), request.get("image")
    if rootfs is not None:
        if image is not None:
            raise BadRequest(
                "cannot read the request: image and rootfs exclude each other",
                fields=({"path": "rootfs", "message": "cannot be given with image"},),
            )
        return {"kind": "rootfs", "name": str(rootfs)}
    if image is None and default_image.startswith("/"):
        return {"kind": "directory", "name": default_image}
    return {"kind": "builtin", "name": str(image or default_image)}


def _environment(request: Json, hostname: str | None, terminal: bool) -> list[str]:
    """process.env: the defaults, then the request's variables; one that is there already is replaced in its place."""
    env = dict(DEFAULT_ENV)
    if hostname is not None:
        env["HOSTNAME"] = hostname
    if terminal:
        env["TERM"] = "xterm"
    env.update(_strings(request.get("env", {})))
    return [f"{name}={value}" for name, value in env.items()]


def _life(request: Json) -> Json:
    """How the container lives and ends."""
    remove = bool(request.get("rm", False))
    policy = restarts.policy_of(request.get("restart"))
    if policy is not None and remove:
        raise BadRequest(
            "cannot read the request: restart and rm exclude each other",
            fields=({"path": "restart", "message": "cannot be there with rm"},),
        )
    if remove and health.restarts_by(request.get("health")):
        raise BadRequest(
            "cannot read the request: onFailure restart and rm exclude each other",
            fields=({"path": "health.onFailure", "message": "cannot be restart with rm"},),
        )
    return {
        "init": bool(request.get("init", False)),
        "rm": remove,
        "stopSignal": signal_number(request.get("stopSignal", "SIGTERM")),
        "stopTimeout": request.get("stopTimeout", 10),
        "timeout": request.get("timeout"),
        "onDisconnect": str(request.get("onDisconnect") or ("stop" if remove else "keep")),
        "openStdin": bool(request.get("openStdin", False)),
        **({} if policy is None else {"restart": policy}),
    }


def _health(request: Json) -> Json:
    """The health check, if there is one: a bundle of an older release has no word of it."""
    wanted = request.get("health")
    if wanted is None:
        return {}
    if not isinstance(wanted, dict):
        raise TypeError("health: an object is wanted")
    return {"health": health.whole(wanted)}


def resources(request: Json) -> Json:
    """linux.resources: what the request bounds, and nothing else."""
    found: Json = {}
    memory, swap, cpus, pids = (request.get(key) for key in ("memory", "swap", "cpus", "pidsLimit"))
    if memory is not None:
        # memory.swap of the spec is of both together.
        both = {} if swap is None else {"swap": -1 if swap == -1 else _integer(memory) + _integer(swap)}
        found["memory"] = {"limit": _integer(memory), **both}
    elif swap is not None:
        raise BadRequest(
            "cannot read the request: swap has no meaning without memory",
            fields=({"path": "swap", "message": "has no meaning without memory"},),
        )
    if cpus is not None:
        if not isinstance(cpus, (int, float)) or not 0 < cpus <= MAX_CPUS:
            raise TypeError("cpus: a number is wanted")
        found["cpu"] = {"quota": round(cpus * CPU_PERIOD), "period": CPU_PERIOD}
    if pids is not None:
        found["pids"] = {"limit": _integer(pids)}
    return found


def _integer(value: object) -> int:
    """A whole number, also as 1.0: JSON knows numbers only."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number is wanted")
    return value


def _without_mknod(process: Json) -> None:
    """In the host's user namespace CAP_MKNOD makes nodes that open: any disk of the host, in /dev, which is not nodev.

    Docker can leave it to such a container because its devices cgroup refuses the open; there is none here.
    """
    sets = process["capabilities"]
    assert isinstance(sets, dict)
    process["capabilities"] = {key: [c for c in names if c != "CAP_MKNOD"] for key, names in sets.items()}


def signal_number(value: object) -> int:
    """The Linux number of a signal given as 15, "15", "TERM" or "SIGTERM". Raises BadRequest."""
    word = str(value).strip().upper()
    try:
        number = int(word) if word.isdecimal() else _SIGNALS[word if word.startswith("SIG") else f"SIG{word}"]
        if 1 <= number <= 64:
            return number
    except (KeyError, ValueError):
        pass
    raise BadRequest(
        f"cannot use {value!r} as a signal: there is none of that name or number",
        fields=({"path": "stopSignal", "message": "a signal's name or number is wanted"},),
    )


def numeric_user(user: str) -> tuple[int, int] | None:
    """(uid, gid) of "UID:GID"; None where any part is a name, or the gid is to be found in the container's
    passwd.
    """
    uid, colon, gid = user.partition(":")
    if not colon or not (uid.isascii() and gid.isascii() and uid.isdecimal() and gid.isdecimal()):
        return None
    if int(uid) > MAX_ID or int(gid) > MAX_ID:
        raise BadRequest(
            f"cannot use {user!r} as a user: ids end at {MAX_ID} inside a container",
            fields=({"path": "user", "message": f"an id beyond {MAX_ID}"},),
        )
    return int(uid), int(gid)


def _tmpfs(path: str, options: str) -> Json:
    return {
        "destination": path,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": [*TMPFS_OPTIONS, *(o for o in options.split(",") if o)],
    }


def _list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise TypeError("a list of strings is wanted")
    return value


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError("an object of strings is wanted")
    return value
