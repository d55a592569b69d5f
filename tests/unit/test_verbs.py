"""The verbs' own parts, without a daemon: what of a container is shown, filters, facts as lines, the table and its modules."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from common import info, models, options, verbs
from common.errors import BadRequest, ProtocolError
from common.exec_verbs import SUBCOMMANDS
from dkrctl.commands import version
from dkrctl.commands.info import lines_of, words
from dkrctl.commands.ps import Filters
from dkrctl.containers import EXIT_FIELDS, FIELDS, HEADINGS, Shown, heading, record_of
from dkrctl.doctor import service
from dkrctl.doctor import settings as doctors_settings
from dkrctl.help import brief
from dkrctl.verbs import command_named

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

LEAN = {"run", "exec", "attach"}  # verbs of the lean path have no module below dkrctl/commands
NOW = 1_000_000_000.0  # 2001-09-09T01:46:40Z


def shown(*, whole: bool = False, **values: Any) -> Shown:
    record = {"id": "c0ffee" + "0" * 58, "name": "web", "image": "host", "args": ["/bin/sh"], **values}
    return Shown(record_of(record), whole=whole, now=NOW)


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_client_knows_the_fields_of_the_api() -> None:
    assert set(FIELDS) == keys(models.Container)
    assert set(EXIT_FIELDS) == keys(models.ExitStatus)
    assert set(version.SERVER_FIELDS) == keys(info.VersionInfo)


def test_a_verb_of_two_words_has_its_module_too() -> None:
    for command in SUBCOMMANDS:
        assert callable(import_module(f"dkrctl.commands.{command.name.replace(' ', '_')}").run)
        assert command_named(command.name) is command
        assert command.usage.startswith(f"dkrctl {command.name}")


def test_every_verb_has_its_module_and_what_its_table_promises() -> None:
    for command in verbs.COMMANDS:
        if command.name not in LEAN:
            assert callable(import_module(f"dkrctl.commands.{command.name}").run)
            # Whose words are the container's command, and those of ps.
            assert command.intermixed is (command.name not in ("create", "top"))
        assert command.usage.startswith(f"dkrctl {command.name}")
        assert command.status or command.name == "help"
        assert 10 <= len(brief(command)) <= 66
        # It stands alone in a list.
        assert not brief(command).endswith((" does", "otherwise", "(df)")) or command.name == "update"
        for option in command.options:
            offers = {options.FILES, options.DIRECTORIES, options.SIGNALS, options.VARIABLES, ""}
            assert isinstance(option.complete, tuple) or option.complete in offers
    assert {command_named(word).name for word in verbs.SYNONYMS.values()} <= {c.name for c in verbs.COMMANDS}


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"status": "creating"}, "Creating"),
        ({"status": "created"}, "Created"),
        ({"status": "running", "started": "2001-09-09T01:43:40Z"}, "Up 3 minutes"),
        ({"status": "running"}, "Up"),
        ({"status": "paused", "started": "2001-09-09T01:46:39Z"}, "Up 1 second (Paused)"),
        (
            {
                "status": "stopped",
                "finished": "2001-09-08T23:46:40Z",
                "exit": {"code": 0, "signal": None, "cause": "exited"},
            },
            "Exited (0) 2 hours ago",
        ),
        (
            {
                "status": "stopped",
                "finished": "2001-09-09T01:46:40Z",
                "exit": {"code": None, "signal": 9, "cause": "oom"},
            },
            "Exited (137) Less than a second ago (oom)",
        ),
        (
            {"status": "stopped", "exit": {"code": None, "signal": None, "cause": "shim-lost"}},
            "Exited (unknown) (shim-lost)",
        ),
        ({"status": "stopped"}, "Exited (unknown)"),
        ({"status": "stopped", "exit": {"code": None, "signal": 15, "cause": "stopped"}}, "Exited (143)"),
        ({}, ""),
    ],
)
def test_status(values: dict[str, Any], status: str) -> None:
    assert shown(**values).status == status


def test_commands_are_shortened_as_dockers_are() -> None:
    assert shown(args=["/bin/sh", "-c", "x" * 40]).command == '"/bin/sh -c xxxxxxxx…"'
    assert shown(args=["x" * 20]).command == f'"{"x" * 20}"'
    assert shown(whole=True, args=["x" * 40]).command == f'"{"x" * 40}"'
    assert shown(args=["a\nb"]).command == '"a\\nb"'
    assert shown(args=None).command == '""'


def test_every_field_has_its_heading() -> None:
    assert set(HEADINGS) | {"Label"} == set(shown().fields()) == set(heading())


@pytest.mark.parametrize("value", [None, [], {}, {"id": 5}, "x"])
def test_what_is_no_container(value: object) -> None:
    with pytest.raises(ProtocolError):
        record_of(value)


@pytest.mark.parametrize(
    ("filters", "match"),
    [
        ([], True),
        (["name=e"], True),
        (["name=/we"], True),
        (["name=x"], False),
        (["name=x", "name=w"], True),
        (["name=^web$"], True),
        (["name=^/web$"], True),
        (["name=^eb$"], False),
        (["name=w.b"], True),
        (["status=dead"], False),
        (["status=dead", "status=exited"], True),
        (["id=c0f"], True),
        (["id=0ff"], False),
        (["label=a"], True),
        (["label=a=1"], True),
        (["label=a=2"], False),
        (["label=a=1", "label=b"], False),
        (["status=running", "name=web"], False),
        (["status=exited"], True),
        (["exited=03"], True),
        (["exited=0"], False),
        (["exited=0", "exited=3"], True),
    ],
)
def test_filters(filters: list[str], match: bool) -> None:
    container = shown(
        labels={"a": "1"}, status="stopped", exit={"code": 3, "signal": None, "cause": "exited"}
    )
    assert Filters(filters).has(container) is match


def test_filters_that_ask_for_what_has_ended() -> None:
    assert Filters(["status=stopped"]).want_ended
    assert Filters(["exited=0"]).want_ended
    assert not Filters(["status=running", "name=x"]).want_ended
    with pytest.raises(BadRequest) as caught:
        Filters(["volume=x"])
    assert caught.value.hint == "known keys: status, health, name, label, id, exited, before, since"


@pytest.mark.parametrize("value", ["256", "1" * 5000, "-1", "+1", "1.0", "²", "٣"])  # digits of others
def test_an_exit_status_that_is_none(value: str) -> None:
    with pytest.raises(BadRequest, match="an exit status from 0 to 255") as caught:
        Filters([f"exited={value}"])
    assert len(caught.value.message) < 120
    assert Filters(["exited=" + "0" * 5000]).want_ended


def test_facts_as_lines() -> None:
    facts: dict[str, object] = {
        "version": "1.0",
        "apiVersion": "1",
        "rootless": False,
        "limits": {"containersPerUser": 256, "none": None},
        "roots": ["host", "busybox"],
        "empty": [],
        "pools": [{"first": 1, "last": 2}, {"first": 3}],
        "evil\x1b": "a\nb\x1b[31m",
    }
    assert lines_of(facts) == [
        "version: 1.0",
        "API version: 1",
        "rootless: no",
        "limits:",
        "  containers per user: 256",
        "  none: -",
        "roots: host, busybox",
        "empty: -",
        "pools:",
        "  - first: 1",
        "    last: 2",
        "  - first: 3",
        "evil\\x1b: a\\nb\\x1b[31m",
    ]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("pidMax", "pid max"),
        ("idsFirst", "ids first"),
        ("osRelease", "OS release"),
        ("CPU", "cpu"),
        ("x", "x"),
    ],
)
def test_keys_as_words(key: str, text: str) -> None:
    assert words(key) == text


def unit(
    name: str, active: str, sub: str, file: str = "", load: str = "loaded", result: str = "success"
) -> str:
    return f"Id={name}\nLoadState={load}\nActiveState={active}\nSubState={sub}\nUnitFileState={file}\nResult={result}\n"


@pytest.mark.parametrize(
    ("told", "statuses"),
    [
        (
            [
                unit("dkrd.socket", "active", "running", "enabled"),
                unit("dkrd.service", "active", "running", "enabled"),
                unit("dkr-containers.service", "active", "running", "static"),
            ],
            ["ok", "ok", "ok"],
        ),
        (
            [
                unit("dkrd.socket", "active", "listening", "disabled"),
                unit("dkrd.service", "inactive", "dead", "disabled"),
                unit("dkr-containers.service", "inactive", "dead"),
            ],
            ["warning", "ok", "ok"],
        ),
        (
            [
                unit("dkrd.socket", "inactive", "dead", "disabled"),
                unit("dkrd.service", "failed", "failed", result="exit-code"),
                unit("dkr-containers.service", "inactive", "dead", load="not-found"),
            ],
            ["problem", "problem", "warning"],
        ),
        ([], ["warning"] * 3),
    ],
)
def test_what_systemd_tells_of_the_units(told: list[str], statuses: list[str]) -> None:
    found = list(service.units("\n".join(told)))
    assert [check.name for check in found] == list(service.UNITS)
    assert [check.status for check in found] == statuses
    assert all(check.advice for check in found if check.status != "ok")


@pytest.mark.parametrize("said", ["not found\n", "state_dir = \n", "'\\377'\n"])
def test_a_dkrd_that_prints_no_settings_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    program = tmp_path / "dkrd"
    program.write_text(f"#!/bin/sh\nprintf {said!r}\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctors_settings, "_OURS", program)
    known, told = doctors_settings.read(None)
    assert known is None
    assert (told[-1].name, told[-1].status) == ("settings", "problem")
    assert "is not TOML" in told[-1].found
    assert told[-1].advice
