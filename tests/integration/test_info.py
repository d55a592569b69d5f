"""GET /v1/info of a real daemon: true of the host, and of whoever asks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import request
from tests.reliability.support import eventually
from tests.security.callers import as_user

if TYPE_CHECKING:
    from tests.conftest import MakeDaemon
    from tests.daemon import Daemon
    from tests.host import User

pytestmark = pytest.mark.root


def told(daemon: Daemon, user: User | None = None) -> dict[str, Any]:

    def ask() -> Any:
        return request(daemon, "GET", "/v1/info")

    value = ask() if user is None else as_user(user, ask)
    assert isinstance(value, dict)
    return value


def test_the_host(daemon: Daemon) -> None:
    info = told(daemon)
    assert info["host"]["kernel"] == os.uname().release
    assert info["host"]["cpus"] == os.cpu_count()
    for feature in ("userNamespaces", "idmappedMounts", "overlay", "seccomp"):
        assert info["features"][feature] is True
    assert info["features"]["httpLifts"] is False
    by_name = {root["name"]: root["available"] for root in info["roots"]}
    assert by_name["host"] is True


def test_who_one_is(daemon: Daemon, tenant: User, admin: User) -> None:
    assert told(daemon)["you"] == {"uid": 0, "owner": 0, "role": "admin"}
    assert told(daemon, tenant)["you"] == {"uid": tenant.uid, "owner": tenant.uid, "role": "tenant"}
    assert told(daemon, admin)["you"] == {"uid": admin.uid, "owner": admin.uid, "role": "admin"}
    assert "containersPerUser" not in told(daemon)["limits"]
    assert told(daemon, admin)["limits"]["containersPerUser"] == 256


def test_whose_containers_are_counted(
    make_daemon: MakeDaemon, tenant: User, other_tenant: User, admin: User
) -> None:
    daemon = make_daemon()
    daemon.dkrctl("run", "--name", "kept", "/bin/true", user=tenant, check=True)
    eventually(lambda: told(daemon, tenant)["containers"]["stopped"] == 1, "its end is known")
    assert sum(told(daemon, other_tenant)["containers"].values()) == 0
    for user in (None, admin):
        assert told(daemon, user)["containers"]["stopped"] == 1

    request(daemon, "DELETE", "/v1/containers/kept")
    assert sum(told(daemon)["containers"].values()) == 0


def test_settings_that_were_read_again(make_daemon: MakeDaemon, tenant: User) -> None:
    daemon = make_daemon(limits={"containers_per_user": 9})
    assert told(daemon, tenant)["limits"]["containersPerUser"] == 9
    path = daemon.directory / "dkrd.toml"
    path.write_text(
        "http_lifts = true\n" + path.read_text().replace("containers_per_user = 9", "containers_per_user = 8")
    )
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: told(daemon, tenant)["limits"]["containersPerUser"] == 8, "the new bound is told")
    assert told(daemon, tenant)["features"]["httpLifts"] is True
