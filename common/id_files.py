"""The host's files of users and subordinate ids, as far as they say which ids are taken: passwd(5), group(5),
subuid(5).

Read by dkrd before it gives ids away, and by `dkrctl doctor`. Standard library only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields between colons) of a file like passwd(5); nothing where it does not exist."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream, 1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, text.split(":")
    except FileNotFoundError:
        return


def subordinate(path: str) -> Iterator[tuple[int, str, int, int]]:
    """(line number, owner's name or uid, first, count) of subuid(5) lines that are well-formed."""
    for number, words in lines(path):
        if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            yield number, words[0], int(words[1]), int(words[2])


def overlaps(first: int, last: int, etc: str = "/etc") -> Iterator[str]:
    """What of the host's files lies among the ids from `first` to `last`, each in words with file and line."""
    for name in ("subuid", "subgid"):
        for number, owner, begin, count in subordinate(f"{etc}/{name}"):
            if count and begin <= last and begin + count > first:
                yield f"the range {begin}:{count} of {owner} in {etc}/{name}, line {number}"
    for name, word in (("passwd", "user"), ("group", "group")):
        for number, words in lines(f"{etc}/{name}"):
            if len(words) > 2 and words[2].isdecimal() and first <= int(words[2]) <= last:
                yield f"the {word} {words[0]} ({words[2]}) in {etc}/{name}, line {number}"
