"""What would be written where for which limits, on each layout; and who may have how many processes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from common.errors import HostUnfit, Internal, NotPermitted, StartFailed
from dkrd import policy
from dkrd.runtime import cgroups, limits
from dkrd.shim import bounds
from dkrd.shim.container import Container

if TYPE_CHECKING:
    from pathlib import Path

V2 = cgroups.Layout("/sys/fs/cgroup", ())
TOPS = ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids")
NAMES = (("cpu", TOPS[0]), ("memory", TOPS[1]), ("pids", TOPS[2]))
V1 = cgroups.Layout(None, (*TOPS, "/sys/fs/cgroup/freezer"), NAMES)
HYBRID = cgroups.Layout("/sys/fs/cgroup/unified", TOPS, NAMES)
PLACE = "/system.slice/dkr", "one", "u5"
ALL = limits.Resources(memory=2**26, swap=2**26 + 2**20, quota=150000, period=100000, pids=20)


def plan(
    layout: cgroups.Layout, wanted: limits.Resources, there: frozenset[str] | None = None
) -> list[tuple[str, str]]:
    """What is written, as (path, text)."""
    writes = limits.plan(layout, cgroups.places(layout, *PLACE), wanted, there)
    return [(write.path, write.text) for write in writes]


def test_on_v2_all_is_in_the_leaf() -> None:
    leaf = "/sys/fs/cgroup/system.slice/dkr/u5/one/c"
    assert plan(V2, ALL) == [
        (f"{leaf}/memory.max", "67108864"),
        (f"{leaf}/memory.oom.group", "1"),
        (f"{leaf}/memory.swap.max", "1048576"),  # of swap alone
        (f"{leaf}/cpu.max", "150000 100000"),
        (f"{leaf}/pids.max", "20"),
    ]


@pytest.mark.parametrize("layout", [V1, HYBRID])
def test_on_v1_each_is_in_its_controllers_hierarchy(layout: cgroups.Layout) -> None:
    cpu, memory, pids = (f"{top}/system.slice/dkr/one" for top in TOPS)
    assert plan(layout, ALL) == [
        (f"{memory}/memory.limit_in_bytes", "67108864"),
        (f"{memory}/memory.memsw.limit_in_bytes", "68157440"),
        (f"{cpu}/cpu.cfs_period_us", "100000"),
        (f"{cpu}/cpu.cfs_quota_us", "150000"),
        (f"{pids}/pids.max", "20"),
    ]


@pytest.mark.parametrize("layout", [V1, V2, HYBRID])
def test_without_limits_nothing_is_written(layout: cgroups.Layout) -> None:
    assert plan(layout, limits.Resources()) == []
    unlimited = limits.Resources(memory=2**26, swap=-1, pids=-1)
    assert {path.rpartition("/")[2] for path, _ in plan(layout, unlimited)} <= {
        "memory.max",
        "memory.oom.group",
        "memory.limit_in_bytes",
    }


def test_what_is_bounded_already_may_be_lifted() -> None:
    lifted = limits.Resources(memory=2**26, swap=-1, pids=-1)
    leaf = cgroups.places(V2, *PLACE)
    assert [(w.path.rpartition("/")[2], w.text) for w in limits.plan(V2, leaf, lifted, lifts=True)] == [
        ("memory.max", "67108864"),
        ("memory.oom.group", "1"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
    ]
    places = cgroups.places(V1, *PLACE)
    assert [(w.path.rpartition("/")[2], w.text) for w in limits.plan(V1, places, lifted, lifts=True)] == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "-1"),
        ("pids.max", "max"),
    ]


@pytest.mark.parametrize(
    ("wanted", "v2", "v1"),
    [
        (
            limits.Resources(memory=-1, swap=-1),
            {"memory.max": "max", "memory.oom.group": "0", "memory.swap.max": "max"},
            {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
        ),
        (
            limits.Resources(quota=-1),
            {"cpu.max": "max 100000"},
            {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1"},
        ),
    ],
)
def test_what_is_taken_away(wanted: limits.Resources, v2: dict[str, str], v1: dict[str, str]) -> None:
    for layout, expected in ((V2, v2), (V1, v1)):
        writes = limits.plan(layout, cgroups.places(layout, *PLACE), wanted, lifts=True)
        assert {write.path.rpartition("/")[2]: write.text for write in writes} == expected


def test_no_swap_at_all() -> None:
    assert plan(V2, limits.Resources(memory=2**26, swap=2**26))[-1][1] == "0"


LACKING = [
    (limits.Resources(memory=2**26), "memory", "memory"),
    (limits.Resources(quota=1000, period=100000), "cpus", "cpu"),
    (limits.Resources(pids=3), "pidsLimit", "pids"),
]


@pytest.mark.parametrize(("wanted", "key", "controller"), LACKING)
@pytest.mark.parametrize("layout", [V1, V2, HYBRID])
def test_a_controller_that_is_missing_is_named(
    layout: cgroups.Layout, wanted: limits.Resources, key: str, controller: str
) -> None:
    others = tuple((name, top) for name, top in NAMES if name != controller)
    less = cgroups.Layout(layout.unified, tuple(top for _, top in others), others)
    if layout is V2:
        less = V2
    with pytest.raises(HostUnfit, match=f"no cgroup controller {controller} ") as caught:
        plan(less, wanted, frozenset(name for name, _ in others))
    assert caught.value.hint is not None
    assert controller in caught.value.hint
    assert caught.value.fields[0]["path"] == key


def test_what_nobody_asked_for_may_be_missing() -> None:
    default = limits.Resources(pids=4096, unasked=frozenset({"pidsLimit"}))
    assert plan(V2, default, frozenset()) == []
    assert plan(cgroups.Layout("/u", ()), default, frozenset()) == []
    assert plan(cgroups.Layout(None, TOPS[:1], NAMES[:1]), default) == []


def write(path: Path, *, key: str = "memory", unasked: bool = False) -> limits.Write:
    return limits.Write(str(path), "7", key, unasked)


def test_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    there, gone = write(tmp_path / "a"), write(tmp_path / "b", unasked=True)
    assert limits.apply((gone, there), v2=True) == (gone.path,)
    assert (tmp_path / "a").read_text() == "7"
    assert not (tmp_path / "b").exists()
    with pytest.raises(HostUnfit, match="no cgroup controller memory"):
        limits.apply((write(tmp_path / "b"),), v2=True)
    with pytest.raises(HostUnfit, match="does not count it") as caught:
        limits.apply((write(tmp_path / "b", key="swap"),), v2=False)
    assert "swapaccount=1" in str(caught.value.hint)


def test_what_the_kernel_does_not_take_is_told_with_the_file() -> None:
    with pytest.raises(StartFailed, match=r"cannot limit processor time: /dev/full: no space") as caught:
        limits.apply((limits.Write("/dev/full", "1", "cpus"),), v2=False)
    assert (caught.value.step, caught.value.errno) == ("limits", errno.ENOSPC)


def test_kills_are_counted_on_either_version(tmp_path: Path) -> None:
    v2, v1, none = (tmp_path / name for name in ("v2", "v1", "none"))
    for path in (v2, v1, none):
        path.mkdir()
    (v2 / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n")
    (v1 / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert cgroups.oom_kills((str(v2),)) == 3
    assert cgroups.oom_kills((str(none), str(v1))) == 4
    assert cgroups.oom_kills((str(none), str(tmp_path / "nosuch"))) == 0


def test_a_build_that_died_of_it_says_so(tmp_path: Path) -> None:
    container = Container("id", "", None, cgroups.Cgroup((str(tmp_path),)))
    defect = Internal("cannot start the container: init ended while it was built", step="await init")
    assert bounds.cause_of(defect, container) is defect
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    told = bounds.cause_of(defect, container)
    assert (told.code, told.step) == ("start-failed", "await init")
    assert "for want of memory" in told.message
    assert "--memory" in str(told.hint)


TENANT, ADMIN = policy.Caller(1000, 1000, admin=False), policy.Caller(0, 0, admin=True)


@pytest.mark.parametrize(
    ("who", "proven", "wanted", "given"),
    [
        (TENANT, True, None, 100),
        (TENANT, False, None, 100),
        (TENANT, True, 1, 1),
        (TENANT, True, 100, 100),
        (ADMIN, True, None, None),
        (ADMIN, True, 5000, 5000),
        (ADMIN, True, -1, -1),
        (ADMIN, False, None, 100),
        (ADMIN, False, 7, 7),
    ],
)
def test_how_many_processes_who_may_have(
    who: policy.Caller, proven: bool, wanted: int | None, given: int | None
) -> None:
    assert policy.bound_pids(who, wanted, 100, proven=proven) == given


@pytest.mark.parametrize("wanted", [101, -1, 4194304])
@pytest.mark.parametrize(
    ("who", "proven", "rule"),
    [(TENANT, True, "pids-limit"), (TENANT, False, "pids-limit"), (ADMIN, False, "http")],
)
def test_more_is_refused(who: policy.Caller, proven: bool, rule: str, wanted: int) -> None:
    with pytest.raises(NotPermitted) as caught:
        policy.bound_pids(who, wanted, 100, proven=proven)
    assert caught.value.rule == rule
