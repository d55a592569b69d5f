"""Templates for output, `{{.Names}}` and the like: the part of Go's text/template that people use with Docker.

An action is a value: a field (`.status`, `.exit.code`, `.` for all), a text in quotes, a number, or a function
of such values: Docker's (`json`, `join`, `split`, `lower`, `upper`, `title`, `pad`, `truncate`, `println`) and `index` and `len`;
parentheses group. No loops, no conditions, no variables: what these would be for, `json` gives to a program that has
them. A template only reads the value it is given; nothing in it can call anything else.

Fields of records (what the API describes) are known by name, whatever the case of their letters; one that is not
known is an error that names the others. Keys of maps (labels: other people's words) are taken as they are, and one
that is not there gives nothing.
"""

from common.errors import BadRequest
from common.frames import dumps
from dkrctl.cells import plain

TYPE_CHECKING = False  # typing would cost 9.5 ms; type checkers know the name
if TYPE_CHECKING:
    import re
    from collections.abc import Callable

MAX_DEPTH = 16  # parentheses in parentheses
MAX_WIDTH = 1000  # characters that a template makes by numbers
_DIGITS = 18  # of a number, which counts entries; int() itself refuses more than 4300
_GRAMMAR = r"""\s*(?:(?P<field>\.(?:[A-Za-z_][A-Za-z0-9_.-]*)?)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>-?[0-9]+)|(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<mark>[()]))"""
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "r": "\r"}


class Record(dict[str, object]):
    """An object whose fields are known: an unknown one is a mistake. `None` stands for a field that is absent."""


class Labels(dict[str, str]):
    """Labels, which are written as Docker's tables have them: a=b,c=d."""

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.items())


class Method:
    """A field that takes an argument, as `.Label "team"` does. In a heading it is its argument."""

    __slots__ = ("call",)

    def __init__(self, call: "Callable[[str], object]") -> None:
        self.call = call


def json(value: object) -> str:
    """`value` as JSON on one line, with other scripts as they are and what is not printable as an escape."""
    # Controls below 32 are escaped by any encoder; those beyond (C1, bidirectional overrides) steer terminals too.
    return _printable(dumps(_jsonable(value)).decode("ascii"))


_UNICODE = r"(\\\\)|((?:\\u[0-9a-f]{4})+)"


