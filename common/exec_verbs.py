"""`dkrctl exec ls` and `exec kill`: of two words, so beside COMMANDS (common/verbs.py), and not on the lean path of `exec`."""

from common.lifecycle import KILL
from common.options import CHOICE, EXECS, FLAG, RUNNING, SOCKET, VERB_HELP, Command, Option

_OUTPUT = "Output"

EXEC_LS = Command(
    "exec ls",
    "dkrctl exec ls [OPTIONS] CONTAINER",
    "List what is executed in a running container, the oldest first. What has ended is not told any more.",
    (
        Option(
            "format",
            "",
            CHOICE,
            "FORMAT",
            "",
            "how they are shown: table; json, an object a line",
            group=_OUTPUT,
            default="table",
            choices=("table", "json"),
        ),
        Option("no-trunc", "", FLAG, "", "", "whole ids and commands", group=_OUTPUT),
        Option("quiet", "q", FLAG, "", "", "ids only", group=_OUTPUT),
        SOCKET,
        VERB_HELP,
    ),
    (("dkrctl exec ls web", ""),),
    status="0; 1 where it is not there, or does not run",
    words=RUNNING,
    intermixed=True,
)

EXEC_KILL = Command(
    "exec kill",
    "dkrctl exec kill [OPTIONS] CONTAINER EXEC...",
    "Send a signal to commands that are executed in a running container, named by their ids or the beginnings of those.",
    KILL.options,
    (("dkrctl exec kill web $(dkrctl exec ls -q web)", "all of them"),),
    status="0; 1 where one of them could not be signalled",
    words=EXECS,
    intermixed=True,
)

SUBCOMMANDS = (EXEC_LS, EXEC_KILL)
