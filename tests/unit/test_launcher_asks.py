"""What is asked of containers, through the real launcher: every way that a guardian may answer, or not."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from dkrd.launcher import asks as asks_of_launcher
from tests import host
from tests.unit.api_process import eventually
from tests.unit.launcher_process import Daemon, as_user, gone, launcher

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the launcher runs as root")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with launcher() as made:
        made.start()
        yield made


def look(daemon: Daemon, container: str, do: str = "answer", **more: object) -> Any:
    return daemon.ask(do="ask", id=container, ask={"type": "look", "do": do, **more})


def descriptors(daemon: Daemon) -> int:
    """How many the launcher has once it is at rest: behind a start it forks the next guardian, behind an answer it closes things."""
    assert daemon.process is not None
    found, same = -1, 0
    while same < 5:
        before, found = found, len(host.descriptors(daemon.process.pid))
        same = same + 1 if found == before else 0
        time.sleep(0.01)
    return found


def let_go(daemon: Daemon, before: int) -> None:
    """Waits until it has no more than `before`, when something may have been closing for longer than was looked."""
    eventually(lambda: descriptors(daemon) <= before)


def identity(daemon: Daemon) -> list[int]:
    status = daemon.socket.stat()
    return [status.st_dev, status.st_ino]


def test_the_guardian_gets_the_ask_with_the_connection_and_where_it_was_accepted(daemon: Daemon) -> None:
    container, _, _ = daemon.running()
    before = descriptors(daemon)
    answer = look(daemon, container, more=[1, {"x": None}])
    assert (answer["type"], answer["seq"]) == ("done", 2)
    value = answer["value"]
    assert value["uid"] == 0
    assert value["descriptors"] == 1
    assert value["message"] == {
        "type": "ask",
        "version": 1,
        "listener": identity(daemon),
        "ask": {"type": "look", "do": "answer", "more": [1, {"x": None}]},
    }
    uid = as_user(4711, lambda: look(daemon, container)["value"]["uid"])
    assert uid == 4711
    assert look(daemon, container, "babble")["value"]["uid"] == 0
    let_go(daemon, before)


def test_what_the_guardian_refuses_is_passed_on(daemon: Daemon) -> None:
    container, _, _ = daemon.running()
    answer = look(daemon, container, "refuse")
    assert answer["type"] == "refused"
    assert answer["error"] == {"code": "conflict", "message": "no", "rule": "busy"}
    assert f"refused seq=2 uid=0 id={container} to=look code=conflict rule=busy" in daemon.log()


def test_an_adopted_guardian_is_asked_with_the_new_sockets_identity(daemon: Daemon) -> None:
    container, _, _ = daemon.running()
    first = identity(daemon)
    daemon.stop(signal.SIGKILL)
    daemon.socket.rename(daemon.run / "old")  # or the new socket might get its inode
    daemon.start()
    assert identity(daemon) != first
    assert look(daemon, container)["value"]["message"]["listener"] == identity(daemon)


@pytest.mark.parametrize("do", ["hang up", "die"])
def test_where_no_guardian_answers_a_job_does(daemon: Daemon, do: str) -> None:
    container, shim, init = daemon.running()
    answer = look(daemon, container, do)
    assert answer["error"]["message"] == "cannot look: it has ended"
    if do == "die":
        gone(shim)
        assert look(daemon, container)["error"]["message"] == "cannot look: it has ended"
    os.kill(init, signal.SIGUSR1)
    assert daemon.told("gone", container)


def test_a_container_that_is_not_there(daemon: Daemon) -> None:
    assert look(daemon, "22" * 32)["error"]["code"] == "conflict"
    assert look(daemon, "11" * 32)["error"]["code"] == "not-found"
    assert look(daemon, "00" * 32) == {"type": "done", "seq": 3, "value": {"last": "words"}}


@pytest.mark.parametrize("container", ["", "../../etc", "0" * 63, "g" * 64, "A" * 64])
def test_only_a_full_id_becomes_part_of_a_path(daemon: Daemon, container: str) -> None:
    assert look(daemon, container)["error"]["code"] == "bad-request"


def test_one_that_is_silent_holds_up_nobody_and_is_given_up(daemon: Daemon) -> None:
    """And one user has so many questions under way, not more."""
    container, _, _ = daemon.running()
    other, _, _ = daemon.running()
    before = descriptors(daemon)
    silence, answer = {"type": "look", "do": "silence"}, {"type": "look", "do": "answer"}
    asks = (
        [[container, silence]] * (asks_of_launcher.MAX_OF_ONE - 1)
        + [[other, answer]]
        + [[container, silence]] * 3
    )
    answers = as_user(4711, lambda: daemon.ask(do="ask_all", asks=asks))
    codes = [answer.get("error", {}).get("code", "done") for answer in answers]
    assert codes.count("limit-reached") in (2, 3)  # one finds room where the answer came first
    assert codes.index("done") <= 3
    assert set(codes[-asks_of_launcher.MAX_OF_ONE + 1 :]) == {"unavailable"}
    let_go(daemon, before)


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("listener", "evidence-listening"),
        ("channel", "evidence-type"),
        ("pair", "evidence-origin"),
        ("connecting", "evidence-origin"),
        ("self", "evidence-api"),
        ("file", "evidence-type"),
    ],
)
def test_forged_evidence_reaches_no_guardian(daemon: Daemon, what: str, rule: str) -> None:
    container, _, _ = daemon.running()
    before = descriptors(daemon)
    answer = daemon.ask(do="forge", what=what, id=container)
    assert answer["type"] == "refused"
    assert answer["error"]["rule"] == rule
    let_go(daemon, before)


@pytest.mark.parametrize(
    "body",
    [
        '"ask": {"type": "look"}',
        '"id": "1"',
        '"id": "1", "ask": "look"',
        '"id": "1", "ask": {"type": "other"}',
        '"id": "1", "ask": {"type": ["look"]}',
        '"id": "1", "ask": {}',
        '"id": "1", "ask": {"type": "look"}, "more": 1',
    ],
)
def test_an_ask_of_another_form_ends_the_api(daemon: Daemon, body: str) -> None:
    api = daemon.ask(do="pid")["pid"]
    daemon.ask(do="raw", data=f'{{"type": "ask", "seq": 1, {body}}}', descriptors=1)
    gone(api)
    daemon.notified("READY=1")
    assert daemon.ask(do="pid")["pid"] != api


def test_an_answer_to_an_api_that_is_gone_is_told_to_nobody(daemon: Daemon) -> None:
    """The next api would take it for an answer to a question of its own."""
    container, _, _ = daemon.running()
    api = daemon.ask(do="pid")["pid"]
    with daemon.connect() as sock:
        sock.sendall(
            json.dumps({"do": "ask", "id": container, "ask": {"type": "look", "do": "late"}}).encode()
        )
        asked = daemon.run / "containers" / container / "asked"
        while not asked.exists():
            os.sched_yield()
        os.kill(api, signal.SIGKILL)
        gone(api)
        daemon.notified("READY=1")
        asked.unlink()  # now it answers
    assert look(daemon, container)["type"] == "done"
    assert daemon.ask(do="seen", type="done") == []
