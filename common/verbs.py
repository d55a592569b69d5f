"""The verbs that look at what there is, and COMMANDS, the list of all.

Beside common/options.py, and not in it, because `dkrctl run` would load all this for nothing. Letters and
meanings are Docker's wherever Docker has the option.
"""

from common.acts import PAUSE, RENAME, RESTART, STATS, STOP, TOP, UNPAUSE, UPDATE
from common.copy_verb import CP
from common.exec_options import EXEC
from common.exec_verbs import SUBCOMMANDS
from common.housekeeping import DIFF, EVENTS, PRUNE
from common.lifecycle import CREATE, KILL, LOGS, RM, START, WAIT
from common.options import (
    ATTACH,
    CHOICE,
    CONTAINERS,
    COUNT,
    FILES,
    FLAG,
    REPEAT,
    RUN,
    SOCKET,
    TRACE_FORMATS,
    VALUE,
    VERB_HELP,
    VERBS,
    Command,
    Option,
)
from common.system import SYSTEM

_LIST = "List"
_OUTPUT = "Output"
_DAEMON = "Daemon"

# Statuses by which `ps --filter status=` chooses; `exited` is Docker's word for stopped.
STATUSES = ("creating", "created", "running", "paused", "restarting", "stopped", "exited")
HEALTHS = ("starting", "healthy", "unhealthy", "none")
FILTERS = ("status", "health", "name", "label", "id", "exited", "before", "since")
# The built-in roots, offered where an image can be named; dkrd/images/roots.py has them (a test compares).
ROOTS = ("host", "busybox")
# What people type who know other programs.
SYNONYMS = {
    "ls": "ps",
    "list": "ps",
    "remove": "rm",
    "delete": "rm",
    "del": "rm",
    "check": "doctor",
    "log": "logs",
    "enter": "exec",
    "new": "create",
    "copy": "cp",
}

_PLAIN_STATUS = "0; 1 where something could not be done"


def _format(what: str) -> Option:
    return Option("format", "f", VALUE, "FORMAT", "", what, group=_OUTPUT, complete=("json",))


PS = Command(
    "ps",
    "dkrctl ps [OPTIONS]",
    "List containers: the caller's own, for root and the group dkr-admin everybody's; the newest first.",
    (
        Option("all", "a", FLAG, "", "", "those that have ended as well", group=_LIST),
        Option(
            "filter",
            "f",
            REPEAT,
            "KEY=VALUE",
            "",
            "only those that match: status=STATUS, health=HEALTH, name=PART (a regular expression), label=KEY[=VALUE], id=BEGINNING, "
            "exited=CODE, before=CONTAINER and since=CONTAINER (made before or after that one); of several values for one key any, of "
            "several keys and labels each must match",
            group=_LIST,
            complete=(
                *(f"status={status}" for status in STATUSES),
                *(f"health={health}" for health in HEALTHS),
                *(f"{key}=" for key in FILTERS[2:]),
            ),
            docker="Docker knows more keys",
        ),
        Option("last", "n", COUNT, "N", "", "the N that were made last, ended or not", group=_LIST),
        Option("latest", "l", FLAG, "", "", "the one that was made last, ended or not", group=_LIST),
        Option(
            "format",
            "",
            VALUE,
            "FORMAT",
            "",
            "how they are shown: table; json, an object a line; a template such as '{{.Names}} {{.Status}}', after "
            "the word table with a heading",
            group=_OUTPUT,
            default="table",
            complete=("table", "json"),
        ),
        Option("no-trunc", "", FLAG, "", "", "whole ids and commands", group=_OUTPUT),
        Option("quiet", "q", FLAG, "", "", "ids only", group=_OUTPUT),
        Option("size", "s", FLAG, "", "", "how much each has written, root and log", group=_OUTPUT),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl ps", "what runs"),
        ("dkrctl ps -a --filter exited=1", "what has failed"),
        ("dkrctl ps -aq --filter status=stopped", "ids, for other programs"),
        ("dkrctl ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Labels}}'", "columns of one's own"),
        ("dkrctl ps -a --no-trunc --format json", "for programs"),
    ),
    status=_PLAIN_STATUS,
    intermixed=True,
)

