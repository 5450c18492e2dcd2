//! Which alerts fire: thresholds of perf.alert_threshold, joined by name with what is measured, and since when.
//!
//! `evaluate` is the collector's: it takes a sample of every watched metric, moves the state machine of each alert on
//! (`perf_core::alerts`), stores its state in perf.alert_state and tells a change that begins, ends or interrupts firing
//! with one NOTIFY and one line in the log, once the transaction that stores it is committed. Every collector evaluates its own
//! database's thresholds. What is about the whole server looks the same from each of them: such an alert is logged by
//! the first database alone (the one with the lowest OID of those whose collector does not fail), unless somebody has edited or added its threshold.
//!
//! `report` answers `perf.alerts()` from that state; where nobody keeps one (on a standby, without preloading, for a
//! threshold that is newer than the last run) it judges what can be measured at once, and says so.

use std::collections::{HashMap, HashSet};

use perf_core::alerts::{worst, Comparison, Rule, State, Status};
use perf_core::forecast::iso_date_2000;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;

use super::metrics::{self, readings, Measured, APPLICATION, CLUSTER, DATABASE, HIDDEN, REPLICA};
use crate::collect::registry::{self, Phase};
use crate::collect::worker::News;
use crate::error::Error;
use crate::pg::background::instant;
use crate::pg::query::{run_with, select_with, text, Row};
use crate::pg::text::{message, Text};
use crate::pg::{background, names};

/// Thresholds beyond this number, by name, are not evaluated.
const THRESHOLDS_MAX: i64 = 500;
const MINUTE_US: i64 = 60_000_000;
/// A value, and a state, say nothing after so long, or after so many intervals of the collector if that is longer.
const STALE_US: i64 = 5 * MINUTE_US;
const STALE_RUNS: i64 = 5;
/// What users can write at any length is cut where it is told: a payload of NOTIFY has less than 8000 bytes, and a character
/// takes up to six of them in JSON.
const NAME_CHARS: usize = 200;
const ACTION_CHARS: usize = 500;
/// Of NOTIFY.
const CHANNEL: &str = "perf_alerts";
const DELETED: &str = "The threshold was deleted.";

/// A row of perf.alert_threshold.
struct Threshold {
    name: String,
    metric: String,
    comparison: String,
    rule: Option<Rule>,
    threshold: f64,
    unit: String,
    severity: String,
    action: String,
    /// As the extension ships it: the same in every database.
    shipped: bool,
}

/// What a look at a metric gives.
#[derive(Default)]
struct Look {
    value: Option<f64>,
    scope: String,
    object: String,
    /// When the value was measured.
    measured_at: i64,
    /// Why there is no value, or what to know of it.
    note: String,
}

/// What is stored of an alert.
struct Stored {
    metric: String,
    comparison: String,
    threshold: f64,
    state: State,
    scope: String,
    /// None: not for the current role.
    object: Option<String>,
    note: String,
    evaluated_at: i64,
}

/// One row of `perf.alerts()`.
pub struct Alert {
    pub name: String,
    pub severity: String,
    pub status: Status,
    pub value: Option<f64>,
    pub threshold: f64,
    pub unit: String,
    /// In microseconds of the server's epoch.
    pub since_at: Option<i64>,
    pub action: String,
}

fn moment(row: &Row, column: i32) -> Option<i64> {
    row.get::<TimestampWithTimeZone>(column).map(i64::from)
}

fn stale_us() -> i64 {
    STALE_US.max(STALE_RUNS * i64::from(crate::guc::collect_interval_s()) * 1_000_000)
}

