"""The one table of options: it feeds the client's parser, `--help`, the man page and completion.

Imports next to nothing, because `dkrctl run` loads this file on every start (about 0.2 ms from its .pyc). So here stands
what `run` needs; the verbs that do not start a command are in common/verbs.py, and all of them in its COMMANDS.

Letters and meanings are Docker's wherever Docker has the option; `docker` says where they differ.
"""

from common.option_rows import COMPLETE, HEALTH, LIMITS, LOGS, RECORD, SERVICE, TIMES

FLAG = "flag"  # --rm, --rm=false
VALUE = "value"  # one string; given twice, the last wins
REPEAT = "repeat"  # each one counts
CHOICE = "choice"  # one of `choices`
COUNT = "count"  # a whole number
SECONDS = "seconds"  # 1.5, 90s, 2m, 1h, 1m30s

# What a shell offers for a value or a word; docs/dkrctl.md. "" is nothing: it cannot know.
FILES = "files"
DIRECTORIES = "directories"
SIGNALS = "signals"
VARIABLES = "variables"  # names of the caller's environment
RUN_WORDS = "run"  # a root or a command, then the command's arguments
VERBS = "verbs"
CONTAINERS = "containers"  # the caller's, all of them
RUNNING, PAUSED, STOPPED = "running", "paused", "stopped"
EXECS = "execs"  # one that runs, then what is executed in it

DEFAULT_SOCKET = "/run/dkr/dkr.sock"
SOCKET_VARIABLE = "DKR_SOCKET"


class Option:
    """One option of a command.

    long      its name without the dashes; `aliases` are further long names
    short     its letter, or ""
    kind      one of the constants above; FLAG takes no value except as `--long=false`
    metavar   what stands for the value in the help
    key       where it goes in the request (docs/protocol.md, section 1), "a.b" inside one, "" stays here
    help      one sentence for `--help`
    default   in words, or ""
    group     heading in the help
    complete  what a shell offers for its value: one of the constants above, or words of which some value begins
              with one; `choices` are offered anyway
    docker    how it differs from Docker's, or "" where it does not
    """

    __slots__ = tuple(
        "aliases choices complete default docker group help key kind long metavar short".split()
    )

    def __init__(
        self,
        long: str,
        short: str,
        kind: str,
        metavar: str,
        key: str,
        sentence: str,
        *,
        group: str,
        default: str = "",
        choices: tuple[str, ...] = (),
        aliases: tuple[str, ...] = (),
        complete: "str | tuple[str, ...]" = "",
        docker: str = "",
    ) -> None:
        self.long = long
        self.short = short
        self.kind = kind
        self.metavar = metavar
        self.key = key
        self.help = sentence
        self.group = group
        self.default = default
        self.choices = choices
        self.aliases = aliases
        self.complete = complete
        self.docker = docker


class Command:
    """A verb of `dkrctl`: how it is called, what it does, its options.

    status      what its exit status means, a sentence for the help
    words       what a shell offers where no option stands: one of the constants above
    parts       its first word is one of these
    intermixed  options may follow words, as in `rm web -f`; not where the words are another command's
    refused     options of another verb that this one cannot take: each with the reason, and the way out
    """

    __slots__ = tuple("examples intermixed name options parts refused status summary usage words".split())

    def __init__(
        self,
        name: str,
        usage: str,
        summary: str,
        options: tuple[Option, ...],
        examples: tuple[tuple[str, str], ...] = (),
        *,
        status: str = "",
        words: str = "",
        parts: tuple[str, ...] = (),
        intermixed: bool = False,
        refused: "tuple[tuple[Option, str, str], ...]" = (),
    ) -> None:
        self.name = name
        self.usage = usage
        self.summary = summary
        self.options = options
        self.examples = examples
        self.status = status
        self.words = words
        self.parts = parts
        self.intermixed = intermixed
        self.refused = refused


_CONTAINER = "Container"
_PROCESS = "Process"
_ISOLATION = "Isolation"
_STDIO = "Terminal and descriptors"
_ENDING = "Ending"
_CLIENT = "Client"

_SCOPES = ("private", "host")


def _namespace(long: str, kind: str, what: str, default: str = "private", docker: str = "") -> Option:
    return Option(
        long,
        "",
        CHOICE,
        "SCOPE",
        f"namespaces.{kind}",
        f"{what}: its own (private) or the host's (host, for who may)",
        group=_ISOLATION,
        default=default,
        choices=_SCOPES,
        aliases=("net",) if long == "network" else (),
        docker=docker,
    )


def _flag(long: str, sentence: str) -> Option:
    return Option(long, "", FLAG, "", "", sentence, group=_CLIENT)


TRACE_FORMATS = ("text", "json", "trace")
SOCKET = Option(
    "socket",
    "",
    VALUE,
    "PATH",
    "",
    "the daemon's socket; also the variable DKR_SOCKET",
    group=_CLIENT,
    default=DEFAULT_SOCKET,
    complete=FILES,
    docker="Docker's is -H, --host",
)
HELP = Option("help", "", FLAG, "", "", "print this help and exit", group=_CLIENT)
# Of all but `run`, whose -h is --hostname, as with Docker.
VERB_HELP = Option("help", "h", FLAG, "", "", "print this help and exit", group=_CLIENT)

