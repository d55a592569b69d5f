"""The columns of `top`, by ps(1)'s names for them, and the options of ps that say which. For the client, the api and root's side;
imports nothing but errors.
"""

from common.errors import BadRequest

# What ps calls a column -> its heading, as ps has it.
TITLES = {
    "user": "USER",
    "uid": "UID",
    "pid": "PID",
    "ppid": "PPID",
    "pgid": "PGID",
    "pgrp": "PGRP",
    "sid": "SID",
    "sess": "SESS",
    "c": "C",
    "pcpu": "%CPU",
    "%cpu": "%CPU",
    "pmem": "%MEM",
    "%mem": "%MEM",
    "vsz": "VSZ",
    "rss": "RSS",
    "stime": "STIME",
    "start_time": "START",
    "etime": "ELAPSED",
    "etimes": "ELAPSED",
    "time": "TIME",
    "cputime": "TIME",
    "tty": "TT",
    "tt": "TT",
    "tname": "TTY",
    "stat": "STAT",
    "state": "S",
    "s": "S",
    "ni": "NI",
    "nice": "NI",
    "pri": "PRI",
    "nlwp": "NLWP",
    "thcount": "THCNT",
    "comm": "COMMAND",
    "args": "COMMAND",
    "command": "COMMAND",
    "cmd": "CMD",
}
EF = ("uid", "pid", "ppid", "c", "stime", "tname", "time", "cmd")
AUX = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tname", "stat", "start_time", "time", "command")
MAX = 64
_ALL = frozenset(("e", "A", "ax", "-e", "-A"))  # which processes: all of the container's, whatever is said
_LISTS = ("-eo", "-Ao", "-axo", "axo", "-o", "o", "--format")


def check(names: "list[str]") -> tuple[str, ...]:
    """These columns. Raises BadRequest."""
    for name in names:
        if name not in TITLES:
            raise BadRequest(
                f"cannot show the column {ascii(name[:40])[1:-1]}: there is none of that name",
                hint=f"there are {', '.join(TITLES)}",
            )
    if not 0 < len(names) <= MAX:
        raise BadRequest(f"cannot show {len(names)} columns: 1 to {MAX} are wanted")
    return tuple(names)


def columns_of(options: "list[str]") -> tuple[str, ...]:
    """What options of ps ask for: the usual ones (none, `-ef`), those of `aux`, or a list (`-o pid,comm`). Raises BadRequest."""
    columns: tuple[str, ...] = EF
    named: list[str] = []
    rest = list(options)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if key in _LISTS:
            if not equals:
                if not rest:
                    raise BadRequest(f"cannot take {word}: its columns are missing", hint="as in -o pid,comm")
                value = rest.pop(0)
            named += value.replace(",", " ").split() or [""]
        elif word.startswith("-o") and len(word) > 2:
            named += word[2:].split(",")
        elif word in ("-ef", "ef", "-f"):
            columns = EF
        elif word in ("aux", "-aux"):
            columns = AUX
        elif word not in _ALL:
            raise BadRequest(
                f"cannot take {ascii(word[:40])[1:-1]}: no program ps is run, and this option of its is not known",
                hint="what is known: -ef, aux, and columns as in -o pid,comm or -eo pid,comm",
            )
    return check(named) if named else columns