fn thresholds() -> Vec<Threshold> {
    let stale_us = stale_us();
    let count = |value: Option<i32>| value.and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    select_with(
        c"SELECT alert_name, metric, comparison, threshold, unit, severity, action, fire_after, clear_after,
                 clear_margin_ratio, origin = 'shipped'
            FROM perf.alert_threshold ORDER BY alert_name LIMIT $1",
        &[THRESHOLDS_MAX.into()],
        |row| {
            let (comparison, unit) = (row.string(3), row.string(5));
            let threshold = row.get::<f64>(4)?;
            let rule = Comparison::parse(&comparison).map(|comparison| {
                // A share has a best value; for others nobody knows one.
                let best = (unit == "%").then_some(match comparison {
                    Comparison::Above => 0.0,
                    Comparison::Below => 100.0,
                });
                Rule {
                    fire_after: count(row.get::<i32>(8)),
                    clear_after: count(row.get::<i32>(9)),
                    margin: row.get::<f64>(10).unwrap_or(0.0),
                    stale_us,
                    ..Rule::new(comparison, threshold, best)
                }
            });
            Some(Threshold {
                name: row.string(1),
                metric: row.string(2),
                comparison,
                rule,
                threshold,
                unit,
                severity: row.string(6),
                action: row.string(7),
                shipped: row.get::<bool>(11).unwrap_or(false),
            })
        },
    )
}

/// The worst of what was measured of an alert's metric.
fn look(threshold: &Threshold, measured: &[Measured]) -> Look {
    let without = |note: String| Look { note, ..Look::default() };
    let Some(metric) = metrics::find(&threshold.metric) else {
        return without(format!("Metric \"{}\" does not exist: perf.metrics() shows those that do.", threshold.metric));
    };
    if metric.unit != threshold.unit {
        return without(format!(
            "Metric \"{}\" is in {}, the threshold in {}: set the unit in perf.alert_threshold.",
            metric.name, metric.unit, threshold.unit
        ));
    }
    let Some(rule) = &threshold.rule else {
        return without(format!("\"{}\" is no comparison: > and < are.", threshold.comparison));
    };
    let rows: Vec<&Measured> = measured.iter().filter(|row| row.name == metric.name).collect();
    let found = worst(rule.comparison, rows.iter().map(|row| row.value));
    match found.and_then(|(index, value)| Some((rows.get(index)?, value))) {
        Some((row, value)) => {
            let (scope, object) = (row.scope.to_owned(), row.object.clone());
            let note = row.note.clone().unwrap_or_default();
            Look { value: Some(value), scope, object, measured_at: row.measured_at, note }
        }
        None => without(match rows.first() {
            Some(row) => format!("Not measured: {}.", row.note.as_deref().unwrap_or("no value")),
            None => "Not measured: there is nothing here that has it.".to_owned(),
        }),
    }
}

fn look_at(thresholds: &[&Threshold], with_pending: bool) -> Vec<Measured> {
    let wanted: HashSet<&str> = thresholds.iter().map(|threshold| threshold.metric.as_str()).collect();
    metrics::measure(|name| wanted.contains(name), with_pending)
}

fn is_same_rule(threshold: &Threshold, stored: &Stored) -> bool {
    stored.metric == threshold.metric
        && stored.comparison == threshold.comparison
        && stored.threshold == threshold.threshold
}

// ---- what is stored ----

fn status_of(name: &str) -> Status {
    [Status::Ok, Status::Firing].into_iter().find(|status| status.name() == name).unwrap_or(Status::NoData)
}

/// The states of the alerts of this database, as far as the current role may see them.
fn stored() -> HashMap<String, Stored> {
    select_with(
        c"SELECT alert_name, metric, comparison, threshold, status, since_at, value, value_at, in_a_row, row_since_at,
                 fired_since_at, scope, object, note, evaluated_at
            FROM perf.alert_state_visible WHERE datid = $1",
        &[Oid::from(names::current_database()).into()],
        |row| {
            let state = State {
                status: status_of(&row.string(5)),
                since_us: moment(row, 6),
                value: row.get::<f64>(7),
                value_at_us: moment(row, 8),
                in_a_row: row.get::<i32>(9).and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
                row_since_us: moment(row, 10),
                fired_since_us: moment(row, 11),
            };
            let stored = Stored {
                metric: row.string(2),
                comparison: row.string(3),
                threshold: row.get::<f64>(4)?,
                state,
                scope: row.string(12),
                object: row.get::<Text>(13).map(|object| object.0),
                note: row.string(14),
                evaluated_at: moment(row, 15)?,
            };
            Some((row.string(1), stored))
        },
    )
    .into_iter()
    .collect()
}

