//! What the cache holds and how it fares, by policy. Counts come from shared memory, entries and bytes from the tables:
//! small parts are counted when asked, large ones by whoever tidies them. Locks what reading the tables locks.

use std::collections::BTreeMap;

use perf_core::cache::invalid::Invalid;

use super::policies::{self, OTHER};
use crate::error::Error;
use crate::memory::cache_stats::{self, Counts, Event};
use crate::pg::query::run_with;
use crate::pg::{background, names, privilege};

/// Files of a part that are read through when somebody asks, in bytes, without those of large values.
const COUNTED_MAX: i64 = 4 << 20;

/// Of one policy.
pub struct Row {
    /// Its name, or `(other)`.
    pub name: String,
    /// What is stored.
    pub entries: i64,
    /// What that takes, compressed.
    pub bytes: i64,
    /// `None` where nothing is counted, for the library was not preloaded.
    pub counts: Option<Counts>,
}

/// All policies, and `(other)`.
pub fn read() -> Result<Vec<Row>, Error> {
    if background::in_recovery() {
        return Err(Error::ReadOnly {
            message: "the cache cannot be read on a standby".to_owned(),
            hint: "Ask the primary: unlogged tables are not replicated.".to_owned(),
        });
    }
    let database = names::current_database();
    let mut names: Vec<String> = policies::read()?.into_iter().map(|policy| policy.name).collect();
    names.push(OTHER.to_owned());
    let mut usage: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let counted = privilege::as_owner(c"cache_entry", || {
        let (_, rows) = run_with(
            c"WITH part AS MATERIALIZED (
                  SELECT part::smallint, pg_relation_size(pg_catalog.format('perf.cache_entry_%s', part)::regclass) <= $1
                      OR NOT EXISTS (SELECT FROM perf.cache_usage AS u WHERE u.part = p.part) AS is_small
                  FROM generate_series(0, 7) AS p (part))
              SELECT policy, sum(entries)::bigint, sum(bytes)::bigint FROM (
                  SELECT e.policy, count(*) AS entries, sum(e.bytes) AS bytes
                  FROM perf.cache_entry_sized AS e
                  WHERE e.part = ANY (ARRAY(SELECT part FROM part WHERE is_small)) GROUP BY 1
                  UNION ALL
                  SELECT u.policy, u.entries, u.bytes FROM perf.cache_usage AS u JOIN part USING (part) WHERE NOT is_small) AS x
              GROUP BY 1",
            &[COUNTED_MAX.into()],
            |row| (row.string(1), row.get::<i64>(2).unwrap_or(0), row.get::<i64>(3).unwrap_or(0)),
        );
        Ok(rows)
    })?;
    for (policy, entries, bytes) in counted {
        let name = if names.contains(&policy) { policy } else { OTHER.to_owned() };
        let sum = usage.entry(name).or_default();
        *sum = (sum.0 + entries, sum.1 + bytes);
    }
    let row = |name: String| {
        let (entries, bytes) = usage.get(&name).copied().unwrap_or_default();
        let counts = cache_stats::is_ready().then(|| cache_stats::read(database, &name).unwrap_or_default());
        Row { name, entries, bytes, counts }
    };
    Ok(names.into_iter().map(row).collect())
}

/// What a policy was asked for in the last minutes.
pub struct Asked {
    /// Its name, or `(other)`.
    pub name: String,
    /// Gets and hits.
    pub counts: [u64; 2],
}

/// Of every policy that was asked for something; an error where nothing is counted.
pub fn recent() -> Result<Vec<Asked>, Error> {
    if !cache_stats::is_ready() {
        return Err(Error::NotPreloaded);
    }
    let database = names::current_database();
    let known = policies::read()?.into_iter().map(|policy| policy.name).chain([OTHER.to_owned()]);
    let asked = |name: String| {
        let counts = cache_stats::read(database, &name)?.recent;
        (counts[0] > 0).then_some(Asked { name, counts })
    };
    Ok(known.filter_map(asked).collect())
}

/// Counts invalidations of keys, and of beginnings of keys, under the names of their policies.
pub fn note_invalidations(invalid: &Invalid) {
    let database = names::current_database();
    for (name, count) in policies::counts(invalid.keys.iter().chain(&invalid.prefixes)) {
        cache_stats::count(database, &name, Event::Invalidation, count);
    }
}
