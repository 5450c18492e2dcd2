//! What catalogs and statistics say of the tables of a statement. Reads them with the rights of the caller; locks nothing.

use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, privilege};

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

/// Whether a valid index begins with a column.
pub fn is_indexed((relation, column): (pg_sys::Oid, i16)) -> Result<bool, Error> {
    ask(
        "SELECT EXISTS (SELECT FROM pg_index i
                         WHERE i.indrelid = $1 AND i.indisvalid AND i.indkey[0] = $2)",
        relation,
        column,
    )
}

/// Whether a column cannot hold NULL: that of a table and of all that inherits from it, which need not follow it before 18.
/// From 18 on a constraint that was never validated says it of new rows only, and of a foreign table it is but a word.
pub fn is_not_null((relation, column): (pg_sys::Oid, i16)) -> Result<bool, Error> {
    ask(
        "WITH RECURSIVE tree (oid) AS (
             SELECT $1 UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
         SELECT bool_and(c.relkind IN ('r', 'p') AND a.attnotnull
                         AND NOT EXISTS (SELECT FROM pg_constraint n
                                          WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND n.conkey[1] = a.attnum
                                            AND NOT n.convalidated))
           FROM tree t JOIN pg_class c ON c.oid = t.oid
           JOIN pg_attribute a ON a.attrelid = t.oid
            AND a.attname = (SELECT o.attname FROM pg_attribute o WHERE o.attrelid = $1 AND o.attnum = $2)",
        relation,
        column,
    )
}

fn ask(query: &str, relation: pg_sys::Oid, column: i16) -> Result<bool, Error> {
    let found = privilege::with_own_path(|| catalog::value::<bool>(query, &[relation.into(), column.into()]));
    Ok(found.map_err(failed)?.unwrap_or(false))
}

/// A table as the rules see it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Columns.
    pub columns: i64,
    /// Bytes of a row, as ANALYZE saw them.
    pub width: f64,
    /// Rows, of its partitions too.
    pub rows: f64,
    /// It is partitioned.
    pub is_partitioned: bool,
    /// Rows alive, and rows changed since ANALYZE.
    pub live: f64,
    pub changed: f64,
    /// There was an ANALYZE, as far as the caller may know.
    pub analyzed: bool,
    /// A column that says when a row came: partitions are ranges of it, or it is filled with the current time.
    pub time_column: Option<String>,
}

/// What is known of a table; None when it is gone.
pub fn table(relation: pg_sys::Oid) -> Result<Option<Table>, Error> {
    let found = privilege::with_own_path(|| {
        catalog::rows(
            "SELECT count(*) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped),
                    coalesce((SELECT sum(s.avg_width) FROM pg_stats s
                               WHERE s.schemaname = n.nspname AND s.tablename = c.relname), 0)::float8,
                    (SELECT sum(greatest(leaf.reltuples, 0)) FROM pg_class leaf
                      WHERE leaf.oid = c.oid OR leaf.oid IN (SELECT p.relid FROM pg_partition_tree(c.oid) p
                                                              WHERE c.relkind = 'p' AND p.isleaf))::float8,
                    c.relkind = 'p', coalesce(pg_stat_get_live_tuples(c.oid), 0)::float8,
                    coalesce(pg_stat_get_mod_since_analyze(c.oid), 0)::float8,
                    NOT has_table_privilege(c.oid, 'SELECT') OR row_security_active(c.oid)
                    OR EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname),
                    (SELECT t.attname::text FROM pg_attribute t
                       LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
                       LEFT JOIN pg_partitioned_table p ON p.partrelid = t.attrelid AND p.partstrat = 'r' AND p.partattrs[0] = t.attnum
                      WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
                        AND t.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
                        AND (p.partrelid IS NOT NULL
                             OR pg_get_expr(d.adbin, d.adrelid) IN ('now()', 'CURRENT_TIMESTAMP', 'CURRENT_DATE',
                                 'LOCALTIMESTAMP', 'statement_timestamp()', 'clock_timestamp()', 'transaction_timestamp()'))
                      ORDER BY p.partrelid, t.attnum LIMIT 1)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
              WHERE c.oid = $1 GROUP BY c.oid, n.oid",
            &[relation.into()],
            |row| {
                let number = |n| Ok::<f64, pgrx::spi::Error>(row.get::<f64>(n)?.unwrap_or(0.0));
                let flag = |n| Ok::<bool, pgrx::spi::Error>(row.get::<bool>(n)?.unwrap_or(false));
                Ok(Some(Table {
                    columns: row.get::<i64>(1)?.unwrap_or(0),
                    width: number(2)?,
                    rows: number(3)?,
                    is_partitioned: flag(4)?,
                    live: number(5)?,
                    changed: number(6)?,
                    analyzed: flag(7)?,
                    time_column: row.get::<Text>(8)?.map(|name| name.0),
                }))
            },
        )
    });
    Ok(found.map_err(failed)?.into_iter().next())
}

/// The indexes of a table that have exactly these columns.
pub fn indexes_on(relation: pg_sys::Oid, columns: &[i16]) -> Result<Vec<pg_sys::Oid>, Error> {
    let wanted = columns.iter().map(i16::to_string).collect::<Vec<String>>().join(" ");
    let found = privilege::with_own_path(|| {
        catalog::rows(
            "SELECT i.indexrelid FROM pg_index i
              WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL
                AND array_to_string(i.indkey::int2[], ' ') = $2",
            &[relation.into(), Text(wanted).into()],
            |row| row.get::<pg_sys::Oid>(1),
        )
    });
    found.map_err(failed)
}
