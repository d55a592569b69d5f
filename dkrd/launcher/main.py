"""The program dkrd. The installed script calls `main` with the interpreter of the api's environment."""

from __future__ import annotations

import os
import sys

from common import frames
from common.errors import DkrError
from dkrd.launcher import interpreter, probe
from dkrd.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(api_python: str) -> NoReturn:
    """Be dkrd: read the command line, seal the interpreter, serve. `api_python` executes the api."""
    try:
        settings = _settings()
        probe.require_root()
        interpreter.seal("dkrd", frames.dumps(settings.to_wire()))
        status = _serve(settings, (api_python, "-I", "-m", "dkrd.api"))
    except DkrError as err:
        sys.stderr.write(f"dkrd: {err.message}\n" + (f"  hint: {err.hint}\n" if err.hint else ""))
        status = 1
    sys.exit(status)


def _settings() -> Settings:
    """The settings: from the first life (interpreter.seal), or read by it. What does that loads 2 MB, and libraries, which each
    fork of the second would have to copy. Ends the program where all that is asked for is done.
    """
    handed = interpreter.handed_on()
    if handed:
        return Settings.from_wire(frames.loads_object(handed))
    settings, act = _parse()
    if act == "print_config":
        sys.stdout.write(settings.to_toml())
        sys.exit(0)
    if act == "stop_containers":
        sys.exit(_stop_containers(settings))
    return settings


def _parse() -> tuple[Settings, str]:
    from dkrd.launcher import options

    return options.parse(sys.argv[1:])


def _stop_containers(settings: Settings) -> int:
    from dkrd import journal
    from dkrd.launcher import stopping
    from dkrd.log import Log

    log = Log(settings.log_level, settings.log_format, "stop", journal=journal.connected(os.environ))
    stopping.stop_all(settings, log)
    return 0


def _serve(settings: Settings, api_argv: tuple[str, ...]) -> int:
    """Gather what the launcher is made of and run it. Imports here: what is above runs twice
    (interpreter.seal).
    """
    from dkrd import journal
    from dkrd.launcher import listener, runner
    from dkrd.launcher.opening import Opening
    from dkrd.log import Log

    passed = listener.inherited(os.environ)
    # Whatever whoever started us has left open is nobody's business from here on.
    runner.keep_only(range(3, 3 + passed))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.umask(0o022)
    log = Log(settings.log_level, settings.log_format, journal=journal.connected(os.environ))
    opening = Opening(settings, api_argv, log, passed)
    # The api starts meanwhile.
    from dkrd.launcher.notify import Notifier
    from dkrd.launcher.server import Launcher
    from dkrd.launcher.work import WORK

    return Launcher(settings, opening, WORK, log, Notifier(os.environ), lambda: _parse()[0]).run()
