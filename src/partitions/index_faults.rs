//! Indexes that partitions lack, or that are not valid, with the SQL that mends it without keeping anybody waiting. Called by
//! the check of partitions, inside a transaction. Reads catalogs; locks nothing.

use perf_core::index::name::{shortened, NAME_BYTES_MAX};
use pgrx::pg_sys;

use super::differences::Difference;
use super::questions::is_taken;
use crate::pg::text::Text;
use crate::pg::{ident, privilege, query};

/// Names tried for an index.
const NAMES_MAX: u32 = 100;

/// An index of a parent that a partition has not.
struct Missing {
    top: pg_sys::Oid,
    schema: String,
    partition: String,
    is_partitioned: bool,
    parent: String,
    parent_index: String,
    parent_index_full: String,
    is_unique: bool,
    /// From USING on.
    tail: String,
    /// p or u, where it is a constraint's, with how it is deferred.
    constraint: Option<(String, String)>,
    /// An index that is like it, and valid, and only not attached.
    ready: Option<String>,
}

/// What is wrong with indexes within these tables.
pub fn of(tops: &[pg_sys::Oid]) -> Vec<Difference> {
    let missing = privilege::with_own_path(|| {
        query::run_with(MISSING, &[tops.to_vec().into()], |row| Missing {
            top: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
            schema: row.string(2),
            partition: row.string(3),
            is_partitioned: row.string(4) == "p",
            parent: row.string(5),
            parent_index: row.string(6),
            parent_index_full: row.string(7),
            is_unique: row.get::<bool>(8).unwrap_or(false),
            tail: row.string(9),
            constraint: row.get::<Text>(10).map(|kind| (kind.0, row.string(11))),
            ready: row.get::<Text>(12).map(|name| name.0),
        })
        .1
    });
    let invalid = privilege::with_own_path(|| {
        query::run_with(INVALID, &[tops.to_vec().into()], |row| Difference {
            top: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
            problem: "invalid_index".to_owned(),
            detail: row.string(2),
            fix: row.get::<Text>(3).map(|fix| fix.0),
        })
        .1
    });
    missing.iter().map(difference).chain(invalid).collect()
}

fn difference(one: &Missing) -> Difference {
    let partition = ident::qualified(&one.schema, &one.partition);
    let detail = match &one.ready {
        Some(ready) => format!("{ready} of {partition} is not attached to {}", one.parent_index_full),
        None => format!("{partition} has no index of {}", one.parent_index_full),
    };
    Difference { top: one.top, problem: "missing_index".to_owned(), detail, fix: fix(one, &partition) }
}

/// A partition that has partitions itself gets an index that is valid once theirs are attached to it.
fn fix(one: &Missing, partition: &str) -> Option<String> {
    let attach = |index: &str| format!("ALTER INDEX {} ATTACH PARTITION {index}", one.parent_index_full);
    if let Some(ready) = &one.ready {
        return Some(attach(ready));
    }
    let name = free_name(one)?;
    let (quoted, full) = (ident::quote(&name), ident::qualified(&one.schema, &name));
    let unique = if one.is_unique { "UNIQUE " } else { "" };
    let mut steps = Vec::new();
    match &one.constraint {
        Some((kind, deferred)) if kind == "p" || kind == "u" => {
            if one.is_partitioned {
                return None;
            }
            let kind = if kind == "p" { "PRIMARY KEY" } else { "UNIQUE" };
            steps.push(format!("CREATE UNIQUE INDEX CONCURRENTLY {quoted} ON {partition}{}", one.tail));
            steps
                .push(format!("ALTER TABLE {partition} ADD CONSTRAINT {quoted} {kind} USING INDEX {quoted}{deferred}"));
        }
        Some(_) => return None,
        None if one.is_partitioned => {
            steps.push(format!("CREATE {unique}INDEX {quoted} ON ONLY {partition}{}", one.tail));
        }
        None => steps.push(format!("CREATE {unique}INDEX CONCURRENTLY {quoted} ON {partition}{}", one.tail)),
    }
    steps.push(attach(&full));
    Some(steps.join(";\n"))
}

/// events_at_idx of events is events_p2026_03_at_idx of events_p2026_03.
fn free_name(one: &Missing) -> Option<String> {
    let suffix = match one.parent_index.strip_prefix(one.parent.as_str()) {
        Some(suffix) if !suffix.is_empty() => suffix.to_owned(),
        _ => format!("_{}", one.parent_index),
    };
    let suffix = shortened(&suffix, NAME_BYTES_MAX / 2);
    (1..=NAMES_MAX).find_map(|n| {
        let suffix = if n == 1 { suffix.clone() } else { format!("{suffix}_{n}") };
        let name = shortened(&one.partition, NAME_BYTES_MAX.saturating_sub(suffix.len())) + &suffix;
        (!is_taken(&one.schema, &name)).then_some(name)
    })
}

