"""Containers that stand: what a taken-over api, or another user, cannot do with one that was made and is to be started."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.security.test_attach import all_told
from tests.security.test_evidence import FORGERIES
from tests.sessions import Client, Refused, gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.security.taken_over import TakenOver

pytestmark = pytest.mark.root


def create(daemon: Daemon, user: host.User | None = None, deed: str = "honest", **request: Any) -> str:
    """The id of a container that `user` has made by a session. Raises Refused."""
    wanted = {"args": ["/bin/echo", "mine"], **request, "labels": {"evil": deed}}
    namespaces = wanted.get("namespaces", {})
    asks = [f"{kind}:host" for kind, scope in namespaces.items() if scope == "host"]
    with Client(daemon, user) as client:
        client.post("/v1/containers", wanted)
        client.hand_over()
        client.send({"type": "create", "version": 2, "request": wanted, "asks": asks})
        made, _ = client.wait_for("created")
        assert client.frame() is None
    return str(made["id"])


def sent_to(
    evil: TakenOver, container: str, user: host.User | None, wish: str, deed: str = "honest"
) -> Client:
    """A client whose connection the api uses to have something of this container."""
    client = Client(evil.daemon, user)
    client.post("/v1/run", {"args": ["/bin/true"], "labels": {"evil": f"{wish} {deed} {container}"}})
    return client


def verdict(
    evil: TakenOver, container: str, user: host.User | None, wish: str, deed: str = "honest"
) -> tuple[str, str | None, str | None]:
    """What the launcher answers then: type, code and rule."""
    before = len(all_told(evil, "answer"))
    with sent_to(evil, container, user, wish, deed):
        [answer] = all_told(evil, "answer")[before:]
    error = answer.get("error", {})
    return answer["type"], error.get("code"), error.get("rule")


def launch(client: Client, container: str) -> None:
    """The rest of a start. Raises Refused."""
    client.hand_over()
    client.send({"type": "launch", "version": 2, "container": container})
    client.wait_for("started")


@pytest.fixture
def victim(taken_over: TakenOver) -> Iterator[str]:
    """Root's container, made and not started; nothing has become of it when the test is over."""
    container = create(taken_over.daemon, namespaces={"uts": "host"})
    directory = taken_over.daemon.state_dir / "containers" / container
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    yield container
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    taken_over.run(f"remove {container}")
    gone(taken_over.daemon)


def test_the_truth_starts_it(taken_over: TakenOver, tenant: host.User) -> None:
    container = create(taken_over.daemon, tenant)
    for user in (tenant, None):  # root may start anybody's
        with sent_to(taken_over, container, user, "launch") as client:
            launch(client, container)
        gone(taken_over.daemon)
    assert verdict(taken_over, container, tenant, "logs")[0] == "done"
    assert taken_over.told("files")[-1] == 1
    taken_over.run(f"remove {container}", user=tenant)
    gone(taken_over.daemon)


