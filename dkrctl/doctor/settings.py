"""The daemon's settings, as dkrd itself tells them: what a key means and which is its default stands there alone."""

import os
import subprocess
import tomllib
from pathlib import Path

from dkrctl.doctor.checks import Check, ok, problem, warning

SECONDS = 20
DEFAULT_FILE = "/etc/dkr/dkrd.toml"
# PREFIX/lib/python3.x/site-packages/dkrctl/doctor/settings.py; dkrd of the same install is PREFIX/sbin/dkrd.
_OURS = Path(__file__).resolve().parents[2].parent.parent.parent / "sbin/dkrd"
_ELSEWHERE = (Path("/usr/sbin/dkrd"), Path("/usr/local/sbin/dkrd"))


class Settings:
    """The effective settings by their keys in the file: `state_dir`, `ids.first`."""

    def __init__(self, table: dict[str, object]) -> None:
        self._values: dict[str, object] = {}
        for key, value in table.items():
            if isinstance(value, dict):
                self._values.update({f"{key}.{inner}": entry for inner, entry in value.items()})
            else:
                self._values[key] = value

    def text(self, key: str) -> str:
        """A setting that is a text. Raises KeyError where dkrd told none of this key."""
        return str(self._values[key])

    def number(self, key: str) -> int:
        """A setting that is a number. Raises KeyError, ValueError."""
        return int(str(self._values[key]))


def program() -> Path | None:
    """The dkrd that belongs to this client, or one that is installed where programs are."""
    return next((path for path in (_OURS, *_ELSEWHERE) if os.access(path, os.X_OK)), None)


def read(config: str | None) -> tuple[Settings | None, list[Check]]:
    """The settings of the file `config` (None: the default file, which may be missing), and what was found."""
    dkrd = program()
    if dkrd is None:
        return None, [problem("dkrd program", "not installed", "as root: make install")]
    found = [ok("dkrd program", str(dkrd))]
    file = config or DEFAULT_FILE
    if os.path.exists(file) and not os.access(file, os.R_OK):
        advice = "run `dkrctl doctor` as root"
        return None, [*found, warning("settings", f"not read: {file} is closed to this user", advice)]
    words = [str(dkrd), *(["--config", config] if config else []), "--print-config"]
    try:
        done = subprocess.run(
            words, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return None, [
            *found,
            problem("settings", f"dkrd cannot be asked: {err}", "install it again: make install"),
        ]
    if done.returncode:
        said = done.stderr.strip().removeprefix("dkrd: ").splitlines() or ["without a word"]
        return None, [
            *found,
            problem("settings", said[0], f"mend {file}; `dkrd --print-config` shows what is known"),
        ]
    try:
        settings = Settings(tomllib.loads(done.stdout))
    except ValueError as err:
        return None, [
            *found,
            problem("settings", f"what dkrd prints is not TOML: {err}", "install it again: make install"),
        ]
    where = file if os.path.exists(file) else f"all defaults: there is no {file}"
    return settings, [*found, ok("settings", where)]
