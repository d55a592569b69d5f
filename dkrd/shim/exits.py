"""How a command ended, as its clients are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exit:
    """How it ended: `code`, or the `signal` that ended it (then code is None), and the cause of
    docs/protocol.md (3).
    """

    code: int | None
    signal: int | None
    cause: str

    def to_wire(self) -> dict[str, object]:
        return {"code": self.code, "signal": self.signal, "cause": self.cause}