PIDFILE = Option(
    "pidfile",
    "",
    VALUE,
    "FILE",
    "",
    "write the host's number of the container's process 1 to FILE once it runs",
    group=_CONTAINER,
    complete=FILES,
    docker="Podman's",
)
_QUIET = Option("quiet", "q", FLAG, "", "", "no remarks by the client; errors are still told", group=_CLIENT)

DETACH_KEYS = Option(
    "detach-keys",
    "",
    VALUE,
    "KEYS",
    "",
    "keys that leave a terminal, the command runs on; also the variable DKR_DETACH_KEYS; empty switches them off",
    group=_STDIO,
    default="ctrl-p,ctrl-q",
)

GLOBAL: tuple[Option, ...] = (
    SOCKET,
    VERB_HELP,
    Option("version", "", FLAG, "", "", "print the client's version and exit", group=_CLIENT),
)


def _rows(group: str, rows: "tuple[tuple[str, ...], ...]") -> tuple[Option, ...]:
    return tuple(
        Option(*r[:6], group=group, default=r[6], docker=r[7], choices=r[8:], complete=COMPLETE.get(r[0], ""))
        for r in rows
    )


RUN_OPTIONS: tuple[Option, ...] = (
    Option(
        "name", "", VALUE, "NAME", "name", "name of the container", group=_CONTAINER, default="a made one"
    ),
    Option("rm", "", FLAG, "", "rm", "remove the container when it ends", group=_CONTAINER),
    Option("detach", "d", FLAG, "", "", "start it without a client, and print its id", group=_CONTAINER),
    Option("label", "l", REPEAT, "KEY[=VALUE]", "labels", "a label of the container", group=_CONTAINER),
    Option(
        "cidfile",
        "",
        VALUE,
        "FILE",
        "",
        "write the container's id to FILE, which must not exist",
        group=_CONTAINER,
        complete=FILES,
    ),
    PIDFILE,
    Option(
        "rootfs",
        "",
        VALUE,
        "DIR",
        "rootfs",
        "the root is the directory DIR, which stays as it is; all words that follow are the command",
        group=_CONTAINER,
        complete=DIRECTORIES,
        docker="Podman's, where the directory stands in the image's place",
    ),
    Option("read-only", "", FLAG, "", "readonly", "the root cannot be written", group=_CONTAINER),
    Option(
        "tmpfs",
        "",
        REPEAT,
        "DIR[:OPTIONS]",
        "tmpfs",
        "a filesystem in memory on DIR, with options of mount(8) as in /x:size=1m",
        group=_CONTAINER,
    ),
    Option(
        "env",
        "e",
        REPEAT,
        "NAME[=VALUE]",
        "env",
        "an environment variable; NAME alone takes the caller's value, if there is one",
        group=_PROCESS,
        complete=VARIABLES,
    ),
    Option(
        "env-file",
        "",
        REPEAT,
        "FILE",
        "env",
        "variables from FILE: lines NAME=VALUE or NAME; # begins a comment; --env wins",
        group=_PROCESS,
        complete=FILES,
    ),
    Option("workdir", "w", VALUE, "DIR", "cwd", "working directory", group=_PROCESS, default="/"),
    Option(
        "user",
        "u",
        VALUE,
        "USER[:GROUP]",
        "user",
        "who runs the command inside, by name or number",
        group=_PROCESS,
        default="0:0",
    ),
    Option(
        "entrypoint",
        "",
        VALUE,
        "COMMAND",
        "entrypoint",
        "put in front of the arguments, in place of the image's own; empty clears that",
        group=_PROCESS,
    ),
    Option(
        "init",
        "",
        FLAG,
        "",
        "init",
        "process 1 is a small init that forwards signals and reaps; the command is its child",
        group=_PROCESS,
    ),
    Option(
        "hostname",
        "h",
        VALUE,
        "NAME",
        "hostname",
        "host name inside",
        group=_PROCESS,
        default="container",
        docker="Docker's default is the short id",
    ),
    _namespace("network", "network", "network", docker="private is Docker's none; there is no bridge yet"),
    _namespace("pid", "pid", "process ids"),
    _namespace("ipc", "ipc", "System V IPC and POSIX queues", docker="no shareable, none, container:ID"),
    _namespace("uts", "uts", "host name"),
    _namespace("cgroupns", "cgroup", "view of the cgroups"),
    _namespace("userns", "user", "user ids", docker="private is the default here, host is Docker's"),
    _namespace("timens", "time", "boot and monotonic clocks", default="host", docker="Docker has none"),
    *_rows("Limits", LIMITS),
    *_rows("Health", HEALTH),
    *_rows("Output", LOGS),
    *_rows(_CLIENT, SERVICE),
    *_rows(_STDIO, RECORD),
    Option(
        "interactive",
        "i",
        FLAG,
        "",
        "",
        "pass the caller's input; a foreground run always does, --interactive=false gives /dev/null",
        group=_STDIO,
        default="true",
        docker="Docker's default is false",
    ),
    Option(
        "tty",
        "t",
        FLAG,
        "",
        "terminal",
        "give the command a terminal of its own to type at; the default if input and output are terminals",
        group=_STDIO,
        docker="Docker never does so by itself",
    ),
    Option(
        "no-tty",
        "T",
        FLAG,
        "",
        "",
        "no terminal of its own, whatever the caller has: pipes",
        group=_STDIO,
        docker="Docker has it in compose only",
    ),
    DETACH_KEYS,
    Option(
        "preserve-fds",
        "",
        COUNT,
        "N",
        "preserveFds",
        "pass the caller's descriptors 3 to 2+N as well",
        group=_STDIO,
        default="0",
        docker="Podman's",
    ),
    Option(
        "stop-signal",
        "",
        VALUE,
        "SIGNAL",
        "stopSignal",
        "the signal that asks the command to end, by name or number",
        group=_ENDING,
        default="SIGTERM",
        complete=SIGNALS,
    ),
    *_rows(_ENDING, TIMES),
    Option(
        "on-disconnect",
        "",
        CHOICE,
        "WHAT",
        "onDisconnect",
        "when this client vanishes: stop, kill or keep the container",
        group=_ENDING,
        default="stop with --rm, else keep",
        choices=("stop", "kill", "keep"),
        docker="Docker has none",
    ),
    _QUIET,
    _flag(
        "explain", "after the end, or with the error, tell on stderr how it was started: each step and why"
    ),
    _flag("dry-run", "print what the run would do, judged as it would be, and do nothing of it"),
    Option(
        "format",
        "",
        CHOICE,
        "FORMAT",
        "",
        "how --explain and --dry-run tell: text, json, trace (for https://ui.perfetto.dev; not of a plan)",
        group=_CLIENT,
        default="text",
        choices=TRACE_FORMATS,
    ),
    SOCKET,
    HELP,
)

