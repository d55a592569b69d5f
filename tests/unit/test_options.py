"""The option table and the parser that it drives."""

import pytest

from common import acts, lifecycle, options, verbs
from common.errors import BadRequest
from dkrctl.parse import Parsed, count, parse, seconds, size, utf8
from dkrctl.request import asks, build, take_limits
from dkrctl.verbs import command_named


def given(*words: str) -> Parsed:
    return parse(options.RUN_OPTIONS, list(words), "dkrctl run")


def request(*words: str) -> dict[str, object]:
    return build(given(*words))


def test_table_is_consistent() -> None:
    for command in verbs.COMMANDS:
        longs = [name for option in command.options for name in (option.long, *option.aliases)]
        letters = [option.short for option in command.options if option.short]
        assert len(set(longs)) == len(longs)
        assert len(set(letters)) == len(letters)
        for option in command.options:
            assert (option.kind == options.FLAG) == (option.metavar == "")
            assert (option.kind == options.CHOICE) == bool(option.choices)
            assert not option.help.endswith(".")


def test_every_request_key_is_one_of_the_protocol() -> None:
    known = set(
        "image rootfs args entrypoint env cwd user name hostname labels readonly tmpfs terminal consoleSize namespaces "
        "preserveFds init rm stopSignal stopTimeout timeout onDisconnect memory swap cpus pidsLimit log health restart".split()
    )
    for option in options.RUN_OPTIONS:
        assert option.key.partition(".")[0] in known | {""}
    for option in lifecycle.CREATE.options:
        assert option.key.partition(".")[0] in known - {"rootfs", "preserveFds", "onDisconnect"} | {
            "",
            "openStdin",
        }


def test_create_takes_every_option_of_run_or_says_why_not() -> None:
    taken = [option.long for option in lifecycle.CREATE.options]
    refused = [option.long for option, reason, way_out in lifecycle.CREATE.refused if reason and way_out]
    assert sorted(taken + refused) == sorted(option.long for option in options.RUN_OPTIONS)
    descriptors, client = (
        ["rootfs", "preserve-fds", "no-tty"],
        ["detach-keys", "on-disconnect", "quiet", "detach"],
    )
    assert sorted(refused) == sorted(
        [*descriptors, *client, "record", "explain", "dry-run", "format", "pidfile", "sdnotify"]
    )


def test_options_stop_at_the_first_positional() -> None:
    parsed = given("--rm", "/bin/ls", "--rm=false", "-l")
    assert parsed.flag("rm") is True
    assert parsed.rest == ["/bin/ls", "--rm=false", "-l"]


def test_options_may_follow_words_where_these_are_no_command() -> None:
    table = verbs.PS.options
    parsed = parse(table, ["a", "-q", "b", "--filter", "x=y", "--", "-l"], "dkrctl ps", intermixed=True)
    assert parsed.rest == ["a", "b", "-l"]
    assert (parsed.flag("quiet"), parsed.flag("latest"), parsed.every("filter")) == (True, None, ["x=y"])
    assert parse(table, ["a", "--help", "--nonsense"], "dkrctl ps", intermixed=True).flag("help") is True


def test_options_stop_at_two_dashes() -> None:
    assert given("--rm", "--", "--name").rest == ["--name"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-e", "A=b"], ["A=b"]),
        (["-eA=b"], ["A=b"]),
        (["-e=A=b"], ["A=b"]),
        (["--env=A=b"], ["A=b"]),
        (["--env", "A=b"], ["A=b"]),
        (["-itqeA=b"], ["A=b"]),
        (["-e", "A=b", "-e", "C=d"], ["A=b", "C=d"]),
        (["-e", "--rm"], ["--rm"]),
    ],
)
def test_values(words: list[str], expected: list[str]) -> None:
    parsed = given(*words, "/x")
    assert parsed.every("env") == expected
    assert parsed.rest == ["/x"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("--rm", True), ("--rm=true", True), ("--rm=1", True), ("--rm=false", False), ("--rm=F", False)],
)
def test_flags(word: str, expected: bool) -> None:
    assert given(word, "/x").flag("rm") is expected


