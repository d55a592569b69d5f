"""What the launcher has mapped, each of its forks copies: nothing is in there that only its beginning needed."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon

pytestmark = pytest.mark.root

# Of hashlib, shutil and the reading of settings.
UNWANTED = ("libcrypto", "libssl", "liblzma", "libbz2", "_hashlib", "_lzma", "_bz2", "_datetime")
MAPPINGS = 95  # 80 when this was written, 114 before


def mapped(daemon: Daemon) -> list[str]:
    return Path(f"/proc/{daemon.pid}/maps").read_text().splitlines()


def test_the_launcher_is_small(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.run("/bin/true")
    before = mapped(daemon)
    assert not [line for line in before if any(name in line for name in UNWANTED)]
    assert len(before) < MAPPINGS
    os.kill(daemon.pid, signal.SIGHUP)
    while "settings read again" not in daemon.log:
        select.select([], [], [], 0.01)
    daemon.run("/bin/true")
    assert len(mapped(daemon)) <= len(before) + 2
