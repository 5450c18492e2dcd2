//! What the server can check by itself, by the names that perf.checklist_item uses. A check that fails to run cannot tell.
//! Reads with the rights of the caller.

use perf_core::roadmap::Status;

use super::Outcome;
use crate::advise::roadmap::facts::Facts;
use crate::advise::{cost, roadmap};
use crate::pg::background;
use crate::pg::privilege;
use crate::pg::query::{run_with, text, Row};
use crate::{guc, memory};

/// One check: given the phase of its item.
type Check = fn(&Facts, &str) -> Result<Outcome, String>;

const CHECKS: &[(&str, Check)] = &[
    ("baseline_exists", |facts, _| baseline_exists(facts)),
    ("baseline_captured", |facts, _| percentiles_recorded(facts)),
    ("low_traffic", |facts, _| low_traffic(facts)),
    ("cache_connected", |facts, _| cache_connected(facts)),
    ("capture_on", |_, _| Ok(capture_on())),
    ("indexes_valid", indexes_valid),
    ("latency_watched", |facts, _| watched(facts, "latency", "latency")),
    ("matviews_exist", |facts, _| matviews_exist(facts)),
    ("refresh_jobs_exist", |facts, _| refresh_jobs_exist(facts)),
    ("pooling_in_use", |_, _| Ok(Outcome::unknown("the server does not see whether its clients come through a pool"))),
    ("replicas_streaming", |facts, _| replicas_streaming(facts)),
    ("replication_monitored", |facts, _| watched(facts, "replication_lag", "replication lag")),
    ("gains_verified", |facts, _| gains_verified(facts)),
    ("plans_checked", |facts, _| plans_checked(facts)),
    ("cache_hit_rates", |facts, _| cache_hit_rates(facts)),
];

/// The hit rate that result caches should have, where no alert has one.
const HIT_PCT: f64 = 70.0;
/// Hours of the day that traffic must be known of.
const HOURS_MIN: i64 = 12;
/// Traffic is low in the quietest quarter of the hours.
const LOW_SHARE: f64 = 0.25;
/// Names listed, at most.
const NAMES_MAX: usize = 5;

/// Runs a check.
pub(super) fn run(name: &str, phase: &str, facts: &Facts) -> Outcome {
    match CHECKS.iter().find(|(known, _)| *known == name) {
        Some((_, check)) => check(facts, phase).unwrap_or_else(Outcome::unknown),
        None => Outcome::unknown(format!("the server has no check \"{name}\"")),
    }
}

