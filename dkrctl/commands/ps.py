"""`dkrctl ps`: a list of containers."""

from collections.abc import Callable, Iterable

from common.errors import BadRequest, ProtocolError
from common.verbs import FILTERS, STATUSES
from dkrctl import output, tables
from dkrctl.containers import Shown, heading, record_of
from dkrctl.parse import count
from dkrctl.templates import Template, json
from dkrctl.verbs import Call

MAX_LAST = 1_000_000
_COLUMNS = {  # by field. The name stays longest: it is what people go on with
    "ID": tables.Column("CONTAINER ID"),
    "Image": tables.Column("IMAGE", 3, 8),
    "Command": tables.Column("COMMAND", 1, 9),
    "RunningFor": tables.Column("CREATED", 2),  # the status tells nearly the same
    "Status": tables.Column("STATUS", 4, 16),
    "Names": tables.Column("NAMES", 5, 15),
}


class Filters:
    """What `--filter` chooses by: of one key any value, but every label; of several keys all."""

    def __init__(self, words: Iterable[str]) -> None:
        """Raises BadRequest, naming the keys that are known."""
        self._values: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in FILTERS:
                raise BadRequest(
                    f"cannot filter by {key!r}: there is no such key",
                    hint=f"known keys: {', '.join(FILTERS)}",
                )
            if not equals or not value:
                raise BadRequest(
                    f"cannot filter by {key}: its value is missing", hint=f"as in --filter {key}=VALUE"
                )
            self._values.setdefault(key, []).append(self._checked(key, value))

    @staticmethod
    def _checked(key: str, value: str) -> str:
        if key == "status":
            if value not in STATUSES:
                raise BadRequest(
                    f"cannot filter by status={value}: there is no such status",
                    hint=f"statuses: {', '.join(STATUSES)}",
                )
            return "stopped" if value == "exited" else value
        if key != "exited":
            return value
        digits = value.lstrip("0") or "0"  # as many of them as one likes
        if not (value.isascii() and value.isdigit() and len(digits) <= 3 and int(digits) < 256):
            raise BadRequest(
                f"cannot filter by exited={value[:20]}: an exit status from 0 to 255 is wanted",
                hint="as in --filter exited=1",
            )
        return digits

    @property
    def want_ended(self) -> bool:
        """Whether they ask for containers that have ended, so that `-a` is meant."""
        return "exited" in self._values or bool({"stopped", "created"} & set(self._values.get("status", ())))

    def match(self, container: Shown) -> bool:
        """Whether `container` is one of those that are meant."""
        for key, values in self._values.items():
            hits = [_MATCHES[key](container, value) for value in values]
            if not (all(hits) if key == "label" else any(hits)):
                return False
        return True


def _has_label(container: Shown, value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in container.labels and (not equals or container.labels[key] == wanted)


_MATCHES: dict[str, Callable[[Shown, str], bool]] = {
    "status": lambda container, value: container.record.get("status") == value,
    "name": lambda container, value: value.removeprefix("/") in container.name,
    "label": _has_label,
    "id": lambda container, value: str(container.record.get("id")).startswith(value),
    "exited": lambda container, value: (
        container.record.get("status") == "stopped" and container.exit_code == int(value)
    ),
}


def run(call: Call) -> int:
    """`dkrctl ps`; the exit status. Raises DkrError."""
    call.no_words()
    filters = Filters(call.texts("filter"))
    limit = _limit(call)
    show = _presentation(call)
    every = bool(call.parsed.flag("all")) or limit is not None or filters.want_ended
    answer = call.daemon().get(f"/v1/containers{'?all=true' if every else ''}")
    if not isinstance(answer, list):
        raise ProtocolError("cannot understand the daemon: its list of containers is none")
    whole = bool(call.parsed.flag("no-trunc"))
    found = [Shown(record_of(entry), whole=whole) for entry in answer]
    output.emit(show([container for container in found if filters.match(container)][:limit]))
    return 0


def _limit(call: Call) -> int | None:
    text = call.parsed.last("last")
    latest = bool(call.parsed.flag("latest"))
    if text is None:
        return 1 if latest else None
    if latest:
        raise BadRequest("cannot list the latest and the last N: give --latest or --last")
    return count(text, "last", MAX_LAST)


def _presentation(call: Call) -> Callable[[list[Shown]], str]:
    """How they are to be shown; what is wrong with it is told before anybody is asked."""
    given = call.text("format")
    form = given or "table"
    if call.parsed.flag("quiet"):
        if given:
            raise BadRequest("cannot show ids only and by a format: give --quiet or --format")
        return lambda found: "".join(f"{container.id}\n" for container in found)
    if form == "table":
        return _table
    if form == "json":
        return lambda found: "".join(f"{json(container.fields())}\n" for container in found)
    if form.startswith("table "):
        return _own_table(Template(form.removeprefix("table ").strip(" ")))
    template = Template(form)
    template.fill(heading())  # unknown fields are told even where there is no container
    return lambda found: "".join(
        template.fill(container.fields(), terminal=output.is_terminal()) + "\n" for container in found
    )


def _table(found: list[Shown]) -> str:
    rows = []
    for container in found:
        fields = container.fields()
        rows.append([str(fields[name]) for name in _COLUMNS])
    return tables.render(tuple(_COLUMNS.values()), rows, output.width())


def _own_table(template: Template) -> Callable[[list[Shown]], str]:
    """Columns are what the template has between tabs."""
    names = template.fill(heading()).split("\t")

    def show(found: list[Shown]) -> str:
        rows = []
        for container in found:
            cells = template.fill(container.fields(), terminal=True).split("\t")
            rows.append(cells)
        return tables.render([tables.Column(name) for name in names], rows, output.width())

    return show