def _printable(text: str) -> str:
    """ASCII JSON with those of its \\u escapes resolved that stand for printable characters."""
    text = text.replace("\x7f", "\\u007f")
    if "\\u" not in text:
        return text
    import re  # late: 6.5 ms, which most lists do without

    def resolved(found: "re.Match[str]") -> str:
        if found[1]:
            return found[1]  # an escaped backslash; what follows it is no escape
        units = bytes.fromhex(found[2].replace("\\u", ""))
        characters = units.decode("utf-16-be", "surrogatepass")
        return "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in characters)

    return re.sub(_UNICODE, resolved, text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


_PLAIN = frozenset((str, int, bool, float, type(None)))  # most of what there is


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {
            str(key): entry if type(entry) in _PLAIN else _jsonable(entry)
            for key, entry in value.items()
            if not isinstance(entry, Method)
        }
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    return value


def _words(text: str) -> list[tuple[str, str]]:
    """The tokens of an action that has only functions and fields between its blanks; none where it has others."""
    tokens = []
    for word in text.split():
        name = word.removeprefix(".").replace(".", "")
        if not word.isascii() or word[:2] == ".." or not (name.isidentifier() or word == "."):
            return []
        if word[0] != "." and "." in word:
            return []
        tokens.append(("field" if word[0] == "." else "word", word))
    return tokens


class _Node:
    """A part of a template: `function` of `arguments`, or a path of `fields`, or a `constant`."""

    __slots__ = ("arguments", "constant", "fields", "function")

    def __init__(self) -> None:
        self.function = ""
        self.arguments: list[_Node] = []
        self.fields: tuple[str, ...] | None = None
        self.constant: object = None


class Template:
    """A template, read once and filled in for many values."""

    def __init__(self, text: str) -> None:
        """Raises BadRequest, which says where it cannot be read."""
        self.text = text
        self._parts: list[str | _Node] = []
        self._read(text.replace("\\t", "\t").replace("\\n", "\n"))

    def fill(self, value: object, *, terminal: bool = False) -> str:
        """The template with `value` for its dot.

        terminal  people see it: what is not printable in the values is escaped

        Raises BadRequest where it asks for a field that is not known.
        """
        out = []
        for part in self._parts:
            if isinstance(part, str):
                out.append(part)
            else:
                text = _text(self._value(part, value))
                out.append(plain(text) if terminal else text)
                if part.function == "println":
                    out.append("\n")
        return "".join(out)

    # --- reading

    def _fault(self, cause: str) -> BadRequest:
        return BadRequest(
            f"cannot read the template {self.text!r}: {cause}",
            hint="as in '{{.Names}}', '{{json .}}', '{{index .labels \"team\"}}'; functions: "
            + ", ".join(_FUNCTIONS),
        )

    def _read(self, text: str) -> None:
        at = 0
        while (begin := text.find("{{", at)) >= 0:
            end = text.find("}}", begin)
            if end < 0:
                raise self._fault("a {{ has no }}")
            before, action, after = text[at:begin], text[begin + 2 : end], end + 2
            if action.startswith("- "):
                before, action = before.rstrip(), action[2:]
            if action.endswith(" -"):
                action = action[:-2]
                after += len(text[after:]) - len(text[after:].lstrip())
            self._parts.append(before)
            if not (action.startswith("/*") and action.endswith("*/")):
                self._parts.append(self._action(action))
            at = after
        self._parts.append(text[at:])

    def _action(self, text: str) -> _Node:
        text = text.strip()
        tokens = _words(text) or self._tokens(text)
        if not tokens:
            raise self._fault("a {{ }} is empty")
        node = self._call(tokens, 0)
        if tokens:
            raise self._fault(f"{tokens[0][1]!r} stands where nothing is wanted")
        return node

    def _tokens(self, text: str) -> list[tuple[str, str]]:
        import re  # late: 6.5 ms, for what is more than fields and functions

        token = re.compile(_GRAMMAR, re.VERBOSE)
        tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = token.match(text, at)
            if found is None or found.lastgroup is None:
                raise self._fault(f"{text[at:].strip()[:20]!r} is not known here")
            tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        return tokens

    def _call(self, tokens: list[tuple[str, str]], depth: int) -> _Node:
        """A function with its arguments, or one value; takes what it reads off `tokens`."""
        if depth > MAX_DEPTH:
            raise self._fault("it nests too deep")
        if not tokens:
            raise self._fault("a value is missing")
        kind, word = tokens[0]
        if kind != "word":
            node = self._operand(tokens, depth)
            if node.fields and tokens and tokens[0][0] == "text":  # a method: .Label "team"
                node.arguments.append(self._operand(tokens, depth))
            return node
        tokens.pop(0)
        node = _Node()
        node.function = word
        if word not in _FUNCTIONS:
            raise self._fault(f"there is no function {word}")
        while tokens and tokens[0][1] != ")":
            node.arguments.append(self._operand(tokens, depth))
        least, most = _FUNCTIONS[word][1:]
        if not least <= len(node.arguments) <= most:
            raise self._fault(f"{word} takes another number of values")
        return node

    def _operand(self, tokens: list[tuple[str, str]], depth: int) -> _Node:
        kind, word = tokens.pop(0)
        node = _Node()
        if kind == "field":
            node.fields = tuple(word[1:].split(".")) if len(word) > 1 else ()
            if "" in node.fields:
                raise self._fault(f"{word} names no field")
        elif kind == "number":
            if len(word) > _DIGITS:
                raise self._fault(f"a number of {len(word)} digits is too long")
            node.constant = int(word)
        elif kind == "text":
            node.constant = word[1:-1] if word[0] == "`" else self._unescaped(word[1:-1])
        elif word == "(":
            node = self._call(tokens, depth + 1)
            if not tokens or tokens.pop(0)[1] != ")":
                raise self._fault("a ( has no )")
        else:
            raise self._fault(f"{word!r} stands where a value is wanted")
        return node

    def _unescaped(self, text: str) -> str:
        def one(found: "re.Match[str]") -> str:
            if found[1] not in _ESCAPES:
                raise self._fault(f"\\{found[1]} means nothing in a text")
            return _ESCAPES[found[1]]

        import re  # late, as above

        return re.sub(r"\\(.)", one, text)

    # --- filling in

    def _value(self, node: _Node, dot: object) -> object:
        if node.function:
            arguments = [self._value(argument, dot) for argument in node.arguments]
            try:
                return _FUNCTIONS[node.function][0](*arguments)
            except TypeError as err:
                raise self._fault(f"{node.function}: {err}") from None
        if node.fields is None:
            return node.constant
        value = dot
        for name in node.fields:
            value = self._field(value, name)
        if isinstance(value, Method):
            if not node.arguments:
                raise self._fault(f'.{node.fields[-1]} takes a text, as in .{node.fields[-1]} "team"')
            return value.call(str(self._value(node.arguments[0], dot)))
        if node.arguments:
            raise self._fault(f".{'.'.join(node.fields)} takes no text")
        return value

    def _field(self, value: object, name: str) -> object:
        if value is None:
            return None  # a field of what is absent: absent
        if isinstance(value, Record):
            if name in value:
                return value[name]
            same = [key for key in value if key.lower() == name.lower()]
            if same:
                return value[same[0]]
            import difflib  # late: 5 ms, only for who has mistyped

            close = difflib.get_close_matches(name.lower(), [key.lower() for key in value], 1)
            near = next((f"; did you mean .{key}?" for key in value if close and key.lower() == close[0]), "")
            raise BadRequest(
                f"cannot fill in the template {self.text!r}: there is no field .{name}{near}",
                hint="known fields: " + ", ".join(f".{key}" for key in value),
            )
        if isinstance(value, dict):
            return value.get(name)
        raise BadRequest(
            f"cannot fill in the template {self.text!r}: what should have the field .{name} has none: "
            f"{plain(_text(value))[:40]!r}"
        )


# --- functions


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | Labels):
        return str(value)
    return json(value)


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list | tuple) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise TypeError(f"there are {len(value)} entries, none with the number {key}")
            value = value[key]
        else:
            raise TypeError("only maps and lists have entries")
    if isinstance(value, Method):
        raise TypeError(f'.{keys[-1]} takes a text, as in .{keys[-1]} "team"')
    return value


