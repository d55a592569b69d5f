"""Where libseccomp is on this host. Asked by dkrd, which loads it once, and by `dkrctl doctor`."""

from __future__ import annotations

import os

from common.errors import HostUnfit

LIBRARY = "libseccomp.so.2"


def find_library(machine: str) -> str:
    """The real path of libseccomp, without loading it. Raises HostUnfit where it is not."""
    directories = [
        base + tail for tail in (f"/{machine}-linux-gnu", "64", "") for base in ("/usr/lib", "/lib")
    ]
    for directory in directories:
        path = os.path.realpath(os.path.join(directory, LIBRARY))
        if os.path.isfile(path):
            return path
    raise HostUnfit(
        f"cannot find {LIBRARY}: it is not in {', '.join(directories)}", hint="install libseccomp2"
    )