/// $1: the tables. The text of an index from USING on is the same for a partition's as for its parent's.
const MISSING: &std::ffi::CStr = c"
WITH RECURSIVE tree (top, parent, child, depth) AS (
        SELECT i.inhparent, i.inhparent, i.inhrelid, 1 FROM pg_inherits i WHERE i.inhparent = ANY ($1) AND NOT i.inhdetachpending
        UNION ALL
        SELECT t.top, i.inhparent, i.inhrelid, t.depth + 1 FROM tree t JOIN pg_inherits i ON i.inhparent = t.child
         WHERE t.depth < 4 AND NOT i.inhdetachpending AND NOT i.inhparent = ANY ($1)),
     attached AS MATERIALIZED (
        SELECT h.inhparent AS parent_index, k.indrelid AS child FROM pg_inherits h JOIN pg_index k ON k.indexrelid = h.inhrelid
         WHERE k.indrelid IN (SELECT child FROM tree))
SELECT t.top, n.nspname::text, c.relname::text, c.relkind::text, p.relname::text, i.relname::text,
       format('%I.%I', ins.nspname, i.relname), k.indisunique, own.tail, con.contype::text,
       CASE WHEN con.condeferrable THEN ' DEFERRABLE' ELSE '' END || CASE WHEN con.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END,
       (SELECT format('%I.%I', n.nspname, x.relname)
          FROM pg_index y JOIN pg_class x ON x.oid = y.indexrelid LEFT JOIN pg_constraint z ON z.conindid = x.oid AND z.conrelid = c.oid
         WHERE y.indrelid = c.oid AND y.indisvalid AND NOT x.relispartition AND y.indisunique = k.indisunique
           AND (con.contype IS NULL OR z.contype = con.contype)
           AND substr(pg_get_indexdef(x.oid), strpos(pg_get_indexdef(x.oid), ' USING ')) = own.tail
         ORDER BY x.relname LIMIT 1)
  FROM tree t
  JOIN pg_index k ON k.indrelid = t.parent
  JOIN pg_class i ON i.oid = k.indexrelid AND i.relkind = 'I' JOIN pg_namespace ins ON ins.oid = i.relnamespace
  JOIN pg_class p ON p.oid = t.parent JOIN pg_namespace pn ON pn.oid = p.relnamespace
  JOIN pg_class c ON c.oid = t.child AND c.relkind IN ('r', 'p') JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint con ON con.conindid = k.indexrelid AND con.conrelid = k.indrelid AND con.contype IN ('p', 'u', 'x')
  LEFT JOIN attached a ON a.parent_index = k.indexrelid AND a.child = t.child
 CROSS JOIN LATERAL (SELECT ' USING ' || split_part(pg_get_indexdef(k.indexrelid),
                                                    format(' ON ONLY %I.%I USING ', pn.nspname, p.relname), 2) AS tail) own
 WHERE a.child IS NULL AND own.tail IS NOT NULL
 ORDER BY n.nspname, c.relname, i.relname";

/// $1: the tables. What is left over of a REINDEX CONCURRENTLY goes; anything else is built anew. An index of a parent that
/// has all its parts is valid once one of them is attached again. What another role is building now is known by its lock:
/// which index it is, the server tells that role alone.
const INVALID: &std::ffi::CStr = c"
WITH RECURSIVE tree (top, child, depth) AS (
        SELECT oid, oid, 0 FROM unnest($1) AS oid
        UNION ALL
        SELECT t.top, i.inhrelid, t.depth + 1 FROM tree t JOIN pg_inherits i ON i.inhparent = t.child
         WHERE t.depth < 4 AND (t.depth = 0 OR NOT i.inhparent = ANY ($1))),
     faulty AS MATERIALIZED (
        SELECT t.top, t.child, k.indexrelid FROM tree t JOIN pg_index k ON k.indrelid = t.child
         WHERE NOT (k.indisvalid AND k.indisready AND k.indislive))
SELECT f.top, format('%I.%I of %I.%I is not valid', n.nspname, i.relname, cn.nspname, c.relname),
       CASE WHEN i.relkind = 'I' THEN format('ALTER INDEX %I.%I ATTACH PARTITION %s', n.nspname, i.relname, own.part)
            WHEN NOT i.relispartition AND i.relname ~ '_cc(new|old)[0-9]*$' THEN format('DROP INDEX CONCURRENTLY %I.%I', n.nspname, i.relname)
            ELSE format('REINDEX INDEX CONCURRENTLY %I.%I', n.nspname, i.relname) END
  FROM faulty f JOIN pg_class i ON i.oid = f.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace
  JOIN pg_class c ON c.oid = f.child JOIN pg_namespace cn ON cn.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT count(*) AS parts, count(*) FILTER (WHERE NOT y.indisvalid) AS faulty_parts,
              min(format('%I.%I', xn.nspname, x.relname)) AS part
         FROM pg_inherits h JOIN pg_index y ON y.indexrelid = h.inhrelid JOIN pg_class x ON x.oid = y.indexrelid
         JOIN pg_namespace xn ON xn.oid = x.relnamespace WHERE h.inhparent = i.oid) own
 WHERE (i.relkind = 'i' OR own.faulty_parts = 0 AND own.parts > 0
                           AND own.parts = (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = f.child AND NOT h.inhdetachpending))
   AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index g JOIN pg_locks l ON l.pid = g.pid
                    WHERE l.relation = f.child AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted)
 ORDER BY cn.nspname, c.relname, i.relname";
