"""Lines of a log, many at a time: as JSON reads them, they are the lines there were."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from dkrd.shim.log_lines import encode


@given(st.lists(st.text(st.characters(max_codepoint=0x7F, exclude_characters="\n")), min_size=1))
def test_lines_come_back_as_they_were(lines: list[str]) -> None:
    block = "".join(f"{line}\n" for line in lines).encode()
    written = encode(block, "stderr", "2026-01-02T03:04:05", 678).decode()
    assert written.endswith("\n")
    assert [json.loads(entry) for entry in written[:-1].split("\n")] == [
        {"log": f"{line}\n", "stream": "stderr", "time": f"2026-01-02T03:04:05.{678 + place:09}Z"}
        for place, line in enumerate(lines)
    ]


def test_the_form_is_the_one_of_a_single_line() -> None:
    assert encode(b"100%d\n\n", "stdout", "S", 8) == (
        b'{"log":"100%d\\n","stream":"stdout","time":"S.000000008Z"}\n'
        b'{"log":"\\n","stream":"stdout","time":"S.000000009Z"}\n'
    )
