"""Clients that come and go: who may attach, what each of them sees, asks for, and leaves behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests import host
from tests.integration.conftest import request
from tests.sessions import (
    ECHO,
    GUARD_SECONDS,
    Client,
    Refused,
    echoing,
    gone,
    refusal,
    says,
    start_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


@pytest.fixture
def holder(daemon: Daemon) -> Iterator[Client]:
    """Root's client that has started ECHO and holds its terminal."""
    yield from echoing(daemon)


# --- who may


def test_others_containers_are_not_there(
    daemon: Daemon, tenant: User, other_tenant: User, admin: User
) -> None:
    with Client(daemon, tenant).run("/bin/sh", "-c", ECHO, name="mine", rm=True) as mine:
        mine.until("up\r\n")
        for name in ("mine", mine.id, mine.id[:12]):
            error = refusal(daemon, name, other_tenant)
            assert (error.status, error.why) == (404, ("not-found", None))
        with Client(daemon, admin).attach(mine.id, holder=mine) as guest:
            says(guest, "admin", mine)
            with Client(daemon).attach("mine") as root:
                says(root, "root", mine, guest)
        with Client(daemon, tenant).attach("mine") as second:
            says(second, "self", mine)
    gone(daemon)


def test_one_who_has_ended(daemon: Daemon) -> None:
    with Client(daemon).run("/bin/true", name="ended") as client:
        assert client.exit()["code"] == 0
    try:
        # The api may not have heard yet: then root's side says the same.
        error = refusal(daemon, "ended")
        assert error.why == ("conflict", "ended")
        gone(daemon)
        while request(daemon, "GET", "/v1/containers/ended")["status"] != "stopped":
            continue
        error = refusal(daemon, "ended")
        assert (error.status, error.why) == (409, ("conflict", "ended"))
    finally:
        request(daemon, "DELETE", "/v1/containers/ended")
    assert refusal(daemon, "ended").why == ("not-found", None)


def test_one_without_a_terminal_says_why(daemon: Daemon) -> None:
    with Client(daemon) as client, open("/dev/null", "r+b") as null:
        wanted = {"args": ["/bin/sleep", "600"], "rm": True}
        client.post("/v1/run", wanted)
        client.hand_over()
        client.send(start_frame(wanted, stdio=[0, 1, 2]), *[null.fileno()] * 3)
        client.wait_for("started")
        error = refusal(daemon, client.id)
        assert error.why == ("conflict", "no-terminal")
        assert "its caller's own descriptors" in error.error["message"]
    gone(daemon)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 1}, "protocol"),
        ({"type": "start"}, "protocol"),
        ({"more": 1}, "protocol"),
        ({"stdin": 1}, "protocol"),
        ({"height": -1}, "protocol"),
        ({"width": 65536}, "protocol"),
        ({"width": True}, "protocol"),
        ({"onDisconnect": "dance"}, "protocol"),
        ({"container": "0" * 64}, "not-permitted"),
        ({"container": None}, "not-permitted"),
    ],
)
def test_a_first_frame_that_is_none(daemon: Daemon, holder: Client, change: Any, code: str) -> None:
    assert refusal(daemon, holder.id, **change).error["code"] == code
    says(holder, "unmoved")  # it was not even asked to yield


def test_descriptors_with_the_first_frame(daemon: Daemon, holder: Client) -> None:
    with Client(daemon) as client, open("/dev/null") as null:
        client.post(f"/v1/containers/{holder.id}/attach")
        client.hand_over()
        client.send(client.first_frame(), null.fileno())
        with pytest.raises(Refused) as refused:
            client.attached()
        assert refused.value.error["code"] == "protocol"


def test_who_says_nothing_is_in_nobodys_way(daemon: Daemon, holder: Client) -> None:
    with Client(daemon) as silent, Client(daemon) as babbling:
        for client in (silent, babbling):
            client.post(f"/v1/containers/{holder.id}/attach")
            client.hand_over()
        babbling.send(b"\xff\xff")
        with Client(daemon).attach(holder.id, holder=holder) as guest:
            says(guest, "on", holder)
            with pytest.raises(Refused) as refused:
                babbling.attached()
            assert refused.value.error["code"] == "protocol"
            # Ten seconds; the end of the command is no shorter way for it to hear that it is too late.
            with pytest.raises(Refused) as refused:
                silent.attached()
            assert "no first frame within" in refused.value.error["message"]
            says(guest, "still", holder)


# --- the holder's answer


def test_a_holder_that_does_not_yield_is_in_the_way_for_2_seconds(daemon: Daemon, holder: Client) -> None:
    assert refusal(daemon, holder.id).why == ("conflict", "busy")
    assert refusal(daemon, holder.id).why == ("conflict", "busy")
    says(holder, "mine")
    holder.relay()  # asked once, and honoured later
    says(holder, "relayed")
    with Client(daemon).attach(holder.id) as guest:
        says(guest, "both", holder)


def test_two_who_come_at_once_are_served_by_one_answer(daemon: Daemon, holder: Client) -> None:
    with Client(daemon).ask_to_attach(holder.id) as one, Client(daemon).ask_to_attach(holder.id) as other:
        holder.relay()
        for client in (one, other):
            client.attached()
        says(one, "one", other, holder)
        says(other, "other", one, holder)
        holder.type("end 0\r")
        assert holder.exit()["code"] == 0
        assert holder.kept == []  # it was asked once


