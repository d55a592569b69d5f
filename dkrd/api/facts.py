"""What root's side found out about the host, as the launcher tells it: docs/protocol.md, section 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from common.errors import DkrError, ProtocolError, from_wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    Layout = Literal["v1", "v2", "hybrid", "none"]

_LAYOUTS = ("v1", "v2", "hybrid", "none")


@dataclass(frozen=True, slots=True)
class Facts:
    """The host.

    cgroups        layout of its cgroup hierarchies
    controllers    those by which containers can be bounded
    features       what its kernel and its configuration have, by name
    missing_roots  the built-in roots that it cannot have, each with the reason
    """

    cgroups: Layout
    controllers: tuple[str, ...]
    features: dict[str, bool]
    missing_roots: Mapping[str, DkrError]

    @classmethod
    def from_wire(cls, wire: object) -> Facts:
        """Raises ProtocolError where it is not what a launcher sends."""
        if not isinstance(wire, dict) or set(wire) != {"cgroups", "controllers", "features", "missingRoots"}:
            raise ProtocolError("cannot read the launcher's facts: they have other keys than they must")
        cgroups, features, missing = wire["cgroups"], wire["features"], wire["missingRoots"]
        controllers = wire["controllers"]
        objects = isinstance(features, dict) and isinstance(missing, dict)
        if cgroups not in _LAYOUTS or not objects or not isinstance(controllers, list):
            raise ProtocolError("cannot read the launcher's facts: a value has another type than it must")
        return cls(
            cast("Layout", cgroups),
            tuple(map(str, controllers)),
            {str(name): found is True for name, found in features.items()},
            {str(name): from_wire(error) for name, error in missing.items()},
        )
