"""What can be done to a container's mount namespace: frozen operations that describe themselves in strace's manner, and
nothing that decides.

The plan (mounts.py) is a tuple of these. They run in the build helper: host root, inside the container's
mount namespace M, its pid, net and ipc namespaces, in the container's directory. M belongs to the host's
user namespace until init unshares it, so what is mounted here cannot be undone from inside.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, field

from common.errors import StartFailed
from dkrd.runtime import paths, strace, syscalls, tree_root
from dkrd.runtime.tree_root import AttachTree
from dkrd.runtime.trees import Tree
from dkrd.runtime.walls import MakeDevices, MakeReadonly, MaskPath

LAYERS = "l"  # where the layers are attached for a moment, in the container's directory; made for that
# Where the root is attached until the pivot: on a directory that is there anyway. The overlay has a private clone of it.
ROOT = "upper"
_HOSTS = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV


@dataclass(slots=True)
class Stage:
    """What the operations share.

    base    host id of the container's id 0
    userns  descriptor of the container's user namespace, or -1 where it is the host's
    pidns   descriptor of the pid namespace that proc shows, or -1 for the mounting process's own
    tree    the directory that becomes the root, where one does
    flags   MOUNT_ATTR_* that the root's mount takes over from it
    layers  descriptor of the mount of all layers, where they are given to the overlay by descriptor
    root    descriptor of the root's mount, once it stands
    kernel  st_dev of the proc and sysfs mounts: nobody mounts on these or below
    note    what an operation found out that its description has to tell
    """

    base: int
    userns: int
    pidns: int = -1
    tree: Tree = field(default_factory=Tree)
    flags: int = 0
    layers: int = -1
    root: int = -1
    kernel: set[int] = field(default_factory=set)
    masks: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What is open before the first operation."""
        return (self.userns, self.tree.mount, self.tree.mapping)

    def close(self) -> None:
        """Close what the operations have opened for each other; the mounts stay."""
        for fd in (self.root, self.layers, *self.masks.values()):
            if fd >= 0:
                os.close(fd)
        self.root = self.layers = -1
        self.masks.clear()


@dataclass(frozen=True, slots=True)
class CloneLayers:
    """The directory of all layers, read-only and idmapped once, attached nowhere: the overlay is given what it needs of it by
    descriptor, and nothing is there that would have to go again.

    One mount for all layers: one a layer stalls a busy host on the mount table's lock (containerd#12092).
    """

    directory: str
    step = "layers"

    def describe(self, stage: Stage, note: str = "") -> str:
        attributes = syscalls.MOUNT_ATTR_RDONLY | (syscalls.MOUNT_ATTR_IDMAP if stage.userns >= 0 else 0)
        more = ("userns_fd=its user namespace",) if stage.userns >= 0 else ()
        return strace.calls(
            strace.open_tree(self.directory), strace.set_attributes("layers", attributes, more=more)
        )

    def execute(self, stage: Stage) -> None:
        stage.layers = syscalls.open_tree(syscalls.AT_FDCWD, self.directory, syscalls.OPEN_TREE_CLONE)
        attributes = syscalls.MOUNT_ATTR_RDONLY | (syscalls.MOUNT_ATTR_IDMAP if stage.userns >= 0 else 0)
        syscalls.mount_setattr(stage.layers, attr_set=attributes, userns_fd=max(stage.userns, 0))


@dataclass(frozen=True, slots=True)
class AttachLayers:
    """Before Linux 6.15, where overlay takes no detached mounts: the same, attached for a moment, so that overlay finds it by
    a relative name.
    """

    directory: str
    step = "layers"

    def describe(self, stage: Stage, note: str = "") -> str:
        return strace.calls(
            CloneLayers(self.directory).describe(stage),
            f'mkdir("{LAYERS}", 0700)',
            strace.attach("layers", LAYERS),
        )

    def execute(self, stage: Stage) -> None:
        CloneLayers(self.directory).execute(stage)
        tree_root.make_place(LAYERS)
        syscalls.move_mount(stage.layers, syscalls.AT_FDCWD, LAYERS)


