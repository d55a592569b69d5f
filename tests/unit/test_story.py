"""The record of a start, told: as a story, as events for Perfetto; and the table of the whys."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from common import start_steps
from dkrctl.chrome import events
from dkrctl.lines import Repeats, wrap
from dkrctl.story import story
from dkrctl.whys import SECTIONS, WHYS

REPOSITORY = Path(__file__).resolve().parents[2]
ID = "0123456789abcdef" * 4


def step(
    name: str, call: str, start: int, duration: int, process: str = "shim", **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "call": call,
        "start": start,
        "duration": duration,
        "process": process,
        **more,
    }


def trace(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "id": ID,
        "outcome": "started",
        "command": ["/bin/echo", "hi"],
        "begun": "2026-01-02T03:04:05.000000006Z",
        "steps": list(steps),
        **more,
    }


STEPS = (
    step("fork", "fork() = 7", 0, 400_000, "launcher"),
    step("judge", "judge(spec, needs={}, asks={}) = allowed", 400_000, 100_000),
    step("directory", f'mkdir("/var/lib/dkr/containers/{ID}", 0700)', 500_000, 30_000),
    step("clone", "clone3({flags=CLONE_NEWUSER|CLONE_NEWPID}) = 8", 530_000, 700_000),
    step("await maps", 'recvfrom(sync) = "maps"', 600_000, 900_000, "init"),
    step("bind", 'open_tree(AT_FDCWD, "/usr"); openat2(root, "usr")', 1_230_000, 10_000),
    step("bind", 'open_tree(AT_FDCWD, "/etc/ssl"); openat2(root, "etc/ssl")', 1_240_000, 10_000),
    step("execve", 'execve("/bin/echo", ["/bin/echo", "hi"], envp /* 3 vars */)', 1_500_000, 300_000, "init"),
)


def test_it_is_told_in_order_with_all_that_belongs_to_a_step() -> None:
    lines = story(trace(*STEPS)).splitlines()
    assert lines[0] == "How /bin/echo hi was started, step by step"
    assert ID in "\n".join(lines[:3])
    text = "\n".join(lines)
    assert re.findall(r"^ +(\d+)  ", text, re.MULTILINE) == [str(n) for n in range(1, 9)]
    at = lines.index(next(line for line in lines if line.startswith("  4  clone")))
    assert lines[at].endswith(" 0.70 ms *")
    assert lines[at + 1] == "       clone3({flags=CLONE_NEWUSER|CLONE_NEWPID}) = 8"
    assert lines[at + 2].startswith("     Init is born: ")
    assert "     [dkrd/runtime/build.py, clone(2), pid_namespaces(7)]" in lines
    assert "8 steps, 1.80 ms in all" in text
    assert "* the slowest: 4 clone (0.70 ms), 1 fork (0.40 ms), 8 execve (0.30 ms)" in " ".join(text.split())


def test_a_wait_is_marked_and_is_not_slow() -> None:
    text = story(trace(*STEPS))
    assert re.search(r"await maps +0\.90 ms ~$", text, re.MULTILINE)
    assert "await maps (" not in text


def test_what_repeats_itself_is_short() -> None:
    text = story(trace(*STEPS))
    assert re.search(r"^  6    etc/ssl +0\.01 ms$", text, re.MULTILINE)
    assert text.count("What the root `host` shows") == 1


def test_an_id_is_short_but_at_the_top() -> None:
    assert 'mkdir("/var/lib/dkr/containers/0123456789ab…", 0700)' in story(trace(*STEPS))


@pytest.mark.parametrize("width", [40, 61, 80, 133])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    long = step("mount", "fsconfig(fs, {" + ", ".join(["option=value"] * 40) + "}); " + "x" * 300, 1, 2)
    failed = step("cgroup", "mkdir(x)", 3, 4, failed=True)
    error = {"message": "cannot " + "do " * 60, "hint": "hint " * 60, "errno": 28, "step": "cgroup"}
    told = story(trace(*STEPS, long, failed, outcome="failed", error=error), width)
    assert max(map(len, told.splitlines())) <= width
    assert not any(line.endswith(" ") for line in told.splitlines())


def test_a_failed_start_says_where_and_why() -> None:
    failed = step("execve", 'execve("/bin/no", ["/bin/no"], envp /* 1 vars */)', 5, 6, "init", failed=True)
    error = {"code": "command-not-found", "message": "cannot run '/bin/no': …", "step": "execve", "errno": 2}
    text = story(trace(*STEPS[:3], failed, outcome="failed", error=error))
    assert text.startswith("How /bin/echo hi did not start")
    assert re.search(r"^  4  execve +failed +0\.00 ms", text, re.MULTILINE)
    assert "envp /* 1 vars */) = -1 ENOENT (no such file or directory)" in " ".join(text.split())
    assert "     cannot run '/bin/no': …" in text


def test_of_several_calls_none_is_accused() -> None:
    failed = step("cgroup", 'mkdir("/a"); mkdir("/b")', 5, 6, failed=True)
    text = story(trace(failed, outcome="failed", error={"message": "no", "errno": 28}))
    assert '       mkdir("/b")\n     one of these failed with ENOSPC (no space left on device)' in text


def test_a_step_that_nobody_knows_is_shown() -> None:
    text = story(trace(step("teleport", "beam(up)", 0, 5_000_000, "warp")))
    assert "  1  teleport" in text
    assert "       beam(up)" in text
    assert "warp, at 0.00 ms" in text


def test_what_was_left_out_is_told() -> None:
    assert "900 more steps are left out" in story(trace(*STEPS, omitted=900))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"steps": None, "command": 3, "id": []},
        {"steps": [1, None, {}, {"name": 5, "call": None, "start": "x", "duration": True}]},
        {"steps": [{"name": "x", "failed": True}], "error": "no object", "outcome": "failed"},
    ],
)
def test_whatever_comes_is_told_somehow(broken: dict[str, Any]) -> None:
    assert story(broken).endswith("\n")


def test_nothing_steers_the_terminal() -> None:
    evil = step("\x1b[2Jx", "call(\x1b]0;owned\x07)", 0, 1)
    told = story(trace(evil, command=["\x1b[31m"], begun="\x1b[0m"))
    assert "\x1b" not in told
    assert "\x07" not in told


def test_colour_is_beside_the_text_and_nothing_else() -> None:
    coloured = story(trace(*STEPS), coloured=True)
    assert "\x1b[1m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == story(trace(*STEPS))


@pytest.mark.parametrize("text", ["", "a", "A|B|C", "a b", "x" * 50, "open(A|B, c) = -1", "  two  spaces "])
@pytest.mark.parametrize("width", [3, 7, 20])
def test_wrapping_loses_nothing_but_spaces(text: str, width: int) -> None:
    lines = wrap(text, width, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert max(map(len, lines)) <= width


def test_repeats_know_shape_and_words() -> None:
    repeats = Repeats()
    assert repeats.short("bind", ['f("/a")', 'g("a")']) is None
    assert repeats.short("bind", ['f("/b")', 'g("b")']) == "b"
    assert repeats.short("bind", ['f("/c")']) is None  # another shape
    assert repeats.short("bind", ['f("/c")', 'g("c", X)']) is None
    assert repeats.short("bind", ['f("/d")', 'g("d")']) == "d"
    assert repeats.short("mask", ['f("/e")', 'g("e")']) is None  # another name
    assert repeats.short("mask", ['f("/m") = -1 ENOENT']) is None
    assert repeats.short("mask", ['f("/n") = -1 ENOENT']) == "n = -1 ENOENT"


# The table


def test_every_file_is_there() -> None:
    assert [why.file for why in WHYS.values() if not (REPOSITORY / why.file).is_file()] == []


def test_every_page_is_one_of_man() -> None:
    pages = [page for why in WHYS.values() for page in why.pages]
    assert [page for page in pages if not re.fullmatch(r"[a-z][a-z0-9_.-]*\([1-8]\)", page)] == []


def test_every_why_is_a_sentence() -> None:
    for name, why in WHYS.items():
        assert re.fullmatch(r"[A-Z0-9].*[.)]", why.sentence), name
        assert len(why.sentence) <= 220, name


def test_every_section_begins_with_a_step_of_the_table() -> None:
    assert [name for _, name in SECTIONS if name not in WHYS] == []


def test_what_is_explained_is_what_is_counted() -> None:
    assert set(WHYS) == start_steps.NAMES


# Perfetto


def check_event(event: dict[str, Any]) -> None:
    """What the format's document asks of the two kinds of events that we use."""
    assert isinstance(event["name"], str)
    assert type(event["pid"]) is int
    assert type(event["tid"]) is int
    if event["ph"] == "X":
        assert isinstance(event["cat"], str)
        for key in ("ts", "dur"):  # microseconds, a fraction is allowed
            assert type(event[key]) in (int, float)
            assert event[key] >= 0
        assert set(event) <= {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
    else:
        assert event["ph"] == "M"
        assert event["name"] in ("process_name", "thread_name", "process_sort_index")
        assert set(event["args"]) == {"sort_index" if event["name"].endswith("index") else "name"}
    assert isinstance(event.get("args", {}), dict)


def test_events_are_those_of_the_format() -> None:
    document = events(trace(*STEPS))
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    for event in document["traceEvents"]:
        check_event(event)
    complete = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in complete[:2]] == [("fork", 0, 400), ("judge", 400, 100)]
    assert complete[4]["cat"] == "wait"
    names = {e["pid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name"}
    assert [names[e["pid"]] for e in complete] == [s["process"] for s in STEPS]
    assert document["otherData"]["id"] == ID


def test_events_of_one_process_do_not_overlap() -> None:
    """Else the format would have one lie inside the other."""
    complete = [event for event in events(trace(*STEPS))["traceEvents"] if event["ph"] == "X"]
    for pid in {event["pid"] for event in complete}:
        own = sorted((e["ts"], e["dur"]) for e in complete if e["pid"] == pid)
        assert all(ts + dur <= after for (ts, dur), (after, _) in itertools.pairwise(own))
