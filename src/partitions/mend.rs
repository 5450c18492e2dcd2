//! SQL that users run to mend a table: a partition by hand for a range, the call that manages a table as it is managed now.
//! Called by the check of partitions, inside a transaction. Reads catalogs; locks nothing.

use perf_core::partition::{literal, name_nth, Range, Ruler, Span};

use super::questions::{incoming_key, is_taken, stored_columns};
use super::{Parent, Partition};
use crate::act::tasks::partition::settings::{ArchiveTo, OnExpire, Settings};
use crate::pg::ident;

/// Names tried for a partition.
const NAMES_MAX: u32 = 100;

/// Has the job of a parent look at it now.
pub fn tick(parent: &str) -> String {
    format!("SELECT * FROM perf.partition_tick({})", ident::literal(parent))
}

/// Manages a table as these settings say.
pub fn manage(parent: &str, settings: &Settings) -> String {
    let mut arguments = vec![ident::literal(parent), ident::literal(&settings.every.to_string())];
    arguments.push(format!("premake => {}", settings.premake));
    let mut add = |name: &str, value: &str| arguments.push(format!("{name} => {}", ident::literal(value)));
    if let Some(retention) = settings.retention {
        add("retention", &interval(retention));
    }
    add("on_expire", settings.on_expire.name());
    if settings.on_expire == OnExpire::Archive {
        add("archive_to", settings.archive_to.name());
        if settings.archive_to == ArchiveTo::Schema {
            add("archive_schema", &settings.archive_schema);
        }
    }
    if let Some(age) = settings.compress_after {
        add("compress_after", &interval(age));
    }
    add("time_zone", &settings.time_zone);
    if let Some(unit) = settings.epoch {
        add("epoch", &unit.to_string());
    }
    arguments.push(format!("max_move_rows => {}", settings.max_move_rows));
    format!("SELECT perf.partition_manage({})", arguments.join(", "))
}

fn interval(span: Span) -> String {
    let parts = [(i64::from(span.months), "months"), (i64::from(span.days), "days"), (span.micros, "microseconds")];
    let given: Vec<String> =
        parts.iter().filter(|(number, _)| *number != 0).map(|(number, unit)| format!("{number} {unit}")).collect();
    if given.is_empty() {
        "0".to_owned()
    } else {
        given.join(" ")
    }
}

/// A range in words.
pub fn span(parent: &Parent, range: &Range) -> String {
    format!("from {} to {}", literal(parent.key, range.lower), literal(parent.key, range.upper))
}

/// Makes the partition of a range by hand, with the rows of it that are in the default partition; `None` where a foreign key
/// of another table keeps these from being moved.
pub fn partition(parent: &Parent, ruler: &Ruler, range: &Range, holds_rows: Option<&Partition>) -> Option<String> {
    let schema = parent.newest().map_or(&parent.schema, |newest| &newest.schema);
    let name = (1..=NAMES_MAX).map(|n| name_nth(&parent.name, ruler, range, n)).find(|name| !is_taken(schema, name))?;
    let (full_name, parent_name) = (ident::qualified(schema, &name), parent.full_name());
    let (lower, upper) = (literal(parent.key, range.lower), literal(parent.key, range.upper));
    let create = format!("CREATE TABLE {full_name} (LIKE {parent_name} INCLUDING ALL EXCLUDING IDENTITY)");
    let attach =
        format!("ALTER TABLE {parent_name} ATTACH PARTITION {full_name} FOR VALUES FROM ({lower}) TO ({upper})");
    let Some(default) = holds_rows else { return Some(format!("{create};\n{attach}")) };
    if default.relkind != b'r' || incoming_key(parent.oid, default.oid).is_some() {
        return None;
    }
    let column = ident::quote(&parent.column);
    let columns = stored_columns(parent.oid).join(", ");
    let move_rows = format!(
        "WITH moved AS (DELETE FROM ONLY {} WHERE {column} >= {lower} AND {column} < {upper} RETURNING {columns})
INSERT INTO {full_name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM moved",
        default.full_name()
    );
    // A statement that began before must not miss rows that have gone to a partition which it does not know of.
    let lock = format!("LOCK TABLE ONLY {parent_name} IN ACCESS EXCLUSIVE MODE");
    Some(["BEGIN".to_owned(), lock, create, move_rows, attach, "COMMIT".to_owned()].join(";\n"))
}
