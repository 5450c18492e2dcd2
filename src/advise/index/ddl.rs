//! The SQL that creates a recommended index and that drops it again, and the words in it. Called when rows are made; reads
//! names from the catalog, and locks a partition while it prints an index of it, if nobody is in the way.

use std::collections::HashMap;

use perf_core::index::{name, Candidate, Key, Kind, Part};
use pgrx::pg_sys;

use super::pool::{Entry, NamedPart};
use super::study::Known;
use crate::pg::catalog::PartitionKind;
use crate::pg::expressions::Expressions;
use crate::pg::relation::Relation;
use crate::pg::{ident, index_definition, opclass};

/// Unquoted column names, and expressions as SQL.
pub fn key_texts(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    texts(&known.relation, candidate, |number| expressions.text(number))
}

/// The pieces of an index's name that its keys give.
pub fn name_pieces(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    texts(&known.relation, candidate, |number| name::expression_piece(&expressions.text(number)))
}

fn texts(relation: &Relation, candidate: &Candidate, of_expression: impl Fn(u32) -> String) -> Vec<String> {
    let of = |part: Part| match part {
        Part::Column(number) => column_name(relation, number),
        Part::Expression(number) => of_expression(number),
    };
    candidate.keys.iter().map(|key| of(key.part)).collect()
}

fn column_name(relation: &Relation, number: i16) -> String {
    relation.column(number).map_or_else(String::new, |column| column.name.clone())
}

/// What tells this index from every other: the parts of its stable id.
pub fn identity(known: &Known, candidate: &Candidate, expressions: &Expressions) -> Vec<String> {
    let mut parts = vec![known.relation.qualified(), candidate.kind.access_method().to_owned()];
    for (key, text) in candidate.keys.iter().zip(key_texts(known, candidate, expressions)) {
        parts.extend([text, options(*key)]);
    }
    parts.extend(candidate.include.iter().map(|column| format!("include {}", column_name(&known.relation, *column))));
    parts.extend(candidate.predicate.map(|number| format!("where {}", expressions.text(number))));
    parts
}

