"""Templates of `--format`: what they give, what they refuse, and that nothing in a value steers a terminal."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from dkrctl import templates
from dkrctl.documents import document
from dkrctl.templates import Labels, Method, Record, Template

VALUE = Record(
    {
        "Names": "web",
        "exit": Record({"code": 3, "signal": None, "cause": "exited"}),
        "labels": {"team": "blue", "a.b/c": "dotted"},
        "args": ["sh", "-c", "true"],
        "rm": True,
        "pid": None,
        "Labels": Labels({"a": "1", "b": "2"}),
        "Label": Method(lambda key: {"team": "blue"}.get(key, "")),
    }
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{.Names}}", "web"),
        ("{{ .Names }}/{{.names}}", "web/web"),
        ("{{.exit.code}}:{{.Exit.Cause}}", "3:exited"),
        ("{{.exit.signal}}|{{.pid}}|{{.pid.anything}}", "||"),
        ("{{.rm}}", "true"),
        (
            '{{split .Names "e"}} {{index (split .Names "e") 1}} {{join (split "a:b" ":") "+"}}',
            '["w","b"] b a+b',
        ),
        ('{{title .Names}} {{title "a bC"}}', "Web A BC"),
        ("[{{pad .Names 1 2}}][{{pad .pid 1 2}}]", "[ web  ][]"),
        ("{{truncate .Names 2}}{{truncate .Names 9}}", "weweb"),
        ("{{println .Names .rm}}{{println}}x", "web true\n\nx"),
        ("{{.args}}", '["sh","-c","true"]'),
        ("{{.labels.team}}|{{.labels.none}}", "blue|"),
        ('{{index .labels "a.b/c"}}', "dotted"),
        ("{{index .labels `team`}}", "blue"),
        ("{{index .args 1}}", "-c"),
        ('{{.Label "team"}}|{{.Label "none"}}', "blue|"),
        ("{{.Labels}}", "a=1,b=2"),
        ("{{json .labels}}", '{"team":"blue","a.b/c":"dotted"}'),
        ("{{json .exit}}", '{"code":3,"signal":null,"cause":"exited"}'),
        ('{{join .args " "}}', "sh -c true"),
        ("{{len .args}} {{len .labels}} {{len .Names}}", "3 2 3"),
        ("{{upper .Names}}{{lower (upper .Names)}}", "WEBweb"),
        ('{{json (index .args 0)}}{{"x\\"y"}}', '"sh"x"y'),
        (r"{{.Names}}\t{{.Names}}\n", "web\tweb\n"),
        ("a {{- .Names -}} b", "awebb"),
        ("a{{/* said to nobody */}}b", "ab"),
        ("{{ 7 }}", "7"),
        ("}} {", "}} {"),
    ],
)
def test_what_a_template_gives(template: str, expected: str) -> None:
    assert Template(template).fill(VALUE) == expected


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{.Names", "has no }}"),
        ("{{}}", "is empty"),
        ("{{range .args}}", "no function range"),
        ("{{if .rm}}x{{end}}", "no function if"),
        ("{{.Names | json}}", "'| json' is not known"),
        ("{{$x}}", "'$x' is not known"),
        ("{{json}}", "another number of values"),
        ("{{json .Names .rm}}", "another number of values"),
        ("{{.Names .rm}}", "'.rm' stands where nothing"),
        ("{{(json .}}", "has no )"),
        ("{{json )}}", "another number of values"),
        ('{{"\\q"}}', "means nothing"),
        ("{{.exit..code}}", "names no field"),
        ("{{" + "(" * 40 + ".Names" + ")" * 40 + "}}", "nests too deep"),
        ("{{index .args " + "9" * 5000 + "}}", "a number of 5000 digits is too long"),
    ],
)
def test_what_cannot_be_read(template: str, cause: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Template(template)
    assert cause in caught.value.message
    assert "{{.Names}}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{{.Nmaes}}", [".Nmaes", "did you mean .Names?"]),
        ("{{.exit.cod}}", [".cod", "did you mean .code?"]),
        ("{{.Names.length}}", ["the field .length has none"]),
        ("{{.Label}}", ["takes a text"]),
        ('{{.Names "x"}}', ["takes no text"]),
        ("{{index .args 9}}", ["there are 3 entries"]),
        ('{{index . "Label"}}', ['.Label takes a text, as in .Label "team"']),
        ('{{json (index . "Label")}}', ["takes a text"]),
        ('{{index . "Label" "team"}}', ["only maps"]),
        ('{{index .Names "x"}}', ["only maps and lists"]),
        ("{{join .Names .Names}}", ["a list is wanted"]),
        ("{{len .rm}}", ["have a length"]),
        ("{{pad .Names 1 1001}}", ["a number from 0 to 1000"]),
        ("{{truncate .Names .Names}}", ["a number from 0 to 1000"]),
    ],
)
def test_what_cannot_be_filled_in(template: str, parts: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        Template(template).fill(VALUE)
    assert all(part in caught.value.message for part in parts), caught.value.message


def test_the_known_fields_are_named() -> None:
    with pytest.raises(BadRequest) as caught:
        Template("{{.nothing}}").fill(VALUE)
    assert caught.value.hint is not None
    assert ".Names, .exit, .labels" in caught.value.hint


def test_at_a_terminal_values_are_escaped_and_the_template_is_not() -> None:
    value = Record({"name": "a\x1b[31m\n\u202e\x9b"})
    assert Template(r"{{.name}}\t").fill(value, terminal=True) == "a\\x1b[31m\\n\\u202e\\x9b\t"
    assert Template("{{.name}}").fill(value) == "a\x1b[31m\n\u202e\x9b"


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(ANY)
def test_json_is_json_and_can_be_shown(value: Any) -> None:
    for text in (templates.json(value), document(value)):
        assert json.loads(text) == value
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["grün 世界", "a\\u0041", "\x7f\x9b\u202e", "\ud800", "𐏿\U000e0041", '"\\'])
def test_json_keeps_what_can_be_read(text: str) -> None:
    shown = templates.json(text)
    assert json.loads(shown) == text
    assert all(c in shown for c in text if c.isprintable() and c not in '"\\')


@given(st.text(alphabet=st.sampled_from(list('{}.-"`\\() \tnNamesjsonindex|$/*0')), max_size=40))
def test_no_template_breaks_it(text: str) -> None:
    with contextlib.suppress(BadRequest):  # any other error is a defect
        Template(text).fill(VALUE)
