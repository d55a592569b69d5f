"""What comes from others is read as JSON whose texts are texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common import frames


@pytest.mark.parametrize(
    "value", [{}, {"a": "\U0001f600 \u6f22 \\ud800"}, {"\U0001f600": ["\n", {"b": None}]}]
)
def test_pairs_are_characters(value: dict[str, Any]) -> None:
    assert frames.loads_foreign(json.dumps(value).encode()) == value
    assert frames.loads_foreign(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '{"a": [{"b": "x\\udc80y"}]}', '{"a": "\\ude00\\ud83d"}']
)
def test_half_of_a_pair_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="half of a character"):
        frames.loads_foreign(text.encode())
    assert frames.loads_object(text)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": 1} {}', b'{"a": NaN}', b'{"\xed\xa0\x80": 1}'])
def test_what_is_no_object_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        frames.loads_foreign(data)
