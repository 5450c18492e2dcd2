//! What sampling itself costs: CPU time of looks, samples and rotations, and how long a sample takes. Owns the figures since
//! they were stored last, in the memory of the process that samples, and the one row of perf.capacity_cost, which
//! perf.health() shows. Called by the sampler; locks that row.

use std::cell::RefCell;
use std::time::Duration;

use super::partitions::spi_failed;
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{background, cpu_time};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::Spi;

/// Over less time than this no share of a core is told.
const SPAN_MIN_US: i64 = 30_000_000;

#[derive(Default)]
struct Cost {
    since_us: i64,
    cpu_us: i64,
    run_ms: f64,
    problem: Option<String>,
    /// Samples in a row in which something could not be measured.
    failures: u32,
}

thread_local! {
    static COST: RefCell<Cost> = RefCell::default();
}

/// Runs a part of the sampler and counts the CPU time that it takes.
pub fn metered<T>(body: impl FnOnce() -> T) -> T {
    let before = cpu_time::used_us();
    let value = body();
    let used = (cpu_time::used_us() - before).max(0);
    COST.with_borrow_mut(|cost| {
        if cost.since_us == 0 {
            cost.since_us = background::now();
        }
        cost.cpu_us += used;
    });
    value
}

/// Notes how long a sample took, and what of it could not be measured; the log hears of that ever more rarely.
pub fn sampled(elapsed: Duration, problem: Option<String>) {
    COST.with_borrow_mut(|cost| {
        cost.run_ms = elapsed.as_secs_f64() * 1e3;
        cost.failures = if problem.is_some() { cost.failures.saturating_add(1) } else { 0 };
        if let Some(problem) = problem.as_deref().filter(|_| cost.failures.is_power_of_two()) {
            pgrx::log!("perf_opt could not sample everything (failure {} in a row): {problem}", cost.failures);
        }
        cost.problem = problem;
    });
}

/// Stores the figures; the share of a core is that of the time since it was stored last.
pub fn store(now: TimestampWithTimeZone, stored_bytes: i64) -> Result<(), Error> {
    let (core_pct, run_ms, problem) = COST.with_borrow_mut(|cost| {
        let at_us = background::now();
        let elapsed_us = at_us - cost.since_us;
        // A share of a short time says nothing. A clock that was set back begins anew.
        let core_pct = (elapsed_us >= SPAN_MIN_US).then(|| 100.0 * cost.cpu_us as f64 / elapsed_us as f64);
        if core_pct.is_some() || elapsed_us < 0 {
            cost.since_us = at_us;
            cost.cpu_us = 0;
        }
        (core_pct, cost.run_ms, cost.problem.clone())
    });
    Spi::connect_mut(|client| {
        client
            .update(
                "INSERT INTO perf.capacity_cost AS c (only_row, measured_at, run_ms, core_pct, stored_bytes, problem)
                 VALUES (true, $1, $2, $3, $4, $5)
                 ON CONFLICT (only_row) DO UPDATE
                 SET measured_at = excluded.measured_at, run_ms = excluded.run_ms,
                     core_pct = coalesce(excluded.core_pct, c.core_pct),
                     stored_bytes = excluded.stored_bytes, problem = excluded.problem",
                None,
                &[now.into(), run_ms.into(), core_pct.into(), stored_bytes.into(), problem.map(Text).into()],
            )
            .map(|_| ())
            .map_err(spi_failed)
    })
}
