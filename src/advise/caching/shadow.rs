//! Switches shadows on and off. Called by `perf.cache_shadow`, in the user's transaction; the tables are written as their
//! owner. The collector hears of it when the transaction commits.

use crate::collect::registry;
use crate::error::Error;
use crate::memory;
use crate::pg::privilege;
use crate::pg::query::{run_with, text};

/// Strategies that are shadowed at the same time in a database, and sizes and times to live of each.
const SHADOWS_MAX: i64 = 16;
const GRID_MAX: usize = 6;
const TABLE: &std::ffi::CStr = c"cache_shadow_switch";
const SIZES: [i64; 6] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// With that of the strategy itself, and none at all.
const TTLS_S: [f64; 4] = [10.0, 60.0, 300.0, 3_600.0];

/// What is to be tried.
pub struct Wanted {
    /// Bytes; `None` for the usual ones.
    pub sizes: Option<Vec<i64>>,
    /// Seconds, infinite ones for never; `None` for the usual ones.
    pub ttls_s: Option<Vec<f64>>,
}

fn checked_sizes(sizes: Option<Vec<i64>>) -> Result<Vec<i64>, Error> {
    let Some(mut sizes) = sizes else { return Ok(SIZES.to_vec()) };
    if sizes.is_empty() || sizes.len() > GRID_MAX || sizes.iter().any(|size| !(1..=1 << 40).contains(size)) {
        return Err(Error::InvalidArgument {
            argument: "sizes",
            value: format!("{sizes:?}"),
            accepted: format!("Give 1 to {GRID_MAX} numbers of bytes from 1 to 1099511627776."),
        });
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}

fn checked_ttls(ttls: Option<Vec<f64>>, own: Option<f64>) -> Result<Vec<f64>, Error> {
    let is_given = ttls.is_some();
    let mut ttls = ttls.unwrap_or_else(|| TTLS_S.into_iter().chain([f64::INFINITY]).chain(own).collect());
    if ttls.is_empty() || is_given && ttls.len() > GRID_MAX || ttls.iter().any(|ttl| ttl.is_nan() || *ttl < 0.001) {
        return Err(Error::InvalidArgument {
            argument: "ttls",
            value: format!("{ttls:?} s"),
            accepted: format!("Give 1 to {GRID_MAX} intervals of a millisecond or more; NULL among them for no limit."),
        });
    }
    ttls.sort_by(f64::total_cmp);
    ttls.dedup();
    Ok(ttls)
}

/// Switches the shadow of a strategy on; how many statements it looks at. What an earlier shadow of that name has counted is
/// forgotten, unless it is on and stays as it is.
pub fn on(name: &str, wanted: Wanted) -> Result<i64, Error> {
    memory::require()?;
    let sizes = checked_sizes(wanted.sizes)?;
    let Some(row) = super::strategies(true)?.into_iter().find(|row| row.name == name) else {
        return Err(Error::UndefinedObject {
            message: format!("there is no caching strategy \"{name}\""),
            hint: "perf.caching_strategies(true) lists them.".to_owned(),
        });
    };
    let ttls = checked_ttls(wanted.ttls_s, row.ttl_s)?;
    if row.queryids.is_empty() {
        return Err(Error::WrongState {
            message: format!("no captured statement belongs to the caching strategy \"{name}\""),
            hint: row.reason,
        });
    }
    let mut queryids = row.queryids;
    queryids.sort_unstable();
    let count = queryids.len() as i64;
    let outcome = privilege::as_owner_of(TABLE, || {
        let (_, others) = run_with(
            c"SELECT pg_catalog.count(*) FROM perf.cache_shadow_switch WHERE strategy <> $1",
            &[text(name)],
            |row| row.get::<i64>(1).unwrap_or(0),
        );
        if others.first().is_some_and(|others| *others >= SHADOWS_MAX) {
            return Err(Error::WrongState {
                message: format!("{SHADOWS_MAX} caching strategies are shadowed already"),
                hint: "Switch one off: SELECT perf.cache_shadow(strategy, false).".to_owned(),
            });
        }
        let (changed, _) = run_with(
            c"INSERT INTO perf.cache_shadow_switch AS s (strategy, queryids, sizes, ttls_s) VALUES ($1, $2, $3, $4)
              ON CONFLICT (strategy) DO UPDATE SET queryids = excluded.queryids, sizes = excluded.sizes,
                     ttls_s = excluded.ttls_s, since = excluded.since
               WHERE (s.queryids, s.sizes, s.ttls_s) IS DISTINCT FROM (excluded.queryids, excluded.sizes, excluded.ttls_s)",
            &[text(name), queryids.into(), sizes.into(), ttls.into()],
            |_| (),
        );
        if changed > 0 {
            forget(name);
        }
        Ok(())
    });
    outcome.unwrap_or(Ok(()))?;
    registry::note_shadow_change();
    Ok(count)
}

/// Switches it off; how many were on. What it has counted stays until it is switched on again.
pub fn off(name: &str) -> Result<i64, Error> {
    let removed = privilege::as_owner_of(TABLE, || {
        let (removed, _) = run_with(c"DELETE FROM perf.cache_shadow_switch WHERE strategy = $1", &[text(name)], |_| ());
        // Results of what nobody shadows any more: the latest are kept.
        run_with(
            c"DELETE FROM perf.cache_shadow_result AS r WHERE r.strategy IN (
                  SELECT o.strategy FROM perf.cache_shadow_result AS o
                   WHERE NOT EXISTS (SELECT FROM perf.cache_shadow_switch AS s WHERE s.strategy = o.strategy)
                   GROUP BY o.strategy ORDER BY pg_catalog.max(o.measured_at) DESC OFFSET 32)",
            &[],
            |_| (),
        );
        removed
    });
    registry::note_shadow_change();
    Ok(removed.unwrap_or(0) as i64)
}

fn forget(name: &str) {
    run_with(c"DELETE FROM perf.cache_shadow_result WHERE strategy = $1", &[text(name)], |_| ());
}
