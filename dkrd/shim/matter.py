"""What a job of the launcher's is about: a container, whether or not a guardian stands for it, and who wants something of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import NotFound
from dkrd.shim import cleanup

if TYPE_CHECKING:
    from dkrd.ids import Pool
    from dkrd.policy import Credentials
    from dkrd.settings import Settings
    from dkrd.shim.cleanup import Asker


@dataclass(frozen=True, slots=True)
class Matter:
    """One of them.

    id           the container's, as the api gave it
    credentials  proven, of who asks
    admin_gid    gid of the group whose members may do anything; None where it does not exist
    """

    settings: Settings
    pool: Pool
    id: str
    credentials: Credentials
    admin_gid: int | None

    @property
    def short(self) -> str:
        """The beginning of the id: what errors call it."""
        return self.id[:12]

    @property
    def directory(self) -> str:
        """Where what is kept of it lies."""
        return f"{self.settings.state_dir}/containers/{self.id}"

    def state(self) -> dict[str, object]:
        """What it is, as its guardian has written down last; empty where nobody has."""
        return cleanup.read_state(self.settings, self.id)

    def asker(self) -> Asker:
        """Whose the credentials are."""
        return cleanup.asker(self.pool, self.credentials, self.admin_gid)

    def check_owner(self) -> None:
        """Raise NotFound unless the container stands and is theirs who ask, or they are an admin's."""
        cleanup.check_id(self.id)
        if not cleanup.is_theirs(self.settings, self.id, self.asker()):
            raise NotFound(f"cannot find {self.short}: there is no such container")
