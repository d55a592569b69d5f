"""What every handler of the API works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dkrd.api.channel import Channel
    from dkrd.api.endings import Endings
    from dkrd.api.facts import Facts
    from dkrd.api.feed import Feed
    from dkrd.api.metrics import Metrics
    from dkrd.settings import Settings
    from dkrd.state.names import Names
    from dkrd.state.worker import Worker


@dataclass(slots=True)
class Context:
    """One for the life of the process. `settings` and `facts` are replaced when the launcher has read or found others."""

    settings: Settings
    facts: Facts
    channel: Channel
    names: Names
    index: Worker
    endings: Endings
    feed: Feed
    metrics: Metrics
