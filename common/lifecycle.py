"""The verbs that make, start, follow, end and remove containers; of those that stand for a command alone see common/options.py.

Beside that, and not in it, because `dkrctl run` would load all this for nothing.
"""

from common.options import (
    ATTACH_OPTIONS,
    CHOICE,
    CONTAINERS,
    DETACH_KEYS,
    FLAG,
    PIDFILE,
    RUN_OPTIONS,
    RUN_WORDS,
    RUNNING,
    SECONDS,
    SIGNALS,
    SOCKET,
    STOPPED,
    VALUE,
    VERB_HELP,
    Command,
    Option,
)

_STDIO = "Terminal and descriptors"
_OUTPUT = "Output"
_RUN = {option.long: option for option in RUN_OPTIONS}
_ATTACH = {option.long: option for option in ATTACH_OPTIONS}

# What `create` cannot take of `run`'s options: why, and what to do.
_NOT_KEPT = "what is made now is started later, and a descriptor cannot be kept until then"
_WHO_ATTACHES = "that is for who attaches to it"
_NOT_STARTED = "nothing is started"
_REFUSED = (
    (_RUN["rootfs"], _NOT_KEPT, "dkrctl run --rootfs DIR starts it at once"),
    (_RUN["preserve-fds"], _NOT_KEPT, "dkrctl run --preserve-fds N starts it at once"),
    (_RUN["no-tty"], "it has no terminal anyway unless there is -t", "leave out -T"),
    (_RUN["record"], _WHO_ATTACHES, "dkrctl start --attach --record FILE, or the same with attach"),
    (_RUN["detach-keys"], _WHO_ATTACHES, "dkrctl start --attach --detach-keys KEYS, or the same with attach"),
    (
        _RUN["on-disconnect"],
        _WHO_ATTACHES,
        "dkrctl start --attach --on-disconnect WHAT, or the same with attach",
    ),
    (
        _RUN["detach"],
        "it starts nothing, so nobody is there to leave",
        "leave it out; or dkrctl run --detach",
    ),
    (_RUN["quiet"], "it makes no remarks", "leave it out"),
    (_RUN["sdnotify"], _NOT_STARTED, "dkrctl run --sdnotify WAY, in the unit"),
    (PIDFILE, _NOT_STARTED, "dkrctl start --pidfile FILE CONTAINER"),
    (_RUN["explain"], _NOT_STARTED, "dkrctl explain CONTAINER, once it was started"),
    (_RUN["dry-run"], _NOT_STARTED, "dkrctl run --detach --dry-run tells what a start would do"),
    (_RUN["format"], _NOT_STARTED, "dkrctl explain --format FORMAT CONTAINER, once it was started"),
)
_OWN = (
    Option(
        "interactive",
        "i",
        FLAG,
        "",
        "openStdin",
        "its input is what attached clients send; without, it is empty",
        group=_STDIO,
    ),
    Option(
        "tty",
        "t",
        FLAG,
        "",
        "terminal",
        "give the command a terminal of its own; to be typed at with -i",
        group=_STDIO,
    ),
)
_BY_NAME = {option.long: option for option in _OWN}
_LEFT_OUT = {option.long for option, _, _ in _REFUSED}

CREATE = Command(
    "create",
    "dkrctl create [OPTIONS] [IMAGE] COMMAND [ARG...]",
    "Make a container, start nothing, and print its id. When it is started (dkrctl start), its output goes to its log (dkrctl logs) "
    "and to whoever is attached. A first word that begins with / is a command in the default root; any other names an image, and "
    "the command follows.",
    (
        *(_BY_NAME.get(name, option) for name, option in _RUN.items() if name not in _LEFT_OUT | {"help"}),
        _RUN["help"],
    ),
    (
        (
            "dkrctl create --name job /bin/sh -c 'date; sleep 1; date'",
            "then: dkrctl start job, dkrctl logs -f job",
        ),
        ("dkrctl create -it busybox sh", "a shell, for dkrctl start -ai"),
        ("dkrctl start $(dkrctl create /bin/true)", "the id that it prints is for other programs"),
    ),
    status="0; 1 where it could not be made",
    words=RUN_WORDS,
    refused=_REFUSED,
)

