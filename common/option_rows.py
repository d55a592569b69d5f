"""The options of common/options.py that bound a container, in time too, restart it, those of its health, and those of what is kept of
its output: beside it because that file is long, and in one file because they are on the lean path, where a file more is time.

Each: long name, letter, kind, metavar, key in the request, sentence, default, how it differs from Docker's, and what may be
chosen of.
"""

LIMITS = (
    ("memory", "m", "value", "SIZE", "memory", "how much memory it may use, as in 64m, 1g", "no bound", ""),
    (
        "memory-swap",
        "",
        "value",
        "SIZE",
        "swap",
        "how much memory and swap together, -1 is no bound; as much as --memory is no swap",
        "twice --memory",
        "",
    ),
    (
        "cpus",
        "",
        "value",
        "NUMBER",
        "cpus",
        "how many processors' worth of time it may use, as in 1.5",
        "no bound",
        "Docker refuses more than the host has",
    ),
    (
        "pids-limit",
        "",
        "value",
        "N",
        "pidsLimit",
        "how many processes and threads it may have; -1 is no bound, for who may",
        "the daemon's pids_per_container; no bound for admins",
        "Docker has no bound by default, and 0 means none",
    ),
)

LOGS = (
    (
        "log-driver",
        "",
        "choice",
        "DRIVER",
        "log.driver",
        "where its output goes: a file of the daemon's, nowhere but to who is attached, the caller's own descriptors, the journal",
        "json-file where no client stands for it",
        "of Docker's drivers these; passthrough is Podman's",
        "json-file",
        "none",
        "passthrough",
        "journald",
    ),
    (
        "log-opt",
        "",
        "repeat",
        "KEY=VALUE",
        "log.options",
        "an option of the log driver: max-size, max-file, mode, max-buffer-size, tag",
        "",
        "mode is non-blocking for json-file, so that a full disk holds up nobody",
    ),
)
RECORD = (
    (
        "record",
        "",
        "value",
        "FILE",
        "",
        "write what the command's terminal shows to FILE as asciicast v2, for asciinema; what is typed is not recorded",
        "",
        "Docker has none",
    ),
)
HEALTH = (
    (
        "health-cmd",
        "",
        "value",
        "COMMAND",
        "health.args",
        "it is well while COMMAND, executed in it by /bin/sh -c, ends with 0",
        "",
        "",
    ),
    (
        "health-http",
        "",
        "value",
        "URL",
        "health.http",
        "it is well while URL, of its own loopback as in http://127.0.0.1:8080/up, is answered by a status of 200 to 399",
        "",
        "Docker has none",
    ),
    (
        "health-tcp",
        "",
        "value",
        "PORT",
        "health.tcp",
        "it is well while PORT of its own loopback takes connections",
        "",
        "Docker has none",
    ),
    (
        "health-interval",
        "",
        "seconds",
        "TIME",
        "health.interval",
        "how long after a probe the next one begins",
        "30",
        "",
    ),
    (
        "health-timeout",
        "",
        "seconds",
        "TIME",
        "health.timeout",
        "how long a probe may take; then it is killed, and has failed",
        "30",
        "",
    ),
    (
        "health-retries",
        "",
        "count",
        "N",
        "health.retries",
        "how many probes have to fail, one after the other, until it is unhealthy",
        "3",
        "",
    ),
    (
        "health-start-period",
        "",
        "seconds",
        "TIME",
        "health.startPeriod",
        "how long after its start a probe that fails does not count",
        "0",
        "",
    ),
    (
        "health-start-interval",
        "",
        "seconds",
        "TIME",
        "health.startInterval",
        "how long after a probe the next one begins in that time, until one was well",
        "5",
        "",
    ),
    (
        "health-on-failure",
        "",
        "choice",
        "WHAT",
        "health.onFailure",
        "what is done with it when it is unhealthy: none, stop, kill or restart: it is stopped, and started again whatever --restart says "
        "(of what is made, or detached, and not with --rm)",
        "none",
        "Podman's; its restart ends at once",
        "none",
        "stop",
        "kill",
        "restart",
    ),
)
SERVICE = (
    (
        "sdnotify",
        "",
        "choice",
        "WAY",
        "",
        "in a unit of Type=notify: who says that it is ready. healthy: this client, once the container is healthy; container: the command, "
        "by the variable NOTIFY_SOCKET; ignore: nobody",
        "ignore",
        "Podman's, without conmon",
        "ignore",
        "container",
        "healthy",
    ),
)
POLICY = (
    "restart",
    "",
    "value",
    "POLICY",
    "restart",
    "when it is started again after it has ended: no, on-failure[:N], always, unless-stopped",
    "no",
    "",
)
TIMES = (
    (
        "stop-timeout",
        "",
        "seconds",
        "TIME",
        "stopTimeout",
        "how long a stop waits before SIGKILL: seconds, or as in 90s, 2m",
        "10",
        "",
    ),
    (
        "timeout",
        "",
        "seconds",
        "TIME",
        "timeout",
        "end the run after TIME: seconds, or as in 90s, 2m, 1h",
        "",
        "Podman's; fractions and units are ours",
    ),
    POLICY,
)
# What a shell offers for the values of some of them, as in Option.
RESTART_WORDS = ("no", "on-failure", "always", "unless-stopped")
COMPLETE: "dict[str, str | tuple[str, ...]]" = {"record": "files", "restart": RESTART_WORDS}