@pytest.mark.parametrize("wish", ["launch", "logs"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_descriptor_of_roots_is_no_evidence(
    taken_over: TakenOver, victim: str, forgery: str, wish: str, tmp_path: Path
) -> None:
    make, rule = FORGERIES[forgery]
    with ExitStack() as stack:
        taken_over.put(make(stack, taken_over, tmp_path))
        assert verdict(taken_over, victim, None, wish, "given") == ("refused", "not-permitted", rule)


@pytest.mark.parametrize("wish", ["launch", "logs"])
@pytest.mark.parametrize(("deed", "rule"), [("listener", "evidence-listening"), ("own", "evidence-api")])
def test_what_the_api_has_itself_is_no_evidence(
    taken_over: TakenOver, victim: str, wish: str, deed: str, rule: str
) -> None:
    assert verdict(taken_over, victim, None, wish, deed) == ("refused", "not-permitted", rule)


@pytest.mark.parametrize("wish", ["launch", "logs"])
def test_a_tenants_connection_has_nothing_of_others(
    taken_over: TakenOver, victim: str, tenant: host.User, wish: str
) -> None:
    for container in (victim, "0" * 64):
        assert verdict(taken_over, container, tenant, wish) == ("refused", "not-found", None)


@pytest.mark.parametrize("word", ["../../../etc", "0" * 63, "G" * 64])
def test_what_is_no_id_becomes_no_path(taken_over: TakenOver, victim: str, word: str) -> None:
    assert verdict(taken_over, word, None, "launch") == ("refused", "bad-request", None)


def test_a_client_starts_no_other_container_than_it_wants(taken_over: TakenOver, victim: str) -> None:
    """Both are its own, root's: the api leads it to the other."""
    wanted = create(taken_over.daemon)
    for frame in (
        {"type": "launch", "version": 2, "container": wanted},
        {
            "type": "attach",
            "version": 2,
            "container": wanted,
            "onDisconnect": "keep",
            "stdin": True,
            "height": 0,
            "width": 0,
        },
    ):
        with sent_to(taken_over, victim, None, "launch") as client:
            client.hand_over()
            client.send(frame)
            with pytest.raises(Refused) as refused:
                client.wait_for("started")
            assert refused.value.why == ("not-permitted", "other-container")
    taken_over.run(f"remove {wanted}")


def test_the_lesser_of_connection_and_frame_counts(
    taken_over: TakenOver, victim: str, tenant: host.User
) -> None:
    """Root's connection in a tenant's hands starts nothing of root's."""
    with sent_to(taken_over, victim, None, "launch") as client:
        client.user = tenant
        with pytest.raises(Refused) as refused:
            launch(client, victim)
        assert refused.value.error["code"] == "not-found"


def test_what_is_made_is_what_was_asked_for(taken_over: TakenOver, tenant: host.User) -> None:
    for user, deed in ((tenant, "swap args"), (None, "swap pid:host"), (tenant, "swap user")):
        with pytest.raises(Refused) as refused:
            create(taken_over.daemon, user, deed)
        assert refused.value.why == ("not-permitted", "request")
    taken_over.assert_nothing()


@pytest.mark.parametrize("kind", ["pid", "network", "user"])
def test_a_tenant_makes_nothing_beyond_its_defaults(daemon: Daemon, tenant: host.User, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        create(daemon, tenant, namespaces={kind: "host"})
    assert refused.value.why == ("not-permitted", f"{kind}-host")
    gone(daemon)


def test_over_plain_http_the_api_makes_nothing_for_root_that_root_did_not_ask_for(
    taken_over: TakenOver,
) -> None:
    taken_over.run("plain-create pid")
    assert taken_over.told("frame")[-1]["error"]["rule"] == "http"
    taken_over.assert_nothing()


def test_what_the_grant_does_not_hold_is_not_started(taken_over: TakenOver) -> None:
    """Its config.json would have to be another than the one that was judged: root's files, changed by nobody but root."""
    container = create(taken_over.daemon, namespaces={"uts": "host"})
    path = taken_over.daemon.state_dir / "containers" / container / "grant.json"
    path.write_text(path.read_text().replace('"uts:host"', ""))
    with sent_to(taken_over, container, None, "launch") as client, pytest.raises(Refused) as refused:
        launch(client, container)
    assert refused.value.why == ("not-permitted", "grant")
    taken_over.run(f"remove {container}")
    gone(taken_over.daemon)


def test_the_log_is_out_of_reach(daemon: Daemon, tenant: host.User, other_tenant: host.User) -> None:
    """In a directory of root's, and for nobody inside."""
    container = create(daemon, tenant)
    with Client(daemon, tenant) as client:
        client.post(f"/v1/containers/{container}/start")
        launch(client, container)
    gone(daemon)
    directory = daemon.state_dir / "containers"
    assert (directory.stat().st_mode & 0o077, directory.stat().st_uid) == (0, 0)
    assert (directory / container / "container.log").stat().st_mode & 0o777 == 0o600
    daemon.dkrctl("rm", container, user=tenant)
    gone(daemon)
