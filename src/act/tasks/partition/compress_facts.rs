//! What has to be known of a partition to rewrite it. Called by [`super::compress`], inside its transactions. Reads
//! catalogs only; what is to last, the caller has locked.

use perf_core::partition::compression::Order;
use pgrx::pg_sys;

use crate::pg::rewrite::Column;
use crate::pg::text::Text;
use crate::pg::{ddl, ident, privilege, query};

/// A table that may be rewritten.
pub struct Facts {
    /// Of the table.
    pub oid: pg_sys::Oid,
    /// Quoted and qualified.
    pub full_name: String,
    /// `pg_class.relkind`.
    pub relkind: String,
    /// Of the table.
    pub access_method: String,
    /// It has storage options with a fillfactor other than 100.
    pub has_fillfactor: bool,
    /// With indexes and TOAST.
    pub bytes: i64,
    /// Where its files are.
    pub directory: String,
    /// An index of it that is not valid.
    pub broken_index: Option<String>,
}

/// An index of it.
pub struct Index {
    /// Of the index.
    pub oid: pg_sys::Oid,
    /// CREATE INDEX without the name, on another table.
    definition: String,
    /// Unquoted; empty for the database's own.
    pub tablespace: String,
    /// It has pages to be filled, as far as that can be said.
    pub has_fillfactor: bool,
    is_unique: bool,
}

impl Index {
    /// The statement that makes such an index of another table.
    pub fn statement(&self, name: &str, table: &str) -> String {
        let unique = if self.is_unique { "UNIQUE " } else { "" };
        format!("CREATE {unique}INDEX {name} ON {table} USING {}", self.definition)
    }
}

/// Facts of a table; `None` when it is gone.
pub fn facts(table: pg_sys::Oid) -> Option<Facts> {
    let full_name = ident::relation(table)?;
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT c.relkind::text, COALESCE((SELECT a.amname::text FROM pg_am a WHERE a.oid = c.relam), ''),
                     EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
                              WHERE o.option_name = 'fillfactor' AND o.option_value <> '100'),
                     COALESCE(pg_total_relation_size(c.oid), 0),
                     CASE WHEN COALESCE(NULLIF(c.reltablespace, 0), d.dattablespace) = 1663 THEN 'base'
                          ELSE 'pg_tblspc/' || COALESCE(NULLIF(c.reltablespace, 0), d.dattablespace) END,
                     (SELECT format('%s', i.indexrelid::regclass) FROM pg_index i
                       WHERE i.indrelid = c.oid AND NOT (i.indisvalid AND i.indisready AND i.indislive) LIMIT 1)
                FROM pg_class c, pg_database d WHERE c.oid = $1 AND d.datname = current_database()",
            &[table.into()],
            |row| Facts {
                oid: table,
                full_name: full_name.clone(),
                relkind: row.string(1),
                access_method: row.string(2),
                has_fillfactor: row.get::<bool>(3).unwrap_or(false),
                bytes: row.get::<i64>(4).unwrap_or(0),
                directory: row.string(5),
                broken_index: row.get::<Text>(6).map(|name| name.0),
            },
        )
    });
    found.1.into_iter().next()
}

/// A partition, or the tables that it consists of. Waits for nobody who has locked one of them.
pub fn leaves(partition: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"WITH RECURSIVE tree (relid) AS (
                  SELECT $1::oid
                  UNION ALL
                  SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid WHERE NOT i.inhdetachpending)
              SELECT c.oid FROM tree t JOIN pg_class c ON c.oid = t.relid WHERE c.relkind <> 'p'
               ORDER BY c.oid::regclass::text",
            &[partition.into()],
            |row| row.get::<pg_sys::Oid>(1),
        )
    });
    found.1.into_iter().flatten().collect()
}

