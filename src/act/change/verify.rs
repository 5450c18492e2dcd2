//! Whether a change has done what it promised: what was measured is handed to `perf_core::change`, and what that says is
//! written down. Called by perf.verify() and, for what is due, by the collector after its runs. Inside a transaction.

use perf_core::change::{judge, Aim, Judgement, Moved, Observed, Promise, Verdict};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::audit::{self, Entry};
use super::store::{self, Change};
use super::{caching, observed, watched};
use crate::act::tasks::autopilot;
use crate::collect::partitions::spi_failed;
use crate::collect::worker::News;
use crate::error::Error;
use crate::guc;
use crate::pg::local::ProcessLocal;
use crate::pg::{catalog, privilege};

/// Changes looked at after one run of the collector.
const DUE_MAX: i64 = 20;

/// What was found.
pub struct Verification {
    /// Of the measured time, in per cent.
    pub predicted_pct: Option<f64>,
    /// The judgement.
    pub judgement: Judgement,
    /// Statement by statement.
    pub statements: Value,
}

fn aim(change: &Change) -> Aim {
    match change.kind.as_str() {
        "index_create" => Aim::Speed,
        "partitioning" if change.predicted_pct.is_some() => Aim::Speed,
        _ => Aim::Thrift,
    }
}

/// Judges a change that was made, and writes the verdict down. Of autopilot's changes, harm is confirmed by a second round of
/// executions, of which none was in the first.
pub fn run(change: &Change, actor: pg_sys::Oid) -> Result<Verification, Error> {
    let (observed, judgement) = match observed::measure(change)? {
        Some(measured) => measured,
        None => by_promise(change)?,
    };
    if judgement.verdict == Verdict::Waiting {
        if change.status == "applied" {
            store::set_message(change.change_id, &judgement.reason)?;
        }
    } else {
        record(change, actor, &judgement, observed.len())?;
    }
    let statements = statements(&observed, &judgement);
    Ok(Verification { predicted_pct: change.predicted_pct, judgement, statements })
}

/// What was measured of a change that was made for its promise.
fn by_promise(change: &Change) -> Result<(Vec<Observed>, Judgement), Error> {
    let observed = watched::observed(change.change_id)?;
    let promise = Promise {
        aim: aim(change),
        predicted_pct: change.predicted_pct,
        total_ms: change.total_ms,
        min_calls: guc::verify_min_calls(),
        is_late: change.is_late(),
    };
    let mut judgement = judge(&observed, &promise);
    if change.kind == caching::KIND {
        judgement = caching::judge(change, judgement);
    }
    if judgement.verdict == Verdict::NoGain && change.kind == "index_create" {
        judgement.reason += &match scans(change)? {
            0 => "; no scan of the index is counted".to_owned(),
            scans => format!("; the index was scanned {scans} times"),
        };
    }
    Ok((observed, judgement))
}

/// Writes a verdict down.
fn record(change: &Change, actor: pg_sys::Oid, judgement: &Judgement, statements: usize) -> Result<(), Error> {
    let mut detail = json!({ "verified": { "drift": rounded(judgement.drift, 3), "statements": statements } });
    let is_harm_of_autopilot = change.by_autopilot && judgement.verdict == Verdict::Regressed;
    let is_second = is_harm_of_autopilot && change.status == "regressed";
    if let (Some(fields), true) = (detail.as_object_mut(), is_second) {
        fields.insert("confirmed".to_owned(), Value::Bool(true));
    }
    let verdict = judgement.verdict.name();
    let achieved = judgement.achieved_pct;
    if !store::verified(change.change_id, verdict, achieved, &judgement.reason, &detail)? {
        return Ok(());
    }
    if verdict != change.status || (is_second && !change.is_confirmed_harm()) {
        let entry = Entry {
            action: "verify",
            sql: None,
            outcome: verdict,
            sqlstate: None,
            detail: json!({ "predicted_pct": change.predicted_pct, "achieved_pct": achieved, "reason": judgement.reason,
                            "confirmed": is_second }),
        };
        audit::note(change, actor, &entry)?;
    }
    if is_harm_of_autopilot && !is_second {
        watched::mark(change.change_id)?;
    }
    Ok(())
}

/// Scans of the indexes that a change has made.
pub fn scans(change: &Change) -> Result<i64, Error> {
    let counted = "SELECT pg_catalog.sum(pg_catalog.pg_stat_get_numscans(c.oid))::pg_catalog.int8
                     FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1)";
    let oids: Vec<pg_sys::Oid> = change.oids().into_iter().map(pg_sys::Oid::from).collect();
    Ok(catalog::value::<i64>(counted, &[oids.into()]).map_err(spi_failed)?.unwrap_or(0))
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

fn statements(observed: &[Observed], judgement: &Judgement) -> Value {
    let row = |(one, moved): (&Observed, &Moved)| {
        let achieved = match moved {
            Moved::Faster(ratio) | Moved::Slower(ratio) => Some(rounded(100.0 * (1.0 - ratio), 1)),
            Moved::Same | Moved::Unknown => None,
        };
        json!({
            "queryid": one.queryid,
            "part": one.part.name(),
            "change": moved.name(),
            "predicted_pct": one.promised_ratio.map(|ratio| rounded(100.0 * (1.0 - ratio), 1)),
            "achieved_pct": achieved,
            "calls_before": one.before.calls,
            "calls_after": one.after.calls,
            "mean_ms_before": one.before.mean_ms().map(|ms| rounded(ms, 4)),
            "mean_ms_after": one.after.mean_ms().map(|ms| rounded(ms, 4)),
            "p95_ms_before": one.before.quantile_ms(0.95).map(|ms| rounded(ms, 4)),
            "p95_ms_after": one.after.quantile_ms(0.95).map(|ms| rounded(ms, 4)),
            "blocks_before": rounded(one.blocks_before, 1),
            "blocks_after": rounded(one.blocks_after, 1),
        })
    };
    observed.iter().zip(&judgement.moved).map(row).collect()
}

/// The step after each run of the collector: puts right what lost its run, and verifies what is due.
pub fn due(now: i64) -> Result<News, Error> {
    let mut news = News::default();
    if privilege::table(store::TABLE).is_none() {
        return Ok(news);
    }
    store::settle()?;
    store::queue_clean_up()?;
    for change in next_due()? {
        let found = run(&change, change.owner)?;
        if found.judgement.verdict == Verdict::Regressed {
            news.lines.push(format!(
                "perf_opt change {} ({} of {}): {}",
                change.change_id,
                change.kind,
                change.relation,
                found.judgement.verdict.name()
            ));
        }
    }
    // What autopilot is to take back has been seen twice.
    for change in store::unconfirmed()? {
        run(&change, change.owner)?;
    }
    if guc::autopilot() != guc::Autopilot::Off && is_time_to_look(now) {
        autopilot::queue()?;
    }
    Ok(news)
}

/// The latest change that was looked at: those that nobody executes anything of keep no others waiting.
static LOOKED_UP_TO: ProcessLocal<i64> = ProcessLocal::new(0);

/// The next changes that wait to be verified, around and around.
fn next_due() -> Result<Vec<Change>, Error> {
    let found = store::unverified(LOOKED_UP_TO.get(), DUE_MAX)?;
    let is_last = i64::try_from(found.len()).unwrap_or(i64::MAX) < DUE_MAX;
    LOOKED_UP_TO.set(found.last().filter(|_| !is_last).map_or(0, |change| change.change_id));
    Ok(found)
}

/// When autopilot was asked to look for the last time.
static LOOKED_AT: ProcessLocal<i64> = ProcessLocal::new(0);
/// Runs of the collector between two looks.
const LOOK_EVERY: i64 = 10;

fn is_time_to_look(now: i64) -> bool {
    let pause = LOOK_EVERY * i64::from(guc::collect_interval_s()) * 1_000_000;
    let is_time = (now - LOOKED_AT.get()).abs() >= pause;
    if is_time {
        LOOKED_AT.set(now);
    }
    is_time
}