fn store(threshold: &Threshold, state: &State, seen: &Look, now: i64) {
    let at = |us: Option<i64>| -> DatumWithOid { us.map(instant).into() };
    run_with(
        c"INSERT INTO perf.alert_state AS s (alert_name, datid, metric, comparison, threshold, status, since_at, value,
                 value_at, in_a_row, row_since_at, fired_since_at, scope, object, note, evaluated_at)
          VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
          ON CONFLICT (alert_name) DO UPDATE SET
                 (datid, metric, comparison, threshold, status, since_at, value, value_at, in_a_row, row_since_at,
                  fired_since_at, scope, object, note, evaluated_at)
               = (excluded.datid, excluded.metric, excluded.comparison, excluded.threshold, excluded.status,
                  excluded.since_at, excluded.value, excluded.value_at, excluded.in_a_row, excluded.row_since_at,
                  excluded.fired_since_at, excluded.scope, excluded.object, excluded.note, excluded.evaluated_at)",
        &[
            text(&threshold.name),
            Oid::from(names::current_database()).into(),
            text(&threshold.metric),
            text(&threshold.comparison),
            threshold.threshold.into(),
            text(state.status.name()),
            at(state.since_us),
            state.value.into(),
            at(state.value_at_us),
            i32::try_from(state.in_a_row).unwrap_or(i32::MAX).into(),
            at(state.row_since_us),
            at(state.fired_since_us),
            text(&seen.scope),
            text(&seen.object),
            text(&seen.note),
            instant(now).into(),
        ],
        |_| (),
    );
}

// ---- the collector's side ----

/// Reads the counters that rates count from, evaluates every threshold, stores the states and tells what has changed.
/// Called by the collector after each run, in a transaction of its own, as a superuser.
pub fn evaluate(now: i64) -> Result<News, Error> {
    let mut news = News::default();
    readings::take(now);
    let thresholds = thresholds();
    let measured = look_at(&thresholds.iter().collect::<Vec<_>>(), false);
    let mut before = stored();
    // What a copied database has brought along says nothing of this one.
    run_with(c"DELETE FROM perf.alert_state WHERE datid <> $1", &[Oid::from(names::current_database()).into()], |_| ());
    for threshold in &thresholds {
        let mut seen = look(threshold, &measured);
        let was = before.remove(&threshold.name);
        if let (None, Some(stored)) = (seen.value, was.as_ref().filter(|stored| stored.metric == threshold.metric)) {
            // What fires, or fired, did so there.
            seen.scope.clone_from(&stored.scope);
            seen.object = stored.object.clone().unwrap_or_default();
        }
        let mut state = was.as_ref().map_or_else(State::default, |stored| stored.state);
        let told = state;
        if let Some(rule) = &threshold.rule {
            match &was {
                Some(stored) if stored.metric != threshold.metric || stored.comparison != threshold.comparison => {
                    state = State::default();
                }
                Some(stored) if stored.threshold != threshold.threshold => state.rule_changed(rule),
                _ => {}
            }
            let rule = Rule { stale_us: rule.stale_us.max(metrics::kept_us(&threshold.metric)), ..*rule };
            if seen.value.is_none() {
                state.observe(&rule, now, None);
            } else if state.value_at_us.is_none_or(|at| at < seen.measured_at || at > now) {
                // What is measured less often than this runs is a sample once; a clock that was ahead holds nothing up.
                state.observe(&rule, seen.measured_at, seen.value);
            }
        } else {
            state = State { since_us: state.since_us.or(Some(now)), ..State::default() };
        }
        store(threshold, &state, &seen, now);
        if told.is_news(state.status) {
            tell(threshold, &state, &seen, &mut news);
        }
    }
    if (thresholds.len() as i64) < THRESHOLDS_MAX {
        forget(before, now, &mut news);
    }
    Ok(news)
}