/// Its indexes; `None` when one is not understood. Inside of our own search path, so that what is printed is qualified.
pub fn indexes(table: &Facts) -> Option<Vec<Index>> {
    let found = query::run_with(
        c"SELECT i.indexrelid, pg_get_indexdef(i.indexrelid), c.relname::text, i.indisunique, a.amname::text,
                 COALESCE((SELECT s.spcname::text FROM pg_tablespace s WHERE s.oid = c.reltablespace), '')
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
           WHERE i.indrelid = $1 ORDER BY i.indexrelid",
        &[table.oid.into()],
        |row| {
            let (definition, name, method) = (row.string(2), row.string(3), row.string(5));
            let is_unique = row.get::<bool>(4).unwrap_or(false);
            let unique = if is_unique { "UNIQUE " } else { "" };
            let prefix = format!("CREATE {unique}INDEX {} ON {} USING ", ident::quote(&name), table.full_name);
            Some(Index {
                oid: row.get::<pg_sys::Oid>(1)?,
                definition: definition.strip_prefix(&prefix)?.to_owned(),
                tablespace: row.string(6),
                has_fillfactor: matches!(method.as_str(), "btree" | "hash" | "gist" | "spgist"),
                // What other methods make unique they do by constraints; the files are the same.
                is_unique: is_unique && method == "btree",
            })
        },
    );
    found.1.into_iter().collect()
}

/// The orders that its rows can be in.
pub fn orders(table: &Facts) -> Vec<Order> {
    query::run_with(
        c"SELECT (SELECT string_agg(pg_get_indexdef(i.indexrelid, k, false)
                                    || CASE WHEN i.indoption[k - 1] & 1 = 1 THEN ' DESC' ELSE '' END
                                    || CASE WHEN i.indoption[k - 1] & 2 = 2 THEN ' NULLS FIRST' ELSE ' NULLS LAST' END,
                                    ', ' ORDER BY k) FROM generate_series(1, i.indnkeyatts) k),
                 i.indisclustered, i.indisprimary, i.indisunique, pg_stat_get_numscans(i.indexrelid)
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
           WHERE i.indrelid = $1 AND a.amname = 'btree' AND i.indpred IS NULL ORDER BY c.relname",
        &[table.oid.into()],
        |row| Order {
            keys: row.string(1),
            is_clustered: row.get::<bool>(2).unwrap_or(false),
            is_primary: row.get::<bool>(3).unwrap_or(false),
            is_unique: row.get::<bool>(4).unwrap_or(false),
            scans: row.get::<i64>(5).unwrap_or(0),
        },
    )
    .1
}

/// A column that is copied.
pub struct Copied {
    /// Quoted.
    pub name: String,
    /// For the copy.
    pub column: Column,
    /// Its values can be compressed, and are not by lz4 yet.
    pub could_be_lz4: bool,
}

/// The columns that have values in the files: all but those that were dropped, or are computed when they are read.
pub fn columns(table: &Facts) -> Vec<Copied> {
    query::run_with(
        c"SELECT a.attname::text, a.attnum, a.attlen = -1,
                 a.attlen = -1 AND a.attstorage IN ('x', 'm') AND a.attcompression <> 'l'
            FROM pg_attribute a
           WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' ORDER BY a.attnum",
        &[table.oid.into()],
        |row| Copied {
            name: ident::quote(&row.string(1)),
            column: Column { number: row.get::<i16>(2).unwrap_or(0), is_varlena: row.get::<bool>(3).unwrap_or(false) },
            could_be_lz4: row.get::<bool>(4).unwrap_or(false),
        },
    )
    .1
}

/// Whether the server was built with lz4.
pub fn has_lz4() -> bool {
    ddl::value::<bool>("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'")
        .unwrap_or(false)
}

/// Whether an access method for columns is installed.
pub fn has_columnar() -> bool {
    ddl::value::<bool>("SELECT EXISTS (SELECT FROM pg_am WHERE amname = 'columnar' AND amtype = 't')").unwrap_or(false)
}

/// The TOAST table of a table, and the index of that.
pub fn toast_of(table: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    let found = query::run_with(
        c"SELECT c.reltoastrelid, i.indexrelid FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid
           WHERE c.oid = $1",
        &[table.into()],
        |row| row.get::<pg_sys::Oid>(1).zip(row.get::<pg_sys::Oid>(2)),
    );
    found.1.into_iter().flatten().next()
}