/// The first row of a query of ours.
fn first<T>(
    facts: &Facts,
    query: &'static std::ffi::CStr,
    arguments: &[pgrx::datum::DatumWithOid<'_>],
    read: impl Fn(&Row) -> T,
) -> Result<Option<T>, String> {
    facts.ask("what a check needs", || {
        Ok(privilege::with_own_path(|| run_with(query, arguments, read)).1.into_iter().next())
    })
}

/// The latest baseline that somebody asked for: name, when, statements.
fn latest_baseline(facts: &Facts) -> Result<Option<(String, String, i64)>, String> {
    first(
        facts,
        c"SELECT name, to_char(captured_at, 'YYYY-MM-DD HH24:MI TZH'), statements FROM perf.baselines
           WHERE change_id IS NULL ORDER BY captured_at DESC LIMIT 1",
        &[],
        |row| (row.string(1), row.string(2), row.get::<i64>(3).unwrap_or(0)),
    )
}

const NO_BASELINE: &str = "there is no baseline: SELECT perf.baseline_capture('before')";

fn baseline_exists(facts: &Facts) -> Result<Outcome, String> {
    Ok(match latest_baseline(facts)? {
        Some((name, at, statements)) => {
            Outcome::passed(format!("baseline \"{name}\" of {at}, with {statements} statements"))
        }
        None => Outcome::failed(NO_BASELINE),
    })
}

fn percentiles_recorded(facts: &Facts) -> Result<Outcome, String> {
    let Some((name, _, statements)) = latest_baseline(facts)? else { return Ok(Outcome::failed(NO_BASELINE)) };
    if statements == 0 {
        return Ok(Outcome::failed(format!("baseline \"{name}\" has no statements: nothing had been captured")));
    }
    let quantiles = first(
        facts,
        c"SELECT perf._histogram_quantile(h.all, 0.95), perf._histogram_quantile(h.all, 0.99)
            FROM (SELECT perf._histogram_merge(histogram) AS all FROM perf.baseline_statement_visible WHERE name = $1) AS h",
        &[text(&name)],
        |row| row.get::<f64>(1).zip(row.get::<f64>(2)),
    )?;
    Ok(Outcome::passed(match quantiles.flatten() {
        Some((p95, p99)) => format!("baseline \"{name}\": p95 {p95:.1} ms, p99 {p99:.1} ms"),
        None => format!("baseline \"{name}\" has {statements} statements, none of the current role"),
    }))
}

fn low_traffic(facts: &Facts) -> Result<Outcome, String> {
    let found = first(
        facts,
        c"WITH hourly AS (
              SELECT extract(hour FROM sampled_at AT TIME ZONE 'UTC')::int AS hour, avg(value_mean) AS qps
                FROM perf.capacity_sample_visible
               WHERE metric = 'qps' AND object = current_database() AND resolution_s = 3600
                 AND sampled_at > now() - interval '14 days' GROUP BY 1)
          SELECT (SELECT count(*) FROM hourly),
                 (SELECT avg(value_mean) FROM perf.capacity_sample_visible
                   WHERE metric = 'qps' AND object = current_database() AND resolution_s = 60
                     AND sampled_at > now() - interval '10 minutes'),
                 (SELECT percentile_cont($1) WITHIN GROUP (ORDER BY qps) FROM hourly),
                 (SELECT hour FROM hourly ORDER BY qps, hour LIMIT 1)",
        &[LOW_SHARE.into()],
        |row| (row.get::<i64>(1).unwrap_or(0), row.get::<f64>(2), row.get::<f64>(3), row.get::<i32>(4)),
    )?;
    let Some((hours, Some(now), Some(low), quietest)) = found.filter(|found| found.0 >= HOURS_MIN) else {
        return Ok(Outcome::unknown(format!(
            "how busy which hour is is not known yet: that takes samples of {HOURS_MIN} hours of the day"
        )));
    };
    let quietest = quietest.map(|hour| format!("; the quietest hour begins at {hour:02}:00 UTC")).unwrap_or_default();
    let what = format!("{now:.1} statements a second in the last 10 minutes, {low:.1} in the quietest quarter of {hours} hours of the day{quietest}");
    Ok(if now <= low { Outcome::passed(what) } else { Outcome::failed(what) })
}

/// Gets and hits of the store; None where the current role may not see them.
fn store(facts: &Facts) -> Result<Option<(f64, f64)>, String> {
    if background::in_recovery() {
        return Ok(None);
    }
    let may = first(facts, c"SELECT has_function_privilege('perf.cache_stats()', 'EXECUTE')", &[], |row| {
        row.get::<bool>(1).unwrap_or(false)
    })?;
    if may != Some(true) || !memory::is_ready() {
        return Ok(None);
    }
    first(facts, c"SELECT sum(gets)::float8, sum(hits)::float8 FROM perf.cache_stats()", &[], |row| {
        (row.get::<f64>(1).unwrap_or(0.0), row.get::<f64>(2).unwrap_or(0.0))
    })
}

fn cache_connected(facts: &Facts) -> Result<Outcome, String> {
    let gets = store(facts)?.map_or(0.0, |(gets, _)| gets);
    Ok(match (gets > 0.0, guc::redis_url().is_empty()) {
        (true, _) => Outcome::passed(format!("perf.cached and perf.cache_get were asked {gets:.0} times")),
        (false, false) => Outcome::passed("perf_opt.redis_url is set: perf.health() tells of the connection"),
        (false, true) => Outcome::unknown("neither perf.cached was asked nor is perf_opt.redis_url set"),
    })
}

