"""The command line of dkrd."""

from __future__ import annotations

import argparse

from common.version import VERSION
from dkrd import settings
from dkrd.settings import LOG_FORMATS, LOG_LEVELS, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
Options win over the file; keys that have no option are told by --print-config.

examples:
  dkrd                                   as systemd starts it
  dkrd --print-config                    the effective settings, as a file
  dkrd --stop-containers                 as systemd does when dkr-containers.service stops
  dkrd --state-dir /srv/dkr --run-dir /run/dkr2 --log-level debug
"""


_ACTS = ("print_config", "stop_containers")


def parse(arguments: Sequence[str]) -> tuple[Settings, str]:
    """The effective settings, and what to do with them: `serve`, `print_config` or `stop_containers`.

    Raises BadRequest for settings that do not fit, SystemExit as argparse does.
    """
    given = parser().parse_args(list(arguments))
    values = {name: value for name, value in vars(given).items() if name not in ("config", *_ACTS)}
    act = next((name for name in _ACTS if getattr(given, name)), "serve")
    return settings.load(given.config, values), act


def parser() -> argparse.ArgumentParser:
    """The options of dkrd; its man page is made from them."""
    parser = argparse.ArgumentParser(
        prog="dkrd",
        description="The container daemon: starts containers for the clients of its socket.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE",
        help=f"the settings (default {settings.DEFAULT_FILE}, which may be missing)",
    )
    add("--state-dir", metavar="DIR", help="what survives a reboot (default /var/lib/dkr)")
    add("--run-dir", metavar="DIR", help="what does not: sockets, live state (default /run/dkr)")
    add("--socket", metavar="PATH", help="the listening socket (default RUN_DIR/dkr.sock)")
    add("--socket-group", metavar="GROUP", help="group that may connect (default dkr)")
    add("--socket-mode", metavar="MODE", help="permission bits of the socket (default 0660)")
    add("--log-level", metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)} (default info)")
    add("--log-format", metavar="FORMAT", help=f"{' or '.join(LOG_FORMATS)} (default text)")
    add(
        "--cgroup-parent",
        metavar="NAME",
        help="the cgroup above all containers: a name, or the path of one that is there (default dkr)",
    )
    acts = parser.add_mutually_exclusive_group().add_argument
    acts("--print-config", action="store_true", help="print the effective settings as TOML and end")
    acts(
        "--stop-containers",
        action="store_true",
        help="have every container stopped by its stop signal, wait for that, and end; a daemon that serves stays",
    )
    add("--version", action="version", version=f"dkrd {VERSION}")
    return parser
