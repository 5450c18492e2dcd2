//! What the looks at all backends, one a second, come to: counts and waits of a minute, and the hours by which connection
//! pools are sized. Owns what was seen since the last sample, in the memory of the process that samples, and writes
//! perf.pool_hour. Called by the sampler and its groups of metrics; locks the rows of an hour that it adds to.
//!
//! A collector runs in every database: each keeps the roles of its own, so that none is stored twice.

use std::collections::{BTreeMap, HashMap};

use super::partitions::spi_failed;
use crate::error::Error;
use crate::pg::backends::{Look, RoleCounts, WAIT_CLASSES};
use crate::pg::text::Text;
use crate::pg::{catalog, query};
use perf_core::pool::BusySeconds;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::spi::SpiClient;

/// Looks kept for one sample: ten minutes of one a second.
const LOOKS_MAX: usize = 600;
/// Roles of a database that are counted apart, in a look and in an hour.
const ROLES_MAX: usize = 32;
/// All others together, as their number and their name.
const OTHER: u32 = 0;
/// See `OTHER`.
pub const OTHER_NAME: &str = "(other)";
/// Hours that wait to be written: beyond it nobody writes, and the oldest go.
const HOURS_MAX: usize = 4;
const HOUR_US: i64 = 3_600_000_000;

/// An hour: the database, and its roles while they were connected.
#[derive(Default)]
struct Hour {
    database: BusySeconds,
    roles: HashMap<u32, BusySeconds>,
}

impl Hour {
    fn note(&mut self, look: &Look) {
        let note = |busy: &mut BusySeconds, seen: &RoleCounts| {
            busy.note(seen.counts.total, seen.counts.busy(), seen.waiting);
        };
        note(&mut self.database, &look.database);
        let mut others = RoleCounts::default();
        for (role, seen) in &look.roles {
            let is_known = *role != OTHER && (self.roles.contains_key(role) || self.roles.len() < ROLES_MAX);
            if is_known {
                note(self.roles.entry(*role).or_default(), seen);
            } else {
                others += *seen;
            }
        }
        if others.counts.total > 0 {
            note(self.roles.entry(OTHER).or_default(), &others);
        }
    }
}

/// What was seen and not yet stored.
#[derive(Default)]
pub struct Seen {
    /// Since the last sample.
    looks: Vec<Look>,
    /// By the beginning of the hour.
    hours: BTreeMap<i64, Hour>,
}

/// The roles that were busiest in a look, and all others as one.
fn bounded(mut look: Look) -> Look {
    if look.roles.len() > ROLES_MAX {
        let mut roles: Vec<(u32, RoleCounts)> = look.roles.drain().collect();
        roles.sort_by_key(|(role, seen)| (std::cmp::Reverse((seen.counts.busy(), seen.counts.total)), *role));
        let mut others = RoleCounts::default();
        roles.drain(ROLES_MAX..).for_each(|(_, seen)| others += seen);
        look.roles = roles.into_iter().collect();
        look.roles.insert(OTHER, others);
    }
    look
}

impl Seen {
    /// Counts one look, at a time in microseconds of the server's epoch.
    pub fn note(&mut self, look: Look, now_us: i64) {
        let look = bounded(look);
        let hour = now_us.div_euclid(HOUR_US) * HOUR_US;
        if self.hours.len() >= HOURS_MAX && !self.hours.contains_key(&hour) {
            self.hours.pop_first();
        }
        self.hours.entry(hour).or_default().note(&look);
        if self.looks.len() >= LOOKS_MAX {
            self.looks.remove(0);
        }
        self.looks.push(look);
    }

    /// The looks since the last sample; they are handed over.
    pub fn take_looks(&mut self) -> Vec<Look> {
        std::mem::take(&mut self.looks)
    }

    /// Adds what was seen of each hour to its rows.
    pub fn write_hours(&mut self, client: &mut SpiClient) -> Result<(), Error> {
        for (hour, seen) in std::mem::take(&mut self.hours) {
            let Ok(hour) = TimestampWithTimeZone::try_from(hour) else { continue };
            write_hour(client, hour, seen)?;
        }
        Ok(())
    }
}

/// Share of the active backends' time in percent, by class of waiting; None when nothing was active.
pub fn waits(looks: &[Look]) -> Option<[f64; WAIT_CLASSES.len()]> {
    let mut sums = [0u64; WAIT_CLASSES.len()];
    for look in looks {
        for (sum, seen) in sums.iter_mut().zip(look.waits) {
            *sum += u64::from(seen);
        }
    }
    let all: u64 = sums.iter().sum();
    (all > 0).then(|| sums.map(|one| 100.0 * one as f64 / all as f64))
}

