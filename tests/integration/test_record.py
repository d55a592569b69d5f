"""`--record FILE`: replayed, it shows what was seen."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pyte
import pytest

from tests.integration.kept import sh
from tests.integration.terminals import Terminal
from tests.integration.verbs import sweep
from tests.reliability.support import assert_same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.integration.conftest import Caller
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root

# Colours, places, and characters of two to four bytes, more than a pty holds at once; what is typed is not shown.
SHOWS = r"""printf '\033[2J\033[3;5H\033[31mred\033[0m ä€\360\237\246\212'; i=0
while [ $i -lt 900 ]; do printf '\033[%d;1Häöü€ß 漢字 %d' $((i % 20 + 4)) $i; i=$((i + 1)); done
stty -echo; printf '\033[1;1Hready'; read word; stty size; printf '\033[2;1Hgot %d' ${#word}; read word; exit 3"""


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, at_rest: Counts) -> Iterator[None]:
    yield
    sweep(daemon)
    assert_same(daemon, at_rest)
    assert "Traceback" not in daemon.log


@pytest.fixture
def place(caller: Caller, open_tmp: Path) -> Path:
    """A directory where the caller may write."""
    made = open_tmp / "place"
    made.mkdir(0o755)
    if caller.user is not None:
        os.chown(made, caller.uid, -1)
    return made


def read(path: Path) -> tuple[dict[str, Any], list[list[Any]]]:
    header, *events = [json.loads(line) for line in path.read_text().splitlines()]
    return header, events


def replayed(path: Path) -> list[str]:
    """The screen at the end of a recording."""
    header, events = read(path)
    screen = pyte.Screen(header["width"], header["height"])
    stream = pyte.Stream(screen)
    for _, kind, data in events:
        if kind == "r":
            columns, _, rows = data.partition("x")
            screen.resize(int(rows), int(columns))
        else:
            assert kind == "o"
            stream.feed(data)
    return list(screen.display)


class Seen:
    """What a person sees of it."""

    def __init__(self, terminal: Terminal, rows: int, columns: int) -> None:
        self.terminal = terminal
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)

    def until(self, row: int, text: str) -> None:
        while not self.screen.display[row].startswith(text):
            self.feed()

    def feed(self) -> None:
        if not self.terminal.shown:
            assert self.terminal.read(), "\n".join(self.screen.display)
        self._stream.feed(self.terminal.shown)
        self.terminal.shown = b""

    def rest(self) -> None:
        self._stream.feed(self.terminal.shown)


def test_a_session_is_replayed_as_it_was_seen(caller: Caller, place: Path) -> None:
    path = place / "session.cast"
    with Terminal(caller, 30, 90) as terminal:
        seen = Seen(terminal, 30, 90)
        terminal.run("--record", str(path), *sh(SHOWS), env={"TERM": "xterm-256color", "SHELL": "/bin/sh"})
        seen.until(0, "ready")
        terminal.resize(28, 80)
        seen.screen.resize(28, 80)
        terminal.type("secret\n")
        seen.until(1, "got 6")
        terminal.type("\n")
        assert terminal.status() == 3
        seen.rest()
    assert replayed(path) == list(seen.screen.display)
    header, events = read(path)
    assert (header["version"], header["width"], header["height"]) == (2, 90, 30)
    assert isinstance(header["timestamp"], int)
    assert header["env"] == {"TERM": "xterm-256color", "SHELL": "/bin/sh"}
    assert [event[2] for event in events if event[1] == "r"] == ["80x28"]
    assert "28 80" in "".join(event[2] for event in events)
    times = [event[0] for event in events]
    assert times == sorted(times)
    assert "secret" not in path.read_text()
    assert "\ufffd" not in path.read_text() + json.dumps(events, ensure_ascii=False)
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, caller.uid)