RUN = Command(
    "run",
    "dkrctl run [OPTIONS] [IMAGE | --rootfs DIR] COMMAND [ARG...]",
    "Run a command in a new container, as if it ran here: its input, output, terminal, signals and exit "
    "status are the caller's. A first word that begins with / is a command in the default root; any other "
    "names an image, and the command follows.",
    RUN_OPTIONS,
    (
        ("dkrctl run /bin/sh", "a shell in a fresh container"),
        ("dkrctl run --rm -e LANG -w /tmp /usr/bin/env", "the caller's LANG, another directory"),
        ("tar c . | dkrctl run --rm /bin/sha256sum", "pipes work as without it"),
        ("dkrctl run --rm --timeout 1.5s busybox sleep 60", "ended after one and a half seconds"),
        ("dkrctl run --rm --rootfs ./alpine sh", "in a directory's own tree, which stays as it is"),
        ("dkrctl run --read-only --tmpfs /tmp:size=16m /bin/sh", "only /tmp can be written"),
        ("dkrctl run --rm --explain /bin/true", "how a container starts, step by step"),
        ("dkrctl run -d --rm busybox sleep 5", "without a client; see `dkrctl logs` and `attach`"),
    ),
    status="the command's; 128+N where signal N ended it; 125 where dkr could not run it, 126 where it cannot be "
    "executed, 127 where there is no such command",
    words=RUN_WORDS,
)
ATTACH_OPTIONS: tuple[Option, ...] = (
    DETACH_KEYS,
    next(option for option in RUN_OPTIONS if option.long == "record"),
    Option("no-stdin", "", FLAG, "", "", "only look: what is typed here goes nowhere", group=_STDIO),
    Option(
        "on-disconnect",
        "",
        CHOICE,
        "WHAT",
        "",
        "when this client vanishes, and was the last: stop, kill or keep the container",
        group=_ENDING,
        default="keep",
        choices=("stop", "kill", "keep"),
        docker="Docker has none",
    ),
    _QUIET,
    SOCKET,
    VERB_HELP,
)
ATTACH = Command(
    "attach",
    "dkrctl attach [OPTIONS] CONTAINER",
    "Be at the terminal of a running container, beside others that are: what it shows is shown to all, what any types it reads. "
    "Of one without a terminal that was started by `dkrctl start`, input, output and errors are passed on. "
    "The exit status is the command's; 0 after leaving by keys. A container that was started by `dkrctl run` with its caller's own "
    "input and output, and no terminal, cannot be attached to.",
    ATTACH_OPTIONS,
    (
        ("dkrctl attach 4f6b", "by the beginning of its id, or by its name"),
        ("dkrctl attach --no-stdin build", "look on"),
    ),
    status="the command's, or 0 after leaving by keys; 125 where dkr could not attach",
    words=RUNNING,
)
