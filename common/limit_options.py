"""The options of common/options.py that bound a container and what is kept of its output.

Beside it because that file is long; on the lean path as it is.

Each: long name, letter, kind, metavar, key in the request, sentence, default, how it differs from Docker's.
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
        ("json-file", "none", "passthrough", "journald"),
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
        (),
    ),
)
