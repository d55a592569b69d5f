"""Where a container's root comes from: decided here, on root's side, and never by a path that a document holds."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from common.errors import DkrError, NotFound, NotPermitted
from dkrd import policy
from dkrd.runtime import mounts, operations
from dkrd.runtime.trees import Source
from dkrd.shim import default_root, host_binds

if TYPE_CHECKING:
    from dkrd.runtime.steps import Recorder
    from dkrd.shim.config import Config
    from dkrd.shim.first import First
    from dkrd.shim.task import ShimTask


@functools.cache
def of_the_host() -> tuple[tuple[str, str], ...]:
    """What the root `host` shows of the host; of the host's files it shows some and no other root any."""
    return tuple((bind.source, bind.destination) for bind in host_binds.present_binds())


def root_of(
    task: ShimTask,
    config: Config,
    who: policy.Caller,
    asking: policy.Credentials,
    first: First,
    recorder: Recorder,
) -> mounts.Root:
    """The root of `config`: a layer that the daemon laid down itself, a directory that its settings name, or the one whose
    descriptors its caller `who` has brought along in the first frame. `asking`: the connection's credentials.

    Raises NotFound for a name that is none of a built-in root, why the host cannot have that root, and NotPermitted where
    the descriptors are not those that the bundle speaks of.
    """
    if (config.root_kind == "rootfs") != bool(first.root):
        raise NotPermitted(
            "cannot start the container: its first frame and its request differ on the root", rule="rootfs"
        )
    if config.root_kind == "rootfs":
        if task.session >= 0:
            # What the api opens in its client's place proves nothing of what the client may reach.
            raise NotPermitted(
                f"cannot use {config.root} as the root: over plain HTTP no directory comes along",
                rule="http",
                hint="use dkrctl, or a session",
            )
        ids = None if who.admin else policy.own_ids(asking, first.credentials)
        return mounts.Root("", (), config.rm, tree=_brought(config.root, first.root, ids))
    return of_the_daemon(task, config, config.rm, recorder)


def of_the_daemon(task: ShimTask, config: Config, volatile: bool, recorder: Recorder) -> mounts.Root:
    """The root of a container that brought none. `volatile`: nobody sees its files again. Raises as `root_of`."""
    if config.root_kind == "directory":
        return mounts.Root("", (), volatile, tree=_named(task, config.root, recorder))
    layer = task.layers.get(config.root)
    if layer is None:
        raise NotFound(
            f"cannot find the image {config.root!r}: no root of this name is known",
            hint=f"known roots: {', '.join(task.layers)}",
        )
    if isinstance(layer, DkrError):
        raise layer
    binds = of_the_host() if config.root == "host" else ()
    directory, detached = f"{task.settings.state_dir}/layers", operations.overlay_takes_detached()
    return mounts.Root(directory, (layer,), volatile, binds, detached=detached)


def _brought(name: str, descriptors: tuple[int, ...], ids: tuple[int, int] | None) -> Source:
    """A tenant (of these ids) is the container's root on what is theirs and nobody on the rest; an administrator's ids are
    the container's of the same number.
    """
    directory, namespace = (*descriptors, -1)[:2]
    return Source(name, directory, namespace, ids, anywhere=ids is None)


def _named(task: ShimTask, path: str, recorder: Recorder) -> Source:
    if path != task.settings.default_root:
        raise NotPermitted(
            f"cannot use {path} as the root: the setting default_root names another directory", rule="root"
        )
    recorder.begin("open root", default_root.describe(path))
    deadline = time.monotonic() + task.settings.start_seconds
    return Source(path, default_root.open_directory(path, deadline), anywhere=True)
