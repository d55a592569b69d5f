"""The verbs that watch what happens, and tidy up."""

from common.filters import ACTION_WORDS
from common.options import CONTAINERS, FLAG, REPEAT, SOCKET, VALUE, VERB_HELP, Command, Option

_OUTPUT = "Output"
_WHICH = "Which"

EVENTS = Command(
    "events",
    "dkrctl events [OPTIONS]",
    "Print what happens to containers as it happens, a line for each: the caller's own, for root and the group dkr-admin everybody's. "
    "With --since what has happened before as well, as far as it is kept. While the daemon is away it is waited for: each event is told "
    "once, also of what happens meanwhile.",
    (
        Option(
            "since",
            "",
            VALUE,
            "TIME",
            "",
            "from TIME on: 2026-01-31T12:00:00Z, seconds since the epoch, or as in 10m, 1h30m ago",
            group=_WHICH,
        ),
        Option(
            "until",
            "",
            VALUE,
            "TIME",
            "",
            "up to TIME, given as for --since; without, it goes on until ctrl-C",
            group=_WHICH,
        ),
        Option(
            "filter",
            "f",
            REPEAT,
            "KEY=VALUE",
            "",
            "only those that match: container=NAME or the beginning of its id, event=ACTION, image=ROOT, label=KEY[=VALUE], "
            "type=container; of several values for one key any, of several keys and labels each must match",
            group=_WHICH,
            complete=(
                *(f"event={word}" for word in ACTION_WORDS if ":" not in word),
                "container=",
                "image=",
                "label=",
                "type=container",
            ),
            docker="Docker knows more keys",
        ),
        Option(
            "format",
            "",
            VALUE,
            "FORMAT",
            "",
            "how they are shown: json, an object a line; or a template such as '{{.time}} {{.action}} {{.name}}'",
            group=_OUTPUT,
            complete=("json",),
        ),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl events", "until ctrl-C"),
        ("dkrctl events --since 1h --until 0s --filter event=die", "what has ended in the last hour"),
        ("dkrctl events --format '{{.action}} {{.name}} {{.exit.code}}'", ""),
    ),
    status="0; 1 where some are lost: the reader is too slow, or the daemon was away for too long; 130 after ctrl-C",
    intermixed=True,
)

DRY_RUN = Option(
    "dry-run",
    "",
    FLAG,
    "",
    "",
    "remove nothing, tell what would be removed",
    group=_WHICH,
    docker="Docker has none",
)
FORCE = Option("force", "f", FLAG, "", "", "do not ask; without a terminal it is needed", group=_WHICH)
PRUNE_FILTER = Option(
    "filter",
    "",
    REPEAT,
    "KEY=VALUE",
    "",
    "only those that match: until=TIME (made before it, given as for --since of events), label=KEY[=VALUE], label!=KEY[=VALUE]; all must",
    group=_WHICH,
    complete=("until=", "label=", "label!="),
)

PRUNE = Command(
    "prune",
    "dkrctl prune [OPTIONS]",
    "Remove all containers that do not run, those too that were never started, with all they have written: the caller's own, for root and "
    "the group dkr-admin everybody's. Asks before.",
    (DRY_RUN, FORCE, PRUNE_FILTER, SOCKET, VERB_HELP),
    (
        ("dkrctl prune --dry-run", "what would go"),
        ("dkrctl prune -f --filter until=24h", "what was made more than a day ago"),
        ("dkrctl prune -f --filter label!=keep", "all but those"),
    ),
    status="0; 1 where it was not wanted, or one of them could not be removed",
    intermixed=True,
)

DIFF = Command(
    "diff",
    "dkrctl diff [OPTIONS] CONTAINER",
    "Print what a container has changed of its root, a path a line, A for what it added, C changed, D deleted. "
    "What lies in mounts, scratch space (--tmpfs) and what its root shows of the host, is not of its root.",
    (SOCKET, VERB_HELP),
    (("dkrctl diff web", ""),),
    status="0; 1 where it is not there, or has changed more than can be told",
    words=CONTAINERS,
    intermixed=True,
)
