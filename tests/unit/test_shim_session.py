"""The guardian's end of a session, fed by a client that does not keep to the protocol."""

from __future__ import annotations

import array
import os
import socket

import pytest

from common.errors import ProtocolError
from dkrd.shim.session import Session


def test_an_empty_first_frame_leaves_none_of_its_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    reader, writer = os.pipe()
    with ours, theirs:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer] * 5))]
        theirs.sendmsg([b""], rights)
        os.close(writer)
        with pytest.raises(ProtocolError, match="before its first frame"):
            Session(ours).hello()
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""  # EAGAIN while anybody holds the other end
    os.close(reader)
