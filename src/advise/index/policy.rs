//! The rows of `perf.index_policy`, resolved against the database. Reads the table through SPI; its absence is no rows.

use std::collections::HashSet;

use perf_core::index::{Candidate, Key};
use pgrx::pg_sys;

use super::ddl;
use crate::error::Error;
use crate::pg::relation::{btree_opclass, Relation, Unusable};
use crate::pg::text::Text;
use crate::pg::{catalog, ident};

/// One row, as written.
#[derive(Clone, Debug, Default)]
pub struct PolicyRow {
    /// `table_name`.
    pub table_name: String,
    /// `columns`.
    pub columns: Vec<String>,
    /// `priority`.
    pub priority: String,
    /// `expected_gain`.
    pub expected_gain: Option<String>,
}

/// What a row means here.
pub enum Resolved {
    /// The table or a column is missing, or cannot carry an index: why.
    NotApplicable(String),
    /// The table is locked by somebody else.
    Locked,
    /// An index that could be made.
    Index(Relation, Candidate),
}

/// A row with what it means here.
pub struct PolicyCase {
    /// As written.
    pub row: PolicyRow,
    /// Its table: qualified where there is one, else as written. Whether it can be looked at makes no difference.
    pub table: String,
    /// As resolved.
    pub resolved: Resolved,
}

impl PolicyCase {
    fn of(row: PolicyRow) -> Self {
        let oid = find(&row.table_name);
        let table = oid.and_then(ident::relation).unwrap_or_else(|| row.table_name.clone());
        PolicyCase { resolved: resolve(&row, oid), row, table }
    }

    /// The parts of the stable id of what it asks for.
    pub fn identity(&self) -> Vec<String> {
        ddl::plain_identity(&self.table, &self.row.columns)
    }
}

/// All rows of the policy in their order, resolved through the `search_path`. Of rows that ask for the same index only the
/// first counts.
pub fn cases() -> Result<Vec<PolicyCase>, Error> {
    let mut seen = HashSet::new();
    let cases = read()?.into_iter().map(PolicyCase::of);
    Ok(cases.filter(|case| seen.insert(case.identity())).collect())
}

fn read() -> Result<Vec<PolicyRow>, Error> {
    let exists = catalog::value::<bool>("SELECT pg_catalog.to_regclass('perf.index_policy') IS NOT NULL", &[]);
    if exists != Ok(Some(true)) {
        return Ok(Vec::new());
    }
    catalog::rows(
        "SELECT p.table_name, p.columns, p.priority, p.expected_gain FROM perf.index_policy p ORDER BY p.policy_no",
        &[],
        |row| {
            Ok(Some(PolicyRow {
                table_name: row.get::<Text>(1)?.unwrap_or_default().0,
                columns: row
                    .get::<Vec<Option<Text>>>(2)?
                    .unwrap_or_default()
                    .into_iter()
                    .flatten()
                    .map(|name| name.0)
                    .collect(),
                priority: row.get::<Text>(3)?.unwrap_or_default().0,
                expected_gain: row.get::<Text>(4)?.map(|gain| gain.0),
            }))
        },
    )
    .map_err(|error| Error::WrongState {
        message: format!("table perf.index_policy cannot be read: {error}"),
        hint: "SELECT perf.load_policy() loads the shipped catalogue again.".to_owned(),
    })
}

fn find(name: &str) -> Option<pg_sys::Oid> {
    catalog::relation_named(name).ok().flatten()
}

fn resolve(row: &PolicyRow, oid: Option<pg_sys::Oid>) -> Resolved {
    let table = &row.table_name;
    let Some(oid) = oid else {
        return Resolved::NotApplicable(format!("table {table} does not exist in this database."));
    };
    let relation = match Relation::read(oid) {
        Ok(relation) => relation,
        Err(Unusable::Locked) => return Resolved::Locked,
        Err(why) => return Resolved::NotApplicable(format!("no index is recommended on {table}: {}.", why.describe())),
    };
    let mut keys = Vec::with_capacity(row.columns.len());
    for name in &row.columns {
        match relation.column_named(name) {
            Some(column) if column.is_virtual || btree_opclass(column.type_oid).is_none() => {
                return Resolved::NotApplicable(format!("column {name} of table {table} cannot be a btree key."));
            }
            Some(column) => keys.push(Key::ascending(column.number)),
            None => return Resolved::NotApplicable(format!("table {table} has no column {name}.")),
        }
    }
    if keys.is_empty() {
        return Resolved::NotApplicable("the policy names no column.".to_owned());
    }
    Resolved::Index(relation, Candidate::btree(oid.to_u32(), keys, 0))
}
