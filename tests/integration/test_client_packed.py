"""The installed client loads from its pack."""

import subprocess

from tests.daemon import test_prefix
from tests.unit.client_harness import PYTHON


def test_the_installed_client_loads_from_its_pack() -> None:
    client = test_prefix() / "bin/dkrctl"
    done = subprocess.run([PYTHON, "-ISv", client, "run"], capture_output=True, check=False, text=True)
    assert "there is no command" in done.stderr
    assert "__pycache__/packed." in done.stderr
    assert "__pycache__/run." not in done.stderr
