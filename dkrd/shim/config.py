"""The bundle as root's side reads it: the OCI spec and what dkr adds to it, each a closed schema."""

from __future__ import annotations

from dataclasses import dataclass

from common import frames, log_drivers, oci, restarts
from common.errors import BadRequest, DkrError, Internal
from dkrd.runtime import limits, spec
from dkrd.runtime.document import Reader, refuse
from dkrd.shim import health_check

MAX_PRESERVED = 250  # with stdio's three the most that one message carries (SCM_MAX_FD, unix(7))
MAX_NAME = 128  # characters
_MAX_BYTES = 8 * 1024 * 1024
ROOTS = ("builtin", "directory", "rootfs")
DISCONNECT = ("stop", "kill", "keep")


@dataclass(frozen=True, slots=True)
class Config:
    """One container as it is to be.

    spec           the OCI runtime spec
    root_kind      builtin, directory (the setting default_root) or rootfs (its caller brings a descriptor)
    root           name of the built-in root, or of the directory
    user           "NAME[:GROUP]" to look up inside, or None
    stop_timeout   seconds between the stop signal and SIGKILL
    timeout        seconds the run may last, or None
    on_disconnect  what happens when the client vanishes
    open_stdin     whether attached clients send its standard input, where the guardian holds it
    log            where its output goes
    restart        its restart policy, or None: it is not restarted
    limits         what bounds it: what the spec says, and the defaults (bounds.py)
    health         how it is found out whether it is well, or None
    document       the bundle as it came, for config.json and for policy
    """

    spec: spec.Spec
    root_kind: str
    root: str
    user: str | None
    name: str
    init: bool
    rm: bool
    preserve_fds: int
    stop_signal: int
    stop_timeout: float
    timeout: float | None
    on_disconnect: str
    open_stdin: bool
    log: log_drivers.Logging
    restart: dict[str, object] | None
    limits: limits.Resources
    health: health_check.Check | None
    document: dict[str, object]

    @property
    def restarts_unwell(self) -> bool:
        """Whether it is started again where it was unhealthy, whatever its policy is."""
        return self.health is not None and self.health.on_failure == "restart"

    @property
    def root_has_etc(self) -> bool:
        """Whether the root has the hostname, hosts and resolv.conf that this container is to have: a layer of a built-in root
        has those of most containers (launcher/jobs/skeleton.py).
        """
        own_network = "network" in self.spec.namespaces
        return self.root_kind == "builtin" and own_network and self.spec.hostname == oci.DEFAULT_HOSTNAME


def parse(data: bytes) -> Config:
    """The config of the bundle's bytes. Raises BadRequest with the path of what does not fit."""
    try:
        document = frames.loads_foreign(data)
    except ValueError as err:
        raise BadRequest(f"cannot read the bundle: {err}") from None
    reader = Reader(document, "")
    parsed = spec.parse(reader.take("spec"))
    dkr = reader.child("dkr")
    reader.done()
    root = dkr.child("root")
    kind = root.one_of("kind", ROOTS)
    name = root.text("name")
    root.done()
    dkr.one_of("seccomp", ("default",))
    dkr.pairs("labels")
    config = Config(
        spec=parsed,
        root_kind=kind,
        root=name,
        user=dkr.optional_text("user"),
        name=dkr.text("name"),
        init=dkr.flag("init", False),
        rm=dkr.flag("rm", False),
        preserve_fds=dkr.integer("preserveFds", 0, MAX_PRESERVED),
        stop_signal=dkr.integer("stopSignal", 1, 64),
        stop_timeout=dkr.seconds("stopTimeout"),
        timeout=dkr.optional_seconds("timeout"),
        on_disconnect=dkr.one_of("onDisconnect", DISCONNECT),
        open_stdin=dkr.flag("openStdin", False),
        log=_log(dkr),
        restart=restarts.policy_of(dkr.take("restart"), "dkr.restart") if dkr.has("restart") else None,
        limits=parsed.resources,
        health=health_check.parse(dkr.child("health")) if dkr.has("health") else None,
        document=document,
    )
    dkr.done()
    if config.restart is not None and config.rm:
        refuse("dkr.restart", "cannot be there with rm")
    if config.restarts_unwell and config.rm:
        refuse("dkr.health.onFailure", "cannot be restart with rm")
    if not 0 < len(config.name) <= MAX_NAME or "/" in config.name:
        refuse("dkr.name", "between 1 and 128 characters without / are wanted")
    return config


def _log(dkr: Reader) -> log_drivers.Logging:
    # A config.json of before there were drivers has none.
    value = dkr.take("log") if dkr.has("log") else None
    try:
        return log_drivers.parse(value)
    except log_drivers.LogFault as err:
        refuse(dkr.where("log") + err.path, err.message)


def read(path: str) -> Config:
    """The config of a container that was written down. Raises Internal."""
    try:
        with open(path, "rb") as file:
            return parse(file.read(_MAX_BYTES))
    except (OSError, DkrError) as err:
        raise Internal(
            f"cannot read {path}: {err}",
            hint="an older release wrote it, or the disk is damaged; remove the container and make it anew",
        ) from err