@pytest.mark.parametrize("detaches", [True, False])
def test_a_holder_that_goes_instead_of_yielding(daemon: Daemon, detaches: bool) -> None:
    with Client(daemon).run("/bin/sh", "-c", ECHO, rm=True, onDisconnect="stop") as holder:
        holder.until("up\r\n")
        with (
            Client(daemon).ask_to_attach(holder.id) as guest,
            Client(daemon).ask_to_attach(holder.id) as more,
        ):
            holder.wait_for("yield")
            holder.type("unread\r")
            holder.detach() if detaches else holder.close()
            for client in (guest, more):
                client.attached()
            # Not the last one: its wish does not count. What nobody has read yet is for those who came.
            guest.until("got unread\r\n")
            says(guest, "on", more)
            guest.type("end 0\r")
            assert (guest.exit()["cause"], more.exit()["cause"]) == ("exited", "exited")
    gone(daemon)


@pytest.mark.parametrize("answers", [True, False])
def test_a_command_that_ends_while_the_holder_is_asked(daemon: Daemon, answers: bool) -> None:
    """The container is cleaned up at once; the rest of what it wrote comes where the holder then reads."""
    with Client(daemon).run("/bin/sh", "-c", f"{ECHO}; echo rest", name="brief") as holder:
        holder.until("up\r\n")
        with Client(daemon).ask_to_attach(holder.id) as guest:
            _, stream = holder.wait_for("yield")
            holder.type("one\rend 3\r")
            assert host.wait_gone(holder.pid, GUARD_SECONDS)
            with pytest.raises(Refused) as refused:
                guest.attached()
            assert refused.value.why == ("conflict", "ended")
        while request(daemon, "GET", "/v1/containers/brief")["status"] != "stopped":
            continue
        request(daemon, "DELETE", "/v1/containers/brief")
        holder.let_go()
        holder.terminal, holder.master = stream, False
        if answers:
            holder.send({"type": "relay"})
        assert holder.read_to_end() == b"got one\r\n"
        assert holder.exit()["code"] == 3
    gone(daemon)


def test_relay_is_an_answer_and_nothing_else(daemon: Daemon, holder: Client) -> None:
    holder.send({"type": "relay"})
    with pytest.raises(Refused) as refused:
        holder.exit()
    assert refused.value.error["code"] == "protocol"


def test_who_holds_the_terminal_resizes_it_itself(daemon: Daemon, holder: Client) -> None:
    holder.send({"type": "resize", "height": 1, "width": 2})
    with pytest.raises(Refused) as refused:
        holder.exit()
    assert refused.value.error["code"] == "protocol"


# --- when it begins, and when it ends


def test_who_asks_during_the_start_is_attached_after_it(daemon: Daemon) -> None:
    wanted = {"args": ["/bin/sh", "-c", ECHO], "terminal": True, "rm": True}
    with Client(daemon) as holder, Client(daemon) as guest:
        holder.post("/v1/run", wanted)
        holder.hand_over()
        holder.send(start_frame(wanted))
        guest.ask_to_attach(holder.id)
        _, holder.terminal = holder.wait_for("started")
        os.set_blocking(holder.terminal, False)
        holder.relay()
        guest.attached()
        guest.until("up\r\n")
        says(guest, "early", holder)
    gone(daemon)


def test_who_asks_for_one_that_never_starts(daemon: Daemon) -> None:
    wanted = {"args": ["/bin/nosuch"], "terminal": True}
    with Client(daemon) as holder, Client(daemon) as guest:
        holder.post("/v1/run", wanted)
        holder.hand_over()
        guest.post(f"/v1/containers/{holder.id}/attach")
        holder.send(start_frame(wanted))
        with pytest.raises(Refused) as refused:
            guest.hand_over()
        assert refused.value.error["code"] == "not-found"
    gone(daemon)


def test_attaching_at_the_moment_of_the_end_is_one_or_the_other(daemon: Daemon) -> None:
    seen: set[tuple[str, str | None]] = set()
    for _ in range(8):
        with Client(daemon).run("/bin/true", rm=True) as holder, Client(daemon) as guest:
            holder.let_go()
            try:
                guest.ask_to_attach(holder.id)
                guest.attached()
                seen.add((str(guest.exit()["cause"]), None))
            except Refused as err:
                seen.add(err.why)
            except BrokenPipeError:
                seen.add(("conflict", "ended"))  # said before the first frame was sent
            assert holder.exit()["code"] == 0
    assert seen <= {("exited", None), ("conflict", "ended"), ("not-found", None)}
    gone(daemon)


# --- HTTP


def test_without_an_upgrade_426(daemon: Daemon, holder: Client) -> None:
    with Client(daemon) as client, pytest.raises(Refused) as refused:
        client.post(f"/v1/containers/{holder.id}/attach", upgrade="websocket")
    assert refused.value.status == 426


def test_a_body_is_not_wanted(daemon: Daemon, holder: Client) -> None:
    with Client(daemon) as client, pytest.raises(Refused) as refused:
        client.post(f"/v1/containers/{holder.id}/attach", {})
    assert (refused.value.status, refused.value.error["code"]) == (400, "bad-request")


def test_the_lesser_of_connection_and_frame_counts(daemon: Daemon, holder: Client, tenant: User) -> None:
    """Root's connection in a tenant's hands attaches to nothing of root's."""
    with Client(daemon) as client:
        client.post(f"/v1/containers/{holder.id}/attach")
        client.hand_over()
        client.user = tenant
        client.send(client.first_frame())
        with pytest.raises(Refused) as refused:
            client.attached()
        assert refused.value.error["code"] == "not-found"
    says(holder, "unmoved")
