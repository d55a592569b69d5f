"""The containers that stand and do not run: made only, or ended and kept. Counted, for each has a range of ids."""

from __future__ import annotations

RESTING = ("created", "restarting", "stopped")  # states of a container without a process


class Kept:
    """Whose they are, by id; as the states tell that pass here."""

    def __init__(self) -> None:
        self._owners: dict[str, int] = {}

    def note(self, state: dict[str, object]) -> None:
        """What has become of a container."""
        container_id, uid, status = state.get("id"), state.get("uid"), state.get("status")
        goes = status == "stopped" and state.get("rm")
        if isinstance(container_id, str) and isinstance(uid, int) and status in RESTING and not goes:
            self._owners[container_id] = uid
        else:
            self.forget(container_id)

    def forget(self, container_id: object) -> None:
        """It runs, or is gone."""
        self._owners.pop(str(container_id), None)

    def of(self, uid: int) -> int:
        """How many are theirs."""
        return sum(1 for owner in self._owners.values() if owner == uid)
