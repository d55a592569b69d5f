"""`dkrctl ps`: a list of containers."""

import time

from common import filters
from common.errors import BadRequest, Conflict, NotFound, ProtocolError
from common.filters import any_value, has_label, one_of, refused
from common.verbs import FILTERS, HEALTHS, STATUSES
from dkrctl import output, tables
from dkrctl.containers import Shown, checked, heading
from dkrctl.daemon import SECONDS
from dkrctl.parse import count
from dkrctl.presentation import presentation
from dkrctl.verbs import Call

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_LAST = 1_000_000
_AT_REST = ("created", "stopped")  # which are listed with `-a` only
_NEVER = ("dead", "removing")  # statuses of Docker's that no container has here, for who asks for them too
_COLUMNS = {  # by field. The name stays longest: it is what people go on with
    "ID": tables.Column("CONTAINER ID"),
    "Image": tables.Column("IMAGE", 3, 8),
    "Command": tables.Column("COMMAND", 1, 9),
    "RunningFor": tables.Column("CREATED", 2),  # the status tells nearly the same
    "Status": tables.Column("STATUS", 4, 16),
    "Names": tables.Column("NAMES", 5, 15),
}
_SIZE = {"Size": tables.Column("SIZE", 2)}
SIZES_SECONDS = 120.0  # to measure thousands of containers


def _exit_status(value: str) -> str:
    digits = value.lstrip("0") or "0"  # as many of them as one likes
    if not (value.isascii() and value.isdigit() and len(digits) <= 3 and int(digits) < 256):
        raise refused(
            f"exited={value[:20]}: an exit status from 0 to 255 is wanted", "as in --filter exited=1"
        )
    return digits


def _status(value: str) -> str:
    one_of("status", "status", (*STATUSES, *_NEVER))(value)
    return "stopped" if value == "exited" else value


def _name(value: str) -> str:
    import re  # late, as below: most lists are not chosen by a name

    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as err:
        raise refused(
            f"name={value[:80]}: it is no regular expression: {err}", "as in --filter name=^web"
        ) from err
    return value


_KEYS = {
    **dict.fromkeys(FILTERS, any_value),
    "status": _status,
    "name": _name,
    "health": one_of("health", "health", HEALTHS),
    "exited": _exit_status,
}


class Filters(filters.Filters):
    """What `--filter` chooses containers by."""

    def __init__(self, words: "Iterable[str]") -> None:
        given = list(words)
        if any(word.partition("=")[0] == "ancestor" for word in given):
            raise refused(
                "'ancestor': the roots here are not made of one another",
                "`--format '{{.Names}} {{.Image}}'` shows them",
            )
        super().__init__(given, _KEYS)
        self._made: dict[str, str] = {}

    @property
    def named(self) -> list[str]:
        """The containers beside which others are looked at: they may have ended."""
        return [*self.values.get("before", ()), *self.values.get("since", ())]

    def place(self, every: "Sequence[Shown]") -> None:
        """Find those that are `named` among all there are. Raises NotFound, Conflict."""
        for name in self.named:
            self._made[name] = str(_the_one(name, every).record.get("created"))

    @property
    def want_ended(self) -> bool:
        """Whether they ask for containers that have ended, so that `-a` is meant."""
        return "exited" in self.values or bool({"stopped", "created"} & set(self.values.get("status", ())))

    def has(self, container: Shown) -> bool:
        """Whether `container` is one of those that are meant."""
        if not self.values:
            return True
        record, made = container.record, self._made
        created = str(record.get("created"))
        return self.match(
            {
                "status": lambda value: record.get("status") == value,
                "health": lambda value: container.health == value,
                "name": lambda value: _is_called(container, value),
                "before": lambda value: created < made[value],
                "since": lambda value: created > made[value],
                "label": lambda value: has_label(container.labels, value),
                "id": lambda value: str(record.get("id")).startswith(value),
                "exited": lambda value: (
                    record.get("status") == "stopped" and container.exit_code == int(value)
                ),
            }
        )


def _is_called(container: Shown, expression: str) -> bool:
    import re

    return any(re.search(expression, name) for name in (container.name, f"/{container.name}"))


def _the_one(name: str, every: "Sequence[Shown]") -> Shown:
    """The container of this name, id or beginning of an id."""
    found = [one for one in every if name in (one.name, one.record.get("id"))]
    found = found or [one for one in every if str(one.record.get("id")).startswith(name)]
    if not found:
        raise NotFound(f'cannot find container "{name}": no container has this id or name')
    if len(found) > 1:
        raise Conflict(
            f'cannot tell which container "{name}" is: several are meant', hint="give more of the id"
        )
    return found[0]


def run(call: Call) -> int:
    """`dkrctl ps`; the exit status. Raises DkrError."""
    call.no_words()
    wanted = Filters(call.texts("filter"))
    limit = _limit(call)
    show = _presentation(call)
    every = bool(call.parsed.flag("all")) or limit is not None or wanted.want_ended
    sized = bool(call.parsed.flag("size")) and not call.parsed.flag("quiet")
    asked = every or bool(wanted.named)
    query = [f"{name}=true" for name, is_wanted in (("all", asked), ("size", sized)) if is_wanted]
    where = "/v1/containers" + (f"?{'&'.join(query)}" if query else "")
    answer = call.daemon().get(where, seconds=SIZES_SECONDS if sized else SECONDS)
    if not isinstance(answer, list):
        raise ProtocolError("cannot understand the daemon: its list of containers is none")
    whole = bool(call.parsed.flag("no-trunc"))
    now = time.time()
    found = [Shown(checked(entry), whole=whole, now=now) for entry in answer]
    wanted.place(found)
    found = [one for one in found if every or one.record.get("status") not in _AT_REST]
    output.emit(show([container for container in found if wanted.has(container)][:limit]))
    return 0


def _limit(call: Call) -> int | None:
    text = call.parsed.last("last")
    latest = bool(call.parsed.flag("latest"))
    if text is None:
        return 1 if latest else None
    if latest:
        raise BadRequest("cannot list the latest and the last N: give --latest or --last")
    return count(text, "last", MAX_LAST)


def _presentation(call: Call) -> "Callable[[list[Shown]], str]":
    """How they are to be shown; what is wrong with it is told before anybody is asked."""
    given = call.text("format")
    if call.parsed.flag("quiet"):
        if given:
            raise BadRequest("cannot show ids only and by a format: give --quiet or --format")
        return lambda found: "".join(f"{container.id}\n" for container in found)
    columns = {**_COLUMNS, **_SIZE} if call.parsed.flag("size") else _COLUMNS
    if given in (None, "table"):
        rows = tuple(columns.values())
        return lambda found: tables.render(rows, [one.cells(columns) for one in found], output.width())
    show = presentation(given, columns, heading())
    return lambda found: show([container.fields() for container in found])