def test_combined_letters_and_a_flag_with_a_value() -> None:
    parsed = given("-it=false", "/x")
    assert (parsed.flag("interactive"), parsed.flag("tty")) == (True, False)


def test_the_last_wins() -> None:
    assert given("--name", "a", "--name=b", "/x").last("name") == "b"
    assert given("--rm", "--rm=false", "/x").flag("rm") is False


def test_alias() -> None:
    assert given("--net=host", "/x").last("network") == "host"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--naem", "x"], "--naem"),
        (["-z"], "-z"),
        (["-iz"], "-iz"),
        (["-e"], "its value is missing"),
        (["--pid", "container:x"], "private or host"),
        (["--rm=maybe"], "true or false"),
        (["--on-disconnect", "shrug"], "stop or kill or keep"),
    ],
)
def test_wrong_options(words: list[str], part: str) -> None:
    with pytest.raises(BadRequest) as caught:
        given(*words)
    assert part in caught.value.message


def test_near_match() -> None:
    with pytest.raises(BadRequest) as caught:
        given("--naem", "x")
    assert caught.value.hint is not None
    assert "--name?" in caught.value.hint


def test_help_needs_nothing_else_to_be_right() -> None:
    assert given("--help", "--nonsense").flag("help") is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5", 1.5),
        ("90s", 90),
        ("2m", 120),
        ("1h", 3600),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("0", 0),
        (".5h", 1800),
    ],
)
def test_seconds(text: str, expected: float) -> None:
    assert seconds(text, "timeout") == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "x", "5x", "-1", "1.2.3", "m", "1m30", "nan", "inf", "1e3", ".", "1 s", "\u0661"]
)
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(BadRequest):
        seconds(text, "timeout")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "251", "\u0661", "9" * 30])
def test_no_count(text: str) -> None:
    with pytest.raises(BadRequest):
        count(text, "preserve-fds", 250)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1048576", 2**20),
        ("64m", 64 * 2**20),
        ("64M", 64 * 2**20),
        ("64mb", 64 * 2**20),
        ("64MiB", 64 * 2**20),
        ("1.5g", 3 * 2**29),
        (".5k", 512),
        ("7b", 7),
        ("2t", 2**41),
        ("0", 0),
    ],
)
def test_size(text: str, expected: int) -> None:
    assert size(text, "memory") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "-1",
        "1x",
        "1bb",
        "1bib",
        "1ib",
        "1mm",
        "1 m",
        "1.2.3m",
        ".",
        "1e9",
        "\u0661",
        "nan",
        "9" * 30,
    ],
)
def test_no_size(text: str) -> None:
    with pytest.raises(BadRequest, match="--memory"):
        size(text, "memory")


def test_limits() -> None:
    assert request("-m", "64m", "--cpus", "1.5", "--pids-limit", "20", "/x") == {
        "args": ["/x"],
        "memory": 64 * 2**20,
        "cpus": 1.5,
        "pidsLimit": 20,
    }
    assert request("--pids-limit=-1", "/x")["pidsLimit"] == -1


def test_no_bound_is_dockers_0() -> None:
    words = ("--memory", "0", "--cpus", "0", "--pids-limit", "0", "/x")
    assert request(*words) == {"args": ["/x"], "pidsLimit": -1}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-m 0 --cpus 0", {"memory": -1, "cpus": -1}),
        ("-m -1 --cpus=-1", {"memory": -1, "cpus": -1}),
        ("--pids-limit 0", {"pidsLimit": -1}),
        ("--memory-swap -1", {"swap": -1}),
        ("-m 64m --memory-swap -1", {"memory": 64 * 2**20, "swap": -1}),
    ],
)
def test_an_update_says_that_there_is_no_bound(words: str, expected: dict[str, object]) -> None:
    found: dict[str, object] = {}
    take_limits(parse(acts.UPDATE.options, words.split(), "dkrctl update"), found, lifts=True)
    assert found == expected


