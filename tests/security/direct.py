"""The runtime without daemon, policy and filter: a container whose root has every capability.

`direct.py JOB` as root, JOB a JSON object: `args`, `directory` (an empty one), `unmasked` (no masks), `reaper`, `helper`
(mount as before Linux 6.18), `attached` (layers as before Linux 6.15), `hang` (init never gets to know its user), `seconds`
(that the build may take), `steps` (a file to write the steps to). The root has the host's /usr and a skeleton. Ends with the
command's status. What no policy would give is given here, so that the walls that the kernel holds are seen to hold alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import oci
from common.errors import DkrError
from dkrd.runtime import build, capabilities, cgroups, mounting, mounts, operations, spec, steps, users

ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"  # one instruction: SECCOMP_RET_ALLOW
BASE = 0x5FFF0000  # just below the ids of the tests' daemons
PRIVATE = ["pid", "ipc", "uts", "cgroup", "network", "user", "mount"]
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def parsed_spec(job: dict[str, object]) -> spec.Spec:
    """The spec of the container, with every capability."""
    args = job["args"]
    assert isinstance(args, list)
    document = oci.default_spec(args, ["PATH=/usr/bin:/usr/sbin"], "direct", PRIVATE)
    process, linux = document["process"], document["linux"]
    assert isinstance(process, dict)
    assert isinstance(linux, dict)
    everything = list(capabilities.NAMES)
    process["capabilities"] = {
        "bounding": everything,
        "effective": everything,
        "permitted": everything,
        "inheritable": [],
        "ambient": [],
    }
    if job.get("unmasked"):
        linux.update(maskedPaths=[], readonlyPaths=[])
    return spec.parse(document)


def lay_out(directory: str) -> str:
    """Make the skeleton's layer, and the container's own directory; that."""
    layer = f"{directory}/layers/skeleton"
    for name in ("usr", "proc", "sys", "dev", "tmp", "mnt", "etc"):
        os.makedirs(f"{layer}/{name}")
    for name, target in LINKS.items():
        os.symlink(target, f"{layer}/{name}")
    own = f"{directory}/container"
    for name in ("upper", "work"):
        os.makedirs(f"{own}/{name}")
    os.chown(f"{own}/upper", BASE, BASE)
    return own


def change_runtime(job: dict[str, object]) -> None:
    """What the runtime is made to believe, or to wait for."""
    if job.get("helper"):
        mounting.proc_names_namespace = lambda: False  # type: ignore[assignment]
    if job.get("hang"):
        users.resolve = lambda *_: signal.pause()  # type: ignore[assignment]


def task_of(job: dict[str, object], own: str, cgroup: cgroups.Cgroup) -> build.Task:
    """What is to be built."""
    parsed = parsed_spec(job)
    detached = not job.get("attached") and operations.overlay_takes_detached()
    binds = (("/usr", "/usr"),)
    root = mounts.Root(f"{job['directory']}/layers", ("skeleton",), binds=binds, detached=detached)
    return build.Task(
        spec=parsed,
        plan=mounts.plan(parsed, root, BASE),
        directory=own,
        base=BASE,
        cgroup=cgroup,
        deadline=time.monotonic() + float(str(job.get("seconds", 10))),
        user=None,
        reaper=bool(job.get("reaper")),
        stdio={0: 0, 1: 1, 2: 2},
        tty=(),
        preserved=(),
        program=ALLOW_ALL,
        last_cap=capabilities.last_cap(),
    )


def main(job: dict[str, object]) -> int:
    """Build, wait, take everything away."""
    directory = str(job["directory"])
    own = lay_out(directory)
    change_runtime(job)
    recorder = steps.Recorder("shim")
    parent = os.path.basename(directory)
    layout = cgroups.read_layout()
    cgroup = cgroups.create(layout, parent, "direct")
    try:
        built = build.build(task_of(job, own, cgroup), recorder)
        return os.waitstatus_to_exitcode(os.waitpid(built.pid, 0)[1])
    finally:
        if job.get("steps"):
            told = [(step.process, step.name, step.call()) for step in recorder.steps()]
            Path(str(job["steps"])).write_text(json.dumps(told))
        cgroup.close()
        cgroups.remove(cgroup.paths)
        for top in (layout.unified, *layout.legacy):
            if top is not None and os.path.isdir(f"{top}/{parent}"):
                os.rmdir(f"{top}/{parent}")
        shutil.rmtree(own)


if __name__ == "__main__":
    try:
        sys.exit(main(json.loads(sys.argv[1])))
    except DkrError as err:
        sys.exit(f"{err.message} ({err.step})")