@dataclass(frozen=True, slots=True)
class MountOverlay:
    """The root: `layers` (topmost first) below upper/. Relative names and descriptors, so that mountinfo inside shows no
    path of the host.

    volatile  the kernel need not bring what is written to the disk: nobody will look at it after a crash
    tree      instead of layers: the name of the directory that AttachTree has attached
    attached  the layers are found by name, where AttachLayers or AttachTree has attached them
    """

    layers: tuple[str, ...]
    volatile: bool = False
    tree: str = ""
    attached: bool = True
    step = "overlay"

    def options(self) -> tuple[tuple[str, str], ...]:
        lower = (("lowerdir", ":".join(f"{LAYERS}/{name}" for name in self.layers) or LAYERS),)
        return (
            *(lower if self.attached else ()),
            ("upperdir", "upper"),
            ("workdir", "work"),
            # Always explicit: a kernel's configuration may have other defaults, and each of these has been
            # a way to read what the layer's owner could not (metacopy, redirect_dir) or a reason for ESTALE
            # (index, xino).
            ("metacopy", "off"),
            ("redirect_dir", "nofollow"),
            ("index", "off"),
            ("xino", "off"),
        )

    def describe(self, stage: Stage, note: str = "") -> str:
        lowers = () if self.attached else tuple(("lowerdir+", f"layers/{name}") for name in self.layers)
        volatile = (("volatile", None),) if self.volatile else ()
        attributes = syscalls.MOUNT_ATTR_NODEV | int(note or 0)
        options = (("source", "overlay"), *lowers, *self.options(), *volatile)
        made = strace.new_filesystem("overlay", options, attributes)
        return f"{made}; {strace.attach('root', ROOT)}"

    def execute(self, stage: Stage) -> None:
        fs = syscalls.fsopen("overlay")
        try:
            syscalls.fsconfig_string(fs, "source", "overlay")
            if not self.attached:
                for name in self.layers:
                    lower = paths.open_beneath(stage.layers, name)
                    syscalls.fsconfig_fd(fs, "lowerdir+", lower)
                    os.close(lower)
            for key, value in self.options():
                syscalls.fsconfig_string(fs, key, value)
            if self.volatile:
                syscalls.fsconfig_flag(fs, "volatile")
            syscalls.fsconfig_create(fs)
        except OSError as err:
            if not self.tree:
                raise
            raise tree_root.refused_by_overlay(self.tree, err, fs) from err
        stage.note = str(stage.flags) if stage.flags else ""
        stage.root = syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NODEV | stage.flags)
        os.close(fs)
        syscalls.move_mount(stage.root, syscalls.AT_FDCWD, ROOT)


@functools.cache
def overlay_takes_detached() -> bool:
    """Whether an overlay can be made of layers that are attached nowhere (Linux 6.15); asked once, by trying."""
    with contextlib.ExitStack() as stack:
        memory = syscalls.fsopen("tmpfs")
        stack.callback(os.close, memory)
        syscalls.fsconfig_create(memory)
        layers = syscalls.fsmount(memory, 0)
        stack.callback(os.close, layers)
        fs = syscalls.fsopen("overlay")
        stack.callback(os.close, fs)
        try:
            for name in ("over", "under"):
                os.mkdir(name, dir_fd=layers)
                lower = paths.open_beneath(layers, name)
                stack.callback(os.close, lower)
                syscalls.fsconfig_fd(fs, "lowerdir+", lower)
            syscalls.fsconfig_create(fs)
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class DetachLayers:
    """The overlay holds its own private clones: the idmapped mount must not be reachable from inside."""

    step = "detach layers"

    def describe(self, stage: Stage, note: str = "") -> str:
        return f'umount2("{LAYERS}", MNT_DETACH)'

    def execute(self, stage: Stage) -> None:
        syscalls.umount2(LAYERS, syscalls.MNT_DETACH)


