//! The indexes that exist: what the catalogs and counters say of every index that the caller may know of, and what a fresh
//! build of one would take. Read by the index advisor and by index maintenance. Reads catalogs and statistics only: no
//! table is locked, and none is waited for.

use std::collections::{HashMap, HashSet};

use perf_core::index::upkeep::{Counters, Index, Key, YOUNG_DAYS};
use perf_core::index::Kind;
use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::catalog;
use crate::pg::hypothetical::{Hypothetical, KeyPart, Samples};
use crate::pg::relation::Relation;
use crate::pg::text::Text;

/// The extension's schema, as the control file fixes it.
pub const OWN_SCHEMA: &str = "perf";
/// `indoption` of a key: DESC, NULLS FIRST.
const DESCENDING: i16 = 1;
const NULLS_FIRST: i16 = 2;

/// An index with what is needed to judge it, price it and write about it.
pub struct Found {
    /// For the judgement.
    pub index: Index,
    /// OID of its table.
    pub relation: pg_sys::Oid,
    /// Schema of both, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// OIDs of itself and all its parts in partitions.
    pub parts: Vec<pg_sys::Oid>,
    /// Every column that its keys, expressions, predicate and INCLUDE mention.
    pub columns: Vec<i16>,
    /// The index of the partitioned table that it is a part of.
    pub parent: Option<u32>,
    /// Rows of the table in it, 0 to 1; None when that was never counted.
    pub share: Option<f64>,
    /// It excludes conflicting rows: cannot be rebuilt concurrently.
    pub excludes: bool,
    /// The caller may read its table.
    readable: bool,
    /// Its table is a partition.
    pub in_partition: bool,
    /// What needs it besides queries: half a sentence.
    pub bound_by: Option<String>,
}

/// What concerns all indexes.
pub struct Server {
    /// Days that the counters cover.
    pub days: f64,
    /// They were never reset: they cover the server's uptime at least.
    pub since_start: bool,
    /// This is a standby.
    pub is_standby: bool,
    /// Standbys are fed from here.
    pub has_replicas: bool,
}

impl Server {
    /// Asks the server.
    pub fn read() -> Result<Server, Error> {
        let found = catalog::rows(
            "SELECT (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                     coalesce(d.stats_reset, pg_catalog.pg_postmaster_start_time())) OPERATOR(pg_catalog./) 86400),
                    d.stats_reset IS NULL, pg_catalog.pg_is_in_recovery(),
                    EXISTS (SELECT FROM pg_catalog.pg_stat_replication r
                             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots l
                                                WHERE l.active_pid OPERATOR(pg_catalog.=) r.pid
                                                  AND l.slot_type OPERATOR(pg_catalog.=) 'logical'))
                    OR EXISTS (SELECT FROM pg_catalog.pg_replication_slots l
                                WHERE l.slot_type OPERATOR(pg_catalog.=) 'physical' AND NOT l.temporary)
               FROM pg_catalog.pg_stat_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
            &[],
            |row| {
                Ok(Some(Server {
                    days: row.get::<f64>(1)?.unwrap_or(0.0).max(0.0),
                    since_start: row.get::<bool>(2)?.unwrap_or(true),
                    is_standby: row.get::<bool>(3)?.unwrap_or(false),
                    has_replicas: row.get::<bool>(4)?.unwrap_or(false),
                }))
            },
        )
        .map_err(unreadable)?;
        let unknown = Server { days: 0.0, since_start: true, is_standby: false, has_replicas: false };
        Ok(found.into_iter().next().unwrap_or(unknown))
    }

    /// How far the scan counters can be trusted.
    pub fn counters(&self) -> Counters {
        if self.is_standby {
            Counters::Foreign
        } else if self.has_replicas || self.days < YOUNG_DAYS {
            Counters::Partial
        } else {
            Counters::Complete
        }
    }
}

impl Found {
    /// Whether the size of a fresh build can be estimated at all.
    pub fn is_countable(&self) -> bool {
        let index = &self.index;
        index.valid && index.method == "btree" && !index.partitioned && index.expressions.is_empty()
    }

