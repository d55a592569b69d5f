"""Names for containers whose callers gave none: short, readable, hard to confuse when said aloud."""

from __future__ import annotations

import secrets

_ADJECTIVES = """
amber bold brave brisk calm clear clever cosy crisp eager early fair fleet fond frank fresh gentle
glad golden grand happy hardy honest jolly keen kind light lively lucky mellow merry mild neat
nimble noble plain polite proud quick quiet rapid ready round royal silent simple sleek smart smooth
snug solid spry stable steady still sunny swift tidy tranquil true upbeat vivid warm wise witty
young zesty
"""
_NOUNS = """
acorn badger beacon birch bison brook canyon cedar cloud comet coral crane delta dolphin falcon fern
finch fjord forest fox glacier grove harbor hare hawk hazel heron island ivy juniper kestrel lagoon
lake lark lynx magpie maple marten meadow mesa moon moss oak orchid osprey otter owl pebble pine
planet plover pond puffin quartz raven reef ridge river robin rowan sparrow spruce star stone swan
thistle tulip valley walnut willow wren
"""


ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())


def made() -> str:
    """A name such as `calm_otter4821`; some 40 million are possible."""
    return f"{secrets.choice(ADJECTIVES)}_{secrets.choice(NOUNS)}{secrets.randbelow(9000) + 1000}"
