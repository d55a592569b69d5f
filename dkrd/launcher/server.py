"""The launcher as a whole: from its start to its end.

systemd ─ socket ─► launcher ─┬─ fork, drop, exec ─► api        started again whenever it ends (first by opening.py)
                              ├─ fork ─► shim, shim, shim, …    live on when the launcher ends
                              └─ fork ─► job: compile, build the skeleton, collect, remove
"""

from __future__ import annotations

import gc
import grp
import signal
import time
from dataclasses import fields, replace
from functools import partial
from itertools import chain

from common import frames
from common.errors import DkrError, ProtocolError
from dkrd import ids
from dkrd.launcher import adoption, features, probe, requests, runner, wire
from dkrd.launcher.containers import Containers
from dkrd.launcher.leaves import Leaves
from dkrd.launcher.reports import Reports
from dkrd.launcher.requests import Host, Requests
from dkrd.launcher.shims import OpenFiles
from dkrd.runtime import cgroups
from dkrd.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dkrd.launcher.api_process import Message
    from dkrd.launcher.notify import Notifier
    from dkrd.launcher.opening import Opening
    from dkrd.launcher.requests import Work
    from dkrd.log import Log

_JOB_SECONDS = 60.0  # of a job at the start; a warm cache takes milliseconds
_HELLO_MAX = 2560 * 1024  # bytes of states in `hello`; what does not fit follows as messages of its own
_AGAIN_SECONDS = 10.0  # until it is tried again to look at containers for which there was no descriptor
_END_SECONDS = 10.0  # of the orderly end, api and jobs together
_LIVE = (
    "log_level",
    "log_format",
    "containers_per_user",
    "kept_per_user",
    "log_max_size",
    "log_max_files",
    "restart_first_seconds",
    "restart_max_seconds",
    "start_seconds",
    "pids_per_container",
    "http_lifts",
)  # settings that SIGHUP changes
_HOST = "host"  # the built-in root without which nothing is served