/// Alerts whose threshold is gone; one that was firing is told to be over.
fn forget(gone: HashMap<String, Stored>, now: i64, news: &mut News) {
    for (name, stored) in gone {
        run_with(c"DELETE FROM perf.alert_state WHERE alert_name = $1", &[text(&name)], |_| ());
        if stored.state.status == Status::Firing || stored.state.fired_since_us.is_some() {
            let threshold = Threshold {
                name,
                metric: stored.metric,
                comparison: stored.comparison,
                rule: None,
                threshold: stored.threshold,
                unit: String::new(),
                severity: String::new(),
                action: String::new(),
                shipped: false,
            };
            let state = State { since_us: Some(now), ..State::default() };
            tell(&threshold, &state, &Look { note: DELETED.to_owned(), ..Look::default() }, news);
        }
    }
}

/// One NOTIFY, which reaches listeners of this database, and one line in the log.
fn tell(threshold: &Threshold, state: &State, seen: &Look, news: &mut News) {
    let action = action(threshold, state.status, &seen.object, &seen.scope, &seen.note);
    let value = state.value.filter(|_| state.status != Status::NoData);
    let since = instant(state.since_us.unwrap_or(0));
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    // Any role may listen: names that are not everybody's are for the log, and for perf.alerts().
    let is_named = !seen.object.is_empty() && [APPLICATION, REPLICA].contains(&seen.scope.as_str());
    let shown_object = if is_named { HIDDEN } else { &seen.object };
    let shown_action = self::action(threshold, state.status, shown_object, &seen.scope, &seen.note);
    let payload = select_with(
        c"SELECT pg_catalog.jsonb_build_object(
              'name', $1, 'status', $2, 'severity', $3, 'value', $4, 'threshold', $5, 'unit', $6, 'since_at', $7,
              'object', $8, 'action', $9, 'database', pg_catalog.current_database())::pg_catalog.text",
        &[
            text(&cut(&threshold.name, NAME_CHARS)),
            text(state.status.name()),
            text(&threshold.severity),
            value.into(),
            threshold.threshold.into(),
            text(&cut(&threshold.unit, NAME_CHARS)),
            since.into(),
            text(&cut(shown_object, NAME_CHARS)),
            text(&cut(&shown_action, ACTION_CHARS)),
        ],
        |row| Some(row.string(1)),
    );
    news.notices.extend(payload.into_iter().map(|payload| (CHANNEL, payload)));
    // A node is known where it was added, and maybe nowhere else.
    let is_shared = threshold.shipped
        && [CLUSTER, REPLICA].contains(&seen.scope.as_str())
        && !seen.object.starts_with(metrics::NODE_PREFIX);
    if is_shared && !is_first_database(background::now()) {
        return;
    }
    let shown = value.map_or(String::new(), |value| {
        let place = if seen.object.is_empty() { String::new() } else { format!(" on {:?}", seen.object) };
        format!(": {value:.1} {}{place}, threshold {} {}", threshold.unit, threshold.comparison, threshold.threshold)
    });
    let database = metrics::database_name();
    news.lines.push(message(format!(
        "perf_opt alert {:?} in database {database:?} is {}{shown} (since {}): {:?}",
        cut(&threshold.name, NAME_CHARS),
        state.status.name(),
        utc(state.since_us.unwrap_or(0)),
        cut(&action, ACTION_CHARS),
    )));
}

/// Of the databases whose collector runs and does not fail, whether this one comes first.
fn is_first_database(now: i64) -> bool {
    let here = names::current_database();
    let evaluates = |slot: &registry::Slot| {
        let is_sound = slot.failures == 0 && (now - slot.last_run_at).abs() <= stale_us();
        slot.phase == Phase::Running && slot.runs > 0 && is_sound
    };
    !registry::slots().iter().any(|slot| slot.dbid < here && evaluates(slot))
}

/// A time for the log, in UTC.
fn utc(at: i64) -> String {
    let (day_us, s) = (86_400_000_000_i64, at.div_euclid(1_000_000).rem_euclid(86_400));
    let date = iso_date_2000(at.div_euclid(day_us) as f64);
    format!("{date} {:02}:{:02}:{:02} UTC", s / 3_600, s / 60 % 60, s % 60)
}

