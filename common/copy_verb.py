"""The verb that copies from and to containers."""

from common.options import CONTAINERS, FLAG, SOCKET, VERB_HELP, Command, Option

_HOW = "How"

CP = Command(
    "cp",
    "dkrctl cp [OPTIONS] CONTAINER:SRC DEST|-, or SRC|- CONTAINER:DEST",
    "Copy files and directories from a container, or to one, whether it runs or not. A path inside is taken from the root. What is there "
    "as a directory gets the copy within it, by its own name; SRC/. stands for the contents of a directory. With - in place of a path of "
    "this side a tar archive goes to standard output, or comes from standard input for a directory that is there. A file takes the place "
    "of a file, never of a directory. Here all belongs to the caller, without setuid bits; in a container to root. Devices, sockets, "
    "capabilities of files, and what lies in /proc and /sys are left out, and told. Of a container that does not run, all that is mounted "
    "inside is empty and read-only; who starts or removes it ends what is not copied within 1 s.",
    (
        Option(
            "archive",
            "a",
            FLAG,
            "",
            "",
            "keep uid and gid, by their numbers inside; here only root can",
            group=_HOW,
        ),
        Option(
            "follow-link",
            "L",
            FLAG,
            "",
            "",
            "where SRC is a symbolic link, copy what it points to; else it is copied as a link",
            group=_HOW,
        ),
        Option("quiet", "q", FLAG, "", "", "do not tell what was copied and what was left out", group=_HOW),
        SOCKET,
        VERB_HELP,
    ),
    (
        ("dkrctl cp web:/var/log/app.log .", "a file, here by its name"),
        ("dkrctl cp conf/. web:/etc/app", "what is in conf, into a directory"),
        ("dkrctl cp web:/srv - | tar tv", "as an archive"),
        ("tar c src | dkrctl cp - web:/tmp", "and back"),
    ),
    status="0; 1 where it could not be copied; 130 after ctrl-C",
    words=CONTAINERS,
    intermixed=True,
)
