"""The tests' own tools: what they must notice, they notice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import host
from tests.daemon import Daemon

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.root


def test_an_orderly_daemon_leaves_nothing(prefix: Path) -> None:
    daemon = Daemon.create(prefix)
    daemon.start()
    daemon.run("/bin/true")
    daemon.close()
    assert not daemon.directory.exists()
    assert host.cgroups(daemon.cgroup) == []


def test_a_container_left_behind_fails_the_test_and_is_taken_off(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.daemon.SETTLE_SECONDS", 0.1)
    daemon = Daemon.create(prefix).start()
    client = daemon.popen(
        "run",
        "--rm",
        "/bin/sh",
        "-c",
        "echo up; read wait",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        assert len([process for process in daemon.processes() if process.comm == "sh"]) == 1
        with pytest.raises(AssertionError, match="left: process") as caught:
            daemon.close()
        client.communicate("\n")
    assert "left: cgroup" in str(caught.value)
    assert "(dkr-shim)" in str(caught.value)
    assert daemon.processes() == []
    assert host.cgroups(daemon.cgroup) == []
    assert not daemon.directory.exists()


def test_a_daemon_that_does_not_start_shows_its_log(prefix: Path) -> None:
    daemon = Daemon.create(prefix, log_level="loud")
    try:
        with pytest.raises(AssertionError, match="log_level"):
            daemon.start()
    finally:
        daemon.close()


def test_the_client_runs_as_the_user_who_is_named(daemon: Daemon, tenant: host.User) -> None:
    client = daemon.popen(
        "run",
        "--rm",
        "/bin/sh",
        "-c",
        "echo up; read wait",
        user=tenant,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{client.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        client.communicate("\n")
    assert status["Uid"].split() == [str(tenant.uid)] * 4
    assert set(status["Groups"].split()) == {str(gid) for gid in tenant.groups}
    assert int(status["CapPrm"], 16) == 0
    assert client.returncode == 0


@pytest.mark.parametrize(("promised", "outcome"), [("1", "1 failed"), ("0", "1 skipped")])
def test_a_skip_fails_where_everything_is_promised(tmp_path: Path, promised: str, outcome: str) -> None:
    test = tmp_path / "test_absent.py"
    test.write_text("import pytest\n\n\ndef test_absent() -> None:\n    pytest.skip('absent')\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "tests.conftest",
            "-c",
            REPOSITORY / "pyproject.toml",
            test,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "DKR_SKIPS_FAIL": promised},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout
