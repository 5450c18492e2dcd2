//! How many connections were busy, second by second, for each role of this database: what pools are sized by. Reads
//! perf.pool_hour with the rights of the caller, and what capture holds of its statements; locks nothing.
//!
//! Which kinds of statements a role uses that need a session of its own is said to everybody; their texts are not.

use std::collections::HashMap;

use perf_core::pool::{feature_of, Feature, Group, Hour, Machine};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use super::transactions;
use crate::collect::host;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::memory::survey;
use crate::pg::catalog;
use crate::pg::names::current_database;
use crate::pg::text::Text;

/// The roles of this database with samples of the last 30 days, and the machine they run on. The roles that there was no
/// room for are one group, "(other)".
pub fn read() -> Result<(Vec<Group>, Machine), Error> {
    let hours = hours()?;
    let observed: HashMap<i64, u64> =
        hours.iter().filter(|hour| hour.role.is_empty()).map(|hour| (hour.start_us, hour.seconds())).collect();
    let database = catalog::value::<Text>("SELECT pg_catalog.current_database()::pg_catalog.text", &[])
        .map_err(spi_failed)?
        .unwrap_or_default()
        .0;
    let features = features()?;
    let mut groups: Vec<Group> = Vec::new();
    // Rows come role by role.
    for mut hour in hours.iter().filter(|hour| !hour.role.is_empty()).cloned() {
        // While a role is not connected it has no busy backend: those seconds are not stored.
        let missing = observed.get(&hour.start_us).map_or(0, |all| all.saturating_sub(hour.seconds()));
        match hour.seconds_busy.first_mut() {
            Some(idle) => *idle += missing,
            None => hour.seconds_busy.push(missing),
        }
        if groups.last().is_none_or(|group| group.role != hour.role) {
            let features = features.get(&hour.role).cloned().unwrap_or_default();
            let (database, role) = (database.clone(), hour.role.clone());
            groups.push(Group { database, role, features, ..Group::default() });
        }
        if let Some(group) = groups.last_mut() {
            group.connected_max = group.connected_max.max(hour.connected_max);
            group.hours.push(Hour { start_us: hour.start_us, seconds_busy: hour.seconds_busy });
        }
    }
    Ok((groups, machine(&hours)))
}

/// A row of perf.pool_hour.
#[derive(Clone)]
struct Stored {
    role: String,
    start_us: i64,
    seconds_busy: Vec<u64>,
    connected_max: u32,
    busy_s: f64,
    waiting_s: f64,
}

impl Stored {
    fn seconds(&self) -> u64 {
        self.seconds_busy.iter().sum()
    }
}

fn hours() -> Result<Vec<Stored>, Error> {
    catalog::rows(
        "SELECT h.role, h.hour_at, h.seconds_busy, h.connected_max, h.busy_s::pg_catalog.float8, h.waiting_s::pg_catalog.float8
           FROM perf.pool_hour AS h
          WHERE h.hour_at OPERATOR(pg_catalog.>=) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '30 days')
            AND h.hour_at OPERATOR(pg_catalog.<=) pg_catalog.now()
          ORDER BY h.role, h.hour_at",
        &[],
        |row| {
            let seconds = row.get::<Vec<Option<i32>>>(3)?.unwrap_or_default();
            Ok(Some(Stored {
                role: row.get::<Text>(1)?.unwrap_or_default().0,
                start_us: row.get::<TimestampWithTimeZone>(2)?.map_or(0, i64::from),
                seconds_busy: seconds.into_iter().map(|s| s.map_or(0, |s| u64::try_from(s).unwrap_or(0))).collect(),
                connected_max: row.get::<i32>(4)?.map_or(0, |n| u32::try_from(n).unwrap_or(0)),
                busy_s: row.get::<f64>(5)?.unwrap_or(0.0),
                waiting_s: row.get::<f64>(6)?.unwrap_or(0.0),
            }))
        },
    )
    .map_err(spi_failed)
}

fn machine(hours: &[Stored]) -> Machine {
    let of_database = || hours.iter().filter(|hour| hour.role.is_empty());
    let busy_s: f64 = of_database().map(|hour| hour.busy_s).sum();
    let waiting_s: f64 = of_database().map(|hour| hour.waiting_s).sum();
    Machine {
        cores: host::cores_or_own(),
        max_connections: max_connections(),
        waiting_share: (busy_s > 0.0).then(|| waiting_s / busy_s),
    }
}

fn max_connections() -> u32 {
    catalog::value::<i32>("SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int4", &[])
        .ok()
        .flatten()
        .map_or(100, |n| u32::try_from(n).unwrap_or(100))
}

/// What each role's statements use that needs a session of its own, by its name.
fn features() -> Result<HashMap<String, Vec<Feature>>, Error> {
    let dbid = current_database();
    let mut found: HashMap<u32, Vec<Feature>> = HashMap::new();
    for item in survey::snapshot(Some(dbid), true) {
        let feature = item.text.as_ref().and_then(|text| feature_of(&text.to_utf8()));
        found.entry(item.key.userid).or_default().extend(feature);
    }
    for trace in transactions::traces(dbid).iter().filter(|trace| trace.temporary) {
        found.entry(trace.userid).or_default().push(Feature::TemporaryTable);
    }
    let mut by_name = HashMap::new();
    for (userid, mut features) in found {
        features.sort_unstable();
        features.dedup();
        if features.is_empty() {
            continue;
        }
        let name = catalog::value::<Text>(
            "SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) $1",
            &[pg_sys::Oid::from(userid).into()],
        )
        .map_err(spi_failed)?;
        by_name.extend(name.map(|name| (name.0, features)));
    }
    Ok(by_name)
}