/// Busy backends of the busiest roles, a number for each look, and those of all others as one.
pub fn busy_by_role(client: &SpiClient, looks: &[Look], at_most: usize) -> Result<Vec<(String, Vec<u32>)>, Error> {
    let mut sums: HashMap<u32, u64> = HashMap::new();
    for (role, seen) in looks.iter().flat_map(|look| &look.roles) {
        *sums.entry(*role).or_default() += u64::from(seen.counts.busy());
    }
    let mut ranked: Vec<(u32, u64)> = sums.into_iter().filter(|(role, _)| *role != OTHER).collect();
    ranked.sort_by_key(|(role, sum)| (std::cmp::Reverse(*sum), *role));
    ranked.truncate(at_most);
    let names = role_names(client, ranked.iter().map(|(role, _)| *role))?;
    let mut found: Vec<(String, Vec<u32>)> = Vec::new();
    for (role, _) in &ranked {
        let of = |look: &Look| look.roles.get(role).map_or(0, |seen| seen.counts.busy());
        if let Some(name) = names.get(role) {
            found.push((name.clone(), looks.iter().map(of).collect()));
        }
    }
    let is_ranked = |role: &u32| ranked.iter().any(|(ranked, _)| ranked == role);
    let rest = |look: &Look| -> Vec<u32> {
        look.roles.iter().filter(|(role, _)| !is_ranked(role)).map(|(_, seen)| seen.counts.busy()).collect()
    };
    let rest: Vec<Vec<u32>> = looks.iter().map(rest).collect();
    if rest.iter().any(|look| !look.is_empty()) {
        found.push((OTHER_NAME.to_owned(), rest.iter().map(|look| look.iter().sum()).collect()));
    }
    Ok(found)
}

/// Names of roles; those that are gone have none.
fn role_names(client: &SpiClient, roles: impl Iterator<Item = u32>) -> Result<HashMap<u32, String>, Error> {
    let oids: Vec<pg_sys::Oid> = roles.map(pg_sys::Oid::from).collect();
    let rows = client
        .select(
            "SELECT r.oid, r.rolname::pg_catalog.text FROM pg_catalog.pg_roles AS r
              WHERE r.oid OPERATOR(pg_catalog.=) ANY ($1)",
            None,
            &[oids.into()],
        )
        .map_err(spi_failed)?;
    let mut names = HashMap::new();
    for row in rows {
        let oid = row.get::<pg_sys::Oid>(1).map_err(spi_failed)?;
        if let (Some(oid), Some(name)) = (oid, row.get::<Text>(2).map_err(spi_failed)?) {
            names.insert(oid.to_u32(), name.0);
        }
    }
    Ok(names)
}

/// Adds an hour, or a part of one, to its rows. The database's own row, whose role is empty, tells how many seconds were
/// seen at all.
fn write_hour(client: &mut SpiClient, hour: TimestampWithTimeZone, seen: Hour) -> Result<(), Error> {
    let rows = client
        .select(
            "SELECT h.role FROM perf.pool_hour AS h WHERE h.hour_at OPERATOR(pg_catalog.=) $1",
            None,
            &[hour.into()],
        )
        .map_err(spi_failed)?;
    let mut known: Vec<String> = Vec::new();
    for row in rows {
        known.extend(row.get::<Text>(1).map_err(spi_failed)?.map(|role| role.0));
    }
    let names = role_names(client, seen.roles.keys().copied())?;
    let mut roles: Vec<(u32, BusySeconds)> = seen.roles.into_iter().collect();
    roles.sort_by_key(|(role, busy)| (std::cmp::Reverse(busy.busy_s), *role));
    add(client, hour, "", &seen.database)?;
    for (role, busy) in roles {
        let name = names.get(&role).map_or(OTHER_NAME, String::as_str);
        let is_known = known.iter().any(|known| known == name);
        let apart = known.iter().filter(|known| !known.is_empty() && *known != OTHER_NAME).count();
        if is_known || apart < ROLES_MAX {
            add(client, hour, name, &busy)?;
            if !is_known {
                known.push(name.to_owned());
            }
        } else {
            add(client, hour, OTHER_NAME, &busy)?;
        }
    }
    Ok(())
}