fn capture_on() -> Outcome {
    if !memory::is_ready() {
        return Outcome::failed("perf_opt is not in shared_preload_libraries: nothing is captured");
    }
    let parts = [roadmap::capture(), roadmap::threshold()];
    let said: Vec<&str> = parts.iter().map(|part| part.reason.as_str()).collect();
    let said = said.join("; ");
    match parts.iter().all(|part| part.status == Status::Done) {
        true => Outcome::passed(said),
        false => Outcome::failed(said),
    }
}

/// The indexes of the roadmap's phase of that number, or of all phases, and that no index of the database is a wreck.
fn indexes_valid(facts: &Facts, phase: &str) -> Result<Outcome, String> {
    let broken = first(
        facts,
        c"SELECT string_agg(x.name, ', ' ORDER BY x.name COLLATE \"C\") FROM (
              SELECT format('%I.%I', n.nspname, c.relname) AS name
                FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname !~ '^pg_' ORDER BY 1 LIMIT 5) AS x",
        &[],
        |row| row.string(1),
    )?;
    if let Some(names) = broken.filter(|names| !names.is_empty()) {
        return Ok(Outcome::failed(format!("not valid, or still being built: {names}")));
    }
    let number = phase.strip_prefix("phase_").and_then(|number| number.parse::<i32>().ok());
    let (status, why) = roadmap::status_of(facts, "index", number)?;
    Ok(match status {
        Status::Done | Status::NotNeeded => Outcome::passed(why),
        Status::NotApplicable if why.is_empty() => Outcome::unknown("the roadmap has no indexes to look at"),
        Status::NotApplicable => Outcome::unknown(why),
        Status::InProgress | Status::Ready | Status::Blocked => Outcome::failed(why),
    })
}

fn named<'a>(names: impl Iterator<Item = &'a roadmap::View>) -> String {
    let names: Vec<&str> = names.map(|view| view.name.as_str()).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    let shown = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{shown} and {more} more")
    } else {
        shown
    }
}

fn matviews_exist(facts: &Facts) -> Result<Outcome, String> {
    let views = roadmap::views(facts)?;
    let (there, absent): (Vec<_>, Vec<_>) =
        views.iter().filter(|view| view.is_applicable).partition(|view| view.exists);
    Ok(match (there.is_empty(), absent.is_empty()) {
        (true, true) => Outcome::unknown("no view of the roadmap can be made of what is in the search path"),
        (_, false) => Outcome::failed(format!("missing: {}", named(absent.into_iter()))),
        (false, true) => Outcome::passed(format!("there: {}", named(there.into_iter()))),
    })
}

fn refresh_jobs_exist(facts: &Facts) -> Result<Outcome, String> {
    let views = roadmap::views(facts)?;
    let (fresh, stale): (Vec<_>, Vec<_>) = views.iter().filter(|view| view.exists).partition(|view| view.is_refreshed);
    Ok(match (fresh.is_empty(), stale.is_empty()) {
        (true, true) => Outcome::unknown("there is no view of the roadmap to be refreshed"),
        (_, false) => {
            Outcome::failed(format!("no job refreshes, or its last run failed: {}", named(stale.into_iter())))
        }
        (false, true) => Outcome::passed(format!("refreshed by jobs: {}", named(fresh.into_iter()))),
    })
}

fn replicas_streaming(facts: &Facts) -> Result<Outcome, String> {
    if background::in_recovery() {
        return Ok(Outcome::unknown("this is a replica itself: ask its primary"));
    }
    let Some(connected) = cost::replicas() else {
        return Ok(Outcome::unknown("which replicas are connected is not shown to the current role"));
    };
    let streaming = first(
        facts,
        c"SELECT count(*) FILTER (WHERE state = 'streaming')::float8 FROM pg_stat_replication
           WHERE replay_lsn IS NOT NULL",
        &[],
        |row| row.get::<f64>(1).unwrap_or(0.0),
    )?;
    let (streaming, wanted) = (streaming.unwrap_or(0.0).min(connected), roadmap::replicas_wanted()?);
    let what = format!("{streaming:.0} of {connected:.0} connected replicas stream, {wanted:.0} are wanted");
    Ok(if streaming >= wanted { Outcome::passed(what) } else { Outcome::failed(what) })
}

