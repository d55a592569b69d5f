"""Code of a test that runs as another user: a forked child, so that sockets can be handed over."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host import User


def as_user(user: User | int, work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON) in a child that has become `user`, for good; its exception fails the test.

    user  a User with their groups, or a number, then without any
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            uid, gid, groups = (
                (user, user, ()) if isinstance(user, int) else (user.uid, user.gid, user.groups)
            )
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                result = {"value": work()}
            except BaseException as err:
                result = {"error": repr(err)}
            data = json.dumps(result).encode()
            while data:
                data = data[os.write(write, data) :]
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    answer = json.loads(data)
    assert "error" not in answer, answer["error"]
    return answer["value"]
