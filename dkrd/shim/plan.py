"""What a start would do, for `--dry-run`: docs/protocol.md, section 7. Reads, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common import log_drivers
from common.oci import NAMESPACES
from dkrd import ids
from dkrd.runtime import (
    cgroup_tree,
    cgroups,
    init_steps,
    limits,
    mounting,
    mounts,
    seccomp_bpf,
    seccomp_profile,
    strace,
)
from dkrd.runtime.operations import Stage
from dkrd.shim import pipes, told
from dkrd.shim.container import layout
from dkrd.shim.log_drivers import sizes

if TYPE_CHECKING:
    from dkrd.policy import Caller
    from dkrd.shim.config import Config
    from dkrd.shim.first import First
    from dkrd.shim.task import ShimTask

VERSION = 1
_ID = "ID"  # in paths: each start draws another
# So that the plan fits into a frame whatever the request was.
_MOUNTS_MAX = 150
_NAMES_MAX = 500
_NAME_MAX = 100  # characters of a variable's name, and of a word of a probe
_WORDS_MAX = 100  # of a probe

Json = dict[str, object]


def plan_of(task: ShimTask, config: Config, who: Caller, first: First, root: mounts.Root) -> Json:
    """The plan for a container that has been judged. Raises DkrError for what would keep it from starting."""
    spec = config.spec
    own_ids = "user" in spec.namespaces
    base = ids.look(task.pool, task.slot_hint) if own_ids else 0
    directory = f"{task.settings.state_dir}/containers/{_ID}"
    stage = Stage(base, userns=0 if own_ids else -1, pidns=0 if _names_pidns(config) else -1)
    operations = mounts.plan(spec, root, base)
    shown = [
        {"step": operation.step, "call": operation.describe(stage)} for operation in operations[:_MOUNTS_MAX]
    ]
    omitted = len(operations) - len(shown)
    return {
        "version": VERSION,
        "name": config.name,
        "uid": who.uid,
        "rights": "admin" if who.admin else "tenant",
        "asks": sorted(first.asks),
        "root": {"name": config.root, "readonly": spec.readonly},
        "namespaces": {name: "own" if name in spec.namespaces else "host" for name in NAMESPACES},
        "idMaps": [{"containerID": 0, "hostID": base, "size": ids.SLOT_IDS}] if own_ids else [],
        "files": told.files(directory, base, config, "").split("; "),
        "cgroup": _cgroup(task, config, who.uid),
        "mounts": shown,
        **({"omitted": omitted} if omitted else {}),
        "process": _process(config, first),
        "capabilities": _capabilities(config),
        "seccomp": _seccomp(task),
        "log": _log(task, config, first),
        **_health(config),
        "end": {
            "rm": config.rm,
            "stopSignal": config.stop_signal,
            "stopTimeout": config.stop_timeout,
            "timeout": config.timeout,
            # Whoever comes to one that stands says it.
            "onDisconnect": "keep" if first.create else config.on_disconnect,
            **({} if config.restart is None else {"restart": config.restart}),
        },
    }


def _names_pidns(config: Config) -> bool:
    return "pid" in config.spec.namespaces and mounting.proc_names_namespace()


def _cgroup(task: ShimTask, config: Config, owner: int) -> list[str]:
    """The calls that would make the cgroup, bound it and put the container into it. Raises HostUnfit where it cannot be."""
    parent = task.settings.cgroup_parent
    paths = cgroups.places(layout(), parent, _ID, cgroup_tree.group_of(owner))
    made = told.cgroup(layout().kind, paths, "").split("; ")
    writes = limits.plan(layout(), paths, config.limits, cgroups.controllers(layout(), parent))
    made += [told.limits((write,), "") for write in writes]
    entered = [
        "clone3({flags=CLONE_INTO_CGROUP, …})"
        if path.endswith(f"/{cgroup_tree.LEAF}")
        else f'write({strace.text(path + "/tasks")}, "0")'
        for path in paths
    ]
    return made + entered


def _process(config: Config, first: First) -> Json:
    process = config.spec.process
    return {
        "user": config.user or f"{process.uid}:{process.gid}",
        "additionalGids": list(process.additional_gids),
        "cwd": process.cwd,
        "hostname": config.spec.hostname,
        "env": sorted({entry.partition("=")[0][:_NAME_MAX] for entry in process.env})[:_NAMES_MAX],
        "terminal": list(pipes.tty(config) if first.create else first.tty),
        "preserveFds": config.preserve_fds,
        "init": config.init,
        "noNewPrivileges": process.no_new_privileges,
        "exec": init_steps.execve(process.args, process.env),
    }


def _log(task: ShimTask, config: Config, first: First) -> Json:
    """Where the output goes, with what is meant where the request says nothing."""
    wanted = config.log
    if not first.create:
        # To its caller's descriptors, whichever of the two it is called.
        return {"driver": wanted.driver or log_drivers.PASSTHROUGH}
    driver = wanted.driver or log_drivers.FILE
    if driver == log_drivers.NONE:
        return {"driver": driver}
    told_of = {
        "driver": driver,
        "mode": "blocking" if wanted.blocking else "non-blocking",
        "maxBufferSize": wanted.buffer,
    }
    if driver == log_drivers.JOURNAL:
        return {**told_of, "tag": wanted.tag}
    size, files = sizes(task, config)
    return {**told_of, "maxSize": size, "maxFiles": files}


def _health(config: Config) -> Json:
    """The check as the request would say it whole; nothing where there is none."""
    dkr = config.document["dkr"]
    check = dkr.get("health") if isinstance(dkr, dict) else None
    if config.health is None or not isinstance(check, dict):
        return {}
    words = [word[:_NAME_MAX] for word in config.health.args[:_WORDS_MAX]]
    return {"health": {**check, "args": words} if words else check}


def _capabilities(config: Config) -> Json:
    sets = config.spec.process.capabilities
    return {
        name: list(getattr(sets, name))
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }


def _seccomp(task: ShimTask) -> Json:
    program = seccomp_bpf.read_program(task.seccomp)
    verdicts = seccomp_profile.verdicts().values()
    return {
        "profile": "default",
        "default": "ENOSYS",
        "allowed": sum(1 for verdict in verdicts if verdict == seccomp_bpf.SECCOMP_RET_ALLOW),
        "checked": len(seccomp_profile.CHECKED),
        "refused": sum(len(group.names) for group in seccomp_profile.REFUSED),
        "instructions": len(program) // seccomp_bpf.INSTRUCTION_SIZE,
    }
