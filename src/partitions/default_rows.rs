//! Rows in a default partition, by the intervals that they belong to. Called by the check of partitions, in a subtransaction
//! with a short limit for locks. Reads so many rows of it, at most.

use std::collections::BTreeMap;

use perf_core::partition::check::free_part;
use perf_core::partition::{at_of_number, at_of_uuid, At, Key, Range, Ruler};

use pgrx::Uuid;

use super::{Parent, Partition};
use crate::pg::{ddl, ident, privilege};

/// Rows that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What a partition for them would hold; `None` for keys that are NULL or infinite, which can be nowhere else.
    pub range: Option<Range>,
    /// How many were seen.
    pub rows: i64,
}

/// Rows of the default partition by interval, the earliest first. How many were read, and whether there may be more.
pub fn of(parent: &Parent, default: &Partition, ruler: &Ruler, rows_max: i64) -> (Vec<Group>, bool) {
    // As its owner: to plan a query is to run functions of the table's indexes already.
    let read = || privilege::as_relation_owner_unforced(default.oid, || positions(parent, default, rows_max));
    let positions = privilege::with_own_path(read);
    let is_cut = positions.len() as i64 >= rows_max;
    let existing = parent.ranges();
    let mut groups: BTreeMap<(At, At), i64> = BTreeMap::new();
    let mut nowhere = 0;
    for position in &positions {
        match position {
            Some(at) if parent.key.line().contains(*at) => {
                let range = free_part(&existing, ruler.interval_of(*at), *at);
                *groups.entry((range.lower, range.upper)).or_default() += 1;
            }
            _ => nowhere += 1,
        }
    }
    let mut found: Vec<Group> =
        groups.into_iter().map(|((lower, upper), rows)| Group { range: Some(Range { lower, upper }), rows }).collect();
    if nowhere > 0 {
        found.push(Group { range: None, rows: nowhere });
    }
    (found, is_cut)
}

fn positions(parent: &Parent, default: &Partition, rows_max: i64) -> Vec<Option<At>> {
    let key = ident::quote(&parent.column);
    let position = match parent.key {
        Key::Date => {
            format!("CASE WHEN isfinite({key}) THEN ({key} - date '1970-01-01')::int8 * 86400000000 END")
        }
        Key::Timestamp | Key::Timestamptz => {
            format!("CASE WHEN isfinite({key}) THEN (extract(epoch FROM {key}) * 1000000)::int8 END")
        }
        Key::Uuid7 | Key::Epoch(_) => key,
    };
    let query = format!(
        "SELECT array_agg(found.position) FROM (SELECT {position} AS position FROM {} LIMIT {rows_max}) AS found",
        default.full_name()
    );
    match parent.key {
        Key::Uuid7 => {
            let read: Option<Vec<Option<Uuid>>> = ddl::value(&query);
            read.unwrap_or_default().into_iter().map(|uuid| uuid.map(|uuid| at_of_uuid(uuid.as_bytes()))).collect()
        }
        Key::Epoch(unit) => {
            let read: Option<Vec<Option<i64>>> = ddl::value(&query);
            read.unwrap_or_default().into_iter().map(|number| number.map(|number| at_of_number(unit, number))).collect()
        }
        _ => ddl::value::<Vec<Option<i64>>>(&query).unwrap_or_default(),
    }
}
