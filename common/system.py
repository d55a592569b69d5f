"""`dkrctl system`: what there is of everything, and what can be done about it."""

from common.housekeeping import DRY_RUN, FORCE, PRUNE_FILTER
from common.options import SOCKET, VALUE, VERB_HELP, Command, Option

FORMAT = Option(
    "format",
    "",
    VALUE,
    "FORMAT",
    "",
    "of df and info: how it is shown: json, or a template",
    group="Output",
    complete=("json",),
)
# Part -> the options that it takes.
PARTS = {"df": (FORMAT,), "info": (FORMAT,), "prune": (DRY_RUN, FORCE, PRUNE_FILTER)}

SYSTEM = Command(
    "system",
    "dkrctl system df|info|prune [OPTIONS]",
    "Show what containers take of the disk, and remove those that do not run: df tells what the caller's take, info what the daemon says "
    "of itself and its host, prune removes; the last two are `dkrctl info` and `dkrctl prune`. For root and the group dkr-admin it is "
    "everybody's.",
    (FORMAT, DRY_RUN, FORCE, PRUNE_FILTER, SOCKET, VERB_HELP),
    (
        ("dkrctl system df", "containers, their logs, the layers below them"),
        ("dkrctl system df --format json", "for programs"),
        ("dkrctl system prune -f", ""),
    ),
    status="0; 1 where something could not be done",
    parts=tuple(PARTS),
    intermixed=True,
)
