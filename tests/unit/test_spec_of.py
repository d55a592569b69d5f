"""The bundle is what the request means, as root's side will see it; images and made names are the api's part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import frames, oci
from common.bundle import bundle_of as meaning_of
from common.errors import BadRequest, NotFound
from common.models import RunRequest
from dkrd.api import names
from dkrd.api.bodies import parse
from dkrd.api.spec_of import bundle_of, image_of
from dkrd.runtime import spec as runtime_spec
from dkrd.settings import Settings

SETTINGS = Settings()


def bundle(**request: Any) -> dict[str, Any]:
    return bundle_of(
        parse(json.dumps({"args": ["/bin/true"], **request}).encode(), RunRequest), SETTINGS, "made"
    )


def test_defaults() -> None:
    made = bundle()
    assert made["spec"]["process"]["env"] == [f"PATH={oci.DEFAULT_ENV['PATH']}", "HOSTNAME=container"]
    assert made["spec"]["process"]["user"] == {"uid": 0, "gid": 0}
    assert [n["type"] for n in made["spec"]["linux"]["namespaces"]] == [
        "pid",
        "ipc",
        "uts",
        "cgroup",
        "network",
        "user",
        "mount",
    ]
    assert made["dkr"] == {
        "root": {"kind": "builtin", "name": "host"},
        "user": None,
        "name": "made",
        "labels": {},
        "init": False,
        "rm": False,
        "preserveFds": 0,
        "stopSignal": 15,
        "stopTimeout": 10,
        "timeout": None,
        "onDisconnect": "keep",
        "openStdin": False,
        "seccomp": "default",
        "log": None,
    }


def test_what_was_asked_for() -> None:
    made = bundle(
        entrypoint=["/bin/sh", "-c"],
        args=["id"],
        env={"TERM": "vt100", "B": "1", "PATH": "/bin"},
        hostname="box",
        cwd="/tmp",
        readonly=True,
        terminal=True,
        consoleSize={"height": 3, "width": 4},
        tmpfs={"/x": "size=1m,suid"},
        user="7:8",
        rm=True,
        stopSignal="USR1",
        namespaces={"network": "host", "time": "private"},
    )
    process = made["spec"]["process"]
    assert process["args"] == ["/bin/sh", "-c", "id"]
    assert process["env"] == ["PATH=/bin", "HOSTNAME=box", "TERM=vt100", "B=1"]
    assert (process["cwd"], process["terminal"], process["user"]) == ("/tmp", True, {"uid": 7, "gid": 8})
    assert process["consoleSize"] == {"height": 3, "width": 4}
    assert made["spec"]["root"] == {"path": "rootfs", "readonly": True}
    assert made["spec"]["hostname"] == "box"
    last = made["spec"]["mounts"][-1]
    assert (last["destination"], last["type"]) == ("/x", "tmpfs")
    assert {"nodev", "size=1m", "suid"} <= set(last["options"])
    kinds = [n["type"] for n in made["spec"]["linux"]["namespaces"]]
    assert "network" not in kinds
    assert "time" in kinds
    assert (made["dkr"]["onDisconnect"], made["dkr"]["stopSignal"]) == ("stop", 10)


def test_limits_are_the_specs_resources() -> None:
    assert "resources" not in bundle()["spec"]["linux"]
    made = bundle(memory=2**26, swap=2**20, cpus=1.5, pidsLimit=-1)["spec"]["linux"]["resources"]
    assert made == {
        "memory": {"limit": 2**26, "swap": 2**26 + 2**20},  # there it is both together
        "cpu": {"quota": 150000, "period": 100000},
        "pids": {"limit": -1},
    }
    assert bundle(memory=2**26)["spec"]["linux"]["resources"] == {"memory": {"limit": 2**26}}
    assert bundle(memory=2**26, swap=-1)["spec"]["linux"]["resources"]["memory"]["swap"] == -1


@pytest.mark.parametrize(
    ("path", "resources"),
    [
        ("spec.linux.resources.devices", {"devices": []}),
        ("spec.linux.resources.memory.limit", {"memory": {}}),
        ("spec.linux.resources.memory.limit", {"memory": {"limit": 6291455}}),
        ("spec.linux.resources.memory.swap", {"memory": {"limit": 2**26, "swap": 2**26 - 1}}),
        ("spec.linux.resources.memory.swap", {"memory": {"limit": 2**26, "swap": -2}}),
        ("spec.linux.resources.memory.kernel", {"memory": {"limit": 2**26, "kernel": 1}}),
        ("spec.linux.resources.cpu.period", {"cpu": {"quota": 1000}}),
        ("spec.linux.resources.cpu.quota", {"cpu": {"quota": -1, "period": 100000}}),
        ("spec.linux.resources.cpu.quota", {"cpu": {"quota": 999, "period": 100000}}),
        ("spec.linux.resources.cpu.period", {"cpu": {"quota": 1000, "period": 999}}),
        ("spec.linux.resources.cpu.shares", {"cpu": {"quota": 1000, "period": 1000, "shares": 1}}),
        ("spec.linux.resources.pids.limit", {"pids": {"limit": 0}}),
        ("spec.linux.resources.pids.limit", {"pids": {"limit": "max"}}),
        ("spec.linux.resources.pids.limit", {"pids": {"limit": True}}),
        ("spec.linux.resources", {"unified": {"memory.max": "max"}}),
    ],
    ids=str,
)
def test_resources_that_the_runtime_does_not_take(path: str, resources: dict[str, Any]) -> None:
    document = bundle()["spec"]
    document["linux"]["resources"] = resources
    with pytest.raises(BadRequest) as caught:
        runtime_spec.parse(document)
    assert caught.value.fields[0]["path"].startswith(path)


def test_a_user_by_name_is_left_to_be_resolved_inside() -> None:
    made = bundle(user="nobody:users")
    assert made["dkr"]["user"] == "nobody:users"
    assert made["spec"]["process"]["user"] == {"uid": 0, "gid": 0}


def test_with_the_hosts_uts_namespace_there_is_no_hostname() -> None:
    made = bundle(namespaces={"uts": "host"})
    assert "hostname" not in made["spec"]
    assert not [entry for entry in made["spec"]["process"]["env"] if entry.startswith("HOSTNAME=")]


@pytest.mark.parametrize(
    ("request_", "default", "root", "image"),
    [
        ({}, "host", ("builtin", "host"), "host"),
        ({"image": "busybox"}, "host", ("builtin", "busybox"), "busybox"),
        ({}, "/alpine", ("directory", "/alpine"), "/alpine"),
        ({"image": "busybox"}, "/alpine", ("builtin", "busybox"), "busybox"),
        ({"rootfs": "/home/a/tree"}, "host", ("rootfs", "/home/a/tree"), "/home/a/tree"),
        ({"rootfs": "/home/a/tree"}, "/alpine", ("rootfs", "/home/a/tree"), "/home/a/tree"),
        ({"rootfs": "/alpine"}, "/alpine", ("rootfs", "/alpine"), "/alpine"),
        ({"rootfs": "/host"}, "host", ("rootfs", "/host"), "/host"),
    ],
)
def test_where_the_root_comes_from(
    request_: dict[str, Any], default: str, root: tuple[str, str], image: str
) -> None:
    settings = Settings(default_root=default)
    request = parse(json.dumps({"args": ["x"], **request_}).encode(), RunRequest)
    made = bundle_of(request, settings, "made")
    assert made["dkr"]["root"] == {"kind": root[0], "name": root[1]}
    assert image_of(request, settings) == image
    assert made == meaning_of({"args": ["x"], **request_}, default, "made")


def test_a_path_is_no_image() -> None:
    """Else whoever posts it would have a directory of the host's as the root."""
    with pytest.raises(NotFound, match="/etc"):
        bundle_of(
            parse(b'{"args": ["x"], "image": "/etc"}', RunRequest), Settings(default_root="/etc"), "made"
        )
    root = meaning_of({"args": ["x"], "image": "/etc"}, "/etc", "made")["dkr"]
    assert root["root"] == {"kind": "builtin", "name": "/etc"}  # type: ignore[index]


