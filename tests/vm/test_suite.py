"""Tests of the other directories in the machine: on cgroup v2 alone, on the oldest kernel that is promised and on a newer one.

By default those of what the kernel has to hold. DKR_VM_TESTS="tests/integration tests/security" names others; they take some 18 times
as long as elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm import image, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.soak, pytest.mark.timeout(7200)]

DEFAULT = (
    "tests/unit/test_cgroup_tree.py",
    "tests/integration/test_limits.py",
    "tests/unit/test_kernel_features.py",
    "tests/reliability/test_cgroup_v2.py",
    "tests/security/test_isolation_mounts.py",
    "tests/security/test_isolation_namespaces.py",
    "tests/security/test_isolation_walls.py",
)
WORDS = os.environ.get("DKR_VM_TESTS", "").split() or DEFAULT


@pytest.fixture(scope="module", params=image.KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tests() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="dkr-vm-", dir="/var/tmp"))
    try:
        yield machine.suite(place)
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def prepared(guest: Guest) -> Guest:
    """All of /var/lib is on the disk: the root, a tmpfs, cannot be idmapped before Linux 6.3."""
    guest.run(
        "umount /var/lib/dkr; cp -a /var/lib /run/kept; mount /dev/vdb /var/lib; cp -a /run/kept/. /var/lib/; mkdir /var/lib/tmp"
    )
    guest.run("tar -xf /dev/vdc -C /")
    return guest


@pytest.mark.parametrize("words", WORDS)
def test_it_holds_there_too(prepared: Guest, words: str) -> None:
    environment = (
        "DKR_TEST_PREFIX=/opt/dkr DKR_TEST_PATIENCE=20 PYTHONPATH=/usr/local/lib/dkr-tests"
        " PYTHONDONTWRITEBYTECODE=1 TMPDIR=/var/lib/tmp"
    )
    pytest_ = "/usr/bin/python3 -m pytest -q -p no:cacheprovider -o timeout=900 -o faulthandler_timeout=0"
    command = f"cd /usr/local/src/dkr && ulimit -n 20000 && {environment} {pytest_} {words} 2>&1"
    done = prepared.machine.run(command, seconds=3600, check=False)
    assert done.returncode == 0, done.stdout[-20000:]
