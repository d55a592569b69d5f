"""Makes what is made from the option table and the settings, below a directory: usage: generate.py DIRECTORY

    man/man1/dkrctl.1  man/man5/dkrd.toml.5  man/man8/dkrd.8
    completion/dkrctl.bash  completion/_dkrctl  completion/dkrctl.fish

Run by `make install` with the system's Python; needs nothing but the checkout.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def day() -> str:
    """The day that stands in the man pages: SOURCE_DATE_EPOCH, as packagers set it, or when the changelog was last changed."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = float(given) if given.isdigit() else (REPOSITORY / "CHANGELOG.md").stat().st_mtime
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def files() -> dict[str, str]:
    """Path -> contents."""
    # Here: the checkout is put on the path first.
    from scripts import completion, manual

    date = day()
    return {
        "man/man1/dkrctl.1": manual.dkrctl(date),
        "man/man5/dkrd.toml.5": manual.settings(date),
        "man/man8/dkrd.8": manual.dkrd(date),
        "completion/dkrctl.bash": completion.bash(),
        "completion/_dkrctl": completion.zsh(),
        "completion/dkrctl.fish": completion.fish(),
    }


def main(directory: str) -> None:
    """Write them."""
    for name, text in files().items():
        path = Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(REPOSITORY))
    main(*sys.argv[1:])