START = Command(
    "start",
    "dkrctl start [OPTIONS] CONTAINER...",
    "Start containers that were made by `dkrctl create`, or have ended, in the root that they left behind. Prints what was started. "
    "With --attach or --interactive one container is started with this client attached, so that nothing of its output is missed.",
    (
        Option(
            "attach",
            "a",
            FLAG,
            "",
            "",
            "output and errors come here, signals are passed on, and the exit status is the command's",
            group=_STDIO,
        ),
        Option(
            "interactive",
            "i",
            FLAG,
            "",
            "",
            "as --attach, and the input of this client's is the command's, if it was created with -i",
            group=_STDIO,
        ),
        DETACH_KEYS,
        _RUN["record"],
        _ATTACH["on-disconnect"],
        PIDFILE,
        _RUN["quiet"],
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl start web", ""),
        ("dkrctl start -a web", "with its output here"),
        ("echo words | dkrctl start -ai $(dkrctl create -i /usr/bin/rev)", "and its input"),
    ),
    status="0; 1 where one of them could not be started. With --attach or --interactive that of the command, 0 after leaving by keys, "
    "125 to 127 where it could not be started",
    words=STOPPED,
    intermixed=True,
)

LOGS = Command(
    "logs",
    "dkrctl logs [OPTIONS] CONTAINER",
    "Print what a container has written, each byte as it was: its output to stdout, its errors to stderr. One that was started by "
    "`dkrctl run` has no log: its output was its caller's.",
    (
        Option(
            "follow", "f", FLAG, "", "", "go on as more is written, until the container ends", group=_OUTPUT
        ),
        Option(
            "tail",
            "n",
            VALUE,
            "N",
            "",
            "the last N lines only",
            group=_OUTPUT,
            default="all",
            complete=("all",),
        ),
        Option(
            "since",
            "",
            VALUE,
            "TIME",
            "",
            "what was written at TIME or after: 2026-01-31T12:00:00Z, seconds since the epoch, or as in 10m, 1h30m ago",
            group=_OUTPUT,
        ),
        Option(
            "until",
            "",
            VALUE,
            "TIME",
            "",
            "what was written at TIME or before, given as for --since",
            group=_OUTPUT,
        ),
        Option("timestamps", "t", FLAG, "", "", "in front of each line the time of it", group=_OUTPUT),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl logs web", ""),
        ("dkrctl logs -n 20 --since 10m web", "of the last ten minutes the last 20 lines"),
        ("dkrctl logs -ft web", "with times, and whatever it is going to write"),
    ),
    status="0; 1 where it is not there, or has no log; 130 after ctrl-C",
    words=CONTAINERS,
    intermixed=True,
)

RM = Command(
    "rm",
    "dkrctl rm [OPTIONS] CONTAINER...",
    "Remove containers that have ended, or were never started, with all they have written. Prints what was removed; each that "
    "could not be is told.",
    (
        Option(
            "force",
            "f",
            FLAG,
            "",
            "",
            "one that runs as well: it is killed; and one that is not there is no failure",
            group="Options",
        ),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl rm web", ""),
        ("dkrctl rm -f web", "even if it runs"),
        ("dkrctl ps -aq --filter status=stopped | xargs -r dkrctl rm", "all that have ended"),
    ),
    status="0; 1 where one of them could not be removed",
    words=STOPPED,
    intermixed=True,
)

KILL = Command(
    "kill",
    "dkrctl kill [OPTIONS] CONTAINER...",
    "Send a signal to the commands of running containers. It does there what it would do to the same command outside of one.",
    (
        Option(
            "signal",
            "s",
            VALUE,
            "SIGNAL",
            "signal",
            "which one, by name or number",
            group="Options",
            default="KILL",
            complete=SIGNALS,
        ),
        SOCKET,
        VERB_HELP,
    ),
    (("dkrctl kill -s HUP web", "have it read its configuration again"),),
    status="0; 1 where one of them could not be signalled",
    words=RUNNING,
    intermixed=True,
)

WAIT = Command(
    "wait",
    "dkrctl wait [OPTIONS] CONTAINER...",
    "Wait until containers have ended, and print for each, in the order given, its exit code; 128+N where signal N ended it, ? where "
    "nobody could learn it. All are waited for at the same time.",
    (
        Option(
            "condition",
            "",
            CHOICE,
            "CONDITION",
            "",
            "for what is waited: that it does not run, that nothing of it is left, or its next end",
            group="Options",
            default="stopped",
            choices=("stopped", "removed", "next-exit", "not-running"),
            docker="Docker's API has it; not-running is its word for stopped",
        ),
        Option(
            "timeout",
            "",
            SECONDS,
            "TIME",
            "",
            "give up after TIME for each: seconds, or as in 90s, 2m",
            group="Options",
            docker="Docker has none",
        ),
        SOCKET,
        VERB_HELP,
    ),
    (("dkrctl wait web", ""), ("dkrctl wait --condition removed web", "its name is free then")),
    status="0; 1 where one of them is not there, or the time was up",
    words=RUNNING,
    intermixed=True,
)
