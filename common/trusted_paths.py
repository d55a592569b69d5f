"""Paths that nobody but root can have another file put in the place of.

Asked by dkrd for its directories, and by `dkrctl doctor` before it tries anything in one of them. Standard library
only.
"""

from __future__ import annotations

import os
import stat

from common.errors import HostUnfit


def verify(path: str) -> None:
    """Refuse `path` where somebody else than root could replace it, or a directory above it; HostUnfit.

    A sticky directory that all may write to is fine above ours: only the owner renames what lies in it.
    """
    place = os.path.realpath(path)
    while True:
        try:
            status = os.stat(place)
        except OSError as err:
            raise HostUnfit(f"cannot use {path}: {place}: {err.strerror}", errno=err.errno) from err
        if not stat.S_ISDIR(status.st_mode):
            raise HostUnfit(f"cannot use {path}: {place} is no directory")
        if status.st_uid != 0:
            raise HostUnfit(
                f"cannot use {path}: {place} belongs to uid {status.st_uid}, not to root",
                hint=f"chown root {place}, or choose another directory",
            )
        by_group = status.st_mode & stat.S_IWGRP and status.st_gid != 0
        if (by_group or status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
            raise HostUnfit(
                f"cannot use {path}: others than root may write to {place}",
                hint=f"chmod go-w {place}, or choose another directory",
            )
        if place == "/":
            return
        place = os.path.dirname(place)
