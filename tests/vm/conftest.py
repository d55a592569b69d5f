"""A machine for each module of tests, with what `make install` places of this tree."""

from __future__ import annotations

import faulthandler
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm import image, machine
from tests.vm.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

collect_ignore_glob = [] if image.can_be_made() else ["test_*.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before any fixture boots a machine: nothing is dumped after the seconds in which other tests are done."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def archive() -> Iterator[Path]:
    """The install, packed once."""
    place = Path(tempfile.mkdtemp(prefix="dkr-vm-", dir="/var/tmp"))
    try:
        yield machine.payload(place)
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def options() -> str:
    """For the machine's command line; a module that wants others has a fixture of this name."""
    return ""


@pytest.fixture(scope="module")
def kernel() -> str:
    """The kernel's release, as for `options`."""
    return image.OLDEST


@pytest.fixture(scope="module")
def tests() -> Path | None:
    """What is on the third disk, as for `options`."""
    return None


@pytest.fixture(scope="module")
def guest(archive: Path, kernel: str, options: str, tests: Path | None) -> Iterator[Guest]:
    """A machine that has just been booted; a tenant `tina` is there, and nothing of dkr runs or is enabled."""
    place = Path(tempfile.mkdtemp(prefix="dkr-vm-", dir="/var/tmp"))
    made = Guest(machine.Machine(image.image(kernel), archive, place, options, tests))
    try:
        made.boot()
        yield made
    finally:
        made.machine.cut()
        shutil.rmtree(place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the daemon said there, and the console."""
    report = yield
    found = getattr(item, "funcargs", {}).get("guest")
    if report.failed and isinstance(found, Guest):
        report.sections.append(("the machine's journal", found.last_words()))
        report.sections.append(("the machine's console", found.machine.console[-3000:]))
    return report