/// The same for an index of the policy, which is a B-tree on plain columns; its table need not exist.
pub fn plain_identity(table: &str, columns: &[String]) -> Vec<String> {
    let mut parts = vec![table.to_owned(), Kind::Btree.access_method().to_owned()];
    parts.extend(columns.iter().flat_map(|column| [column.clone(), String::new()]));
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
pub fn definition(relation: &Relation, candidate: &Candidate, expressions: &Expressions) -> String {
    let key = |key: &Key| match key.part {
        Part::Column(number) => ident::quote(&column_name(relation, number)) + &options(*key),
        Part::Expression(number) => expressions.key_text(number) + &options(*key),
    };
    let keys: Vec<String> = candidate.keys.iter().map(key).collect();
    let mut definition = format!("USING {} ({})", candidate.kind.access_method(), keys.join(", "));
    if !candidate.include.is_empty() {
        let quoted = |column: &i16| ident::quote(&column_name(relation, *column));
        let columns: Vec<String> = candidate.include.iter().map(quoted).collect();
        definition.push_str(&format!(" INCLUDE ({})", columns.join(", ")));
    }
    if let Some(number) = candidate.predicate {
        definition.push_str(&format!(" WHERE {}", expressions.text(number)));
    }
    definition
}

/// The statements that create the index called `index`, and those that take it back.
///
/// On a partitioned table: an empty index on every level, one on each leaf without holding off its writes, and each
/// attached to the one above it, from the leaves up. Expressions have no statistics, so the planner does not know what the
/// index is good for, until the table is analysed again.
pub fn create(known: &Known, entry: &Entry, expressions: &Expressions) -> (String, String) {
    let relation = &known.relation;
    let definition = definition(relation, &entry.candidate, expressions);
    let index = ident::from_server(&entry.index.name);
    let (quoted, qualified) = (ident::quote(&index), ident::qualified(&relation.schema, &index));
    let has_expression = entry.candidate.keys.iter().any(|key| key.column().is_none());
    let analyze = has_expression.then(|| format!("ANALYZE {}", relation.qualified()));
    if relation.kind != b'p' {
        let mut statements =
            vec![format!("CREATE INDEX CONCURRENTLY {quoted} ON {} {definition}", relation.qualified())];
        statements.extend(analyze);
        return (statements.join(";\n"), format!("DROP INDEX CONCURRENTLY {qualified}"));
    }
    let mut statements = if known.partitions.foreign().next().is_some() {
        // An index that lacks a part in a foreign table never becomes valid by attaching. Made last, and without ONLY, it
        // leaves foreign tables out, finds its parts on the others, and is valid at once.
        let mut statements: Vec<String> = entry.parts.iter().filter_map(|part| build(part, &definition)).collect();
        statements.push(format!("CREATE INDEX {quoted} ON {} {definition}", relation.qualified()));
        statements
    } else {
        let mut statements = vec![format!("CREATE INDEX {quoted} ON ONLY {} {definition}", relation.qualified())];
        statements.extend(attached(relation.oid, &qualified, &entry.parts, &definition));
        statements
    };
    statements.extend(analyze);
    // What was attached goes with the whole, and was there before.
    let mut undo = vec![format!("DROP INDEX {qualified}")];
    undo.extend(entry.parts.iter().filter_map(|part| again(part, &definition)));
    (statements.join(";\n"), undo.join(";\n"))
}

/// The parts of the index `whole` on `relation`, made where they are lacking and attached.
fn attached(relation: pg_sys::Oid, whole: &str, parts: &[NamedPart], definition: &str) -> Vec<String> {
    let mut above = HashMap::from([(relation.to_u32(), whole.to_owned())]);
    above.extend(
        parts.iter().map(|part| (part.partition.oid.to_u32(), ident::qualified(&part.partition.schema, &part.name))),
    );
    let attach = |part: &NamedPart| {
        let (parent, own) = (above.get(&part.partition.parent.to_u32())?, above.get(&part.partition.oid.to_u32())?);
        Some(format!("ALTER INDEX {parent} ATTACH PARTITION {own}"))
    };
    // To be filled by parts of its own.
    let is_frame = |part: &&NamedPart| part.partition.kind == PartitionKind::Partitioned && part.ready.is_none();
    let mut statements = Vec::new();
    for part in parts.iter().filter(is_frame) {
        let (name, table) = (ident::quote(&part.name), ident::qualified(&part.partition.schema, &part.partition.name));
        statements.push(format!("CREATE INDEX {name} ON ONLY {table} {definition}"));
    }
    for part in parts.iter().filter(|part| !is_frame(part)) {
        statements.extend(build(part, definition));
        statements.extend(attach(part));
    }
    statements.extend(parts.iter().rev().filter(is_frame).filter_map(attach));
    statements
}

/// Makes the part of an index in a partition with storage that lacks it.
fn build(part: &NamedPart, definition: &str) -> Option<String> {
    let partition = &part.partition;
    (partition.kind == PartitionKind::Plain && part.ready.is_none()).then(|| {
        let table = ident::qualified(&partition.schema, &partition.name);
        format!("CREATE INDEX CONCURRENTLY {} ON {table} {definition}", ident::quote(&part.name))
    })
}

/// Makes an index again that was there before: as it is written, or while its table is locked as the whole is defined.
fn again(part: &NamedPart, definition: &str) -> Option<String> {
    let partition = &part.partition;
    let create = match index_definition::read(partition.oid, part.ready?, &[]) {
        Ok(definition) => definition.create,
        Err(_) => {
            let table = ident::qualified(&partition.schema, &partition.name);
            format!("CREATE INDEX {} ON {table} {definition}", ident::quote(&part.name))
        }
    };
    Some(if partition.kind == PartitionKind::Partitioned { create } else { concurrently(&create) })
}

/// `CREATE INDEX` becomes `CREATE INDEX CONCURRENTLY`.
pub fn concurrently(create: &str) -> String {
    for start in ["CREATE INDEX ", "CREATE UNIQUE INDEX "] {
        if let Some(rest) = create.strip_prefix(start) {
            return format!("{start}CONCURRENTLY {rest}");
        }
    }
    create.to_owned()
}
