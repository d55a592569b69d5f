"""How long a test waits for what never takes long: guards against hanging, wide where all is slow."""

from __future__ import annotations

import os

# In an emulated machine everything takes some 18 times as long (tests/vm).
FACTOR = float(os.environ.get("DKR_TEST_PATIENCE", "1"))


def guard(seconds: float) -> float:
    """So many seconds on an ordinary machine."""
    return seconds * FACTOR