    /// Size of a fresh build; None without statistics. `relation` is its table.
    pub fn fresh_bytes(&self, relation: &Relation) -> Option<f64> {
        let keys = self
            .index
            .keys
            .iter()
            .map(|key| {
                let column = relation.column(key.column)?;
                let mut part = KeyPart::of_column(column.number, column.type_oid, pg_sys::Oid::from(key.collation));
                part.set_class(pg_sys::Oid::from(key.class))?;
                part.descending = key.options & DESCENDING != 0;
                part.nulls_first = key.options & NULLS_FIRST != 0;
                Some(part)
            })
            .collect::<Option<Vec<KeyPart>>>()?;
        let fillfactor = fillfactor(&self.index.settings)?;
        let mut fresh = Hypothetical::new(&self.name, relation.oid, Kind::Btree, keys);
        fresh.storage.fillfactor = fillfactor;
        fresh.include.clone_from(&self.index.include);
        fresh.predicate_share = self.share?;
        fresh.settle(relation, &[], &Samples::default());
        fresh.has_statistics.then_some(fresh.bytes)
    }
}

/// The fillfactor among storage parameters, if it is set; None where others change the size too.
fn fillfactor(settings: &str) -> Option<Option<f64>> {
    let mut fillfactor = None;
    for setting in settings.trim_matches(['{', '}']).split(',').filter(|setting| !setting.is_empty()) {
        fillfactor = Some(setting.strip_prefix("fillfactor=")?.parse().ok()?);
    }
    Some(fillfactor)
}

fn unreadable(error: pgrx::spi::Error) -> Error {
    Error::WrongState {
        message: format!("the indexes of this database cannot be read: {error}"),
        hint: "Ask again; if it stays, the server's log says more.".to_owned(),
    }
}

/// Places of the booleans in the array that the query returns.
const UNIQUE: usize = 0;
const IMMEDIATE: usize = 1;
const NULLS_NOT_DISTINCT: usize = 2;
const VALID: usize = 3;
const LIVE: usize = 4;
const EXCLUDES: usize = 5;
const PARTITIONED: usize = 6;
const READABLE: usize = 7;
const IN_PARTITION: usize = 8;