INSPECT = Command(
    "inspect",
    "dkrctl inspect [OPTIONS] CONTAINER...",
    "Print all that is known of containers, as a JSON array. A container is named by its name, its id or the beginning of its id.",
    (
        _format(
            "how they are shown: json, the default; or a template, filled in for each: '{{.status}}', '{{json .labels}}'"
        ),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl inspect web", ""),
        ("dkrctl inspect --format '{{.status}} {{.exit.code}}' web", "a line for each container"),
        ("dkrctl inspect --format '{{index .labels \"team\"}}' web", "the value of a label"),
    ),
    status="0; 1 where one of them is not there",
    words=CONTAINERS,
    intermixed=True,
)

EXPLAIN = Command(
    "explain",
    "dkrctl explain [OPTIONS] CONTAINER",
    "Tell how a container was started: each step with its system calls and its time, and why it is done. The container may have "
    "ended, if it was kept.",
    (
        Option(
            "format",
            "f",
            CHOICE,
            "FORMAT",
            "",
            "a story (text), the record as it is (json), or events to be opened at https://ui.perfetto.dev (trace)",
            group=_OUTPUT,
            default="text",
            choices=TRACE_FORMATS,
        ),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl explain web", ""),
        ("dkrctl explain --format trace web >web.json", "to be opened in Perfetto"),
        ("dkrctl run --rm --explain /bin/true", "the same of a run, at its end"),
    ),
    status="0; 1 where it is not there, or where its record was lost",
    words=CONTAINERS,
    intermixed=True,
)

VERSION_COMMAND = Command(
    "version",
    "dkrctl version [OPTIONS]",
    "Print the versions of the client and of the daemon that answers.",
    (
        _format("how they are shown: json, or a template: '{{.Client.Version}}', '{{.Server.Version}}'"),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl version", ""),
        ("dkrctl version --format '{{.Server.Version}}'", ""),
    ),
    status="0; 1 where no daemon answers, or one of another API version",
    intermixed=True,
)

INFO = Command(
    "info",
    "dkrctl info [OPTIONS]",
    "Print what the daemon says of itself and of its host.",
    (_format("how it is shown: json, or a template over its fields"), SOCKET, VERB_HELP),
    (
        ("dkrctl info", ""),
        ("dkrctl info --format json", ""),
    ),
    status=_PLAIN_STATUS,
    intermixed=True,
)

DOCTOR = Command(
    "doctor",
    "dkrctl doctor [OPTIONS]",
    "Look over this host: what dkr needs of kernel, users, files and daemon, what of it is missing, and how to get it. "
    "Works without a daemon and without privilege, as far as possible; as root it tries what only root can.",
    (
        Option(
            "format",
            "f",
            CHOICE,
            "FORMAT",
            "",
            "text or json",
            group=_OUTPUT,
            default="text",
            choices=("text", "json"),
        ),
        Option(
            "config",
            "",
            VALUE,
            "FILE",
            "",
            "the settings of the daemon that is meant",
            group=_DAEMON,
            default="/etc/dkr/dkrd.toml",
            complete=FILES,
        ),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl doctor", "as root it tries what only root can"),
        ("dkrctl doctor --format json", "for programs"),
    ),
    status="0; 1 where there is a problem, not for warnings",
    intermixed=True,
)

HELP_COMMAND = Command(
    "help",
    "dkrctl help [COMMAND]",
    "Print help on a command.",
    (VERB_HELP,),
    (("dkrctl help run", ""),),
    words=VERBS,
    intermixed=True,
)

COMMANDS: tuple[Command, ...] = (
    RUN,
    CREATE,
    START,
    ATTACH,
    EXEC,
    CP,
    LOGS,
    PS,
    INSPECT,
    EXPLAIN,
    DIFF,
    TOP,
    STATS,
    STOP,
    RESTART,
    PAUSE,
    UNPAUSE,
    RENAME,
    UPDATE,
    KILL,
    WAIT,
    RM,
    PRUNE,
    EVENTS,
    INFO,
    SYSTEM,
    DOCTOR,
    VERSION_COMMAND,
    HELP_COMMAND,
)


def command_of(name: str) -> Command | None:
    """The command `name` of the table, or None; also one of two words."""
    for command in (*COMMANDS, *SUBCOMMANDS):
        if command.name == name:
            return command
    return None
