"""From the spec to the plan: which mounts, in which order, with which options. Pure; executed by build.py,
told by explain.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import BadRequest
from dkrd.runtime import syscalls
from dkrd.runtime.operations import (
    LAYERS,
    AttachLayers,
    BindHost,
    CloneLayers,
    DetachLayers,
    MountFilesystem,
    MountOverlay,
    Operation,
    PivotRoot,
    RootReadonly,
)
from dkrd.runtime.tree_root import AttachTree
from dkrd.runtime.walls import MakeDevices, MakeReadonly, MaskPath

if TYPE_CHECKING:
    from dkrd.runtime.spec import Mount, Spec
    from dkrd.runtime.trees import Source


@dataclass(frozen=True, slots=True)
class Root:
    """Where the root comes from: root's side decides, no document does.

    layers_directory  the directory of all layers on the host
    layers            names below it, topmost first
    volatile          nothing that is written outlives the container
    binds             (path on the host, path inside): what the built-in root `host` shows of the host
    tree              instead of layers: a directory that somebody named, which build.Task brings
    detached          the overlay is given its layers by descriptor (operations.overlay_takes_detached)
    """

    layers_directory: str
    layers: tuple[str, ...]
    volatile: bool = False
    binds: tuple[tuple[str, str], ...] = ()
    tree: Source | None = None
    detached: bool = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What is to be closed once the root stands."""
        tree = self.tree
        return () if tree is None else tuple(fd for fd in (tree.directory, tree.namespace) if fd >= 0)


# mount option -> (attribute, set it or clear it); mount(8), "filesystem-independent mount options"
_ATTRIBUTES = {
    "ro": (syscalls.MOUNT_ATTR_RDONLY, True),
    "rw": (syscalls.MOUNT_ATTR_RDONLY, False),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, True),
    "suid": (syscalls.MOUNT_ATTR_NOSUID, False),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, True),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, True),
    "exec": (syscalls.MOUNT_ATTR_NOEXEC, False),
}
# filesystem -> its own options that may be given
_OPTIONS = {
    "proc": frozenset(("hidepid", "subset")),
    "sysfs": frozenset[str](),
    "mqueue": frozenset[str](),
    "tmpfs": frozenset(("size", "mode", "nr_inodes", "uid", "gid")),
    "devpts": frozenset(("newinstance", "ptmxmode", "mode", "gid", "max")),
}


def plan(spec: Spec, root: Root, base: int) -> tuple[Operation, ...]:
    """The operations that make the root of `spec`, in order. `base` is the host id of the container's id 0.

    Raises BadRequest for a mount option that is not known.
    """
    operations = [*_lower(root)]
    operations += _binds(root.binds)
    for index, mount in enumerate(spec.mounts):
        operations.append(_filesystem(mount, base, f"spec.mounts[{index}]"))
        if mount.destination.rstrip("/") == "/dev":
            operations.append(MakeDevices(spec.process.terminal))
    operations += _walls(spec.readonly_paths, spec.masked_paths)
    if spec.readonly:
        operations.append(RootReadonly())
    operations.append(PivotRoot())
    return tuple(operations)


def _lower(root: Root) -> tuple[Operation, ...]:
    """The overlay's lower layer, the overlay, and the end of what was attached for it."""
    tree = root.tree
    if tree is None and root.detached:
        return CloneLayers(root.layers_directory), MountOverlay(root.layers, root.volatile, attached=False)
    if tree is None:
        return AttachLayers(root.layers_directory), MountOverlay(root.layers, root.volatile), DetachLayers()
    mapping = (
        "its user namespace" if tree.ids is None else f"one that maps {tree.ids[0]}:{tree.ids[1]} to 0:0"
    )
    return AttachTree(tree.name, mapping, LAYERS), MountOverlay((), root.volatile, tree.name), DetachLayers()


@functools.lru_cache(maxsize=8)
def _binds(binds: tuple[tuple[str, str], ...]) -> tuple[Operation, ...]:
    return tuple(BindHost(source, destination) for source, destination in binds)


@functools.lru_cache(maxsize=8)
def _walls(readonly: tuple[str, ...], masked: tuple[str, ...]) -> tuple[Operation, ...]:
    return (*(MakeReadonly(path) for path in readonly), *(MaskPath(path) for path in masked))


def _filesystem(mount: Mount, base: int, path: str) -> MountFilesystem:
    attributes = 0
    settings: dict[str, str | None] = {}
    if mount.type == "tmpfs":
        settings = {"uid": str(base), "gid": str(base)}
    for option in mount.options:
        if option in _ATTRIBUTES:
            attribute, on = _ATTRIBUTES[option]
            attributes = attributes | attribute if on else attributes & ~attribute
            continue
        key, equals, value = option.partition("=")
        if key not in _OPTIONS[mount.type]:
            message = f"{mount.type} has no option {option!r} here"
            raise BadRequest(
                f"cannot read the bundle: {path}.options: {message}",
                fields=({"path": f"{path}.options", "message": message},),
            )
        if key in ("uid", "gid"):
            value = _shifted(value, base, f"{path}.options")
        settings[key] = value if equals else None
    return MountFilesystem(mount.type, mount.destination, mount.source, tuple(settings.items()), attributes)


def _shifted(value: str, base: int, path: str) -> str:
    """The host's id for the container's id `value`."""
    if not value.isdecimal() or not value.isascii() or len(value) > 5 or int(value) > 65535:
        raise BadRequest(
            f"cannot read the bundle: {path}: {value!r} is no id",
            fields=({"path": path, "message": "an id between 0 and 65535 is wanted"},),
        )
    return str(base + int(value))
