"""The launcher's job that makes the lower layer of the built-in root `host`: a skeleton around the host's
/usr. A host that changes gets another layer beside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dkrd.launcher.jobs import layers, skeleton
from dkrd.launcher.jobs.layers import Directory, Entry, File, Link
from dkrd.shim.host_binds import Host, present

if TYPE_CHECKING:
    from dkrd.settings import Settings

NAME = "host"


def describe(host: Host) -> tuple[Entry, ...]:
    """The skeleton for `host`: parents before what is in them. Pure."""
    entries = skeleton.entries()
    entries["etc/os-release"] = Link("etc/os-release", "../usr/lib/os-release")
    entries |= {name: Link(name, target) for name, target in host.links}
    if host.zone:
        entries["etc/localtime"] = Link("etc/localtime", host.zone)
    for bind in host.binds:
        path = bind.destination.lstrip("/")
        parent = os.path.dirname(path)
        while parent and parent not in entries:
            entries[parent] = Directory(parent, 0o755)
            parent = os.path.dirname(parent)
        entries.setdefault(path, Directory(path, 0o755) if bind.is_dir else File(path, 0o644, ""))
    return layers.ordered(entries)


def ensure(settings: Settings) -> str:
    """Name of the skeleton's layer below state_dir/layers; made if it is not there. Raises HostUnfit."""
    return layers.build(settings.state_dir, NAME, describe(present()))
