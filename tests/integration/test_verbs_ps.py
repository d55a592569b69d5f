"""`dkrctl ps`: who sees what, columns, filters, formats, as people and as programs read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.terminals import Terminal, Tmux
from tests.integration.verbs import lines_of, make, running, tidy, until_listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.host import User
    from tests.integration.conftest import Caller

pytestmark = pytest.mark.root
TABLE = re.compile(r"CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +NAMES")


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    tidy(daemon)


def names(caller: Caller, *options: str) -> list[str]:
    done = caller.daemon.dkrctl("ps", "--format", "{{.Names}}", *options, user=caller.user, check=True)
    return str(done.stdout).split()


def test_what_runs(caller: Caller) -> None:
    make(caller.daemon, caller.user, "over", "/bin/true")
    with running(caller, "up", "--label", "team=blue") as container:
        lines = caller.daemon.dkrctl("ps", user=caller.user, check=True).stdout.splitlines()
        assert len(lines) == 2
        assert TABLE.fullmatch(lines[0])
        row = re.split(r" {2,}", lines[1])
        assert row[0] == container[:12]
        assert row[1:3] == ["host", '"/bin/sh -c echo up;…"']
        assert re.fullmatch(r"(\d+ seconds?|Less than a second) ago", row[3])
        assert re.fullmatch(r"Up (\d+ seconds?|Less than a second)", row[4])
        assert row[5] == "up"
        assert lines[0].index("NAMES") == lines[1].index("up", 80)
        assert names(caller, "-a") == ["up", "over"]  # the newest first


def test_how_they_ended(root: Caller) -> None:
    make(root.daemon, None, "fine", "/bin/true")
    make(root.daemon, None, "bad", "/bin/sh", "-c", "exit 3", status=3)
    make(root.daemon, None, "late", "--timeout", "0.1", "/bin/sleep", "60", status=143)
    make(root.daemon, None, "killed", "--init", "/bin/sh", "-c", "kill -TERM $$", status=143)
    for name in ("fine", "bad", "late", "killed"):
        root.ended(name)
    told = {
        entry["Names"]: entry["Status"]
        for entry in lines_of(root.daemon.dkrctl("ps", "-a", "--format", "json"))
    }
    assert re.fullmatch(r"Exited \(0\) .* ago", told["fine"])
    assert re.fullmatch(r"Exited \(3\) .* ago", told["bad"])
    assert re.fullmatch(r"Exited \(143\) .* ago \(timeout\)", told["late"])
    assert re.fullmatch(r"Exited \(143\) .* ago", told["killed"])
    assert names(root, "--filter", "exited=3") == ["bad"]
    assert names(root, "--filter", "exited=143") == ["killed", "late"]


def test_ids_for_other_programs(root: Caller) -> None:
    for name in ("one", "two"):
        make(root.daemon, None, name, "/bin/true")
        root.ended(name)
    short = root.daemon.dkrctl("ps", "-aq", check=True).stdout.split()
    whole = root.daemon.dkrctl("ps", "--all", "--quiet", "--no-trunc", check=True).stdout.split()
    assert [len(word) for word in short + whole] == [12, 12, 64, 64]
    assert [word[:12] for word in whole] == short
    assert root.daemon.dkrctl("ps", "-q", check=True).stdout == ""
    done = root.shell("dkrctl ps -aq | xargs dkrctl rm")
    assert (done.returncode, done.stdout.split()) == (0, short)


def test_the_last_ones(root: Caller) -> None:
    for name in ("a", "b", "c"):
        make(root.daemon, None, name, "/bin/true")
        root.ended(name)
    assert names(root) == []
    assert names(root, "-l") == names(root, "--latest") == ["c"]
    assert names(root, "-n", "2") == names(root, "--last=2") == ["c", "b"]
    assert names(root, "-n", "2", "--filter", "name=a") == ["a"]
    assert names(root, "-n", "0") == []


def test_filters(root: Caller) -> None:
    make(root.daemon, None, "web-1", "--label", "team=blue", "--label", "x", "/bin/true")
    make(root.daemon, None, "web-2", "--label", "team=red", "--label", "x", "/bin/true")
    make(root.daemon, None, "db", "--label", "team=blue", "/bin/true")
    for name in ("web-1", "web-2", "db"):
        root.ended(name)
    with running(root, "alive"):
        assert names(root, "--filter", "name=web") == []  # only those that have ended have such a name
        assert names(root, "-a", "-f", "name=web") == ["web-2", "web-1"]
        assert names(root, "-a", "-f", "name=1", "-f", "name=db") == ["db", "web-1"]
        assert names(root, "-a", "-f", "label=team=blue") == ["db", "web-1"]
        assert names(root, "-a", "-f", "label=team=blue", "-f", "label=x") == ["web-1"]
        assert names(root, "-a", "-f", "label=team", "-f", "name=web") == ["web-2", "web-1"]
        assert names(root, "-f", "status=running") == ["alive"]
        assert names(root, "-f", "status=exited") == names(root, "-f", "status=stopped")
        assert set(names(root, "-f", "status=stopped", "-f", "status=running")) == {
            "web-1",
            "web-2",
            "db",
            "alive",
        }
        container = until_listed(root, "alive")
        assert names(root, "-f", f"id={container[:5]}") == ["alive"]
        assert names(root, "-a", "-f", "name=^web-1$") == ["web-1"]
        # Beside one that has ended; those that have are listed with -a alone.
        assert names(root, "-a", "-f", "before=db") == ["web-2", "web-1"]
        assert names(root, "-a", "-f", "since=web-1", "-f", "before=alive") == ["db", "web-2"]
        assert names(root, "-f", "since=web-1") == ["alive"]
        assert names(root, "-f", f"before={container[:20]}") == []
        assert names(root, "-a", "-f", "status=dead", "-f", "status=removing") == []


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("ancestor=x", "'ancestor': the roots here are not made of one another"),
        ("volume=x", "'volume': there is no such key"),
        ("name=(", "it is no regular expression"),
        ("since=nosuch", 'cannot find container "nosuch"'),
        ("name", "its value is missing"),
        ("name=", "its value is missing"),
        ("status=up", "status=up: there is no such status"),
        ("exited=soon", "an exit status from 0 to 255"),
        ("exited=256", "an exit status from 0 to 255"),
    ],
)
def test_filters_that_are_none(root: Caller, word: str, cause: str) -> None:
    done = root.daemon.dkrctl("ps", "--filter", word)
    assert (done.returncode, done.stdout) == (1, "")
    assert cause in done.stderr


def test_templates(root: Caller) -> None:
    make(root.daemon, None, "web", "--label", "team=blue", "--label", "size=9", "/bin/echo", "a\tb")
    found = root.daemon.dkrctl("ps", "-a", "--format", r"{{.Names}}\t{{.Image}}|{{json .Labels}}", check=True)
    assert found.stdout == 'web\thost|{"team":"blue","size":"9"}\n'
    table = r'table {{.Names}}\t{{.Label "team"}}\t{{.Labels}}\t{{.Command}}'
    lines = root.daemon.dkrctl("ps", "-a", "--format", table, check=True).stdout.splitlines()
    assert lines[0].split() == ["NAMES", "team", "LABELS", "COMMAND"]
    assert re.split(r" {3,}", lines[1]) == ["web", "blue", "team=blue,size=9", '"/bin/echo a\\tb"']
    [entry] = lines_of(root.daemon.dkrctl("ps", "-a", "--no-trunc", "--format", "json"))
    assert (entry["Names"], entry["Labels"], len(entry["ID"])) == ("web", {"team": "blue", "size": "9"}, 64)


def test_an_unknown_field_is_told_even_where_nothing_is_listed(root: Caller) -> None:
    done = root.daemon.dkrctl("ps", "--format", "{{.Ports}}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no field .Ports" in done.stderr
    assert ".Names" in done.stderr


def test_a_command_is_other_peoples_text(caller: Caller) -> None:
    make(caller.daemon, caller.user, "evil", "/bin/true", "\x1b[2J\nsecond line\x9b\u202e")
    done = caller.daemon.dkrctl("ps", "-a", "--no-trunc", user=caller.user, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert '"/bin/true \\x1b[2J\\nsecond line\\x9b\\u202e"' in done.stdout
    assert done.stdout.replace("\n", "").isprintable()


# --- who sees what


def test_a_tenant_sees_its_own_and_an_admin_everybodys(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    make(daemon, tenant, "mine", "/bin/true")
    make(daemon, other_tenant, "theirs", "/bin/true")
    make(daemon, None, "roots", "/bin/true")

    def seen(user: User | None) -> set[str]:
        return set(daemon.dkrctl("ps", "-a", "--format", "{{.Names}}", user=user, check=True).stdout.split())

    assert seen(tenant) == {"mine"}
    assert seen(other_tenant) == {"theirs"}
    assert seen(admin) == seen(None) == {"mine", "theirs", "roots"}
    uids = daemon.dkrctl("ps", "-a", "--format", "{{.Names}} {{.Uid}}", check=True).stdout.splitlines()
    assert f"mine {tenant.uid}" in uids


def test_a_stranger_sees_nothing(daemon: Daemon, stranger: User) -> None:
    done = daemon.dkrctl("ps", user=stranger)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"usermod -aG dkr {stranger.name}" in done.stderr


# --- where it is shown


def test_no_line_is_wider_than_the_terminal(root: Caller) -> None:
    make(root.daemon, None, "a-rather-long-name-for-a-container", "--label", "a=世界", "/bin/true")
    with Terminal(root, rows=24, columns=80) as terminal:
        client = root.daemon.popen("ps", "-a", stdout=terminal.slave)
        assert client.wait() == 0
        terminal.until("\r\n.*\r\n")
    whole = root.daemon.dkrctl("ps", "-a", check=True).stdout.splitlines()
    assert len(whole[1]) > 80


def test_in_a_terminal_as_people_see_it(root: Caller, tmp_path: Path) -> None:
    make(root.daemon, None, "a-rather-long-name", "busybox", "echo", "界" * 30)
    with Tmux(root, tmp_path, 24, 80) as screen:
        screen.type("dkrctl ps -a; echo done", "Enter")
        lines = screen.until("^done").splitlines()
    narrow = re.compile(
        r"CONTAINER ID +IMAGE +COMMAND +STATUS +NAMES"
    )  # the time of its making is left out first
    [at] = [place for place, line in enumerate(lines) if narrow.fullmatch(line.rstrip())]
    assert "a-rather-long-name" in lines[at + 1]
    assert lines[at + 2].startswith("done")  # the row has not broken
    heading = lines[at]
    assert lines[at + 1][heading.index("IMAGE") :].startswith("busybox")


@pytest.mark.parametrize("variable", [{}, {"NO_COLOR": "1"}])
def test_nothing_but_text_goes_into_a_pipe(root: Caller, variable: dict[str, str]) -> None:
    for words in (("ps", "-a"), ("doctor",), ("version",), ("ps", "--help")):
        done = root.daemon.dkrctl(*words, env={"TERM": "xterm", **variable})
        assert "\x1b" not in done.stdout


def test_a_reader_that_leaves_ends_it_quietly(root: Caller) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with root.daemon.popen("ps", stdout=writer, stderr=subprocess.PIPE, text=True) as client:
        os.close(writer)
        _, complaints = client.communicate(timeout=30)
    assert (client.returncode, complaints) == (-13, "")  # as any program that is ended by SIGPIPE


def test_a_full_disk_is_told(root: Caller) -> None:
    with open("/dev/full", "wb") as full:
        done = root.daemon.dkrctl("ps", stdout=full)
    assert done.returncode == 1
    assert "cannot write the output: no space left on device" in done.stderr


def test_it_takes_no_words(root: Caller) -> None:
    done = root.daemon.dkrctl("ps", "web")
    assert done.returncode == 1
    assert "cannot take 'web': ps takes options only" in done.stderr


@pytest.mark.parametrize("words", [("-q", "--format", "json"), ("-l", "-n", "2"), ("-n", "some")])
def test_what_does_not_go_together_is_refused(root: Caller, words: tuple[str, ...]) -> None:
    done = root.daemon.dkrctl("ps", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert words[-2].lstrip("-")[0] in done.stderr


def test_no_socket_of_its_own_is_asked_for_help(root: Caller) -> None:
    for words in (("ps", "--help"), ("ps", "-h"), ("help", "ps")):
        done = root.daemon.dkrctl(*words, env={"DKR_SOCKET": "/nonexistent"}, check=True)
        assert done.stdout.startswith("usage: dkrctl ps")


def test_json_is_json(root: Caller) -> None:
    make(root.daemon, None, "text", "/bin/true", '"\\\n\u202e')
    [line] = root.daemon.dkrctl("ps", "-a", "--no-trunc", "--format", "json", check=True).stdout.splitlines()
    assert json.loads(line)["Command"] == '"/bin/true "\\\\n\\u202e"'
