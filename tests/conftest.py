"""Fixtures of all tests: a daemon for the whole run, daemons of a test's own, users to ask as."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests import host
from tests.daemon import Daemon, test_prefix

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000

# A runner started in the background of a script ignores some signals, and all that it starts would inherit that.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


class MakeDaemon(Protocol):
    """Starts a daemon that ends with the test; settings as in dkrd.toml, sections as dictionaries."""

    def __call__(self, **settings: Any) -> Daemon: ...


class MakeUser(Protocol):
    """A new user of the host, in these groups."""

    def __call__(self, *groups: str) -> host.User: ...


@pytest.fixture(scope="session")
def prefix() -> Path:
    """The test install."""
    return test_prefix()


@pytest.fixture(scope="session")
def daemon(prefix: Path) -> Iterator[Daemon]:
    """The daemon that most tests share. A test must leave it as it was: running, and without containers."""
    shared = Daemon.create(prefix)
    try:
        yield shared.start()
    finally:
        shared.close()


@pytest.fixture
def make_daemon(prefix: Path) -> Iterator[MakeDaemon]:
    """Daemons of the test's own, which it may kill, restart and configure."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Daemon:
            own = Daemon.create(prefix, **settings)
            stack.callback(own.close)
            return own.start()

        yield make


@pytest.fixture(scope="session")
def make_user() -> Iterator[MakeUser]:
    """Users of the host that are there until the run ends."""
    host.remove_stale_users()
    made: list[host.User] = []

    def make(*groups: str) -> host.User:
        made.append(host.add_user(len(made), groups))
        return made[-1]

    try:
        yield make
    finally:
        for user in made:
            host.remove_user(user.name)


@pytest.fixture(scope="session")
def tenant(make_user: MakeUser) -> host.User:
    """An ordinary user who may connect: a member of the group `dkr`."""
    return make_user("dkr")


@pytest.fixture(scope="session")
def other_tenant(make_user: MakeUser) -> host.User:
    """Another one."""
    return make_user("dkr")


@pytest.fixture(scope="session")
def admin(make_user: MakeUser) -> host.User:
    """A member of `dkr` and `dkr-admin` who is not root."""
    return make_user("dkr", "dkr-admin")


@pytest.fixture(scope="session")
def stranger(make_user: MakeUser) -> host.User:
    """An ordinary user who is in none of dkr's groups."""
    return make_user()


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A directory that every user can reach (tmp_path is pytest's user's alone)."""
    directory = Path(tempfile.mkdtemp(prefix="dkr-test-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _can_make_namespaces() -> bool:
    """Asks the kernel, in a child that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several workers mounts of its own: a test counts those that it sees, and must not see another's come and go."""
    if not hasattr(config, "workerinput"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "cannot make the mounts private")


class _ByFile(LoadFileScheduling):  # type: ignore[misc]  # the library is not typed
    """The tests of a file share its daemons, so one worker takes them all; machines have the cores one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/vm" if nodeid.startswith("tests/vm/") else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """Who does what, of several workers."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs privilege where the kernel does not give it."""
    wanting = [item for item in items if item.get_closest_marker("root")]
    if wanting and not _can_make_namespaces():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="cannot make a mount namespace here"))


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """`make test` promises every capability: what is skipped there has not been tested, and nobody would see it."""
    if os.environ.get("DKR_SKIPS_FAIL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skips fail where they must; a failure shows what the test's daemons said."""
    report = yield
    _fail_if_skipped(report)
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Daemon):
                report.sections.append((f"log of {name}", value.log[-8000:]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    _fail_if_skipped(report)
    return report
