"""The systemd unit as `make install` places it: whole, and without a word that systemd does not know."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

UNIT = Path(__file__).parents[2] / "systemd" / "system" / "dkrd.service"


def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    program = tmp_path / "dkrd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "dkrd.service"
    unit.write_text(UNIT.read_text().replace("@SBINDIR@", str(tmp_path)))
    assert "@" not in unit.read_text()
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_in_it_makes_a_mount_namespace() -> None:
    """The daemon clones trees by callers' descriptors, which works in their mount namespace only."""
    keys = {line.partition("=")[0] for line in UNIT.read_text().splitlines() if not line.startswith("#")}
    assert not [
        key
        for key in keys
        if re.match(r"Private|Protect|ReadOnly|ReadWrite|Bind|Inaccessible|Root|Mount|Temporary", key)
    ]
    assert "KillMode=process" in UNIT.read_text()
