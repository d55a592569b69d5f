"""Steps of children that no ordinary start here shows: of a helper that mounts for an older kernel, of an init that was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dkrctl.whys import WHYS
from dkrd.runtime import operations

pytestmark = pytest.mark.root

DIRECT = Path(__file__).resolve().parents[1] / "security/direct.py"
BIND = 'open_tree(AT_FDCWD, "/usr", '


@pytest.fixture
def place(open_tmp: Path) -> Path:
    """An empty directory whose name is free as a cgroup's."""
    own = open_tmp / f"{open_tmp.name}-direct"
    own.mkdir()
    return own


def built(place: Path, **job: Any) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Builds a container by the runtime alone; what came of it, and the steps: process, name, call."""
    told = place.parent / "steps"
    wanted = {"directory": str(place), "args": ["/usr/bin/true"], "steps": str(told), **job}
    done = subprocess.run(
        [sys.executable, "-I", DIRECT, json.dumps(wanted)], capture_output=True, text=True, check=False
    )
    steps = json.loads(told.read_text())
    assert isinstance(steps, list)
    return done, steps


def test_a_helper_tells_what_the_guardian_would_have_done(place: Path) -> None:
    done, steps = built(place, helper=True, attached=True)
    assert done.returncode == 0, done.stderr
    helper = [(name, call) for process, name, call in steps if process == "helper"]
    assert [name for name, _ in helper][:3] == ["layers", "overlay", "detach layers"]
    assert helper[-1][0] == "pivot"
    assert [name for name, _ in helper if name in ("await init", "join")] == ["await init", "join"]
    said = dict(helper)
    assert said["bind"].startswith(BIND)
    assert said["join"] == "setns(pidfd, CLONE_NEWNET|CLONE_NEWIPC)"
    # Behind the two steps that stand between the operations, each has its own words still.
    after = [call for name, call in helper[[name for name, _ in helper].index("join") :] if name == "mount"]
    assert ['fsopen("mqueue"' in after[0], 'fsopen("sysfs"' in after[1]] == [True, True]
    assert "pidns" not in "".join(call for _, call in helper)
    missing = [
        call for name, call in helper if name in ("readonly", "mask") and call.endswith(" = -1 ENOENT")
    ]
    assert missing  # what a helper finds out comes along
    own = [name for process, name, _ in steps if process == "shim"]
    assert own[own.index("helper") :] == ["helper", "return", "await helper", "root", "await execve"]
    assert {name for _, name, _ in steps} <= set(WHYS)


@pytest.mark.parametrize("helper", [False, True])
@pytest.mark.parametrize("attached", [False, True])
def test_no_mount_of_the_layers_is_left(place: Path, helper: bool, attached: bool) -> None:
    """Given by descriptor, and as before Linux 6.15; the root is the same, and shows nothing of where it came from."""
    if not attached and not operations.overlay_takes_detached():
        pytest.skip("overlay takes detached layers from Linux 6.15 on")
    script = "stat -c '%u %n' /tmp; cat /proc/self/mountinfo"
    done, steps = built(place, helper=helper, attached=attached, args=["/usr/bin/sh", "-c", script])
    assert done.returncode == 0, done.stderr
    owner, root, *below = done.stdout.splitlines()
    assert owner == "0 /tmp"
    assert " / / rw,nodev" in root
    assert ",upperdir=upper,workdir=work," in root
    assert ("lowerdir=l/skeleton" if attached else "lowerdir+=/skeleton") in root
    assert not [line for line in (root, *below) if str(place) in line or "skeleton" in line.split(" - ")[0]]
    assert ("detach layers" in (name for _, name, _ in steps)) is attached


def test_an_init_that_was_killed_has_told_its_steps(place: Path) -> None:
    done, steps = built(place, hang=True, seconds=1)
    assert done.returncode != 0
    assert "its build did not end in time (deadline)" in done.stderr
    assert [name for process, name, _ in steps if process == "init"][-2:] == ["lock", "user"]
    assert [name for process, name, _ in steps if process == "shim"][-1] == "await execve"
