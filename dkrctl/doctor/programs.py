"""Files of other packages that dkr uses."""

import os
from collections.abc import Iterator

from common import static_program
from common.errors import HostUnfit
from common.libseccomp import find_library
from dkrctl.doctor.checks import Check, ok, problem, warning


def checks() -> Iterator[Check]:
    """All of them."""
    try:
        yield ok("libseccomp", find_library(os.uname().machine))
    except HostUnfit as error:
        yield problem("libseccomp", error.message.partition(": ")[2], "apt-get install libseccomp2")
    yield _busybox()


def _busybox() -> Check:
    name, advice = (
        "static busybox",
        "for the root busybox: apt-get install busybox-static, then send dkrd SIGHUP",
    )
    complaint = f"there is none at {', '.join(static_program.BUSYBOX)}"
    for path in static_program.BUSYBOX:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            static_program.check(static_program.read(descriptor), os.uname().machine)
        except (static_program.Unsuitable, OSError) as err:
            complaint = f"{path} {err}"
        else:
            return ok(name, path)
        finally:
            os.close(descriptor)
    return warning(name, complaint, advice)