@pytest.mark.parametrize(("both", "swap"), [("64m", 0), ("96m", 32 * 2**20), ("-1", -1)])
def test_swap_is_told_as_dockers_and_sent_as_itself(both: str, swap: int) -> None:
    assert request("--memory", "64m", "--memory-swap", both, "/x")["swap"] == swap


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--memory-swap 64m", "it needs --memory"),
        ("--memory 64m --memory-swap 63m", "it is less than --memory"),
        ("--memory 64m --memory-swap -2", "it is no size"),
        ("--cpus half", "it is no number"),
        ("--cpus -1", "it is no number"),
        ("--pids-limit -2", "it takes a whole number"),
        ("--pids-limit 4194305", "it takes a whole number"),
    ],
)
def test_limits_that_cannot_be(words: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        request(*words.split(), "/x")


def test_commands() -> None:
    assert command_named("run") is options.RUN
    with pytest.raises(BadRequest) as caught:
        command_named("rnu")
    assert "dkrctl run`?" in str(caught.value.hint)


def test_utf8() -> None:
    assert utf8("grün", "argument 1") == "grün"
    with pytest.raises(BadRequest) as caught:
        utf8("a\udcff", "argument 1")
    assert "argument 1 'a\\udcff'" in caught.value.message


def test_a_command_in_the_default_root_or_an_image() -> None:
    assert request("/bin/ls", "-l") == {"args": ["/bin/ls", "-l"]}
    assert request("busybox", "ls") == {"image": "busybox", "args": ["ls"]}


@pytest.mark.parametrize("words", [[], ["busybox"], ["--entrypoint", "", "busybox"], ["", "/x"]])
def test_nothing_to_run(words: list[str]) -> None:
    with pytest.raises(BadRequest):
        request(*words)


def test_entrypoint() -> None:
    assert request("--entrypoint", "/x", "busybox", "a") == {
        "entrypoint": ["/x"],
        "image": "busybox",
        "args": ["a"],
    }
    assert request("--entrypoint=", "busybox", "a") == {"entrypoint": [], "image": "busybox", "args": ["a"]}
    assert request("--entrypoint", "/x", "busybox") == {"image": "busybox", "args": ["/x"]}
    assert request("--entrypoint", "/x") == {"args": ["/x"]}


def test_whole_request() -> None:
    words = (
        "--rm --name n -h box -e A=b=c -w /w -u 1:2 --read-only --tmpfs /t:size=1m --tmpfs /u --stop-signal INT "
        "--stop-timeout 2 --timeout 1m --init -l k=v=w -l bare --pid host --net host --timens private "
        "--on-disconnect kill /x y"
    )
    wanted = request(*words.split())
    assert wanted == {
        "args": ["/x", "y"],
        "rm": True,
        "name": "n",
        "hostname": "box",
        "env": {"A": "b=c"},
        "cwd": "/w",
        "user": "1:2",
        "readonly": True,
        "tmpfs": {"/t": "size=1m", "/u": ""},
        "stopSignal": "INT",
        "stopTimeout": 2.0,
        "timeout": 60.0,
        "init": True,
        "labels": {"k": "v=w", "bare": ""},
        "namespaces": {"pid": "host", "network": "host", "time": "private"},
        "onDisconnect": "kill",
    }
    assert sorted(asks(wanted)) == ["network:host", "pid:host"]


def test_the_hosts_time_is_no_lift() -> None:
    assert asks(request("--timens", "host", "--uts", "private", "/x")) == []


@pytest.mark.parametrize(
    "words", [["--tmpfs", "t"], ["--label", "=v"], ["--env", "=v"], ["--timeout", "0"], ["--tmpfs", ""]]
)
def test_values_that_cannot_be(words: list[str]) -> None:
    with pytest.raises(BadRequest):
        request(*words, "/x")
