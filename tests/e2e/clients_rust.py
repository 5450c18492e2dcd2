"""Writes the part of docs/clients/rust/src/perf_opt.rs that follows from the catalogue."""

from __future__ import annotations

import textwrap

from .clients_catalog import ENDLESS, Function, Relation, Value, camel, first_sentence
from .system import HarnessError

WIDTH = 120
MARK = "// Policy tables come first"
# PostgreSQL's type, and Rust's. What is a String here and no text there is cast.
TYPES = {
    "bigint": "i64",
    "bigint[]": "Vec<i64>",
    "boolean": "bool",
    "double precision": "f64",
    "double precision[]": "Vec<f64>",
    "integer": "i32",
    "interval": "String",
    "interval[]": "Vec<String>",
    "jsonb": "Json",
    "name[]": "Vec<String>",
    "numeric": "f64",
    "pg_snapshot": "String",
    "regclass": "String",
    "regrole": "String",
    "text": "String",
    "text[]": "Vec<String>",
    "timestamp with time zone": "Time",
}
CASTS = {"interval": "text", "numeric": "double precision", "regclass": "text", "regrole": "text"}
KEYWORDS = set("as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut "
               "pub ref return self static struct super trait true type unsafe use where while abstract become box do final macro "
               "override priv typeof unsized virtual yield try gen".split())


def module(head: str, functions: list[Function], relations: list[Relation]) -> str:
    """The whole file: its head as it is, and what follows from the catalogue."""
    kept = head[:head.index("\n", head.index(MARK)) + 1]
    parts = [entity(one) for one in sorted(relations, key=lambda one: (one.is_view, one.name))]
    parts += [function(one) for one in functions]
    return kept + "\n" + "\n".join(parts)


def type_of(value: Value) -> str:
    """The type of a value in Rust."""
    if value.type not in TYPES:
        raise HarnessError(f"clients_rust.TYPES does not know the type {value.type}")
    return TYPES[value.type]


def identifier(value: Value) -> str:
    """The name of an argument or a column, which is SQL's."""
    if value.name in KEYWORDS:
        raise HarnessError(f"{value.name} is a keyword of Rust")
    return value.name


def doc(comment: str, indent: str) -> str:
    """Lines of documentation."""
    text = first_sentence(comment).replace("[", "\\[").replace("]", "\\]")
    return "".join(f"{indent}/// {line}\n" for line in textwrap.wrap(text, WIDTH - 8))


def entity(relation: Relation) -> str:
    """A module with an entity."""
    fields = []
    for column in relation.columns:
        type_ = type_of(column)
        options = []
        if column.is_key:
            options += ["primary_key", "auto_increment = false"]
        if (relation.name, column.name) in ENDLESS:
            type_ = "String"
            options += ['column_type = "Text"', 'select_as = "text"', f'save_as = "{column.type}"']
        elif column.type in CASTS:
            options += [f'select_as = "{CASTS[column.type]}"', f'save_as = "{column.type}"']
        if options:
            fields.append(f"        #[sea_orm({', '.join(options)})]\n")
        fields.append(f"        pub {identifier(column)}: {type_ if column.required else f'Option<{type_}>'},\n")
    return (f"{doc(relation.comment, '')}#[allow(missing_docs)]\npub mod {relation.name} {{\n    use super::*;\n\n"
            "    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]\n"
            f'    #[sea_orm(schema_name = "perf", table_name = "{relation.name}")]\n'
            f"    pub struct Model {{\n{''.join(fields)}    }}\n\n"
            "    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]\n    pub enum Relation {}\n\n"
            "    impl ActiveModelBehavior for ActiveModel {}\n}\n")


def function(one: Function) -> str:
    """One of the macros' calls."""
    required = "".join(f"        {typed(value)},\n" for value in one.arguments if value.required)
    optional = "".join(f'        {typed(value)} = "{quoted(value.default or "")}",\n' for value in one.arguments if not value.required)
    called = f"{one.name}({bracketed(required)}) {{{bracketed(optional)}}}"
    marker = camel(one.name)
    if one.kind == "rows":
        columns = "".join(f"        {typed(value)},\n" for value in one.columns)
        body = f"rows! {{\n{doc(one.comment, '    ')}    {called} -> {marker}Row {{\n{columns}    }}\n}}\n"
    elif one.kind == "value":
        result = Value("value", one.result)
        body = f'value! {{\n{doc(one.comment, "    ")}    {called} -> {marker}: {type_of(result)} as "{one.result}"\n}}\n'
    else:
        is_procedure = "true" if one.kind == "procedure" else "false"
        body = f"action! {{\n{doc(one.comment, '    ')}    {called} -> {marker}, procedure: {is_procedure}\n}}\n"
    return body


def typed(value: Value) -> str:
    """An argument or a column, with both of its types."""
    return f'{identifier(value)}: {type_of(value)} as "{value.type}"'


def quoted(sql: str) -> str:
    """SQL within a literal of Rust."""
    return sql.replace("\\", "\\\\").replace('"', '\\"')


def bracketed(lines: str) -> str:
    """Lines between brackets; nothing between them where there are none."""
    return f"\n{lines}    " if lines else ""
