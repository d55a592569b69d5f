"""The keys that leave a session: how they are named, and how they are found in what is typed."""

import random

import pytest

from common.errors import BadRequest
from dkrctl.keys import Matcher, parse

P, Q = b"\x10", b"\x11"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-p,ctrl-q", P + Q),
        ("CTRL-P,Ctrl-Q", P + Q),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\0\x1b\x1c\x1d\x1e\x1f"),
        ("ctrl-a,ctrl-z", b"\x01\x1a"),
        ("ctrl-x,q", b"\x18q"),
        ("~,.", b"~."),
        (" ", b" "),
        ("-", b"-"),
        ("", b""),
    ],
)
def test_the_words_are_dockers(text: str, keys: bytes) -> None:
    assert parse(text, "--detach-keys") == keys


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ctrl-p,", "nothing"),
        (",", "nothing"),
        ("ctrl-p,meta-q", "meta-q"),
        ("ctrl-1", "ctrl-1"),
        ("ctrl-", "ctrl-"),
        ("ctrl-pq", "ctrl-pq"),
        ("ctrl-\u00e4", "ctrl-\\xe4"),
        ("\u00e4", "\\xe4"),
        ("ab", "ab"),
        ("\t", "\\t"),
    ],
)
def test_what_is_no_key_is_named(text: str, word: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text, "DKR_DETACH_KEYS")
    assert caught.value.message == f"cannot take DKR_DETACH_KEYS {ascii(text)[1:-1]}: {word} is no key"


@pytest.mark.parametrize("keys", [P + Q, b"~", b"aab", b"aaa", b"abab"])
def test_every_byte_but_the_completing_one_goes_on_at_once(keys: bytes) -> None:
    """Compared with what can be said of the whole: for any text, in any pieces."""
    chance = random.Random(keys)
    for _ in range(2000):
        text = bytes(chance.choices(keys + b"ab", k=chance.randrange(12)))
        at = text.find(keys)
        expected = text if at < 0 else text[: at + len(keys) - 1]
        matcher, passed, left, fed = Matcher(keys), b"", False, 0
        while fed < len(text) and not left:
            piece = text[fed : fed + chance.randrange(1, 5)]
            fed += len(piece)
            on, left = matcher.feed(piece)
            passed += on
            assert left or on == piece  # nothing is held back
        assert (passed, left) == (expected, at >= 0)


def test_no_keys_leave_nothing_out() -> None:
    matcher = Matcher(b"")
    assert matcher.feed(P + Q) == (P + Q, False)
    assert matcher.feed(b"") == (b"", False)


def test_the_end_of_input_is_no_key() -> None:
    matcher = Matcher(P + Q)
    assert matcher.feed(P) == (P, False)
    assert matcher.feed(b"") == (b"", False)
    assert matcher.feed(Q) == (b"", True)