fn add(client: &mut SpiClient, hour: TimestampWithTimeZone, role: &str, busy: &BusySeconds) -> Result<(), Error> {
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let seconds: Vec<i32> = busy.seconds.iter().map(|s| i32::try_from(*s).unwrap_or(i32::MAX)).collect();
    client
        .update(
            "INSERT INTO perf.pool_hour AS h (hour_at, role, seconds_busy, connected_max, busy_s, waiting_s)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (hour_at, role) DO UPDATE
             SET seconds_busy = (SELECT pg_catalog.array_agg(coalesce(u.old, 0) OPERATOR(pg_catalog.+) coalesce(u.new, 0)
                                                             ORDER BY u.n)
                                   FROM ROWS FROM (pg_catalog.unnest(h.seconds_busy), pg_catalog.unnest(excluded.seconds_busy))
                                        WITH ORDINALITY AS u (old, new, n)),
                 connected_max = GREATEST(h.connected_max, excluded.connected_max),
                 busy_s = h.busy_s OPERATOR(pg_catalog.+) excluded.busy_s,
                 waiting_s = h.waiting_s OPERATOR(pg_catalog.+) excluded.waiting_s",
            None,
            &[
                hour.into(),
                query::text(role),
                seconds.into(),
                i32::try_from(busy.connected_max).unwrap_or(i32::MAX).into(),
                count(busy.busy_s).into(),
                count(busy.waiting_s).into(),
            ],
        )
        .map(|_| ())
        .map_err(spi_failed)
}

/// Removes the hours whose time is over at `now`, and those that a clock since set right has put into the future.
pub fn expire_hours(client: &mut SpiClient, now: TimestampWithTimeZone) -> Result<(), Error> {
    client
        .update(
            "DELETE FROM perf.pool_hour AS h
              WHERE h.hour_at OPERATOR(pg_catalog.<) ($1 OPERATOR(pg_catalog.-) interval '30 days')
                 OR h.hour_at OPERATOR(pg_catalog.>) ($1 OPERATOR(pg_catalog.+) interval '1 hour')",
            None,
            &[now.into()],
        )
        .map(|_| ())
        .map_err(spi_failed)
}

/// Where the rows of all hours are larger than `most_bytes`, sums the roles of the oldest ones up as `(other)`, so that the
/// newest ones have room. What was counted stays counted.
pub fn sum_up_hours(client: &mut SpiClient, most_bytes: i64) -> Result<(), Error> {
    let rows = client
        .update(
            "WITH sized AS (
                 SELECT h.hour_at, sum(64 OPERATOR(pg_catalog.+) pg_catalog.octet_length(h.role)
                                       OPERATOR(pg_catalog.+) pg_catalog.pg_column_size(h.seconds_busy)) AS bytes
                   FROM perf.pool_hour AS h GROUP BY h.hour_at),
             kept AS (
                 SELECT s.hour_at, sum(s.bytes) OVER (ORDER BY s.hour_at DESC) AS bytes FROM sized AS s)
             DELETE FROM perf.pool_hour AS h USING kept AS k
              WHERE k.hour_at OPERATOR(pg_catalog.=) h.hour_at AND k.bytes OPERATOR(pg_catalog.>) $1
                AND h.role OPERATOR(pg_catalog.<>) '' AND h.role OPERATOR(pg_catalog.<>) $2
             RETURNING h.hour_at, h.seconds_busy, h.connected_max, h.busy_s, h.waiting_s",
            None,
            &[most_bytes.into(), query::text(OTHER_NAME)],
        )
        .map_err(spi_failed)?;
    let mut hours: BTreeMap<i64, BusySeconds> = BTreeMap::new();
    for row in rows {
        let Some(hour) = row.get::<TimestampWithTimeZone>(1).map_err(spi_failed)? else { continue };
        let others = hours.entry(hour.into()).or_default();
        let count = |n| row.get::<i64>(n).map(|count| count.map_or(0, |c| u64::try_from(c).unwrap_or(0)));
        let number = |n: Option<i32>| n.map_or(0, |n| u32::try_from(n).unwrap_or(0));
        let seconds = row.get::<Vec<Option<i32>>>(2).map_err(spi_failed)?.unwrap_or_default();
        others.seconds.resize(others.seconds.len().max(seconds.len()), 0);
        for (sum, one) in others.seconds.iter_mut().zip(seconds) {
            *sum = sum.saturating_add(number(one));
        }
        others.connected_max = others.connected_max.max(number(row.get::<i32>(3).map_err(spi_failed)?));
        others.busy_s += count(4).map_err(spi_failed)?;
        others.waiting_s += count(5).map_err(spi_failed)?;
    }
    for (hour, others) in hours {
        if let Ok(hour) = TimestampWithTimeZone::try_from(hour) {
            add(client, hour, OTHER_NAME, &others)?;
        }
    }
    Ok(())
}

/// Bytes of the hours that are kept.
pub fn hours_bytes() -> Result<i64, Error> {
    catalog::value::<i64>("SELECT pg_catalog.pg_total_relation_size('perf.pool_hour'::pg_catalog.regclass)", &[])
        .map(|bytes| bytes.unwrap_or(0))
        .map_err(spi_failed)
}