@dataclass(frozen=True, slots=True)
class BindHost:
    """A path that the daemon itself names (never a caller), with what is mounted below it: read-only, not
    idmapped.
    """

    source: str
    destination: str
    step = "bind"

    def describe(self, stage: Stage, note: str = "") -> str:
        more = ("propagation=MS_PRIVATE",)
        return strace.calls(
            strace.open_tree(self.source, recursive=True),
            strace.set_attributes("tree", _HOSTS, recursive=True, more=more),
            strace.open_inside("root", self.destination, links=False),
            strace.attach_on("tree", "path"),
        )

    def execute(self, stage: Stage) -> None:
        tree = syscalls.open_tree(
            syscalls.AT_FDCWD, self.source, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
        )
        syscalls.mount_setattr(tree, attr_set=_HOSTS, propagation=syscalls.MS_PRIVATE, recursive=True)
        target = paths.open_inside(stage.root, self.destination, links=False)
        syscalls.move_mount(tree, target)
        os.close(target)
        os.close(tree)


@dataclass(frozen=True, slots=True)
class MountFilesystem:
    """A fresh filesystem. `settings` are its own options (a value of None is a flag); ids in them are ids
    of the host.
    """

    type: str
    destination: str
    source: str
    settings: tuple[tuple[str, str | None], ...]
    attributes: int
    step = "mount"

    def describe(self, stage: Stage, note: str = "") -> str:
        named = self.type == "proc" and stage.pidns >= 0
        settings = (
            ("source", self.source),
            *((("pidns", "its pid namespace"),) if named else ()),
            *self.settings,
        )
        return strace.calls(
            strace.open_inside("root", self.destination, links=not self._ours()),
            strace.new_filesystem(self.type, settings, self.attributes),
            strace.attach_on("mount", "path"),
        )

    def _ours(self) -> bool:
        """Whether it lies where the filesystems of the kernel are: nothing there may be a link of the root's."""
        return self.destination.split("/")[1] in ("proc", "sys", "dev")

    def execute(self, stage: Stage) -> None:
        target = paths.make_directory(stage.root, self.destination, stage.base, links=not self._ours())
        if os.fstat(target).st_dev in stage.kernel:
            raise StartFailed(
                f"cannot mount {self.type} on {self.destination}: it leads into /proc or /sys",
                hint="choose another destination",
            )
        fs = syscalls.fsopen(self.type)
        syscalls.fsconfig_string(fs, "source", self.source)
        if self.type == "proc" and stage.pidns >= 0:
            syscalls.fsconfig_fd(fs, "pidns", stage.pidns)
        for key, value in self.settings:
            if value is None:
                syscalls.fsconfig_flag(fs, key)
            else:
                syscalls.fsconfig_string(fs, key, value)
        syscalls.fsconfig_create(fs)
        mount = syscalls.fsmount(fs, self.attributes)
        syscalls.move_mount(mount, target)
        if self.type in ("proc", "sysfs"):
            stage.kernel.add(os.fstat(mount).st_dev)
        for fd in (target, fs, mount):
            os.close(fd)


@dataclass(frozen=True, slots=True)
class RootReadonly:
    """root.readonly: only the root's own mount; what is mounted in it stays as it is."""

    step = "read-only root"

    def describe(self, stage: Stage, note: str = "") -> str:
        return strace.set_attributes("root", syscalls.MOUNT_ATTR_RDONLY)

    def execute(self, stage: Stage) -> None:
        syscalls.mount_setattr(stage.root, attr_set=syscalls.MOUNT_ATTR_RDONLY)


@dataclass(frozen=True, slots=True)
class PivotRoot:
    """The root becomes /, and the host's tree leaves the namespace; pivot_root(2), the note on
    pivot_root(".", ".").
    """

    step = "pivot"

    def describe(self, stage: Stage, note: str = "") -> str:
        return 'fchdir(root); pivot_root(".", "."); umount2(".", MNT_DETACH); chdir("/")'

    def execute(self, stage: Stage) -> None:
        os.fchdir(stage.root)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")


Operation = (
    CloneLayers
    | AttachLayers
    | AttachTree
    | MountOverlay
    | DetachLayers
    | BindHost
    | MountFilesystem
    | MakeDevices
    | MakeReadonly
    | MaskPath
    | RootReadonly
    | PivotRoot
)
