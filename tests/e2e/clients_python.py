"""Writes the part of docs/clients/python/perf_opt_models.py that follows from the catalogue."""

from __future__ import annotations

import keyword
import textwrap

from .clients_catalog import ENDLESS, Function, Relation, Value, first_sentence
from .system import HarnessError

WIDTH = 120
MARK = "# Policy tables come first"
# PostgreSQL's type: the constant of the module's head, the type of a column, and that of an argument.
TYPES = {
    "bigint": ("BIGINT", "int", "int"),
    "bigint[]": ("BIGINTS", "List[int]", "Sequence[int]"),
    "boolean": ("BOOLEAN", "bool", "bool"),
    "double precision": ("DOUBLE", "float", "float"),
    "double precision[]": ("DOUBLES", "List[float]", "Sequence[float]"),
    "integer": ("INTEGER", "int", "int"),
    "interval": ("INTERVAL", "dt.timedelta", "Interval"),
    "interval[]": ("INTERVALS", "List[dt.timedelta]", "Sequence[Interval]"),
    "jsonb": ("JSONB", "Any", "Any"),
    "name[]": ("NAMES", "List[str]", "Sequence[str]"),
    "numeric": ("NUMERIC", "Decimal", "Decimal"),
    "pg_snapshot": ("SNAPSHOT", "str", "str"),
    "regclass": ("REGCLASS", "str", "str"),
    "regrole": ("REGROLE", "str", "str"),
    "text": ("TEXT", "str", "str"),
    "text[]": ("TEXTS", "List[str]", "Sequence[str]"),
    "timestamp with time zone": ("TIME", "dt.datetime", "Time"),
    "void": ("NOTHING", "None", "None"),
}


def module(head: str, functions: list[Function], relations: list[Relation]) -> str:
    """The whole file: its head as it is, and what follows from the catalogue."""
    kept = head[:head.index("\n", head.index(MARK)) + 1]
    parts = [entity(one) for one in sorted(relations, key=lambda one: (one.is_view, one.name))]
    parts += [rows(one) if one.kind == "rows" else call(one) for one in functions]
    return kept + "\n\n" + "\n\n".join(parts)


def names(type_: str) -> tuple[str, str, str]:
    """What a type is called."""
    if type_ not in TYPES:
        raise HarnessError(f"clients_python.TYPES does not know the type {type_}")
    return TYPES[type_]


def identifier(value: Value) -> str:
    """The name of an argument or a column, which is SQL's."""
    if keyword.iskeyword(value.name):
        raise HarnessError(f"{value.name} is a keyword of Python")
    return value.name


def doc(comment: str) -> str:
    """A docstring's lines."""
    text = first_sentence(comment).replace("\\", "\\\\")
    lines = textwrap.wrap(f'"""{text}"""', WIDTH - 4)
    return "".join(f"    {line}\n" for line in lines)


def entity(relation: Relation) -> str:
    """A mapped class."""
    lines = [f"class {relation.class_name}(Base):\n", doc(relation.comment), "\n",
             f'    __tablename__ = "{relation.name}"\n\n']
    for column in relation.columns:
        constant, type_, _ = names(column.type)
        if (relation.name, column.name) in ENDLESS:
            constant = "ENDLESS"
        options = [constant]
        if column.is_key:
            options.append("primary_key=True" + (", autoincrement=False" if type_ == "int" else ""))
        if not relation.is_view and (column.has_default or column.name == "origin"):
            options.append("server_default=sa.FetchedValue()")
        hint = type_ if column.required or type_ == "Any" else f"Optional[{type_}]"
        lines.append(f"    {identifier(column)}: Mapped[{hint}] = mapped_column({', '.join(options)})\n")
    return "".join(lines)


def signature(function: Function, first: str, result: str) -> str:
    """`def`, with what must be given first and what may be given by name."""
    required = [f"{identifier(one)}: Arg[{names(one.type)[2]}]" for one in function.arguments if one.required]
    optional = [f'{identifier(one)}: Arg[{names(one.type)[2]}] = default("{quoted(one.default or "")}")'
                for one in function.arguments if not one.required]
    arguments = [*([first.partition("(")[2]] if first.endswith("self") else []), *required, *(["*", *optional] if optional else [])]
    name = first.partition("(")[0]
    line = f"def {name}({', '.join(arguments)}) -> {result}:"
    indent = "    " if first.endswith("self") else ""
    if len(indent + line) <= WIDTH:
        return indent + line + "\n"
    wrapped = "".join(f"{indent}    {argument},\n" for argument in arguments)
    return f"{indent}def {name}(\n{wrapped}{indent}) -> {result}:\n"


def quoted(sql: str) -> str:
    """SQL within a literal of Python."""
    return sql.replace("\\", "\\\\").replace('"', '\\"')


def given(function: Function) -> list[str]:
    """The arguments as the head's helper takes them."""
    return [f'_arg("{one.name}", {identifier(one)}, {names(one.type)[0]})' for one in function.arguments]


def wrapped_call(indent: str, start: str, arguments: list[str], end: str) -> str:
    """A call on one line, or on one for each argument."""
    line = indent + start + ", ".join(arguments) + end
    if len(line) <= WIDTH:
        return line + "\n"
    return indent + start + "\n" + "".join(f"{indent}    {one},\n" for one in arguments) + indent + end + "\n"


def rows(function: Function) -> str:
    """A class whose instances stand in FROM."""
    columns = "".join(f"    {identifier(one)} = Col({names(one.type)[0]})\n" for one in function.columns)
    text = f"class {function.name}(Rows):\n{doc(function.comment)}\n{columns}"
    if not function.arguments:
        return text + "\n    def __init__(self) -> None:\n        super().__init__()\n"
    return text + "\n" + signature(function, "__init__(self", "None") + wrapped_call("        ", "super().__init__(", given(function), ")")


def call(function: Function) -> str:
    """A function whose result is an expression or, of a procedure, a statement."""
    constant, type_, _ = names("void" if function.kind == "procedure" else function.result)
    made = wrapped_call("    ", f'made = _function("{function.name}", {constant}, [', given(function), "])")
    if function.kind == "procedure":
        return signature(function, function.name, "Call") + doc(function.comment) + made + "    return Call(made)\n"
    return (signature(function, function.name, f"Function[{type_}]") + doc(function.comment)
            + made.replace("made = ", "return ", 1))
