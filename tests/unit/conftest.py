"""The peer and the terminal of the client's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.client_harness import Peer, Tty, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A peer that serves."""
    with Peer(tmp_path) as peer:
        yield peer


@pytest.fixture
def tty() -> Iterator[Tty]:
    """A terminal that is nobody's yet."""
    with terminal() as tty:
        yield tty
