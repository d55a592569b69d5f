"""Completion as a person gets it: a real shell in a pty (fish by its own question), the keys that fill in all matches, and the line
that is then there.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from typing import TYPE_CHECKING

from tests.patience import guard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Caller

GUARD = guard(20.0)
INSERT_ALL = {"bash": "\x1b*", "zsh": "\x18a"}
SHOW = "\x14"
# Each binds ctrl-T to a command that prints the line; zsh also a key for what bash has by itself: all matches, inserted.
SETUP = {
    "bash": r"""
        bind 'set bell-style none'
        bind -x '"\C-t": printf "<<%s>>\n" "$READLINE_LINE"'
        source {share}/dkrctl.bash
        cd /usr; echo rea""dy
    """,
    "zsh": r"""
        fpath=({share} $fpath); autoload -Uz compinit; compinit -D -u
        zle -C all-matches complete-word _generic
        zstyle ':completion:all-matches:*' completer _all_matches _complete
        zstyle ':completion:all-matches:*' insert yes
        bindkey '^Xa' all-matches
        show() {{ print -r -- "<<$BUFFER>>" }}; zle -N show; bindkey '^T' show
        cd /usr; echo rea""dy
    """,
}
COMMANDS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
SHELLS = ("bash", "zsh", "fish")


def offered(shell: str, caller: Caller, home: Path, line: str) -> list[str]:
    """What `shell` offers at the end of `line`, which ends in the word that is being typed (or in a blank): whole words."""
    share = caller.daemon.prefix / "share/completion"
    environment = caller.daemon.environment() | {
        "PATH": f"{caller.daemon.prefix}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TERM": "dumb",
        "PS1": "> ",
    }
    if shell == "fish":
        question = f"cd /usr; set fish_complete_path {share}; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", question],
            env=environment | {"XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=True,
        )
        assert done.stderr == ""
        return sorted(entry.partition("\t")[0] for entry in done.stdout.splitlines())
    after = in_pty(shell, environment, SETUP[shell].format(share=share), line)
    typed = line.rpartition(" ")[2]
    begin = line.removesuffix(typed)
    assert after.startswith(begin), after
    words = after.removeprefix(begin).split()
    # Nothing matched: the line is as it was.
    return [] if words == [typed] and after == line else sorted(words)


def in_pty(shell: str, environment: dict[str, str], setup: str, line: str) -> str:
    """The line after all matches were inserted."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.execvpe(COMMANDS[shell][0], COMMANDS[shell], environment)
        finally:
            os._exit(127)
    shown, after = b"", b""
    try:
        for keys, pattern in (
            (setup + "\n", rb"ready"),
            (line + INSERT_ALL[shell] + SHOW, rb"<<((?:.|\r|\n)*?)>>"),
        ):
            os.write(master, keys.encode())
            while not (found := re.search(pattern, shown)):
                assert select.select([master], [], [], GUARD)[0], f"not shown: {pattern!r}, but {shown!r}"
                shown += os.read(master, 65536)
            shown, after = shown[found.end() :], found[found.re.groups]
        return after.decode()
    finally:
        os.kill(pid, 9)
        os.close(master)
        os.waitpid(pid, 0)