def _join(value: object, separator: object) -> str:
    if not isinstance(value, list | tuple):
        raise TypeError("a list is wanted")
    return str(separator).join(map(_text, value))


def _len(value: object) -> int:
    if isinstance(value, str | dict | list | tuple):
        return len(value)
    raise TypeError("only texts, maps and lists have a length")


def _title(value: object) -> str:
    import re  # late, as above

    return re.sub(r"(?<!\S)\S", lambda found: found[0].upper(), _text(value))


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_WIDTH:
        raise TypeError(f"a number from 0 to {MAX_WIDTH} is wanted")
    return value


def _pad(value: object, before: object, behind: object) -> str:
    """Blanks around a text, as many as that; around nothing none."""
    text = _text(value)
    return " " * _number(before) + text + " " * _number(behind) if text else ""


def _truncate(value: object, length: object) -> str:
    return _text(value)[: _number(length)]


# name -> what it does, the least and the largest number of values it takes. The newline of println is put behind it by who fills in.
_FUNCTIONS: "dict[str, tuple[Callable[..., object], int, int]]" = {
    "json": (json, 1, 1),
    "index": (_index, 2, MAX_DEPTH),
    "join": (_join, 2, 2),
    "len": (_len, 1, 1),
    "lower": (lambda value: _text(value).lower(), 1, 1),
    "pad": (_pad, 3, 3),
    "println": (lambda *values: " ".join(map(_text, values)), 0, MAX_DEPTH),
    "split": (lambda value, separator: _text(value).split(_text(separator) or None), 2, 2),
    "title": (_title, 1, 1),
    "truncate": (_truncate, 2, 2),
    "upper": (lambda value: _text(value).upper(), 1, 1),
}
