"""The Python client: questions, plain runs, errors, its examples, its types."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.version import VERSION
from dkrctl.client import (
    DEVNULL,
    BadRequest,
    Client,
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    DkrError,
    NotFound,
    NotPermitted,
    Unavailable,
)
from tests.sdk import drive, look_until

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((REPOSITORY / "docs/examples").glob("*.py"))


def test_a_container_from_its_start_to_its_removal(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        assert (await dkr.version()).version == VERSION
        info = await dkr.info()
        assert (info.you.uid, info.you.role) == (os.getuid(), "admin" if os.getuid() == 0 else "tenant")
        process = await dkr.run("/bin/sh", "-c", "exit 4", name="kept", labels={"a": "b"}, stdin=DEVNULL)
        assert (await process.wait()).code == 4
        await look_until(lambda: process.exit is not None, "")
        while (found := await dkr.inspect("kept")).status != "stopped":
            await asyncio.sleep(0.01)  # the news may be later than its client's exit
        assert (found.id, found.labels, found.uid) == (process.id, {"a": "b"}, os.getuid())
        assert found.exit is not None
        assert found.exit.code == 4
        assert process.id not in [one.id for one in await dkr.containers()]
        assert process.id in [one.id for one in await dkr.containers(all=True)]
        trace = await dkr.explain(process.id[:20])
        assert (trace.id, trace.outcome) == (process.id, "started")
        assert "execve" in trace.steps[-1].name
        assert await dkr.wait("kept") == found.exit
        with pytest.raises(Conflict, match="has ended"):
            await dkr.kill("kept")
        await dkr.remove("kept")
        with pytest.raises(NotFound):
            await dkr.inspect("kept")

    drive(caller, scenario)


def test_wait_and_kill_by_name(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/sleep", "600", name="slept", stdin=DEVNULL, rm=True) as process:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(dkr.wait("slept"))
                leaving = group.create_task(dkr.wait("slept", "removed"))
                while not await dkr.containers():
                    await asyncio.sleep(0.01)
                await dkr.kill("slept", signal.SIGINT)
            assert waiting.result() == leaving.result() == await process.wait()
            assert await dkr.containers(all=True) == []
            assert process.exit is not None
            assert process.exit.signal == signal.SIGINT
        with pytest.raises(NotFound):
            await dkr.kill("nosuch", "TERM")

    drive(caller, scenario)


def test_a_plain_run(caller: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        done = await dkr.run_plain(
            "/bin/sh", "-c", "cat; echo $A >&2; exit 3", stdin=b"\xff\0", env={"A": "ü"}, user="7"
        )
        assert (done.stdout, done.stderr, done.exit.code) == (b"\xff\0", "ü\n".encode(), 3)
        assert done.exit.cause == "exited"
        assert not done.truncated
        assert done.duration > 0
        done = await dkr.run_plain("/bin/cat", stdin="text\n", readonly=True)
        assert done.stdout == b"text\n"
        done = await dkr.run_plain("/usr/bin/head", "-c", "1000000", "/dev/zero", max_output=1000)
        assert (done.stdout, done.truncated) == (bytes(1000), True)
        done = await dkr.run_plain("/bin/sleep", "600", timeout=0.05, stop_signal=signal.SIGKILL)
        assert (done.exit.signal, done.exit.cause) == (signal.SIGKILL, "timeout")

    drive(caller, scenario)


def test_a_plain_run_that_is_cancelled_is_stopped(root: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(dkr.run_plain("/bin/sleep", "600"))
            await look_until(lambda: _commands(root.daemon, "sleep"), "it runs")
            task.cancel()
        await look_until(lambda: not _commands(root.daemon, "sleep"), "it is stopped")

    drive(root, scenario)


def _commands(daemon: Daemon, comm: str) -> list[int]:
    return [process.pid for process in daemon.processes() if process.comm == comm]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("args", "options", "kind", "part"),
    [
        (["/bin/nosuch"], {}, CommandNotFound, "no such file"),
        (["/etc"], {}, CommandNotExecutable, "cannot run"),
        (["/bin/true"], {"image": "nosuch"}, NotFound, "nosuch"),
        (["/bin/true"], {"user": "nobody-there"}, DkrError, "nobody-there"),
        (["/bin/true"], {"cwd": "relative"}, BadRequest, "cwd"),
        (["/bin/true"], {"env": {"A=": "b"}}, BadRequest, "env"),
        ([], {}, BadRequest, "args"),
    ],
)
def test_errors_are_those_of_the_daemon(
    caller: Caller, plain: bool, args: list[str], options: Any, kind: type[DkrError], part: str
) -> None:
    async def scenario(dkr: Client) -> None:
        run: Any = dkr.run_plain if plain else dkr.run
        with pytest.raises(kind) as caught:
            await run(*args, rm=True, **options)
        assert part in str(caught.value)

    drive(caller, scenario)


def test_a_tenant_may_not_what_an_admin_may(daemon: Daemon, tenant: User) -> None:
    from tests.integration.conftest import Caller

    async def scenario(dkr: Client) -> str | None:
        async with dkr.run("/bin/true", namespaces={"uts": "host"}, rm=True) as process:
            return (await process.wait()).cause

    assert drive(Caller(daemon, None), scenario) == "exited"

    async def refused(dkr: Client) -> None:
        with pytest.raises(NotPermitted) as caught:
            await scenario(dkr)
        assert caught.value.rule
        with pytest.raises(NotPermitted) as caught:
            await dkr.run_plain("/bin/true", namespaces={"uts": "host"})
        assert caught.value.rule == "http"

    drive(Caller(daemon, tenant), refused)


def test_mistakes_of_the_caller_are_pythons_errors(root: Caller) -> None:
    async def scenario(dkr: Client) -> None:
        unknown: Any = {"environment": {}}
        with pytest.raises(TypeError, match=r"run\(\) got an unexpected keyword argument 'environment'"):
            dkr.run("/bin/true", **unknown)
        with pytest.raises(TypeError, match=r"run_plain\(\) got an unexpected keyword argument"):
            await dkr.run_plain("/bin/true", **unknown)
        number: Any = 3
        with pytest.raises(TypeError, match="not int"):
            dkr.run("/bin/echo", number)
        with pytest.raises(TypeError, match="list of words"):
            dkr.run("/bin/echo", entrypoint="/bin/sh")
        with pytest.raises(ValueError, match="terminal=True"):
            dkr.run("/bin/true", size=(24, 80))
        for wrong in ("", "..", "a/b", "x" * 200):
            with pytest.raises(NotFound):
                await dkr.inspect(wrong)

    drive(root, scenario)


async def test_a_client_must_be_open() -> None:
    client = Client("/nonexistent/socket")
    with pytest.raises(RuntimeError, match="async with"):
        await client.ping()
    with pytest.raises(RuntimeError, match="async with"):
        await client.run("/bin/true")


async def test_nobody_there(tmp_path: Path) -> None:
    async with Client(tmp_path / "none", retry=0) as dkr:
        for wanted in (dkr.ping(), dkr.run_plain("/bin/true"), dkr.run("/bin/true")):
            with pytest.raises(Unavailable, match="there is no such socket"):
                await wanted


def test_others_containers_are_not_there(daemon: Daemon, tenant: User) -> None:
    from tests.integration.conftest import Caller

    async def scenario(dkr: Client) -> None:
        async with dkr.run("/bin/cat", stdin=-1, name="roots", rm=True) as process:

            async def look(other: Client) -> None:
                assert await other.containers(all=True) == []
                for call in (other.inspect, other.remove, other.explain):
                    with pytest.raises(NotFound):
                        await call("roots")
                with pytest.raises(NotFound):
                    await other.attach("roots")

            await asyncio.to_thread(drive, Caller(daemon, tenant), look)
            with pytest.raises(Conflict):
                await dkr.remove("roots")
            await process.communicate()

    drive(Caller(daemon, None), scenario)


def run_as(daemon: Daemon, user: User, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed interpreter, to its end; it must succeed, and complain of nothing."""
    done = subprocess.run(
        [daemon.prefix / "bin/python", "-I", *words],
        env=daemon.environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run_as_a_tenant_with_what_is_installed(
    daemon: Daemon, tenant: User, open_tmp: Path, example: Path
) -> None:
    copy = open_tmp / example.name
    copy.write_text(example.read_text())
    done = run_as(daemon, tenant, str(copy))
    said = [line.removeprefix("# > ") for line in example.read_text().splitlines() if line.startswith("# > ")]
    assert done.stdout.splitlines() == said


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_the_lines_shown_in_the_pages_work(daemon: Daemon, tenant: User) -> None:
    [whole] = blocks("docs/sdk.md")
    [lines] = blocks("README.md")
    wrapped = "import asyncio\nfrom dkrctl.client import PIPE, Client\n\nasync def main():\n"
    wrapped += textwrap.indent(lines, "    ") + "\nasyncio.run(main())\n"
    assert run_as(daemon, tenant, "-c", whole).stdout == "b'SOME WORDS\\n' 0\n"
    assert run_as(daemon, tenant, "-c", wrapped).stdout == "0 b'SOME WORDS\\n'\nb'short\\n'\n"


def blocks(page: str) -> list[str]:
    """Its lines of Python."""
    return re.findall(r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(), re.MULTILINE | re.DOTALL)


def test_what_is_installed_has_types(prefix: Path, open_tmp: Path) -> None:
    """As a user's own mypy finds it: the examples are right, and a wrong call is seen."""
    wrong = open_tmp / "wrong.py"
    wrong.write_text(
        "from dkrctl.client import Client\n\n\nasync def main() -> None:\n"
        '    async with Client() as dkr:\n        await dkr.run("/bin/true", user=1000)\n'
        '        await dkr.run_plain("/bin/true", environment={})\n'
        "        print((await dkr.inspect('a')).nme)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={open_tmp}/cache"]
    command.append(f"--python-executable={prefix}/bin/python")
    done = subprocess.run([*command, *EXAMPLES], cwd=open_tmp, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([*command, wrong], cwd=open_tmp, capture_output=True, text=True, check=False)
    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["6", "7", "8"]
