"""What is said of a container's log, and what it means."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.log_drivers import BUFFER, MAX_BUFFER, OPTIONS, VALUES, LogFault, Logging, parse
from dkrd.settings import Settings, load

KIB, MIB, GIB = 1024, 1024**2, 1024**3


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (None, Logging()),
        ({}, Logging()),
        ({"driver": "none"}, Logging("none")),
        ({"driver": "json-file"}, Logging("json-file", blocking=False)),
        ({"driver": "journald"}, Logging("journald", blocking=True)),
        ({"driver": "journald", "options": {"mode": "non-blocking"}}, Logging("journald")),
        ({"options": {"mode": "blocking"}}, Logging(blocking=True)),
        ({"options": {"max-size": "4096", "max-file": "100"}}, Logging(max_size=4096, max_files=100)),
        ({"options": {"max-size": "10m"}}, Logging(max_size=10 * MIB)),
        ({"options": {"max-size": "512KB"}}, Logging(max_size=512 * KIB)),
        ({"options": {"max-size": "999g"}}, Logging(max_size=999 * GIB)),
        ({"options": {"mode": "non-blocking", "max-buffer-size": "64k"}}, Logging(buffer=64 * KIB)),
        (
            {"driver": "journald", "options": {"tag": "web/1"}},
            Logging("journald", blocking=True, tag="web/1"),
        ),
    ],
)
def test_what_it_means(value: object, meant: Logging) -> None:
    assert parse(value) == meant
    assert meant.buffer <= BUFFER


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([], ""),
        ("none", ""),
        ({"driver": None}, ".driver"),
        ({"driver": ["none"]}, ".driver"),
        ({"options": None}, ".options"),
        ({"options": {1: "x"}}, ".options.1"),
        ({"options": {"max-size": None}}, ".options.max-size"),
        ({"options": {"max-size": "4095"}}, ".options.max-size"),
        ({"options": {"max-size": "3k"}}, ".options.max-size"),
        ({"options": {"max-size": "10m\n"}}, ".options.max-size"),
        ({"options": {"max-size": "\u0661\u0662\u0663\u0664\u0665"}}, ".options.max-size"),
        ({"options": {"max-size": "9" * 10_000}}, ".options.max-size"),
        ({"options": {"mode": "non-blocking", "max-buffer-size": "5m"}}, ".options.max-buffer-size"),
        ({"driver": "journald", "options": {"tag": ""}}, ".options.tag"),
        ({"driver": "journald", "options": {"tag": "a\nb"}}, ".options.tag"),
        ({"driver": "journald", "options": {"max-file": "1"}}, ".options.max-file"),
    ],
)
def test_what_does_not_fit(value: Any, path: str) -> None:
    with pytest.raises(LogFault) as caught:
        parse(value)
    assert caught.value.path == path


def test_every_size_that_has_the_right_form_is_within_bounds() -> None:
    numbers = [
        str(n) for n in (*range(1, 5000), 9999, 10_000, 99_999, 999_999, 1_000_000, 3_999_999, 4_194_305)
    ]
    numbers += ["9" * length for length in range(7, 14)]
    for name, high in (("max-size", 2**40), ("max-buffer-size", MAX_BUFFER)):
        sizes = []
        for text in (number + unit for number in numbers for unit in ("", "k", "m", "g")):
            if re.fullmatch(VALUES[name][0], text):
                wanted = parse({"options": {"mode": "non-blocking", name: text}})
                sizes.append(wanted.max_size if name == "max-size" else wanted.buffer)
        assert sizes
        assert min(size or 0 for size in sizes) == 4096
        assert max(size or 0 for size in sizes) <= high


def test_every_option_of_a_driver_has_its_values() -> None:
    assert {name for names in OPTIONS.values() for name in names} == set(VALUES)


def test_what_the_settings_say_can_be_asked_for_too() -> None:
    """So that a tenant can name the daemon's own sizes."""
    settings: Settings = load("/dev/null")
    wanted = parse(
        {"options": {"max-size": str(settings.log_max_size), "max-file": str(settings.log_max_files)}}
    )
    assert (wanted.max_size, wanted.max_files) == (settings.log_max_size, settings.log_max_files)
