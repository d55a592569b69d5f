"""Copies over plain HTTP, in Docker's form, and from Python."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import socket
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from dkrctl.client import Client, Conflict, NotFound
from tests.integration.conftest import SHELL_SECONDS, Caller
from tests.integration.kept import made
from tests.reliability.support import ask, assert_same, eventually
from tests.sessions import acting_as

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import host
    from tests.daemon import Daemon
    from tests.reliability.support import Counts

pytestmark = pytest.mark.root

STAT = "X-Docker-Container-Path-Stat"


@pytest.fixture
def web(caller: Caller, at_rest: Counts) -> Iterator[Caller]:
    """Somebody whose container `web` stands; when it is gone so is all that copied."""
    with caller.standing():
        yield caller
    assert_same(caller.daemon, at_rest)
    assert "Traceback" not in caller.daemon.log


def asked(
    caller: Caller, method: str, query: str, body: Any = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request for an archive of `web`: the head of the answer, and its body."""
    connection = http.client.HTTPConnection("dkr")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(SHELL_SECONDS)
    with acting_as(caller.user):
        connection.sock.connect(str(caller.daemon.socket))
    try:
        connection.request(method, f"/v1/containers/web/archive?{query}", body)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def archive(**files: str) -> bytes:
    """A tar archive of such files, which belong to 7:8."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid = len(text), 7, 8
            tar.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


def test_what_is_there_is_told_as_docker_tells_it(web: Caller) -> None:
    web.exec(
        "web",
        "/bin/sh",
        "-c",
        "mkdir -m 1777 /tmp/d; ln -s d /tmp/l; echo words >/tmp/f; chmod 4711 /tmp/f",
        check=True,
    )
    for path, name, mode, link in (
        ("/tmp/f", "f", 1 << 23 | 0o711, ""),
        ("tmp/d/", "d", 1 << 31 | 1 << 20 | 0o777, ""),
        ("/tmp/l", "l", 1 << 27 | 0o777, "d"),
    ):
        answer, data = asked(web, "HEAD", f"path={path}")
        assert (answer.status, data) == (200, b"")
        told = json.loads(base64.b64decode(answer.headers[STAT]))
        assert (told["name"], told["mode"], told["linkTarget"]) == (name, mode, link)
    assert asked(web, "HEAD", "path=/none")[0].status == 404


def test_an_archive_and_back(web: Caller) -> None:
    answer, _ = asked(web, "PUT", "path=/tmp", archive(f="words\n"))
    assert answer.status == 204
    assert asked(web, "PUT", "path=/tmp&copyUIDGID=true", archive(g="words\n"))[0].status == 204
    done = web.exec("web", "/bin/sh", "-c", "cd /tmp; stat -c '%n %u:%g' f g; cat g", check=True)
    assert done.stdout == "f 0:0\ng 7:8\nwords\n"
    answer, data = asked(web, "GET", "path=/tmp/g")
    assert answer.headers["Content-Type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        [member] = tar.getmembers()
        assert (member.name, member.uid, member.gid) == ("g", 7, 8)


def test_what_cannot_be_is_a_problem(web: Caller) -> None:
    for method, query, body, status, words in (
        ("GET", "path=/none", None, 404, "cannot find /none in the container"),
        ("GET", "path=", None, 400, "path: is empty"),
        ("GET", "path=%00", None, 400, "path: holds a character that it cannot have"),
        ("GET", f"path={'x' * 4096}", None, 400, "path: is longer than 4095 characters"),
        ("GET", "", None, 400, "path: is missing"),
        ("PUT", "path=/none", archive(f="x"), 404, "cannot find /none in the container"),
        ("PUT", "path=/etc/passwd", archive(f="x"), 400, "that is no directory"),
        ("PUT", "path=/tmp", b"no archive" * 100, 400, "it is none, or is damaged"),
        ("PUT", "path=/tmp", archive(f="x" * 1000)[:700], 400, "it is cut off"),
        ("PUT", "path=/tmp", archive(**{"../f": "x"}), 400, "leads out"),
        ("POST", "path=/tmp", None, 426, "upgraded"),
    ):
        answer, data = asked(web, method, query, body)
        problem = json.loads(data)
        assert (answer.status, words in problem["detail"]) == (status, True), problem
    assert web.exec("web", "/bin/ls", "/tmp", check=True).stdout == ""


def test_over_plain_http_nothing_is_written_where_more_was_granted(daemon: Daemon, root: Caller) -> None:
    with root.standing("--network", "host"):
        answer, data = asked(root, "PUT", "path=/tmp", archive(f="x"))
        assert (answer.status, json.loads(data)["rule"]) == (403, "http")
        assert asked(root, "GET", "path=/etc/hostname")[0].status == 200
        assert daemon.dkrctl("cp", "/etc/hostname", "web:/tmp", check=True).returncode == 0


def test_one_that_is_paused_and_anothers(daemon: Daemon, root: Caller, other_tenant: host.User) -> None:
    with made(daemon, "/bin/sleep", "600", name="web"):
        daemon.dkrctl("pause", "web", check=True)
        assert ask(daemon, "GET", "/v1/containers/web/archive?path=/etc")[0] == 409
        stranger = Caller(daemon, other_tenant)
        for method in ("HEAD", "GET", "PUT"):
            assert asked(stranger, method, "path=/etc")[0].status == 404


def test_who_goes_away_ends_it(web: Caller) -> None:
    web.exec("web", "/bin/truncate", "-s", "1T", "/tmp/holes", check=True)
    with socket.socket(socket.AF_UNIX) as sock, acting_as(web.user):
        sock.connect(str(web.daemon.socket))
        sock.sendall(b"GET /v1/containers/web/archive?path=/tmp/holes HTTP/1.1\r\nHost: dkr\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
        assert [process for process in web.daemon.processes() if process.comm == "dkr-copy"]
    eventually(
        lambda: not [p for p in web.daemon.processes() if p.comm == "dkr-copy"], "no process copies any more"
    )


def test_from_python(daemon: Daemon, open_tmp: Path) -> None:
    async def copy() -> list[str]:
        async with Client(daemon.socket) as dkr:
            (open_tmp / "d").mkdir()
            (open_tmp / "d" / "f").write_text("words\n")
            assert await dkr.copy_to("web", open_tmp / "d", "/tmp/e") == []
            assert await dkr.copy_from("web", "/tmp/e/.", open_tmp / "back") == []
            with pytest.raises(NotFound):
                await dkr.copy_from("web", "/none", open_tmp)
            await dkr.exec_plain("web", "/bin/truncate", "-s", "1T", "/tmp/holes")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await dkr.copy_from("web", "/tmp/holes", open_tmp)
            await dkr.pause("web")
            with pytest.raises(Conflict):
                await dkr.copy_from("web", "/tmp", open_tmp)
            await dkr.unpause("web")
            return await dkr.copy_from("web", "/dev/null", open_tmp)

    with made(daemon, "/bin/sleep", "600", name="web"):
        [line] = asyncio.run(copy())
    assert "left out 1 of devices" in line
    assert (open_tmp / "back" / "f").read_text() == "words\n"
    assert sorted(os.listdir(open_tmp)) == ["back", "d"]