/// The indexes of all permanent tables and materialized views that the caller may read, by table. `days` is the age of the
/// statistics. Expressions are compared as node trees, without the places in the text they came from: printing them
/// would have to lock the table.
pub fn indexes(days: f64) -> Result<Vec<Found>, Error> {
    let mut found = catalog::rows(
        "SELECT i.indexrelid, i.indrelid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.amname::pg_catalog.text,
                i.indkey::pg_catalog.int2[], i.indclass::pg_catalog.oid[], i.indcollation::pg_catalog.oid[],
                i.indoption::pg_catalog.int2[], i.indnkeyatts::pg_catalog.int4,
                pg_catalog.btrim(pg_catalog.regexp_replace(i.indexprs::pg_catalog.text, ':location -?[0-9]+', '', 'g'), '()'),
                pg_catalog.regexp_replace(i.indpred::pg_catalog.text, ':location -?[0-9]+', '', 'g'),
                pg_catalog.concat(c.reloptions::pg_catalog.text,
                    (SELECT pg_catalog.string_agg(t.attoptions::pg_catalog.text, ',' ORDER BY t.attnum) FROM pg_catalog.pg_attribute t
                      WHERE t.attrelid OPERATOR(pg_catalog.=) i.indexrelid AND t.attoptions IS NOT NULL)),
                ARRAY[i.indisunique, i.indimmediate, i.indnullsnotdistinct, i.indisvalid AND i.indisready, i.indislive,
                      i.indisexclusion,
                      c.relkind OPERATOR(pg_catalog.=) 'I',
                      pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(t.oid, 'SELECT'),
                      t.relispartition],
                (SELECT pg_catalog.array_agg(DISTINCT d.refobjsubid::pg_catalog.int2) FROM pg_catalog.pg_depend d
                  WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) i.indexrelid AND d.refclassid OPERATOR(pg_catalog.=) d.classid
                    AND d.refobjid OPERATOR(pg_catalog.=) i.indrelid AND d.refobjsubid OPERATOR(pg_catalog.>) 0),
                h.inhparent,
                c.relpages::pg_catalog.float8 OPERATOR(pg_catalog.*) pg_catalog.current_setting('block_size')::pg_catalog.float8,
                CASE WHEN i.indpred IS NULL THEN 1
                     WHEN t.reltuples OPERATOR(pg_catalog.>) 0 AND c.reltuples OPERATOR(pg_catalog.>=) 0
                     THEN least(c.reltuples OPERATOR(pg_catalog./) t.reltuples, 1) END::pg_catalog.float8,
                s.idx_scan,
                pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                    (pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'last_idx_scan')::pg_catalog.timestamptz)
                OPERATOR(pg_catalog./) 86400,
                CASE WHEN i.indexrelid IN (SELECT k.conindid FROM pg_catalog.pg_constraint k) THEN 'backs a constraint'
                     WHEN i.indisreplident THEN 'is the replica identity'
                     WHEN i.indisclustered THEN 'is what CLUSTER sorts by'
                     WHEN c.relispartition THEN 'is part of a partitioned index'
                     WHEN EXISTS (SELECT FROM pg_catalog.pg_depend d
                                   WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                                     AND (d.objid OPERATOR(pg_catalog.=) i.indexrelid OR d.objid OPERATOR(pg_catalog.=) i.indrelid)
                                     AND d.deptype OPERATOR(pg_catalog.=) 'e') THEN 'belongs to an extension' END
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
           JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) i.indrelid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.relnamespace
           JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam
           LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid OPERATOR(pg_catalog.=) i.indexrelid
           LEFT JOIN pg_catalog.pg_stat_all_indexes s ON s.indexrelid OPERATOR(pg_catalog.=) i.indexrelid
          WHERE t.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'm', 'p']::pg_catalog.\"char\"[])
            AND t.relpersistence OPERATOR(pg_catalog.<>) 't'
            AND t.oid OPERATOR(pg_catalog.>=) $1
            AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'pg_toast', 'information_schema', $2]::pg_catalog.name[])
          ORDER BY i.indrelid, i.indexrelid",
        &[pg_sys::Oid::from(pg_sys::FirstNormalObjectId).into(), OWN_SCHEMA.into()],
        |row| {
            let flags = row.get::<Vec<bool>>(14)?.unwrap_or_default();
            let flag = |at: usize| flags.get(at).copied().unwrap_or(false);
            let (Some(oid), Some(relation)) = (row.get::<pg_sys::Oid>(1)?, row.get::<pg_sys::Oid>(2)?) else {
                return Ok(None);
            };
            let attributes = row.get::<Vec<i16>>(6)?.unwrap_or_default();
            let count = (row.get::<i32>(10)?.unwrap_or(0).max(0) as usize).min(attributes.len());
            let classes = row.get::<Vec<pg_sys::Oid>>(7)?.unwrap_or_default();
            let collations = row.get::<Vec<pg_sys::Oid>>(8)?.unwrap_or_default();
            let options = row.get::<Vec<i16>>(9)?.unwrap_or_default();
            let keys = attributes
                .iter()
                .zip(&classes)
                .zip(collations.iter().zip(&options))
                .take(count)
                .map(|((column, class), (collation, options))| Key {
                    column: *column,
                    class: class.to_u32(),
                    collation: collation.to_u32(),
                    options: *options,
                })
                .collect();
            let bound_by = row.get::<Text>(21)?.map(|name| name.0);
            let scans = row.get::<i64>(19)?.unwrap_or(0);
            let index = Index {
                oid: oid.to_u32(),
                method: row.get::<Text>(5)?.unwrap_or_default().0,
                keys,
                include: attributes[count..].to_vec(),
                expressions: row.get::<Text>(11)?.unwrap_or_default().0,
                predicate: row.get::<Text>(12)?.unwrap_or_default().0,
                settings: row.get::<Text>(13)?.unwrap_or_default().0,
                unique: flag(UNIQUE),
                immediate: flag(IMMEDIATE),
                nulls_not_distinct: flag(NULLS_NOT_DISTINCT),
                valid: flag(VALID),
                live: flag(LIVE),
                building: false,
                bound: bound_by.is_some(),
                partitioned: flag(PARTITIONED),
                wanted: false,
                scans,
                // Before version 16 nobody notes when: then a scan counts as recent.
                idle_days: row.get::<f64>(20)?.unwrap_or(if scans == 0 { days } else { 0.0 }),
                bytes: row.get::<f64>(17)?.unwrap_or(0.0),
                fresh_bytes: None,
            };
            Ok(Some(Found {
                index,
                relation,
                schema: row.get::<Text>(3)?.unwrap_or_default().0,
                name: row.get::<Text>(4)?.unwrap_or_default().0,
                parts: vec![oid],
                columns: row.get::<Vec<i16>>(15)?.unwrap_or_default(),
                parent: row.get::<pg_sys::Oid>(16)?.map(pg_sys::Oid::to_u32),
                share: row.get::<f64>(18)?,
                excludes: flag(EXCLUDES),
                readable: flag(READABLE),
                in_partition: flag(IN_PARTITION),
                bound_by,
            }))
        },
    )
    .map_err(unreadable)?;
    add_uses_of_standbys(&mut found)?;
    // Whoever may read a partitioned table is told of its indexes with all their parts.
    add_parts(&mut found);
    found.retain(|one| one.readable);
    note_builders(&mut found)?;
    Ok(found)
}

