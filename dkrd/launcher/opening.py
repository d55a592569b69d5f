"""What comes first: the directories, their locks, the listening socket, and the api, which is started here because it needs
longest to be ready. While it loads what it serves with, the launcher does the same, and looks at the machine.
"""

from __future__ import annotations

import pwd

from common.errors import HostUnfit
from dkrd.launcher import directories, listener
from dkrd.launcher.api_process import ApiProcess, Identity
from dkrd.launcher.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dkrd.log import Log
    from dkrd.settings import Settings

_SYSUSERS_HINT = "run `make install`, or systemd-sysusers with the package's sysusers.d file"


class Opening:
    """The beginning of a launcher. Raises DkrError where there can be none; then nothing of it is left.

    passed  how many listening sockets systemd passed (descriptors from 3 on)
    """

    def __init__(self, settings: Settings, api_argv: tuple[str, ...], log: Log, passed: int = 0) -> None:
        self.loop = Loop()
        self.api_uid, api_gid = _api_user(settings.api_user)
        directories.prepare(settings, self.api_uid, api_gid)
        # Kept open, never looked at again: closing them would end the locks.
        self._locks = [
            directories.lock(path) for path in dict.fromkeys((settings.state_dir, settings.run_dir))
        ]
        self.listener = listener.open_listener(settings, passed)
        identity = Identity(api_argv, self.api_uid, api_gid)
        self.api = ApiProcess(self.loop, log, identity, self.listener.socket.fileno())
        try:
            self.api.start()
        except HostUnfit:
            self.listener.close()
            raise

    def abandon(self) -> None:
        """End what was begun, where the launcher cannot go on."""
        self.api.abandon()
        self.listener.close()


def _api_user(name: str) -> tuple[int, int]:
    """uid and gid of the user that the api runs as; HostUnfit where it does not exist or is root."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise HostUnfit(f"cannot run the api as {name}: there is no such user", hint=_SYSUSERS_HINT) from None
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise HostUnfit(
            f"cannot run the api as {name}: it has root's uid or gid",
            hint="choose another api_user in dkrd.toml",
        )
    return entry.pw_uid, entry.pw_gid
