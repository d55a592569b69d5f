"""How a list is shown by `--format`: as a table, as lines of JSON, by a template of one's own."""

from dkrctl import output, tables
from dkrctl.templates import Record, Template, json

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def presentation(
    form: str, columns: "Mapping[str, tables.Column]", heading: Record
) -> "Callable[[Sequence[Record]], str]":
    """What shows records in the form that is wanted; what is wrong with it is told before anybody is asked (BadRequest).

    columns  of the table, by field
    heading  the values that make a template its own heading
    """
    if form == "table":
        return lambda found: tables.render(
            tuple(columns.values()), [[str(one[name]) for name in columns] for one in found], output.width()
        )
    if form == "json":
        return lambda found: "".join(f"{json(one)}\n" for one in found)
    if form.startswith("table "):
        return _own_table(Template(form.removeprefix("table ").strip(" ")), heading)
    template = Template(form)
    template.fill(heading)  # unknown fields are told even where there is nothing to show
    return lambda found: "".join(template.fill(one, terminal=output.is_terminal()) + "\n" for one in found)


def _own_table(template: Template, heading: Record) -> "Callable[[Sequence[Record]], str]":
    """Columns are what the template has between tabs."""
    columns = [tables.Column(name) for name in template.fill(heading).split("\t")]
    return lambda found: tables.render(
        columns, [template.fill(one, terminal=True).split("\t") for one in found], output.width()
    )
