"""`dkrctl exec`: its options, most of which are `run`'s.

On the lean path of `exec`, which loads common/options.py anyway; beside that, because `run` would load this for nothing.
"""

from common.options import CHOICE, FLAG, RUN_OPTIONS, RUNNING, VALUE, VERB_HELP, Command, Option

_RUN = {option.long: option for option in RUN_OPTIONS}
_PROCESS = "Process"
_STDIO = "Terminal and descriptors"
_ENDING = "Ending"

EXEC_OPTIONS: tuple[Option, ...] = (
    _RUN["env"],
    _RUN["env-file"],
    Option(
        "workdir", "w", VALUE, "DIR", "cwd", "working directory", group=_PROCESS, default="the container's"
    ),
    Option(
        "user",
        "u",
        VALUE,
        "USER[:GROUP]",
        "user",
        "who runs the command inside, by name or number",
        group=_PROCESS,
        default="the container's",
    ),
    Option(
        "detach",
        "d",
        FLAG,
        "",
        "",
        "leave it to itself once it runs, without input and output, and print its id",
        group=_PROCESS,
        docker="Docker does not tell the id",
    ),
    _RUN["interactive"],
    _RUN["tty"],
    _RUN["no-tty"],
    _RUN["detach-keys"],
    _RUN["record"],
    _RUN["preserve-fds"],
    Option(
        "on-disconnect",
        "",
        CHOICE,
        "WHAT",
        "onDisconnect",
        "when this client vanishes: stop, kill or keep the command",
        group=_ENDING,
        default="stop",
        choices=("stop", "kill", "keep"),
        docker="Docker has none: the command is kept",
    ),
    _RUN["quiet"],
    _RUN["socket"],
    VERB_HELP,
)

EXEC = Command(
    "exec",
    "dkrctl exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a further command in a running container, as if it ran here: its input, output, terminal, signals and exit status are "
    "the caller's. It runs where the container's own command runs, bounded as that is, and ends with it. `dkrctl exec ls CONTAINER` lists "
    "what is executed in one, `dkrctl exec kill CONTAINER EXEC...` sends signals: containers of these two names are reached by their ids.",
    EXEC_OPTIONS,
    (
        ("dkrctl exec web /bin/sh", "a shell in it"),
        ("dkrctl exec -u nobody -w /tmp web id", "as another user, in another directory"),
        ("dkrctl exec web cat /etc/hostname | tr a-z A-Z", "pipes work as without it"),
        ("dkrctl exec -d web sleep 60", "without a client"),
    ),
    status="the command's; 128+N where signal N ended it; 125 where dkr could not execute it, 126 where it cannot be executed, 127 "
    "where there is no such command",
    words=RUNNING,
)
