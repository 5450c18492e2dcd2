//! The SQL that creates a recommended index and that drops it again, and the words in it. Called when rows are made; reads
//! names from the catalog, locks nothing.

use std::collections::HashMap;

use perf_core::index::{name, Candidate, Key, Part};
use pgrx::pg_sys;

use super::pool::Entry;
use super::study::Known;
use crate::pg::catalog::Partition;
use crate::pg::expressions::Expressions;
use crate::pg::{ident, opclass};

/// Unquoted column names, and expressions as SQL.
pub fn key_texts(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    texts(known, candidate, |number| expressions.text(number))
}

/// The pieces of an index's name that its keys give.
pub fn name_pieces(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    texts(known, candidate, |number| name::expression_piece(&expressions.text(number)))
}

fn texts(known: &Known, candidate: &Candidate, of_expression: impl Fn(u32) -> String) -> Vec<String> {
    let of = |part: Part| match part {
        Part::Column(number) => column_name(known, number),
        Part::Expression(number) => of_expression(number),
    };
    candidate.keys.iter().map(|key| of(key.part)).collect()
}

fn column_name(known: &Known, number: i16) -> String {
    known.relation.column(number).map_or_else(String::new, |column| column.name.clone())
}

/// What tells this index from every other: the parts of its stable id.
pub fn identity(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    let mut parts = vec![known.relation.qualified(), candidate.kind.access_method().to_owned()];
    for (key, text) in candidate.keys.iter().zip(key_texts(known, candidate, expressions)) {
        parts.extend([text, options(*key)]);
    }
    parts.extend(candidate.include.iter().map(|column| format!("include {}", column_name(known, *column))));
    parts.extend(candidate.predicate.map(|number| format!("where {}", expressions.text(number))));
    parts
}

/// What follows a key: operator class and order, each only where it is not the default.
fn options(key: Key) -> String {
    let class = (key.opclass != 0).then(|| opclass::name(pg_sys::Oid::from(key.opclass))).flatten();
    let order = match (key.descending, key.nulls_first) {
        (false, false) => "",
        (false, true) => " NULLS FIRST",
        (true, true) => " DESC",
        (true, false) => " DESC NULLS LAST",
    };
    class.map_or_else(|| order.to_owned(), |class| format!(" {class}{order}"))
}

/// `USING btree (a, lower(b) DESC) INCLUDE (c) WHERE d`.
pub fn definition(known: &Known, candidate: &Candidate, expressions: &Expressions) -> String {
    let key = |key: &Key| match key.part {
        Part::Column(number) => ident::quote(&column_name(known, number)) + &options(*key),
        Part::Expression(number) => expressions.key_text(number) + &options(*key),
    };
    let keys: Vec<String> = candidate.keys.iter().map(key).collect();
    let mut definition = format!("USING {} ({})", candidate.kind.access_method(), keys.join(", "));
    if !candidate.include.is_empty() {
        let quoted = |column: &i16| ident::quote(&column_name(known, *column));
        let columns: Vec<String> = candidate.include.iter().map(quoted).collect();
        definition.push_str(&format!(" INCLUDE ({})", columns.join(", ")));
    }
    if let Some(number) = candidate.predicate {
        definition.push_str(&format!(" WHERE {}", expressions.text(number)));
    }
    definition
}

/// The statements that create the index called `index`, and the one that drops it again.
///
/// On a partitioned table: an empty index on every level, one on each leaf without holding off its writes, and each
/// attached to the one above it, from the leaves up. Expressions have no statistics, so the planner does not know what the
/// index is good for, until the table is analysed again.
pub fn create(known: &Known, entry: &Entry, expressions: &Expressions) -> (String, String) {
    let candidate = &entry.candidate;
    let definition = definition(known, candidate, expressions);
    let relation = &known.relation;
    let index = ident::from_server(&entry.index.name);
    let (quoted, qualified) = (ident::quote(&index), ident::qualified(&relation.schema, &index));
    let has_expression = candidate.keys.iter().any(|key| key.column().is_none());
    let analyze = has_expression.then(|| format!("ANALYZE {}", relation.qualified()));
    if relation.kind != b'p' {
        let mut statements =
            vec![format!("CREATE INDEX CONCURRENTLY {quoted} ON {} {definition}", relation.qualified())];
        statements.extend(analyze);
        return (statements.join(";\n"), format!("DROP INDEX CONCURRENTLY {qualified}"));
    }
    let parts = &entry.parts;
    let mut above = HashMap::from([(relation.oid.to_u32(), qualified.clone())]);
    above.extend(parts.iter().map(|(part, name)| (part.oid.to_u32(), ident::qualified(&part.schema, name))));
    let attach = |part: &Partition| {
        let (parent, own) = (above.get(&part.parent.to_u32())?, above.get(&part.oid.to_u32())?);
        Some(format!("ALTER INDEX {parent} ATTACH PARTITION {own}"))
    };
    let mut statements = vec![format!("CREATE INDEX {quoted} ON ONLY {} {definition}", relation.qualified())];
    for (part, name) in parts.iter().filter(|(part, _)| part.is_partitioned) {
        let (name, table) = (ident::quote(name), ident::qualified(&part.schema, &part.name));
        statements.push(format!("CREATE INDEX {name} ON ONLY {table} {definition}"));
    }
    for (part, name) in parts.iter().filter(|(part, _)| !part.is_partitioned) {
        let (name, table) = (ident::quote(name), ident::qualified(&part.schema, &part.name));
        statements.push(format!("CREATE INDEX CONCURRENTLY {name} ON {table} {definition}"));
        statements.extend(attach(part));
    }
    statements.extend(parts.iter().rev().map(|(part, _)| part).filter(|part| part.is_partitioned).filter_map(attach));
    statements.extend(analyze);
    (statements.join(";\n"), format!("DROP INDEX {qualified}"))
}
