"""Which names are taken, in memory: a name is reserved before its container exists, and must not wait for a
disk.
"""

from __future__ import annotations

from common.errors import Conflict


class Names:
    """The names of each user's containers. A name belongs to one container of a user, or is reserved for
    one to be.
    """

    def __init__(self) -> None:
        self._taken: dict[tuple[int, str], str] = {}  # -> id, or "" while reserved
        self._of: dict[str, tuple[int, str]] = {}

    def is_free(self, uid: int, name: str) -> bool:
        return (uid, name) not in self._taken

    def reserve(self, uid: int, name: str) -> None:
        """Take `name` for `uid`. Raises Conflict where it is in use."""
        holder = self._taken.get((uid, name))
        if holder is not None:
            what = (
                f"container {holder[:12]} has it" if holder else "a container of this name is being started"
            )
            raise Conflict(
                f'cannot use the name "{name}": {what}',
                hint="choose another name, or remove that container first",
            )
        self._taken[uid, name] = ""

    def bind(self, uid: int, name: str, container: str) -> None:
        """`container` has the name now, whether or not it was reserved; one that it had before is free."""
        if self._of.get(container) != (uid, name):
            self.forget(container)
        self._taken[uid, name] = container
        self._of[container] = (uid, name)

    def release(self, uid: int, name: str) -> None:
        """Give back a reservation; a name that a container has stays."""
        if self._taken.get((uid, name)) == "":
            del self._taken[uid, name]

    def forget(self, container: str) -> None:
        """`container` is gone, its name is free."""
        key = self._of.pop(container, None)
        if key is not None and self._taken.get(key) == container:
            del self._taken[key]
