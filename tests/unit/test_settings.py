"""The settings' file and command line: what is taken, what is refused, and where it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import BadRequest
from dkrd import settings
from dkrd.launcher import options
from dkrd.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "dkrd.toml"
    file.write_text(text)
    return settings.load(str(file))


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings()
    assert Settings().ids_first == 1879048192
    assert Settings().ids_last == 2147352575


def test_every_key_is_taken(tmp_path: Path) -> None:
    text = """
    state_dir = "/srv/dkr/"
    run_dir = "/run/../run/two"
    socket_group = "people"
    socket_mode = "0666"
    log_level = "debug"
    log_format = "json"
    default_root = "busybox"
    api_user = "www"
    admin_group = "wheel"
    [ids]
    first = 131072
    last = 262143
    directory = "/srv/ids"
    [limits]
    containers_per_user = 3
    start_seconds = 5
    pids_per_container = 50
    [cgroup]
    parent = "two"
    """
    assert load(tmp_path, text) == Settings(
        state_dir="/srv/dkr",
        run_dir="/run/two",
        socket="/run/two/dkr.sock",
        socket_group="people",
        socket_mode=0o666,
        log_level="debug",
        log_format="json",
        default_root="busybox",
        api_user="www",
        admin_group="wheel",
        ids_first=131072,
        ids_last=262143,
        ids_directory="/srv/ids",
        containers_per_user=3,
        start_seconds=5,
        pids_per_container=50,
        cgroup_parent="two",
    )


def test_the_default_root_may_be_a_directory(tmp_path: Path) -> None:
    assert load(tmp_path, 'default_root = "/srv//alpine/"').default_root == "/srv/alpine"
    assert load(tmp_path, 'default_root = "/"').default_root == "/"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('run_dri = "/x"', 1, "unknown key run_dri; did you mean run_dir?"),
        ("\n\n[ids]\n# first = 1\nfrist = 65536\n", 5, "unknown key ids.frist; did you mean ids.first?"),
        ("[limits]\nfirst = 65536", 2, "unknown key limits.first; did you mean ids.first?"),
        ("containers_per_user = 3", 1, "did you mean limits.containers_per_user?"),
        ("[limit]\nx = 1", 1, "unknown key limit; did you mean limits?"),
        ("zzz = 1", 1, "unknown key zzz"),
        ("ids = 3", 1, "ids must be a section, [ids]"),
        ('[ids]\nfirst = "65536"', 2, "ids.first must be an integer"),
        ("limits.start_seconds = true", 1, "limits.start_seconds must be an integer"),
        ("[limits]\nstart_seconds = 0", 2, "an integer from 1 to 3600, not 0"),
        ("[ids]\nfirst = 65537", 2, "a multiple of 65536"),
        ("[ids]\nlast = 262144", 2, "one less than a multiple of 65536"),
        ("state_dir = 3", 1, "state_dir must be a string, an absolute path"),
        ('state_dir = "var"', 1, 'state_dir must be an absolute path, not "var"'),
        ('state_dir = "/a\\nb"', 1, "an absolute path"),
        ("socket_mode = 660", 1, "socket_mode must be a string of octal digits"),
        ('socket_mode = "0888"', 1, "octal permission bits"),
        ('socket_mode = "4755"', 1, "octal permission bits"),
        ('log_level = "loud"', 1, "one of debug, info, warning, error"),
        ('admin_group = ""', 1, "a name of letters"),
        ('default_root = "./tree"', 1, "the name of a built-in root or the absolute path of a directory"),
        ("default_root = 3", 1, "default_root must be a string, the name of a built-in root"),
        ('default_root = "/a\\nb"', 1, "an absolute path"),
        ('[cgroup]\nparent = "../up"', 2, "a name of letters"),
        ('[cgroup]\nparent = "/"', 2, "or a path such as /system.slice/dkr-containers.service"),
        ('[cgroup]\nparent = "/a//b"', 2, "or a path"),
        ('[cgroup]\nparent = "/a/./b"', 2, "or a path"),
        ('[cgroup]\nparent = "/a/b c"', 2, "or a path"),
        ('socket = "/' + "s" * 107 + '"', 1, "at most 107 bytes (a socket's limit), this one has 108"),
        ('note = """\nfirst\n"""\n', 1, "unknown key note"),
        ('log_level = "info"\nlist = [\n1,\n2,\n]', 2, "unknown key list"),
        ("state_dir = ", 1, "invalid value"),
        ("[ids]\nfirst = 1\nfirst = 2", 3, "cannot overwrite"),
        ('a = "', 1, ""),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        load(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path}/dkrd.toml:{line}: ")
    assert words in caught.value.message


def test_line_of_a_repeated_name_is_that_of_its_section(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"dkrd\.toml:4: "):
        load(tmp_path, '[ids]\ndirectory = "/x"\n[cgroup]\ndirectory = "/x"\n')


def test_file_that_is_no_text_or_too_long(tmp_path: Path) -> None:
    file = tmp_path / "dkrd.toml"
    file.write_bytes(b"# one\n# \xff\n")
    with pytest.raises(BadRequest, match=r":2: not UTF-8"):
        settings.load(str(file))
    file.write_text("#" * 70000)
    with pytest.raises(BadRequest, match="more than 65536 bytes"):
        settings.load(str(file))


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", str(tmp_path / "none.toml"))
    assert settings.load() == Settings()
    with pytest.raises(BadRequest, match="no such file"):
        settings.load(str(tmp_path / "other.toml"))


def test_pool_upside_down(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="first lies behind last"):
        load(tmp_path, "[ids]\nfirst = 262144\nlast = 131071\n")


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "dkrd.toml"
    file.write_text('run_dir = "/run/file"\nsocket_mode = "0600"\nlog_level = "error"\n')
    got, act = options.parse(
        ["--config", str(file), "--run-dir", "/run/option", "--log-level", "debug", "--print-config"]
    )
    assert act == "print_config"
    assert (got.run_dir, got.socket) == ("/run/option", "/run/option/dkr.sock")
    assert (got.socket_mode, got.log_level) == (0o600, "debug")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--state-dir", "relative"], "--state-dir: expected an absolute path"),
        (["--socket-mode", "9"], "--socket-mode: expected octal permission bits"),
        (["--run-dir", "/" + "r" * 100], "run_dir: its dkr.sock must be a path of at most 107 bytes"),
        (["--log-level", "loud"], "--log-level: expected a string, one of"),
        (["--cgroup-parent", "/a/../b"], "--cgroup-parent: expected a name, or a path such as"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = tmp_path / "dkrd.toml"
    file.write_text("")
    with pytest.raises(BadRequest) as caught:
        options.parse(["--config", str(file), *arguments])
    assert words in caught.value.message


@pytest.mark.parametrize(
    "parent", ["dkr", "/system.slice/dkr-containers.service", r"/a.slice/x\x2d@1.service"]
)
def test_the_cgroup_is_a_name_or_the_path_of_a_unit(tmp_path: Path, parent: str) -> None:
    file = tmp_path / "dkrd.toml"
    file.write_text('[cgroup]\nparent = "other"\n')
    got, act = options.parse(["--config", str(file), "--cgroup-parent", parent])
    assert (got.cgroup_parent, act) == (parent, "serve")
    file.write_text(got.to_toml())
    assert settings.load(str(file)).cgroup_parent == parent


def test_wire_is_a_round_trip() -> None:
    given = Settings(socket_mode=0o600, ids_first=65536, cgroup_parent="x")
    wire = given.to_wire()
    assert wire["stateDir"] == "/var/lib/dkr"
    assert wire["containersPerUser"] == 256
    assert Settings.from_wire(wire) == given


@pytest.mark.parametrize(
    "change", [{"socketMode": "x"}, {"socketMode": True}, {"more": 1}, {"stateDir": None}]
)
def test_wire_that_does_not_fit(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        Settings.from_wire({**Settings().to_wire(), **change})


def test_printed_settings_are_read_back_the_same(tmp_path: Path) -> None:
    given = Settings(state_dir='/odd "name"\\é', socket_mode=0o600, ids_first=131072, start_seconds=7)
    assert load(tmp_path, given.to_toml()) == given


def test_print_config_of_the_program(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r});"
        "from dkrd.launcher.main import main; main('/nonexistent')"
    )
    file = tmp_path / "dkrd.toml"
    file.write_text("[limits]\nstart_seconds = 9\n")
    run = [sys.executable, "-I", "-c", program, "--config"]
    first = subprocess.run([*run, str(file), "--print-config"], capture_output=True, text=True, check=True)
    assert "start_seconds = 9" in first.stdout
    second = tmp_path / "second.toml"
    second.write_text(first.stdout)
    again = subprocess.run([*run, str(second), "--print-config"], capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    file.write_text("x = 1\n")
    wrong = subprocess.run([*run, str(file)], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == f"dkrd: {file}:1: unknown key x\n"
