"""GET /v1/events of the api alone, with the test in the launcher's place."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from common.clock import now
from tests.sessions import acting_as
from tests.unit.api_process import Api, Client, api_directory, eventually, state

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = "1" * 64, "2" * 64
T = "2026-01-31T12:00:0{}.000000000Z"
THREE = {"code": 3, "signal": None, "cause": "exited"}


@pytest.fixture
def api() -> Iterator[Api]:
    with api_directory() as made:
        yield made


class Reader:
    """A client of /v1/events. It has its place once it exists."""

    def __init__(self, api: Api, query: str = "") -> None:
        self.client: Client = api.client()
        self.client.send("GET", f"/v1/events{query}")
        answer = self.client.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        self._file = self.client.sock.makefile("rb")
        self._rest = b""

    def next(self) -> Any:
        """The next event; None at the end."""
        while b"\n" not in self._rest:
            size = int(self._file.readline(), 16)
            data = self._file.read(size + 2)
            if not size:
                return None
            self._rest += data[:-2]
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def rest(self) -> list[Any]:
        """All up to the end."""
        found = []
        while (event := self.next()) is not None:
            found.append(event)
        return found


def past(api: Api, query: str = "") -> list[tuple[str, str]]:
    """All that has happened: (id's first digit, action)."""
    # Nothing of it is told with a time to come: it ends by itself.
    found = Reader(api, f"?until={now()}&since=2000-01-01T00:00:00Z{query}")
    return [(event["id"][0], event["action"]) for event in found.rest()]


def say(api: Api, number: int, kind: str = "state", container: str = ONE, **changes: Any) -> None:
    """A numbered report, as the launcher's."""
    if kind == "state":
        api.say({"type": "state", "state": state(container, **changes), "number": number})
    else:
        api.say({"type": kind, "id": container, "time": T.format(5), "number": number, **changes})


def noted(api: Api) -> int:
    """What the api says to have written down."""
    message, _ = api.hear()
    assert message["type"] == "noted", message
    number = message["number"]
    assert isinstance(number, int)
    return number


def until_noted(api: Api, number: int) -> None:
    while noted(api) != number:
        pass


def test_a_further_command_is_made_and_started_at_once(api: Api) -> None:
    api.start()
    reader = Reader(api)
    say(api, 1)
    assert [reader.next()["action"] for _ in range(2)] == ["create", "start"]
    say(api, 2, "event", action="exec_start", execID="ee" * 32, command="/bin/true")
    say(api, 3, "event", action="exec_die", execID="ee" * 32, exit=THREE)
    found = [reader.next() for _ in range(3)]
    assert [event["action"] for event in found] == ["exec_create", "exec_start", "exec_die"]
    assert [event["execID"] for event in found] == ["ee" * 32] * 3
    assert [event.get("command") for event in found] == ["/bin/true", "/bin/true", None]
    assert found[2]["exit"] == THREE
    until_noted(api, 3)


def test_they_come_as_they_are_written_down(api: Api) -> None:
    api.start()
    reader = Reader(api)
    say(api, 1)
    assert [reader.next()["action"] for _ in range(2)] == ["create", "start"]
    say(api, 2, "event", action="kill", signal=15)
    event = reader.next()
    assert (event["action"], event["signal"], event["time"]) == ("kill", 15, T.format(5))
    say(api, 3, status="stopped", finished=T.format(6), exit=THREE)
    assert reader.next() == {
        "time": T.format(6),
        "type": "container",
        "action": "die",
        "id": ONE,
        "name": "n" + "1" * 8,
        "uid": os.getuid(),
        "image": "",
        "labels": {},
        "exit": THREE,
    }
    until_noted(api, 3)


def test_what_another_api_did_not_write_down_comes_once(api: Api) -> None:
    """It is in the next one's hello; so is what was written down, but not yet said to be."""
    api.start()
    api.kill()
    reports = [
        {"type": "state", "state": state(ONE, rm=True), "number": 1},
        {
            "type": "state",
            "state": state(ONE, rm=True, status="stopped", finished=T.format(3), exit=THREE),
            "number": 2,
        },
        {"type": "gone", "id": ONE, "time": T.format(4), "number": 3},
    ]
    for unheard in (reports[:2], reports, reports):
        api.spawn()
        api.say(
            {"type": "hello", "version": 2, **api.facts(), "containers": [], "epoch": "e", "unheard": unheard}
        )
        assert api.hear()[0] == {"type": "ready"}, api.told()
        until_noted(api, len(unheard))
        last = past(api)
        api.kill()
    assert last == [("1", action) for action in ("create", "start", "die", "destroy")]


def test_of_another_launcher_the_numbers_begin_anew(api: Api) -> None:
    for epoch, container in (("e", ONE), ("f", TWO)):
        api.spawn()
        unheard = [{"type": "state", "state": state(container), "number": 1}]
        api.say(
            {
                "type": "hello",
                "version": 2,
                **api.facts(),
                "containers": [],
                "epoch": epoch,
                "unheard": unheard,
            }
        )
        assert api.hear()[0] == {"type": "ready"}, api.told()
        if epoch == "e":
            api.kill()
    assert ("2", "start") in past(api)


def test_a_reader_that_does_not_read_is_told_what_it_lost(api: Api) -> None:
    api.start([state(ONE)])
    quick, stuck = Reader(api, "?filter=event=die"), Reader(api)
    # More than the sockets of one that does not read take, and then more than is kept.
    number = 0
    while number < 12_000:
        number += 1
        say(api, number, "event", action="kill", signal=1)
        if number % 1000 == 0:
            until_noted(api, number)
    say(api, number + 1, status="stopped", finished=T.format(6), exit=THREE)
    assert quick.next()["action"] == "die"
    *events, last = stuck.rest()
    assert {event["action"] for event in events} == {"kill"}
    assert last["type"] == "error"
    assert last["error"]["code"] == "limit-reached"
    assert f"those between {events[-1]['time']} and 2026-" in last["error"]["message"]
    times = [event["time"] for event in events]
    assert times == sorted(set(times))
    # Who comes now is told what is there.
    assert past(api)[-1] == ("1", "die")


def test_whoever_goes_leaves_nothing(api: Api) -> None:
    api.start()
    before = api.descriptors()
    for _ in range(3):
        Reader(api).client.close()
    eventually(lambda: api.descriptors() == before)
    say(api, 1)
    until_noted(api, 1)
    assert "Traceback" not in api.told()


def test_a_user_has_so_many_readers(api: Api) -> None:
    """Root has no bound: another one asks."""
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    api.start()
    readers = []
    with acting_as(4711):
        readers += [Reader(api) for _ in range(32)]
        client = api.client()
    answer = client.ask("GET", "/v1/events")
    assert (answer.status, answer.json()["code"]) == (429, "limit-reached")
    say(api, 1, uid=4711)
    assert [reader.next()["action"] for reader in readers] == ["create"] * 32
    readers.pop().client.close()
    with acting_as(4711):
        client = api.client()
    client.send("GET", "/v1/events?until=2026-01-31T13:00:00Z")
    # It may come before the end of the other is known.
    while client.answer().status == 429:
        client.send("GET", "/v1/events?until=2026-01-31T13:00:00Z")
    assert Reader(api, "?until=2026-01-31T13:00:00Z").rest()[0]["uid"] == 4711


def test_others_events_do_not_make_one_lose_its_own(api: Api) -> None:
    """Whose events do not come for long has its place in the index."""
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    api.start([state(ONE, uid=4711), state(TWO, uid=4712)])
    with acting_as(4711):
        reader = Reader(api)
    for number in range(1, 600):
        say(api, number, "event", TWO, action="kill", signal=1)
    say(api, 600, "event", ONE, action="kill", signal=9)
    event = reader.next()
    assert (event["id"], event["signal"]) == (ONE, 9)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("filter=volume%3Dx", "cannot filter by 'volume': there is no such key"),
        ("filter=event%3Dbirth", "cannot filter by event=birth: there is no such event"),
        ("filter=type%3Dimage", "cannot filter by type=image: there is no such type"),
        ("filter=label", "cannot filter by label: its value is missing"),
        ("filter=container%3D", "cannot filter by container: its value is missing"),
        ("since=yesterday", "since: a time of RFC 3339 is wanted"),
        ("since=2026-01-31T12:00:00Z&since=2026-01-31T12:00:00Z", "since: is given twice"),
        ("after=5", "after: unknown key"),
        ("&".join(["filter=label%3Dx"] * 65), "filter: holds 65 filters"),
    ],
)
def test_what_means_nothing(api: Api, query: str, wanted: str) -> None:
    api.start()
    answer = api.ask("GET", f"/v1/events?{query}")
    assert answer.status == 400
    assert wanted in answer.json()["detail"]


def test_until_a_time_that_is_over(api: Api) -> None:
    api.start()
    say(api, 1)
    say(api, 2, status="stopped", finished=T.format(6), exit=THREE)
    until_noted(api, 2)
    until = "until=2026-01-31T12:00:00.5Z"
    assert [event["action"] for event in Reader(api, f"?{until}").rest()] == ["create", "start"]
    since = "since=2026-01-31T12:00:00.005Z"
    assert [event["action"] for event in Reader(api, f"?{until}&{since}").rest()] == ["start"]
    chosen = "filter=event%3Ddie&filter=event%3Dcreate&filter=container%3D111"
    assert [event["action"] for event in Reader(api, f"?until=2026-02-01T00:00:00Z&{chosen}").rest()] == [
        "create",
        "die",
    ]
    assert Reader(api, "?until=2026-02-01T00:00:00Z&filter=label%3Dx").rest() == []