/// Whether an alert watches a metric, and has something to watch.
fn watched(facts: &Facts, metric: &str, what: &str) -> Result<Outcome, String> {
    let found = first(
        facts,
        c"SELECT count(*), count(*) FILTER (WHERE a.status <> 'no_data'), count(*) FILTER (WHERE a.status = 'firing')
            FROM perf.alerts(true) AS a JOIN perf.alert_threshold AS t ON t.alert_name = a.name
           WHERE starts_with(t.metric, $1)",
        &[text(metric)],
        |row| [1, 2, 3].map(|n| row.get::<i64>(n).unwrap_or(0)),
    )?;
    Ok(match found.unwrap_or_default() {
        [0, ..] => Outcome::failed(format!("no alert of perf.alert_threshold watches {what}")),
        [_, 0, _] => Outcome::failed(format!("an alert watches {what}, but nothing has been measured lately")),
        [_, _, 0] => Outcome::passed(format!("an alert watches {what}, and does not fire")),
        [_, _, firing] => Outcome::passed(format!("{firing} alerts on {what} fire now: see perf.alerts()")),
    })
}

fn gains_verified(facts: &Facts) -> Result<Outcome, String> {
    let changes = facts.changes()?;
    let count = |wanted: fn(&roadmap::Change) -> bool| changes.iter().filter(|change| wanted(change)).count();
    let (verified, pending) = (count(roadmap::Change::is_verified), count(|c| c.is_unverified() || c.is_under_way()));
    let regressed = count(|change| change.status == "regressed");
    Ok(match (verified, pending, regressed) {
        (0, 0, _) => Outcome::unknown("perf.apply has changed nothing here, so there is nothing that it could verify"),
        (_, _, 1..) => Outcome::failed(format!("{regressed} changes have made something slower: undo them")),
        (_, 1.., _) => Outcome::failed(format!("{pending} changes are not verified yet")),
        _ => Outcome::passed(match roadmap::gained(changes.iter()) {
            Some(pct) => format!("{verified} changes are verified, and have saved {pct:.1} % of the workload's time"),
            None => format!("{verified} changes are verified"),
        }),
    })
}

fn plans_checked(facts: &Facts) -> Result<Outcome, String> {
    let Some((name, ..)) = latest_baseline(facts)? else {
        return Ok(Outcome::unknown("there is no baseline to compare with"));
    };
    if !memory::is_ready() {
        return Ok(Outcome::unknown("nothing is captured to compare a baseline with"));
    }
    let found = first(
        facts,
        c"SELECT count(*) FILTER (WHERE verdict = 'slower'), count(*) FILTER (WHERE verdict IN ('slower', 'faster', 'same'))
            FROM perf.baseline_compare($1)",
        &[text(&name)],
        |row| [1, 2].map(|n| row.get::<i64>(n).unwrap_or(0)),
    )?;
    Ok(match found.unwrap_or_default() {
        [_, 0] => Outcome::unknown(format!("no statement has run both in baseline \"{name}\" and since")),
        [0, n] => Outcome::passed(format!("none of {n} statements is slower than in baseline \"{name}\"")),
        [slower, n] => Outcome::failed(format!(
            "{slower} of {n} statements are slower than in baseline \"{name}\": see perf.baseline_compare()"
        )),
    })
}

fn cache_hit_rates(facts: &Facts) -> Result<Outcome, String> {
    let wanted = first(
        facts,
        c"SELECT max(threshold) FROM perf.alert_threshold WHERE metric = 'result_cache_hit'",
        &[],
        |row| row.get::<f64>(1),
    )?;
    let wanted = wanted.flatten().unwrap_or(HIT_PCT);
    Ok(match store(facts)? {
        Some((gets, hits)) if gets > 0.0 => {
            let pct = 100.0 * hits / gets;
            let what = format!("{pct:.1} % of {gets:.0} gets were hits, {wanted:.0} % are wanted");
            if pct >= wanted {
                Outcome::passed(what)
            } else {
                Outcome::failed(what)
            }
        }
        _ => Outcome::unknown("no cache has been asked, or its counts are not shown to the current role"),
    })
}
