"""What the launcher forks into, each thing by the name that it has there: all that its children will need is loaded by this."""

from __future__ import annotations

from dkrd.launcher.jobs import busybox_root, host_root, seccomp
from dkrd.launcher.requests import Work
from dkrd.shim import (
    called,
    changes,
    cleanup,
    container,
    default_root,
    ended,
    health,
    logs,
    main,
    porter,
    rehearsal,
    restarting,
    stats,
    top,
    trace,
    usage,
)

WORK = Work(
    shim=main.run,
    rehearse=rehearsal.rehearse,
    remove=cleanup.remove,
    measure=usage.measure,
    diff=changes.tell,
    collect=cleanup.collect,
    asks={
        "attach": ended.attach,
        "copy": ended.copy,
        "exec": ended.execute,
        "execs": ended.execute,
        "exec-kill": ended.execute,
        "kill": restarting.kill_kept,
        "rename": called.rename_kept,
        "update": restarting.update_kept,
        "stop": restarting.stop_kept,
        "pause": ended.pause,
        "unpause": ended.unpause,
        "explain": trace.read_kept,
        "logs": logs.read_kept,
        "health": health.read_kept,
    },
    seccomp=seccomp.compile_default,
    layers={host_root.NAME: host_root.ensure, busybox_root.NAME: busybox_root.ensure},
    directory=default_root.check,
    prime=container.prime,
    looks={"top": top.look, "stats": stats.look},
    porter=(porter.run, porter.clear),
)
