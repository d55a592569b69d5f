"""The verbs that act on a container that runs; of those that make, start, follow and remove it see common/lifecycle.py.

Beside common/options.py, and not in it, because `dkrctl run` would load all this for nothing.
"""

from common.option_rows import LIMITS, POLICY, RESTART_WORDS
from common.options import (
    CONTAINERS,
    FLAG,
    PAUSED,
    RUNNING,
    SECONDS,
    SIGNALS,
    SOCKET,
    VALUE,
    VERB_HELP,
    Command,
    Option,
)

_GROUP = "Options"

STOP_SIGNAL = Option(
    "signal",
    "s",
    VALUE,
    "SIGNAL",
    "signal",
    "which signal asks it to end, by name or number",
    group=_GROUP,
    default="the container's own (--stop-signal)",
    complete=SIGNALS,
)
STOP_TIMEOUT = Option(
    "timeout",
    "t",
    SECONDS,
    "TIME",
    "timeout",
    "how long it may take until SIGKILL: seconds, or as in 90s, 2m; 0 is at once, -1 never",
    group=_GROUP,
    default="the container's own (--stop-timeout)",
    aliases=("time",),
)

STOP = Command(
    "stop",
    "dkrctl stop [OPTIONS] CONTAINER...",
    "Stop running containers, all at the same time: the command is asked to end by a signal, and killed when its time is over. "
    "Returns when they have ended. Prints what was stopped; what has ended already is no failure.",
    (STOP_SIGNAL, STOP_TIMEOUT, SOCKET, VERB_HELP),
    (
        ("dkrctl stop web", ""),
        ("dkrctl stop -t 60 web", "it may take a minute"),
        ("dkrctl ps -q | xargs -r dkrctl stop", "all that run"),
    ),
    status="0; 1 where one of them could not be stopped",
    words=RUNNING,
    intermixed=True,
)

RESTART = Command(
    "restart",
    "dkrctl restart [OPTIONS] CONTAINER...",
    "Stop containers and start them again: as `dkrctl stop` does, then in the root that they left behind; those that do not run are "
    "started. All at the same time. Prints what runs anew. One that was started by `dkrctl run --rm`, or with descriptors of its "
    "caller's, cannot be, and runs on.",
    (STOP_SIGNAL, STOP_TIMEOUT, SOCKET, VERB_HELP),
    (
        ("dkrctl restart web", ""),
        ("dkrctl restart -t 0 web", "without asking it to end"),
    ),
    status="0; 1 where one of them could not be started again",
    words=CONTAINERS,
    intermixed=True,
)

PAUSE = Command(
    "pause",
    "dkrctl pause [OPTIONS] CONTAINER...",
    "Pause containers: none of their processes runs, and all they have stays as it is, until `dkrctl unpause`. Prints what was paused.",
    (SOCKET, VERB_HELP),
    (("dkrctl pause web", ""), ("dkrctl ps --filter status=paused", "those that are")),
    status="0; 1 where one of them could not be paused",
    words=RUNNING,
    intermixed=True,
)

UNPAUSE = Command(
    "unpause",
    "dkrctl unpause [OPTIONS] CONTAINER...",
    "Let containers that are paused go on. Prints what goes on.",
    (SOCKET, VERB_HELP),
    (("dkrctl unpause web", ""),),
    status="0; 1 where one of them could not be",
    words=PAUSED,
    intermixed=True,
)

TOP = Command(
    "top",
    "dkrctl top [OPTIONS] CONTAINER [PS OPTION...]",
    "Print the processes of a container, as ps -ef would: users as the container calls them, processes as the host does. What stands "
    "behind the container are options of ps, those that say which columns: aux, -o pid,comm, -eo pid,rss,args. No program ps is run.",
    (SOCKET, VERB_HELP),
    (("dkrctl top web", ""), ("dkrctl top web aux", ""), ("dkrctl top web -o pid,rss,etime,args", "")),
    status="0; 1 where it does not run",
    words=RUNNING,
)

STATS = Command(
    "stats",
    "dkrctl stats [OPTIONS] [CONTAINER...]",
    "Show what containers use of the machine: all that run, or those that are named; each second anew, until ctrl-C, or until those "
    "that are named have ended. Processor time is a share of one processor.",
    (
        Option("all", "a", FLAG, "", "", "those as well that do not run", group=_GROUP),
        Option("no-stream", "", FLAG, "", "", "once, and that is it", group=_GROUP),
        Option(
            "format",
            "",
            VALUE,
            "FORMAT",
            "",
            "how they are shown: table; json, an object a line; a template such as '{{.Name}} {{.CPUPerc}}', after the word table with "
            "a heading",
            group="Output",
            default="table",
            complete=("table", "json"),
        ),
        Option("no-trunc", "", FLAG, "", "", "whole ids", group="Output"),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl stats --no-stream", "all that run, once"),
        ("dkrctl stats web", "one of them, each second"),
        ("dkrctl stats --no-stream --format '{{.Name}} {{.MemUsage}}'", "for other programs"),
    ),
    status="0; 1 where one of them is not there; 130 after ctrl-C",
    words=RUNNING,
    intermixed=True,
)

RENAME = Command(
    "rename",
    "dkrctl rename [OPTIONS] CONTAINER NAME",
    "Give a container another name, whether or not it runs. Its host name stays.",
    (SOCKET, VERB_HELP),
    (("dkrctl rename web old-web", ""),),
    status="0; 1 where the name is in use",
    words=CONTAINERS,
    intermixed=True,
)

_AS_IT_IS = "as it is"

UPDATE = Command(
    "update",
    "dkrctl update [OPTIONS] CONTAINER...",
    "Bound containers otherwise: those that run from now on, and all at their next starts; or have them restarted otherwise. Of one "
    "container all that is given holds, or nothing. Prints what was changed.",
    (
        *(Option(*words, group="Limits", default=_AS_IT_IS, docker=docker) for *words, _, docker in LIMITS),
        Option(*POLICY[:6], group="Ending", default=_AS_IT_IS, complete=RESTART_WORDS),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl update -m 256m web", "it may use so much memory"),
        ("dkrctl update --cpus 0.5 --pids-limit 50 web", ""),
        ("dkrctl update -m 0 --cpus 0 web", "as much memory and processor time as there is"),
        ("dkrctl update --restart no web", "it is not restarted any more"),
    ),
    status="0; 1 where one of them could not be changed",
    words=CONTAINERS,
    intermixed=True,
)
