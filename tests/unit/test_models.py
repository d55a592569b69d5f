"""The request's schema: closed, strict, bounded, and every fault names its path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.checks import MAX_STRING
from common.errors import BadRequest
from common.models import ContainerState, RunRequest
from dkrd.api import bodies

BASE: dict[str, Any] = {"args": ["/bin/true"]}


def parse(**changes: Any) -> RunRequest:
    return bodies.parse(json.dumps({**BASE, **changes}).encode(), RunRequest)


def refused(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        bodies.parse(body, RunRequest)
    return caught.value


def test_defaults_are_those_of_the_protocol() -> None:
    request = parse()
    assert request.model_dump(exclude={"args"}) == {
        "image": None,
        "rootfs": None,
        "entrypoint": [],
        "env": {},
        "cwd": "/",
        "user": "0:0",
        "name": None,
        "hostname": None,
        "labels": {},
        "readonly": False,
        "tmpfs": {},
        "terminal": False,
        "console_size": None,
        "namespaces": {},
        "preserve_fds": 0,
        "memory": None,
        "swap": None,
        "cpus": None,
        "pids_limit": None,
        "log": None,
        "init": False,
        "rm": False,
        "stop_signal": 15,
        "stop_timeout": 10.0,
        "timeout": None,
        "on_disconnect": None,
        "health": None,
    }
    assert [kind for kind in ("pid", "user", "time") if request.is_private(kind)] == ["pid", "user"]


@pytest.mark.parametrize(
    "changes",
    [
        {"args": ["sh", "-c", ""]},
        {"entrypoint": ["/bin/sh"], "args": [""]},
        {"env": {"A": "", "ä b": "=x="}},
        {"user": "65535:65535"},
        {"user": "nobody"},
        {"user": "_apt:1000"},
        {"name": "a" * 128},
        {"hostname": "a-b.example"},
        {"tmpfs": {"/tmp": "", "/run/x": "size=64m,mode=1777,noexec,uid=5", "/dev/shm": "size=50%"}},
        {"terminal": True, "consoleSize": {"height": 24, "width": 80}},
        {"namespaces": {"network": "host", "time": "private"}},
        {"preserveFds": 250},
        {"preserveFds": 1.0},
        {"memory": 6291456},
        {"memory": 2**50, "swap": 0},
        {"memory": 64e6, "swap": -1},
        {"cpus": 0.01},
        {"cpus": 2},
        {"cpus": 8192},
        {"pidsLimit": 1},
        {"pidsLimit": -1},
        {"pidsLimit": 4194304},
        {"stopSignal": "9"},
        {"stopSignal": "term"},
        {"stopTimeout": 0},
        {"timeout": 0.001},
        {"onDisconnect": "kill"},
        {"args": ["x" * MAX_STRING]},
    ],
    ids=str,
)
def test_taken(changes: dict[str, Any]) -> None:
    parse(**changes)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("args", {"args": []}),
    ("args", {"args": "ls"}),
    ("args", {"args": None}),
    ("args[1]", {"args": ["a", 1]}),
    ("args[0]", {"args": ["a\0b"]}),
    ("args[0]", {"args": [""]}),
    ("args[0]", {"args": ["x" * (MAX_STRING + 1)]}),
    ("args[0]", {"args": ["\u00e4" * (MAX_STRING // 2 + 1)]}),
    ("args", {"args": ["x" * MAX_STRING] * 17}),
    ("args", {"args": ["x"] * 65001}),
    ("entrypoint[0]", {"entrypoint": [""]}),
    ("entrypoint", {"entrypoint": None}),
    ("env", {"env": ["A=b"]}),
    ("env", {"env": {f"v{i}": "" for i in range(65001)}}),
    ("env.", {"env": {"": "x"}}),
    ("env.A=B", {"env": {"A=B": "x"}}),
    ("env.A", {"env": {"A": "\0"}}),
    ("env.A\0", {"env": {"A\0": ""}}),
    ("env.A", {"env": {"A": None}}),
    ("cwd", {"cwd": "tmp"}),
    ("cwd", {"cwd": "/" + "x" * 4095}),
    ("user", {"user": "65536"}),
    ("user", {"user": "0:65536"}),
    ("user", {"user": "a b"}),
    ("user", {"user": "a:b:c"}),
    ("user", {"user": "a\n"}),
    ("user", {"user": 0}),
    ("name", {"name": ""}),
    ("name", {"name": "-a"}),
    ("name", {"name": "a\n"}),
    ("name", {"name": "a" * 129}),
    ("name", {"name": None}),
    ("hostname", {"hostname": "a_b"}),
    ("hostname", {"hostname": "-a"}),
    ("hostname", {"hostname": "a" * 63 + ".a"}),
    ("hostname", {"hostname": "a", "namespaces": {"uts": "host"}}),
    ("labels.a", {"labels": {"a": 1}}),
    ("labels.", {"labels": {"": "x"}}),
    ("labels.a", {"labels": {"a": "x" * 9000}}),
    ("readonly", {"readonly": 1}),
    ("readonly", {"readonly": "true"}),
    ("tmpfs./", {"tmpfs": {"/": ""}}),
    ("tmpfs.//.", {"tmpfs": {"//.": ""}}),
    ("tmpfs.tmp", {"tmpfs": {"tmp": ""}}),
    ("tmpfs./proc", {"tmpfs": {"/proc": ""}}),
    ("tmpfs.//./sys/fs", {"tmpfs": {"//./sys/fs": ""}}),
    ("tmpfs./dev", {"tmpfs": {"/dev": ""}}),
    ("tmpfs./dev/shm/x", {"tmpfs": {"/dev/shm/x": ""}}),
    ("tmpfs./a/../proc", {"tmpfs": {"/a/../proc": ""}}),
    ("tmpfs./a/", {"tmpfs": {"/a": "", "/a/": ""}}),
    ("tmpfs./a", {"tmpfs": {"/a": "dev"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "size=0"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "size=1,,ro"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "mode=9"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "uid=65536"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "ro=1"}}),
    ("tmpfs./a", {"tmpfs": {"/a": "huge=always"}}),
    ("terminal", {"terminal": 1}),
    ("consoleSize", {"consoleSize": {"height": 1, "width": 1}}),
    ("consoleSize.width", {"terminal": True, "consoleSize": {"height": 1}}),
    ("consoleSize.height", {"terminal": True, "consoleSize": {"height": -1, "width": 1}}),
    ("namespaces.mount", {"namespaces": {"mount": "host"}}),
    ("namespaces.pid", {"namespaces": {"pid": "container:x"}}),
    ("preserveFds", {"preserveFds": 251}),
    ("preserveFds", {"preserveFds": "1"}),
    ("preserveFds", {"preserveFds": True}),
    ("preserveFds", {"preserveFds": 1.5}),
    ("memory", {"memory": 6291455}),
    ("memory", {"memory": 2**50 + 1}),
    ("memory", {"memory": -1}),
    ("memory", {"memory": "64m"}),
    ("memory", {"memory": 64.5e6 + 0.5}),
    ("memory", {"memory": True}),
    ("memory", {"memory": None}),
    ("swap", {"swap": 1}),
    ("swap", {"memory": 64000000, "swap": -2}),
    ("swap", {"memory": 64000000, "swap": 2**50 + 1}),
    ("swap", {"memory": 64000000, "swap": False}),
    ("swap", {"memory": 64000000, "swap": None}),
    ("cpus", {"cpus": 0}),
    ("cpus", {"cpus": 0.009}),
    ("cpus", {"cpus": -1}),
    ("cpus", {"cpus": 8193}),
    ("cpus", {"cpus": "1"}),
    ("cpus", {"cpus": True}),
    ("cpus", {"cpus": None}),
    ("pidsLimit", {"pidsLimit": 0}),
    ("pidsLimit", {"pidsLimit": -2}),
    ("pidsLimit", {"pidsLimit": 4194305}),
    ("pidsLimit", {"pidsLimit": 1.5}),
    ("pidsLimit", {"pidsLimit": "1"}),
    ("pidsLimit", {"pidsLimit": True}),
    ("pidsLimit", {"pidsLimit": None}),
    ("stopSignal", {"stopSignal": "0"}),
    ("stopSignal", {"stopSignal": "65"}),
    ("stopSignal", {"stopSignal": "SIGNOPE"}),
    ("stopSignal", {"stopSignal": " TERM"}),
    ("stopSignal", {"stopSignal": 15}),
    ("stopTimeout", {"stopTimeout": -1}),
    ("stopTimeout", {"stopTimeout": 1e10}),
    ("timeout", {"timeout": 0}),
    ("timeout", {"timeout": "1"}),
    ("timeout", {"timeout": None}),
    ("onDisconnect", {"onDisconnect": "detach"}),
    ("image", {"image": ""}),
    ("image", {"image": "a\n"}),
    ("readOnly", {"readOnly": True}),
    ("console_size", {"console_size": {"height": 1, "width": 1}}),
    ("stop_signal", {"stop_signal": "9"}),
]


@pytest.mark.parametrize(
    ("path", "changes"), BAD, ids=[f"{i}-{path[:20]}" for i, (path, _) in enumerate(BAD)]
)
def test_refused_by_path(path: str, changes: dict[str, Any]) -> None:
    error = refused(json.dumps({**BASE, **changes}).encode())
    assert error.fields[0]["path"] == path
    assert error.fields[0]["message"]
    assert error.message.startswith("cannot read the request: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"args": ["a"]} x',
        b'{"args": ["\xff"]}',
        b'{"args": ["\\ud800"]}',
        b'{"args": ["a"], "timeout": NaN}',
        b'{"args": ["a"], "timeout": 1e999}',
        b'{"args": ["a"], "preserveFds": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        json.dumps({f"k{i}": 1 for i in range(200_000)}).encode(),
    ],
    ids=lambda body: body[:24],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    assert len(refused(body).fields) == 1


def test_an_argument_list_that_execve_would_refuse_is_told_in_its_words() -> None:
    assert "argument list too long" in refused(json.dumps({"args": ["x" * MAX_STRING] * 17}).encode()).message


def test_faults_are_told_together_and_a_near_key_is_named() -> None:
    error = refused(b'{"args": [], "name": "-", "readOnly": true}')
    assert [fault["path"] for fault in error.fields] == ["args", "name", "readOnly"]
    assert error.hint == "did you mean readonly?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [info.alias or name for name, info in RunRequest.model_fields.items()]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), JSON, max_size=5))
def test_anything_is_a_request_or_refused(request: dict[str, Any]) -> None:
    body = json.dumps({**BASE, **request}).encode()
    try:
        parsed = bodies.parse(body, RunRequest)
    except BadRequest:
        error = refused(body)
        assert error.fields
        json.dumps(error.to_wire()).encode()
        return
    # what was taken is what was sent: nothing was coerced or dropped
    dumped = parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    dumped.pop("stopSignal", None)
    assert {k: v for k, v in {**BASE, **request}.items() if k != "stopSignal"} == dumped


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().cwd = "/tmp"  # type: ignore[misc]


def test_an_exit_keeps_its_nulls() -> None:
    state = ContainerState.model_validate(
        {
            "version": 1,
            "id": "a" * 64,
            "name": "x",
            "uid": 0,
            "status": "stopped",
            "created": "2026-01-31T12:00:00Z",
            "exit": {"code": None, "signal": 9, "cause": "signalled"},
        },
        by_name=False,
        by_alias=True,
    )
    assert state.to_wire()["exit"] == {"code": None, "signal": 9, "cause": "signalled"}
