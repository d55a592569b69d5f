"""The OCI runtime spec as far as dkr executes it: a closed schema, read once into frozen records.

What is not listed here is refused, not ignored. Source: OCI runtime-spec 1.2, config.md and
config-linux.md. Ids of users are ids inside the container; id maps are not read from the document: root's
side claims the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.oci import DEFAULT_CAPABILITIES, DEFAULT_MOUNTS, NAMESPACES
from dkrd.runtime import limits
from dkrd.runtime.capabilities import NUMBERS
from dkrd.runtime.document import Reader, as_integer, refuse

MAX_ID = 65535  # the highest id inside: ranges have 65536 ids
FILESYSTEMS = ("proc", "sysfs", "tmpfs", "devpts", "mqueue")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """process.capabilities: the five sets, by name."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    ambient: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """process: what is executed, as whom, where."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    terminal: bool
    rows: int
    columns: int
    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    capabilities: Capabilities
    no_new_privileges: bool


@dataclass(frozen=True, slots=True)
class Mount:
    """mounts[]: one filesystem to mount at `destination`."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """The document."""

    process: Process
    readonly: bool
    hostname: str | None
    mounts: tuple[Mount, ...]
    namespaces: frozenset[str]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    resources: limits.Resources


def parse(value: object, path: str = "spec") -> Spec:
    """The spec of a JSON value. Raises BadRequest with the path of what does not fit."""
    reader = Reader(value, path)
    reader.text("ociVersion")
    root = reader.child("root")
    if root.text("path") != "rootfs":
        refuse(root.where("path"), "only rootfs is known: the root is made by the runtime")
    readonly = root.flag("readonly", False)
    root.done()
    process = _process(reader.child("process"))
    hostname = reader.optional_text("hostname")
    mounts = _mounts(reader.items("mounts"), f"{path}.mounts")
    linux = reader.child("linux")
    namespaces = _namespaces(linux)
    masked, read_only = _paths(linux, "maskedPaths"), _paths(linux, "readonlyPaths")
    resources = limits.read(linux.child("resources")) if linux.has("resources") else limits.Resources()
    linux.done()
    reader.done()
    if hostname is not None and "uts" not in namespaces:
        refuse(f"{path}.hostname", "needs a UTS namespace of its own")
    if hostname is not None and not 0 < len(hostname.encode()) <= 64:
        refuse(f"{path}.hostname", "is not between 1 and 64 bytes")
    return Spec(process, readonly, hostname, mounts, namespaces, masked, read_only, resources)


def _mounts(entries: list[object], path: str) -> tuple[Mount, ...]:
    """The mounts; the defaults, with which nearly every list begins, were read when the module was loaded."""
    known = len(_DEFAULT_ENTRIES)
    if entries[:known] != _DEFAULT_ENTRIES:
        known = 0
    rest = (_mount(Reader(entry, f"{path}[{i}]")) for i, entry in enumerate(entries[known:], known))
    return (*_DEFAULT_MOUNTS[:known], *rest)


def _process(reader: Reader) -> Process:
    args = reader.texts("args")
    if not args or not args[0]:
        refuse(reader.where("args"), "is empty")
    env = reader.texts("env")
    for i, entry in enumerate(env):
        if entry.find("=") < 1:
            refuse(f"{reader.where('env')}[{i}]", "NAME=value is wanted")
    cwd = reader.text("cwd")
    if not cwd.startswith("/"):
        refuse(reader.where("cwd"), "is not absolute")
    rows = columns = 0
    if reader.has("consoleSize"):
        size = reader.child("consoleSize")
        rows, columns = size.integer("height", 0, 65535), size.integer("width", 0, 65535)
        size.done()
    user = reader.child("user")
    uid, gid = user.integer("uid", 0, MAX_ID), user.integer("gid", 0, MAX_ID)
    where = user.where("additionalGids")
    additional = tuple(
        as_integer(g, f"{where}[{i}]", 0, MAX_ID) for i, g in enumerate(user.items("additionalGids", True))
    )
    user.done()
    process = Process(
        args=args,
        env=env,
        cwd=cwd,
        terminal=reader.flag("terminal", False),
        rows=rows,
        columns=columns,
        uid=uid,
        gid=gid,
        additional_gids=additional,
        capabilities=_capabilities(reader.take("capabilities"), reader.where("capabilities")),
        no_new_privileges=reader.flag("noNewPrivileges", False),
    )
    reader.done()
    return process


def _capabilities(value: object, path: str) -> Capabilities:
    if value == _DEFAULT_SETS:
        return _DEFAULT_CAPABILITIES
    reader = Reader(value, path)
    sets = []
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        names = reader.texts(name)
        for i, capability in enumerate(names):
            if capability not in NUMBERS:
                refuse(f"{reader.where(name)}[{i}]", f"no capability is named {capability!r}")
        sets.append(names)
    reader.done()
    return Capabilities(*sets)


def _mount(reader: Reader) -> Mount:
    destination = reader.text("destination")
    if not destination.startswith("/") or ".." in destination.split("/"):
        refuse(reader.where("destination"), "an absolute path without .. is wanted")
    if not destination.strip("/"):
        refuse(reader.where("destination"), "the root itself cannot be mounted over")
    mount = Mount(
        destination, reader.one_of("type", FILESYSTEMS), reader.text("source"), reader.texts("options", True)
    )
    reader.done()
    return mount


def _namespaces(linux: Reader) -> frozenset[str]:
    result: set[str] = set()
    where = linux.where("namespaces")
    for i, entry in enumerate(linux.items("namespaces")):
        reader = Reader(entry, f"{where}[{i}]")
        kind = reader.one_of("type", NAMESPACES)
        reader.done()
        if kind in result:
            refuse(f"{where}[{i}]", f"{kind} is named twice")
        result.add(kind)
    if "mount" not in result:
        refuse(where, "a mount namespace of its own is always wanted")
    return frozenset(result)


def _paths(linux: Reader, key: str) -> tuple[str, ...]:
    paths = linux.texts(key, True)
    for i, path in enumerate(paths):
        if not path.startswith("/") or ".." in path.split("/"):
            refuse(f"{linux.where(key)}[{i}]", "an absolute path without .. is wanted")
    return paths


_DEFAULT_ENTRIES: list[object] = [dict(entry) for entry in DEFAULT_MOUNTS]
_DEFAULT_MOUNTS = tuple(_mount(Reader(entry, "mounts")) for entry in _DEFAULT_ENTRIES)
_DEFAULT_SETS = {
    **{name: list(DEFAULT_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
    "inheritable": [],
    "ambient": [],
}
_DEFAULT_CAPABILITIES = Capabilities(*(tuple(names) for names in _DEFAULT_SETS.values()))