/// Adds the scans that standbys have told of, which count for themselves.
fn add_uses_of_standbys(found: &mut [Found]) -> Result<(), Error> {
    let uses: HashMap<u32, (i64, f64)> = catalog::rows(
        "SELECT u.indexrelid, pg_catalog.sum(u.scans)::pg_catalog.int8,
                (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.max(u.last_used_at))
                 OPERATOR(pg_catalog./) 86400)
           FROM perf.fleet_index_use u GROUP BY u.indexrelid",
        &[],
        |row| {
            let uses = (row.get::<i64>(2)?.unwrap_or(0), row.get::<f64>(3)?.unwrap_or(0.0).max(0.0));
            Ok(row.get::<pg_sys::Oid>(1)?.map(|oid| (oid.to_u32(), uses)))
        },
    )
    .map_err(unreadable)?
    .into_iter()
    .collect();
    for one in found {
        if let Some((scans, idle_days)) = uses.get(&one.index.oid) {
            one.index.scans += scans;
            one.index.idle_days = one.index.idle_days.min(*idle_days);
        }
    }
    Ok(())
}

/// Adds what the parts of a partitioned index count and take to the index itself.
fn add_parts(found: &mut [Found]) {
    let places: HashMap<u32, usize> = found.iter().enumerate().map(|(at, one)| (one.index.oid, at)).collect();
    for at in 0..found.len() {
        let (oid, bytes, scans, idle) =
            (found[at].index.oid, found[at].index.bytes, found[at].index.scans, found[at].index.idle_days);
        let mut parent = found[at].parent;
        while let Some(place) = parent.and_then(|oid| places.get(&oid)) {
            let one = &mut found[*place];
            one.parts.push(pg_sys::Oid::from(oid));
            one.index.bytes += bytes;
            one.index.scans += scans;
            one.index.idle_days = one.index.idle_days.min(idle);
            parent = one.parent;
        }
    }
}

/// Tells a failed build from one that goes on.
fn note_builders(found: &mut [Found]) -> Result<(), Error> {
    if found.iter().all(|one| one.index.valid) {
        return Ok(());
    }
    let busy = being_changed().map_err(unreadable)?;
    for one in found.iter_mut().filter(|one| !one.index.valid) {
        one.index.building = busy.contains(&one.relation);
    }
    Ok(())
}

/// Tables whose indexes somebody may be at: whoever builds, rebuilds or drops an index concurrently holds SHARE UPDATE
/// EXCLUSIVE on its table from beginning to end. The locks are there for everybody to see, the progress views are not.
pub fn being_changed() -> Result<HashSet<pg_sys::Oid>, pgrx::spi::Error> {
    let busy = catalog::rows(
        "SELECT DISTINCT l.relation FROM pg_catalog.pg_locks l
          WHERE l.locktype OPERATOR(pg_catalog.=) 'relation'
            AND l.mode OPERATOR(pg_catalog.=) ANY (ARRAY['ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                                         'ExclusiveLock', 'AccessExclusiveLock'])
            AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                                    WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    Ok(busy.into_iter().collect())
}

/// The columns of every foreign key, by the table that refers.
pub fn foreign_keys() -> Result<HashMap<u32, Vec<Vec<i16>>>, Error> {
    let rows = catalog::rows(
        "SELECT k.conrelid, k.conkey FROM pg_catalog.pg_constraint k WHERE k.contype OPERATOR(pg_catalog.=) 'f'",
        &[],
        |row| Ok(row.get::<pg_sys::Oid>(1)?.zip(row.get::<Vec<i16>>(2)?)),
    )
    .map_err(unreadable)?;
    let mut keys: HashMap<u32, Vec<Vec<i16>>> = HashMap::new();
    for (relation, columns) in rows {
        keys.entry(relation.to_u32()).or_default().push(columns);
    }
    Ok(keys)
}