class Launcher:
    """The daemon's root process.

    opening  what was done before: from here on it is the launcher's
    reread   the settings as file and command line have them now
    """

    def __init__(
        self,
        settings: Settings,
        opening: Opening,
        work: Work,
        log: Log,
        notifier: Notifier,
        reread: Callable[[], Settings],
    ) -> None:
        self._settings = settings
        self._work = work
        self._log = log
        self._notifier = notifier
        self._reread = reread
        self._opening = opening
        self._listener = opening.listener
        self._api = opening.api
        self._ending = False
        self._pong_due = False
        self._settled = False
        self._loop = opening.loop
        self._runner = runner.Runner(self._loop)

    def run(self) -> int:
        """Start, serve until SIGTERM or SIGINT, end in order; the exit status. Raises DkrError at the
        start.
        """
        try:
            self._start()
        except BaseException:
            self._opening.abandon()
            raise
        try:
            self._loop.run()
        finally:
            self._listener.close()
            cgroups.remove_parent(cgroups.read_layout(), self._settings.cgroup_parent)
        if self._api.gave_up is not None:
            raise self._api.gave_up
        self._log.info("ended; containers live on", containers=len(self._containers.states()))
        return 0

    # --- start

    def _start(self) -> None:
        settings = self._settings
        begun = time.monotonic()
        pool = ids.Pool(settings.ids_first, settings.ids_last, settings.ids_directory)
        ids.check(pool)
        self._work.prime()
        found = runner.run_now(self._loop, "probe", lambda: probe.machine(settings), _JOB_SECONDS)
        self._log.info("machine", **(found if isinstance(found, dict) else {}))
        seccomp = runner.run_now(self._loop, "seccomp", lambda: self._work.seccomp(settings), _JOB_SECONDS)
        layers = {root: self._layer(root) for root in self._work.layers}
        self._containers = Containers(self._loop, self._log, self._runner, settings.run_dir)
        self._leaves = Leaves(cgroups.read_layout(), settings.cgroup_parent)
        self._leaves.prepare(self._log)
        host = Host(
            settings=settings,
            pool=pool,
            subids=ids.read_subids(),
            listener=self._listener.identity,
            api_uid=self._opening.api_uid,
            admin_gid=_gid(settings.admin_group),
            seccomp=str(seccomp),
            layers=layers,
        )
        self._requests = Requests(
            self._loop, self._log, self._runner, self._containers, self._work, self._leaves, host
        )
        self._start_serving(pool)
        if settings.default_root.startswith("/"):
            # Beside the serving: other roots need not wait for a directory that may be on a dead filesystem.
            look = partial(self._work.directory, settings)
            self._runner.submit("default root", look, self._looked_at_default_root)
        self._log.info(
            "started", socket=self._listener.path, milliseconds=round((time.monotonic() - begun) * 1000)
        )

    def _layer(self, root: str) -> str | DkrError:
        """The layer of a built-in root, or why there is none; that of `host` must be.

        A host may do without the others: who asks for one is told.
        """
        work = partial(self._work.layers[root], self._settings)
        try:
            return str(runner.run_now(self._loop, "layer", work, _JOB_SECONDS))
        except DkrError as err:
            if root == _HOST:
                raise
            say = self._log.warning if root == self._settings.default_root else self._log.info
            say(f"there is no root {root}", cause=err.message, hint=err.hint)
            return err

    def _looked_at_default_root(self, value: object, error: DkrError | None) -> None:
        """Say why containers cannot have the directory. Each run looks again, and is told the same."""
        if error is not None:
            self._log.warning("the default root cannot be used", cause=error.message, hint=error.hint)

    def _start_serving(self, pool: ids.Pool) -> None:
        settings = self._settings
        self._api.on_start = self._hello
        self._api.on_message = self._message
        self._api.on_end = self._api_ended
        self._reports = Reports(self._api.send)
        collect = self._work.collect
        self._containers.connect(
            lambda container_id, how: collect(self._settings, pool, container_id, how),
            self._reports.tell,
            self._leaves.remove,
            lambda: self._adopt(settled=self._settled),
            self._requests.restarts,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._end)
        self._loop.on_signal(signal.SIGHUP, self._reload)
        # What exists now is shared by all children; without this the first collection in each would copy it.
        gc.collect()
        gc.freeze()
        # After a reboot nothing is under way: what has no run directory was ended by a power cut.
        again = self._requests.restarts
        self._adopt(settled=again.is_boot and not adoption.live_ids(settings.run_dir))
        again.begin()
        self._leaves.sweep(self._containers)
        self._requests.porters.begin(settings)
        # Once more when every build of before must be over: a shim forked just before the last launcher died.
        self._loop.later(settings.start_seconds + 1, self._settle)
        self._hello()  # it has waited for that, if it is through with its own beginning
        if self._notifier.watchdog_seconds:
            self._loop.later(self._notifier.watchdog_seconds / 2, self._watch)

    def _settle(self) -> None:
        self._settled = True
        # Without a descriptor not even the directories can be read.
        if OpenFiles.are_low() or self._adopt(settled=True):
            self._loop.later(_AGAIN_SECONDS, self._settle)
        self._leaves.sweep(
            self._containers
        )  # once more: a porter that ended with the last launcher was in one

    def _adopt(self, *, settled: bool) -> int:
        """Guard over what stands; how many containers could not be looked at."""
        settings = self._settings
        adopted, unseen = adoption.adopt(
            self._containers, settings.run_dir, settings.state_dir, settled=settled
        )
        if adopted:
            self._log.info("adopted", containers=adopted)
        if unseen:
            self._log.error("cannot adopt containers: no descriptor is free", containers=unseen)
        return unseen

    # --- api

    def _hello(self) -> None:
        """The first message to each api: the settings and what stands, as much as fits; the rest follows."""
        self._pong_due = False
        first: list[dict[str, object]] = []
        late: list[dict[str, object]] = []
        size = 0
        for state in chain(
            self._containers.states(), adoption.kept_states(self._containers, self._settings.state_dir)
        ):
            self._containers.kept.note(state)
            size += len(frames.dumps(state)) + 1
            (first if size <= _HELLO_MAX else late).append(state)
        news = {"epoch": self._reports.epoch, "unheard": self._reports.unheard()}
        self._api.send({"type": "hello", "version": 2, **self._facts(), "containers": first, **news})
        for state in late:
            self._api.send({"type": "state", "state": state})

    def _facts(self) -> dict[str, object]:
        """What the api is told of settings and host; it decides nothing by them."""
        missing = {
            root: layer.to_wire()
            for root, layer in self._requests.host.layers.items()
            if isinstance(layer, DkrError)
        }
        layout = cgroups.read_layout()
        host = {
            "cgroups": layout.kind,
            "controllers": sorted(cgroups.controllers(layout, self._settings.cgroup_parent)),
            "features": features.found(self._settings),
            "missingRoots": missing,
        }
        return {"settings": self._settings.to_wire(), "host": host}

    def _message(self, message: Message) -> None:
        kind = message.body.get("type")
        if isinstance(kind, str) and kind in requests.KEYS:
            self._requests.handle(message, self._api.answer())
            return
        if self._is_noted(message):
            return
        plain = set(message.body) == {"type"} and not message.rest and not message.descriptors
        if not plain or kind not in ("ready", "ping", "pong"):
            wire.close_all(message.descriptors)
            raise ProtocolError("it sent a message that is not in the protocol")
        if kind == "ready":
            self._ready()
        elif kind == "ping":
            self._pong()
        else:
            self._alive()

    def _pong(self) -> None:
        """Answer at the end of a round in which every report was read that was there before the question."""
        answer = self._api.answer()

        def look() -> None:
            if self._containers.has_reports():
                self._loop.later(0, look)
            else:
                answer({"type": "pong"})

        self._loop.later(0, look)

    def _is_noted(self, message: Message) -> bool:
        """Whether it says which reports are written down; then they are let go."""
        number = message.body.get("number")
        if set(message.body) != {"type", "number"} or message.body["type"] != "noted":
            return False
        if type(number) is not int or message.rest or message.descriptors:
            return False
        self._reports.noted(number)
        return True

    def _ready(self) -> None:
        self._api.ready()
        self._notifier.send("READY=1", f"STATUS=Serving {self._listener.path}")
        self._log.info("ready", socket=self._listener.path)
        self._alive()
        self._requests.prepare()

    def _alive(self) -> None:
        self._pong_due = False
        self._notifier.send("WATCHDOG=1")

    def _watch(self) -> None:
        """Twice a watchdog period: the api must have answered the last ping, else a new one gets its
        chance.
        """
        if self._ending:
            return
        if self._pong_due:
            self._api.kill("it answers no ping")
        else:
            self._pong_due = True
            self._api.send({"type": "ping"})
        self._loop.later(self._notifier.watchdog_seconds / 2, self._watch)

    # --- settings anew, and the end

    def _reload(self) -> None:
        """SIGHUP: take what can change while containers run, and name what waits for a restart."""
        self._notifier.reloading()
        try:
            # In a job: what reads them would stay in memory, and be copied by each fork from then on.
            read = runner.run_now(self._loop, "settings", lambda: self._reread().to_wire(), _JOB_SECONDS)
            new = Settings.from_wire(read if isinstance(read, dict) else {})
        except DkrError as err:
            self._log.error(f"settings stay as they are: {err.message}", hint=err.hint)
        else:
            changed = [f.name for f in fields(new) if getattr(new, f.name) != getattr(self._settings, f.name)]
            values = {name: getattr(new, name) for name in _LIVE}
            self._settings = replace(self._settings, **values)
            self._log.configure(new.log_level, new.log_format)
            self._requests.host = replace(
                self._requests.host,
                settings=self._settings,
                subids=ids.read_subids(),
                admin_gid=_gid(self._settings.admin_group),
            )
            self._log.info("settings read again", changed=[name for name in changed if name in _LIVE])
            waiting = [name for name in changed if name not in _LIVE]
            if waiting:
                self._log.warning("these settings need a restart of dkrd", settings=waiting)
        self._look_again([root for root in self._work.layers if root != _HOST])

    def _look_again(self, roots: list[str]) -> None:
        """Make the layers of these roots anew, one after the other: what they are made of may have been
        installed since. Then the settings are read again in the eyes of the service manager.
        """
        if not roots:
            self._api.send({"type": "changed", **self._facts()})
            self._notifier.send("READY=1")
            return
        root = roots[0]
        work = partial(self._work.layers[root], self._settings)
        try:
            self._runner.submit("layer", work, partial(self._looked, roots))
        except DkrError as err:
            self._looked(roots, None, err)

    def _looked(self, roots: list[str], value: object, error: DkrError | None) -> None:
        root = roots[0]
        host = self._requests.host
        before = host.layers[root]
        layer = error or str(value)
        self._requests.host = replace(host, layers={**host.layers, root: layer})
        if isinstance(layer, str) and layer != before:
            self._log.info(f"the root {root} is there", layer=layer)
        elif isinstance(layer, DkrError):
            self._log.info(f"there is no root {root}", cause=layer.message, hint=layer.hint)
        if not self._ending:
            self._look_again(roots[1:])

    def _end(self) -> None:
        """SIGTERM, SIGINT: the api ends, running jobs finish; containers are not touched."""
        if self._ending:
            return
        self._ending = True
        self._notifier.send("STOPPING=1", "STATUS=Ending; containers live on")
        self._loop.later(_END_SECONDS, self._loop.stop)
        self._api.stop()

    def _api_ended(self) -> None:
        self._requests.porters.end_all(lambda: self._runner.when_idle(self._loop.stop))


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