def test_image_and_rootfs_exclude_each_other() -> None:
    with pytest.raises(BadRequest, match="exclude each other"):
        meaning_of({"args": ["x"], "image": "host", "rootfs": "/x"}, "host", "made")


def test_an_unknown_image_is_not_found_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound, match='"debian"') as caught:
        bundle(image="debian")
    assert caught.value.hint is not None
    assert "host" in caught.value.hint


def test_a_made_name_is_a_name() -> None:
    request = parse(b'{"args": ["x"]}', RunRequest)
    made = {bundle_of(request, SETTINGS)["dkr"]["name"] for _ in range(20)}
    assert len(made) > 10
    for name in made:
        assert parse(json.dumps({"args": ["x"], "name": name}).encode(), RunRequest).name == name
    assert len(set(names.ADJECTIVES)) == len(names.ADJECTIVES)
    assert len(set(names.NOUNS)) == len(names.NOUNS)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
REQUESTS = st.fixed_dictionaries(
    {"args": st.lists(TEXT.filter(bool), min_size=1, max_size=3)},
    optional={
        "rootfs": TEXT.map(lambda t: f"/{t}"),
        "env": st.dictionaries(TEXT.filter(lambda t: bool(t) and "=" not in t), TEXT, max_size=3),
        "user": st.sampled_from(["0:0", "1000", "5:6", "nobody", "a:7"]),
        "name": st.sampled_from(["a", "b.c"]),
        "hostname": st.sampled_from(["a", "b.c"]),
        "labels": st.dictionaries(TEXT.filter(bool), TEXT, max_size=2),
        "readonly": st.booleans(),
        "tmpfs": st.dictionaries(
            st.sampled_from(["/a", "/b/c", "/dev/shm"]), st.sampled_from(["", "ro,size=1k"])
        ),
        "terminal": st.booleans(),
        "namespaces": st.dictionaries(
            st.sampled_from(["pid", "ipc", "cgroup", "network", "user", "time"]),
            st.sampled_from(["private", "host"]),
        ),
        "preserveFds": st.integers(0, 248),
        "memory": st.integers(6 * 2**20, 2**50) | st.just(64e6),
        "cpus": st.floats(0.01, 8192) | st.integers(1, 8192),
        "pidsLimit": st.integers(1, 4194304) | st.just(-1),
        "rm": st.booleans(),
        "stopSignal": st.sampled_from(["9", "TERM", "sigusr1"]),
        "stopTimeout": st.floats(0, 100) | st.integers(0, 9),
        "timeout": st.floats(0.5, 100),
        "onDisconnect": st.sampled_from(["stop", "kill", "keep"]),
    },
)


@given(REQUESTS)
def test_policy_will_find_the_same_meaning_in_the_request_as_it_was_posted(request: dict[str, Any]) -> None:
    body = json.dumps(request).encode()
    made = bundle_of(parse(body, RunRequest), SETTINGS, "made")
    over_the_wire = frames.loads(json.dumps(made, ensure_ascii=False).encode())
    assert over_the_wire == meaning_of(frames.loads_object(body), SETTINGS.default_root, "made")


@given(REQUESTS)
def test_the_runtime_takes_every_spec_that_is_made(request: dict[str, Any]) -> None:
    runtime_spec.parse(bundle(**request)["spec"])
