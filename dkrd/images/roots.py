"""Which root filesystem a request's `image` names.

Pure: what the bundle says is a kind and a name; the directory, the layer and its digest are chosen by
root's side.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import NotFound


@dataclass(frozen=True, slots=True)
class Root:
    """A root filesystem by name. `kind` is `builtin`; `about` is for people."""

    kind: str
    name: str
    about: str

    def to_wire(self) -> dict[str, object]:
        """`dkr.root` of the bundle."""
        return {"kind": self.kind, "name": self.name}


BUILTIN = {
    root.name: root
    for root in (
        Root("builtin", "host", "a fresh skeleton that shows the host's /usr, read-only"),
        Root("builtin", "busybox", "a fresh skeleton with a copy of the host's static busybox"),
    )
}


def resolve(image: str) -> Root:
    """The root that `image` names. Raises NotFound, which names the known ones."""
    root = BUILTIN.get(image)
    if root is None:
        raise NotFound(
            f'cannot find image "{image}": no root of this name is known',
            hint="known roots: " + ", ".join(BUILTIN),
        )
    return root
