"""What a failure in a virtual machine shows (tests/vm), where the machine or its files are gone: the failure itself, and no second one."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.vm.guest import Guest
from tests.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """One that has been switched on once, and is off."""
    (tmp_path / "disk").touch()
    machine = Machine(tmp_path / "image", tmp_path / "archive", tmp_path)
    machine.consoles.append(tmp_path / "console-0")
    machine.consoles[-1].write_bytes(b"said \xff")
    yield Guest(machine)
    machine.cut()


def test_a_machine_that_is_off_has_a_console_and_no_journal(guest: Guest) -> None:
    assert guest.machine.console == "said \N{REPLACEMENT CHARACTER}"
    assert guest.last_words() == "it does not answer"


def test_a_machine_whose_files_are_gone_has_neither(guest: Guest) -> None:
    guest.machine.consoles[-1].unlink()
    assert guest.machine.console == ""
    assert guest.last_words() == "it does not answer"


@pytest.mark.parametrize("answer", [b"", b"no json\n", json.dumps({"ready": True}).encode() + b"\n"])
def test_a_machine_that_ends_or_begins_again_is_no_second_failure(guest: Guest, answer: bytes) -> None:
    """As an agent that was started again: it says that it is there, and knows nothing of a command."""
    guest.machine.port, agent = socket.socketpair()
    with agent:
        agent.sendall(answer)
        agent.shutdown(socket.SHUT_WR)
        assert guest.last_words() == "it does not answer"
