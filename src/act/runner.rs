//! The worker of one run: connects as the job's owner, does the work, writes down how it went, and ends. One process a run,
//! so that nothing of one job's session reaches another's.
//!
//! What the owner may not do, the job may not do: this is a session of the owner. Only the record is written with the
//! rights of the tables' owner, by statements of perf_opt's own. Holds no lock of its own between transactions.

use std::ffi::CString;

use pgrx::{pg_guard, pg_sys};
use serde_json::json;

use super::board::{self, Place};
use super::executor::{self, Failure, QUERY_CANCELED};
use super::runs::{self, Ending, Order, Record};
use super::tasks::{self, Outcome};
use crate::capture::hooks;
use crate::collect::registry;
use crate::pg::{background, privilege};

/// The table whose owner keeps the records.
const RECORDS: &std::ffi::CStr = c"job_run";
/// Tries to write down a failure, should that fail itself.
const RECORD_TRIES: u32 = 3;

/// Entry point of the worker of a run.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_job_main(argument: pg_sys::Datum) {
    background::on_exit(on_exit);
    // Attached before signals are let through: whoever cancels the run from now on finds our pid.
    let Some(place) = board::attach(argument, background::my_pid()) else { background::exit(0) };
    // A cancel that ended the login or the reading of the order would leave nobody to write it down, and the run would be
    // tried again.
    background::hold_cancels();
    background::install_client_signal_handlers();
    background::connect_as(place.dbid, place.owner);
    board::connected(background::my_pid());
    run(&place);
    background::exit(0);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    if let Some(dbid) = board::leave(background::my_pid()) {
        registry::run_ended(dbid);
    }
}

fn run(place: &Place) {
    let started_at = background::now();
    let (order, table) = match executor::transaction(|| {
        let order = || runs::order(place.run_id, place.attempt, pg_sys::Oid::from(place.owner));
        let order = hooks::unobserved(|| privilege::as_owner_of(RECORDS, order)).flatten();
        Ok(order.map(|order| (order, privilege::table(RECORDS))))
    }) {
        Ok(Some(found)) => found,
        // The job was removed since the claim or is another's, or the extension was removed.
        Ok(None) => return,
        Err(failure) => {
            pgrx::log!("perf_opt job run {}: {}", place.run_id, failure.message);
            return;
        }
    };
    settings(&order);
    background::set_deadline(order.timeout_ms);
    background::take_cancels();
    let seed = background::random_u64();
    let mut recorded = false;
    let mut write = |outcome: Outcome| -> Result<(), Failure> {
        recorded = true;
        let ending = outcome.skipped.map_or(Ending::Succeeded, Ending::Skipped);
        let record_of = Record { ending, started_at, lock_wait_ms: outcome.lock_wait_ms, detail: outcome.detail };
        record(&order, table, &record_of, seed);
        Ok(())
    };
    let result = if board::is_cancelled(background::my_pid()) {
        Err(Failure::new(QUERY_CANCELED, "cancelled before it started"))
    } else {
        tasks::run(&order, &mut write)
    };
    background::set_deadline(None);
    let mut order = order;
    if matches!(&result, Err(failure) if !tasks::may_retry(&order.kind, failure)) {
        order.max_retries = 0;
    }
    let ending = match result {
        Ok(()) if recorded => return,
        Ok(()) => Ending::Succeeded,
        Err(failure) => ending_of(failure, &order, started_at),
    };
    let record_of = Record { ending, started_at, lock_wait_ms: None, detail: json!({}) };
    for _ in 0..RECORD_TRIES {
        background::drop_cancel();
        match executor::transaction(|| {
            record(&order, table, &record_of, seed);
            Ok(())
        }) {
            Ok(()) => return,
            Err(failure) => {
                pgrx::log!("perf_opt job run {}: its end was not recorded: {}", order.run_id, failure.message)
            }
        }
    }
}

/// What a failure means for the run: its time was up, somebody cancelled it, or it went wrong.
fn ending_of(failure: Failure, order: &Order, started_at: i64) -> Ending {
    if failure.sqlstate != QUERY_CANCELED {
        return Ending::Failed(failure);
    }
    let elapsed_ms = (background::now() - started_at) / 1_000;
    match order.timeout_ms {
        Some(limit_ms) if elapsed_ms >= limit_ms && !board::is_cancelled(background::my_pid()) => {
            Ending::Failed(Failure::new(QUERY_CANCELED, format!("the job's timeout of {limit_ms} ms is over")))
        }
        _ => Ending::Cancelled(failure.message),
    }
}

/// Writes a record inside the open transaction. Nothing is left to write when the extension is gone, nor when it has come
/// back: what has the run's number in its new `table` is another run.
fn record(order: &Order, table: Option<pg_sys::Oid>, record: &Record, seed: u64) {
    if privilege::table(RECORDS) != table {
        return;
    }
    let finish = || privilege::writable(|| runs::finish(order, record, seed));
    hooks::unobserved(|| privilege::as_owner_of(RECORDS, finish));
}

/// The session of a run: who it is, and how long it waits for locks.
fn settings(order: &Order) {
    let name = CString::new(format!("perf_opt job {}", order.name)).unwrap_or_default();
    background::set_session(c"application_name", &name);
    if let Some(limit_ms) = order.lock_timeout_ms {
        let value = CString::new(limit_ms.clamp(1, i64::from(i32::MAX)).to_string()).unwrap_or_default();
        background::set_session(c"lock_timeout", &value);
    }
}
