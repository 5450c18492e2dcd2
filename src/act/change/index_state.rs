//! An index as it is in the database, by its name: what an undo is compared with, and what a drop has to be able to restore.
//! Inside a transaction. Never waits for a lock: a table that somebody has locked is an error.

use pgrx::pg_sys;

use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, ident, index_definition, privilege};

/// What there is.
#[derive(Clone, Debug)]
pub struct IndexState {
    /// Of the index.
    pub oid: pg_sys::Oid,
    /// Its table.
    pub relation: pg_sys::Oid,
    /// CREATE INDEX, with its tablespace.
    pub definition: String,
    /// It can be used.
    pub valid: bool,
    /// It has no storage of its own.
    pub partitioned: bool,
    /// It is part of a partitioned index.
    pub attached: bool,
    /// The current role may drop it.
    pub may_drop: bool,
    /// Statements that, after its definition, restore what else there is of it: its comment, and how exact statistics of its
    /// expressions are.
    pub extras: Vec<String>,
    /// The statement that gathers the statistics of its expressions, if it has any.
    pub analyze: Option<String>,
}

fn gone(name: &str) -> Error {
    Error::WrongState {
        message: format!("index {name} is locked by another session"),
        hint: "Ask again when it is done.".to_owned(),
    }
}

/// The index of a name, unquoted; `None` when there is no such index. Printed with all names qualified, whatever the
/// session's path is: what is printed twice is compared, and run where another path is set.
pub fn read(schema: &str, name: &str) -> Result<Option<IndexState>, Error> {
    privilege::with_own_path(|| printed(schema, name))
}

fn printed(schema: &str, name: &str) -> Result<Option<IndexState>, Error> {
    let quoted = ident::qualified(schema, name);
    let found = catalog::rows(
        "SELECT c.oid, i.indrelid, i.indisvalid AND i.indislive,
                c.relkind OPERATOR(pg_catalog.=) 'I', c.relispartition,
                pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
                pg_catalog.obj_description(c.oid, 'pg_class'),
                i.indexprs IS NOT NULL,
                (SELECT pg_catalog.array_agg(a.attnum::pg_catalog.text OPERATOR(pg_catalog.||) ' '
                                             OPERATOR(pg_catalog.||) a.attstattarget::pg_catalog.text ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attstattarget OPERATOR(pg_catalog.>=) 0)
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
           JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
          WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[Text(schema.to_owned()).into(), Text(name.to_owned()).into()],
        |row| {
            let flag = |at: usize| Ok::<bool, pgrx::spi::Error>(row.get::<bool>(at)?.unwrap_or(false));
            let invalid = pg_sys::InvalidOid;
            let mut extras = Vec::new();
            if let Some(comment) = row.get::<Text>(7)? {
                extras.push(format!("COMMENT ON INDEX {quoted} IS {}", ident::literal(&comment.0)));
            }
            for target in row.get::<Vec<Option<String>>>(9)?.unwrap_or_default().into_iter().flatten() {
                let (column, target) = target.split_once(' ').unwrap_or_default();
                extras.push(format!("ALTER INDEX {quoted} ALTER COLUMN {column} SET STATISTICS {target}"));
            }
            let relation = row.get::<pg_sys::Oid>(2)?.unwrap_or(invalid);
            // What the planner knows of its expressions goes with it.
            let analyze = if flag(8)? { ident::relation(relation).map(|table| format!("ANALYZE {table}")) } else { None };
            Ok(Some(IndexState {
                oid: row.get::<pg_sys::Oid>(1)?.unwrap_or(invalid),
                relation,
                definition: String::new(),
                valid: flag(3)?,
                partitioned: flag(4)?,
                attached: flag(5)?,
                may_drop: flag(6)?,
                extras,
                analyze,
            }))
        },
    )
    .map_err(spi_failed)?;
    let Some(mut state) = found.into_iter().next() else { return Ok(None) };
    state.definition = index_definition::read(state.relation, state.oid, &[]).map_err(|_| gone(&quoted))?.create;
    Ok(Some(state))
}
