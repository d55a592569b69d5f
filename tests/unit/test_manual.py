"""The man pages: sound roff, everything that the tables have in them, and what they say of settings is what dkrd says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.options import GLOBAL
from common.verbs import COMMANDS
from dkrd.launcher import options as daemon_options
from dkrd.settings import Settings
from scripts import manual
from scripts.generate import files

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {name: text for name, text in files().items() if name.startswith("man/")}


def printed(text: str) -> str:
    """The page as people read it, without what a terminal would make bold, on lines that do not end."""
    command = ["groff", "-man", "-Tutf8", "-P-cbou", "-rHY=0", "-rLL=1000n"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES)
def test_groff_and_mandoc_find_nothing_to_say(page: str) -> None:
    for command in (["groff", "-ww", "-man", "-Tutf8"], ["mandoc", "-T", "lint"]):
        done = subprocess.run(command, input=PAGES[page], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert command[0] != "mandoc" or done.stdout == ""
        assert done.returncode == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_line_fits_into_a_terminal(page: str) -> None:
    command = ["mandoc", "-T", "utf8", "-O", "width=78"]
    shown = subprocess.run(command, input=PAGES[page], capture_output=True, text=True, check=True).stdout
    assert [line for line in re.sub(r".\x08", "", shown).splitlines() if len(line) > 80] == []


def test_every_verb_option_and_example_is_told() -> None:
    text = printed(PAGES["man/man1/dkrctl.1"])
    for option in GLOBAL:
        assert f"--{option.long}" in text
    for command in COMMANDS:
        assert command.usage.removeprefix("dkrctl ") in text
        assert all(
            f"--{name}" in text for option in command.options for name in (option.long, *option.aliases)
        )
        assert all(line in text for line, _ in command.examples)


def test_what_is_copied_from_a_page_is_what_was_meant() -> None:
    """Dashes, quotes, backslashes and dots at a line's begin are not what roff takes them for."""
    for text in ("--no-trunc", "'{{.Names}}\\t'", ".hidden", "it's `this`", "~/x ^ y", 'say "so"'):
        page = "\n".join([*manual.head("x", 1, "2026-01-31", "y"), ".SH Z", manual.escaped(text)]) + "\n"
        assert text in printed(page)
    assert manual.escaped("--x-y") == "\\-\\-x\\-y"  # Debian's groff is lenient; others print hyphens for it


def test_the_settings_are_those_of_dkrd() -> None:
    assert [(key.rpartition(".")[2], value) for key, value, _ in manual.entries()] == [
        tuple(line.split(" = ", 1)) for line in Settings().to_toml().splitlines() if " = " in line
    ]
    assert all(what for _, _, what in manual.entries())
    text = printed(PAGES["man/man5/dkrd.toml.5"])
    assert all(f"{key.rpartition('.')[2]} = {value}" in text for key, value, _ in manual.entries())


def test_dkrds_options_are_told() -> None:
    text = printed(PAGES["man/man8/dkrd.8"])
    usage = daemon_options.parser().format_help()
    assert set(re.findall(r"--[a-z-]+", usage)) <= set(re.findall(r"--[a-z-]+", text))


def test_the_generator_writes_what_is_tested_here(tmp_path: Path) -> None:
    """As the install runs it: another interpreter, nothing on its path."""
    script = REPOSITORY / "scripts/generate.py"
    subprocess.run([sys.executable, "-I", script, tmp_path], cwd="/", check=True)
    written = {
        str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert written == files()


def test_the_day_is_the_packagers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert '.TH DKRD 8 1970-01-02 "dkr' in files()["man/man8/dkrd.8"]