// ---- the readers' side ----

/// What to do, in words.
fn action(threshold: &Threshold, status: Status, object: &str, scope: &str, note: &str) -> String {
    match status {
        Status::Firing => {
            // Of the database everybody here knows the name.
            let is_plain = object.is_empty() || scope == DATABASE;
            let place = if is_plain { String::new() } else { format!(" Worst: {scope} {object}.") };
            let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
            format!("{}{place}{note}", threshold.action)
        }
        Status::Ok => "None.".to_owned(),
        Status::NoData if note.is_empty() => "Not measured lately.".to_owned(),
        Status::NoData => note.to_owned(),
    }
}

/// Every alert with a threshold, those that are in order only if asked for; the worst first.
pub fn report(include_ok: bool) -> Vec<Alert> {
    let thresholds = thresholds();
    let now = background::now();
    let standby = background::in_recovery();
    let stored = if standby { HashMap::new() } else { stored() };
    let kept = |threshold: &Threshold| {
        stored
            .get(&threshold.name)
            .filter(|stored| is_same_rule(threshold, stored) && (now - stored.evaluated_at).abs() <= stale_us())
    };
    let without: Vec<&Threshold> = thresholds.iter().filter(|threshold| kept(threshold).is_none()).collect();
    let measured = look_at(&without, true);
    let because = if standby {
        "a standby keeps no state of alerts"
    } else if !crate::memory::is_ready() {
        "perf_opt is not in shared_preload_libraries"
    } else {
        "the collector of this database has not evaluated it yet"
    };
    let mut alerts: Vec<Alert> = (thresholds.iter())
        .map(|threshold| match kept(threshold) {
            Some(stored) => of_state(threshold, stored),
            None => of_one_look(threshold, &look(threshold, &measured), because),
        })
        .filter(|alert| include_ok || alert.status != Status::Ok)
        .collect();
    let order = |alert: &Alert| {
        let status = match alert.status {
            Status::Firing => 0,
            Status::NoData => 1,
            Status::Ok => 2,
        };
        (status, alert.severity != "critical")
    };
    alerts.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.name.cmp(&b.name)));
    alerts
}

fn alert(threshold: &Threshold, status: Status, value: Option<f64>, since_at: Option<i64>, action: String) -> Alert {
    Alert {
        name: threshold.name.clone(),
        severity: threshold.severity.clone(),
        status,
        value,
        threshold: threshold.threshold,
        unit: threshold.unit.clone(),
        since_at,
        action,
    }
}

fn of_state(threshold: &Threshold, stored: &Stored) -> Alert {
    let state = &stored.state;
    let object = stored.object.as_deref().unwrap_or(HIDDEN);
    let mut action = action(threshold, state.status, object, &stored.scope, &stored.note);
    if state.in_a_row > 0 {
        let (needed, what) = match (state.status, &threshold.rule) {
            (Status::Firing, Some(rule)) => (rule.clear_after.max(1), "in order again"),
            (_, Some(rule)) => (rule.fire_after.max(1), "beyond the threshold"),
            (_, None) => (1, "seen"),
        };
        action = format!("{action} {} of {needed} samples in a row are {what}.", state.in_a_row);
    }
    let value = state.value.filter(|_| state.status != Status::NoData);
    alert(threshold, state.status, value, state.since_us, action)
}

/// Without a state there is no patience, and nobody knows since when.
fn of_one_look(threshold: &Threshold, seen: &Look, because: &str) -> Alert {
    let status = match (seen.value, &threshold.rule) {
        (Some(value), Some(rule)) if rule.bad(value) => Status::Firing,
        (Some(_), Some(_)) => Status::Ok,
        _ => Status::NoData,
    };
    let said = action(threshold, status, &seen.object, &seen.scope, &seen.note);
    alert(threshold, status, seen.value, None, format!("{said} Judged by this one look: {because}."))
}