def test_a_further_command_and_who_is_attached(caller: Caller, place: Path) -> None:
    start = ("run", "-d", "-it", "--name", "web", "/bin/sh")
    assert caller.daemon.dkrctl(*start, user=caller.user).returncode == 0
    with Terminal(caller) as terminal:
        terminal.exec("-t", "--record", str(place / "exec"), "web", "/bin/echo", "from exec")
        assert terminal.status() == 0
    with Terminal(caller) as terminal:
        terminal.attach("--record", str(place / "attach"), "web")
        terminal.until_raw()
        # On a line of its own: what is typed may be shown before the prompt.
        terminal.type("printf '\\nfrom %d\\n' 42; exit 5\n")
        assert terminal.status() == 5
    assert replayed(place / "exec")[0].startswith("from exec")
    assert any(line.startswith("from 42") for line in replayed(place / "attach"))
    with Terminal(caller) as terminal:
        words = ("start", "-ai", "--record", str(place / "start"), "web")
        terminal.client = caller.daemon.popen(*words, user=caller.user, **terminal.here())
        terminal.until_raw()
        terminal.type("printf '\\nonce %d\\n' 43; exit 6\n")
        assert terminal.status() == 6
    assert any(line.startswith("once 43") for line in replayed(place / "start"))


def test_of_a_terminal_for_output_alone_line_ends_are_as_they_were_seen(root: Caller, tmp_path: Path) -> None:
    path = tmp_path / "cast"
    with Terminal(root) as terminal:
        terminal.run("--record", str(path), *sh("echo one; echo two"), stdin=-3)
        assert terminal.status() == 0
    assert [line.rstrip() for line in replayed(path)[:3]] == ["one", "two", ""]


def test_what_is_there_is_overwritten_once_there_is_something_to_record(root: Caller, tmp_path: Path) -> None:
    path = tmp_path / "cast"
    path.write_text("before, and longer than all of what comes now\n" * 100)
    path.chmod(0o644)
    with Terminal(root) as terminal:
        terminal.run("--record", str(path), "/nothing/there")
        assert terminal.status() == 127
    assert path.read_text().startswith("before")
    with Terminal(root) as terminal:
        terminal.run("-t", "--record", str(path), "/bin/echo", "now")
        assert terminal.status() == 0
    assert replayed(path)[0].startswith("now")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Terminal(root) as terminal:
        terminal.run("--record", str(tmp_path / "new"), "/nothing/there")
        assert terminal.status() == 127
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_to(root: Caller, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "one").write_text("kept")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "theirs").write_text("")
    os.chown(tmp_path / "theirs", 1, -1)
    for name, said in (
        ("link", "symbolic links"),
        ("one", "it has another name"),
        ("theirs", "it is uid 1's"),
        ("fifo", "cannot record to"),
        ("none/there", "no such file"),
    ):
        with Terminal(root) as terminal:
            terminal.run("--record", str(tmp_path / name), "/bin/echo", "ran")
            assert terminal.status() == 125, name
            assert said in " ".join(terminal.shown.decode().split()), name
            assert "ran" not in terminal.shown.decode()
    assert (tmp_path / "file").read_text() == (tmp_path / "one").read_text() == "kept"


def test_a_device_is_no_file(root: Caller) -> None:
    with Terminal(root) as terminal:
        terminal.run("--record", "/dev/full", "/bin/true")
        assert terminal.status() == 125
        assert "it is no file" in terminal.shown.decode()


def test_where_there_is_no_terminal(root: Caller, tmp_path: Path) -> None:
    record = ("--record", str(tmp_path / "cast"))
    for words, said in (
        (("run", *record, "/bin/true"), "cannot record: the command has no terminal"),
        (("run", "-d", *record, "/bin/true"), "--detach and --record"),
        (("create", *record, "/bin/true"), "--record"),
        (("run", "--dry-run", *record, "/bin/true"), "cannot record a run that does not take place"),
        (("start", *record, "web"), "cannot start with --record"),
        (("attach", *record, "web"), "cannot record: there is no terminal here"),
    ):
        done = root.daemon.dkrctl(*words)
        assert done.returncode in (1, 125), words
        assert said in done.stderr, words
    with Terminal(root) as terminal:
        root.daemon.dkrctl("run", "-d", "--name", "web", "/bin/sleep", "600", check=True)
        terminal.attach(*record, "web")
        assert terminal.status() == 125
        assert "cannot record: web has no terminal" in terminal.shown.decode()
    assert root.daemon.dkrctl("ps", "-q").stdout
    assert not (tmp_path / "cast").exists()
