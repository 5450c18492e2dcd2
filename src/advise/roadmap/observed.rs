//! Tasks that are settled by what is there: views and their refreshes, monitoring, jobs of maintenance and archival,
//! statements that read a view; and those that only a person can tell. Reads catalogs and settings; locks nothing.

use perf_core::roadmap::{Part, Status};

use super::advised::{blocked_without_jobs, manage};
use super::facts::{Facts, Relation};
use super::{missing, statement, Found, Task};
use crate::act::tasks::{index_maintenance, matview as matview_job, partition, prewarm as prewarm_job};
use crate::pg::query::{select_under_snapshot, select_with, text};
use crate::pg::text::Text;
use crate::pg::{background, catalog, ident, privilege};
use crate::{guc, memory};

/// The library, as settings name it.
const LIBRARY: &str = "perf_opt";
/// What the owner calls slow.
const SLOW_MS: f64 = 1_000.0;

/// Materialized views with a job that refreshes them. Without objects: those of perf.matview_policy.
pub(super) fn matview(facts: &Facts, task: &Task) -> Result<Found, String> {
    let names = match task.objects.is_empty() {
        false => task.objects.clone(),
        true => names_of("SELECT view_name FROM perf.matview_policy ORDER BY view_name")?,
    };
    let mut parts = Vec::new();
    let mut views = Vec::new();
    for name in &names {
        parts.push(of_view(facts, name)?);
        views.extend(facts.find(name)?.map(|view| view.name));
    }
    let changes = facts.changes_or_none().iter().filter(|change| change.kind == "matview");
    let changes = changes.filter(|change| views.contains(&change.relation)).cloned().collect();
    let why = "what the application would ask of the views instead is not known";
    Ok(Found { changes, ..Found::of(parts, why) })
}

fn names_of(query: &str) -> Result<Vec<String>, String> {
    let found =
        privilege::with_own_path(|| catalog::rows(query, &[], |row| Ok(row.get::<Text>(1)?.map(|name| name.0))));
    found.map_err(|error| error.to_string())
}

pub(super) fn of_view(facts: &Facts, name: &str) -> Result<Part, String> {
    match facts.find(name)? {
        Some(view) if view.kind == "m" => refreshed(facts, name, &view),
        Some(other) => Ok(Part::new(Status::Blocked, format!("relation {} is no materialized view", other.name))),
        None => {
            let Some(row) = facts.scaling_row(&format!("scaling:materialized_view:{name}"))? else {
                let why = match schedule_of(name) {
                    Some(_) => "what it is made of is not in the search path",
                    None => "perf.matview_policy has no row for it",
                };
                return Ok(Part::new(Status::NotApplicable, format!("view {}: {why}", ident::quote(name))));
            };
            let summaries = row.evidence.get("summaries_pct").and_then(serde_json::Value::as_f64);
            let at_most = match summaries {
                Some(pct) => format!("statements that sum up the same tables take {pct:.1} % of the workload's time"),
                None => facts.why_unmeasured().to_owned(),
            };
            Ok(match &row.config {
                Some(ddl) => blocked_without_jobs(
                    Part::new(Status::Ready, format!("view {} is to be made; {at_most}", ident::quote(name)))
                        .with_ddl(ddl.trim_end()),
                ),
                None => Part::new(
                    Status::Blocked,
                    format!("view {} is missing, and perf.matview_policy has no definition", ident::quote(name)),
                ),
            })
        }
    }
}

fn refreshed(facts: &Facts, policy: &str, view: &Relation) -> Result<Part, String> {
    let name = &view.name;
    let job = facts.jobs_of(matview_job::KIND, view.oid)?.find(|job| job.runs);
    Ok(match (job, schedule_of(policy)) {
        (Some(job), _) if job.failures > 0 => Part::new(
            Status::InProgress,
            format!("view {name} is there, but its last {} refreshes have failed: see perf.matviews", job.failures),
        ),
        (Some(_), _) => Part::new(Status::Done, format!("view {name} is there and is refreshed by a job")),
        (None, Some(schedule)) => {
            blocked_without_jobs(
                Part::new(Status::InProgress, format!("view {name} is there, and no job refreshes it")).with_ddl(
                    format!("SELECT perf.matview_schedule({}, {});", ident::literal(name), ident::literal(&schedule)),
                ),
            )
        }
        (None, None) => Part::new(Status::InProgress, format!("view {name} is there, and no job refreshes it")),
    })
}

/// How often the policy wants a view refreshed.
fn schedule_of(view: &str) -> Option<String> {
    privilege::with_own_path(|| {
        select_with(c"SELECT schedule FROM perf.matview_policy WHERE view_name = $1", &[text(view)], |row| {
            Some(row.string(1))
        })
    })
    .pop()
}

/// The slow log, its threshold, the history and alerts.
pub(super) fn monitoring() -> Result<Found, String> {
    let why = "to watch saves no time by itself";
    if !memory::is_ready() {
        let part = Part::new(Status::Ready, "perf_opt is not in shared_preload_libraries: nothing is captured")
            .with_ddl(preload_sql());
        return Ok(Found::of(vec![part], why));
    }
    let mut parts = vec![capture(), threshold()];
    parts.push(match guc::worker_enabled() {
        true if has_history() => Part::new(Status::Done, "history is kept"),
        true => Part::new(Status::InProgress, "nothing is in the history yet: the collector writes it"),
        false => Part::new(Status::Ready, "the collector is off: nothing outlives a restart")
            .with_ddl("ALTER SYSTEM SET perf_opt.collector = on; -- needs a restart"),
    });
    let thresholds = names_of("SELECT alert_name FROM perf.alert_threshold ORDER BY 1")?.len();
    parts.push(match thresholds {
        0 => Part::new(Status::Blocked, "perf.alert_threshold has no rows: nothing raises an alert"),
        n => Part::new(Status::Done, format!("{n} alerts are defined")),
    });
    Ok(Found::of(parts, why))
}

/// Adds the library to those that are there.
fn preload_sql() -> String {
    let found = privilege::with_own_path(|| {
        select_under_snapshot(c"SELECT coalesce(current_setting('shared_preload_libraries', true), '')", |row| {
            Some(row.string(1))
        })
    });
    let mut libraries: Vec<String> = (found.first().map(String::as_str).unwrap_or_default().split(','))
        .map(|library| library.trim().trim_matches('"').to_owned())
        .filter(|library| !library.is_empty())
        .collect();
    libraries.push(LIBRARY.to_owned());
    let list: Vec<String> = libraries.iter().map(|library| ident::literal(library)).collect();
    format!("ALTER SYSTEM SET shared_preload_libraries = {}; -- then restart the server", list.join(", "))
}

/// Whether statements are captured at all.
pub fn capture() -> Part {
    if guc::track() == guc::Track::None {
        Part::new(Status::Ready, "perf_opt.track is none: nothing is captured")
            .with_ddl("ALTER SYSTEM SET perf_opt.track = 'top';\nSELECT pg_reload_conf();")
    } else {
        Part::new(Status::Done, "statements are captured")
    }
}

/// Whether what the owner calls slow is logged.
pub fn threshold() -> Part {
    let slow_ms = guc::thresholds_ns().into_iter().min().unwrap_or(u64::MAX) as f64 / 1e6;
    if slow_ms <= SLOW_MS {
        return Part::new(Status::Done, format!("statements of {slow_ms:.0} ms and more are in the slow log"));
    }
    let is = match slow_ms < 1e12 {
        true => format!("the slow log begins at {slow_ms:.0} ms"),
        false => "the slow log is off".to_owned(),
    };
    Part::new(Status::Ready, is).with_ddl("ALTER SYSTEM SET perf_opt.slow_ms = 1000;\nSELECT pg_reload_conf();")
}

fn has_history() -> bool {
    let found = privilege::as_owner_of(c"statement_history", || {
        select_under_snapshot(c"SELECT EXISTS (SELECT FROM perf.statement_history)", |row| row.get::<bool>(1))
    });
    found.is_some_and(|found| found == [true])
}

/// Statements that are to read a view instead of its tables.
pub(super) fn rewrite(facts: &Facts, task: &Task) -> Result<Found, String> {
    let why = "which statements could read the view, and what they would take then, is not known";
    let mut parts = Vec::new();
    for name in &task.objects {
        let Some(view) = facts.find(name)? else {
            let part = of_view(facts, name)?;
            parts.push(match part.status {
                Status::NotApplicable => part,
                _ => Part::new(Status::Blocked, format!("view {} is to be made first", ident::quote(name))),
            });
            continue;
        };
        if !facts.is_measured() {
            let reason = format!("who reads {} is not known: {}", view.name, facts.why_unmeasured());
            parts.push(Part::new(Status::Blocked, reason));
            continue;
        }
        let shapes = facts.statements()?;
        let readers = shapes.statements.iter().filter(|one| one.toplevel && one.shape.tables.contains(&view.oid));
        let (count, ms) = readers.fold((0, 0.0), |(count, ms), one| (count + 1, ms + one.total_ms));
        parts.push(match count {
            0 => Part::new(Status::Ready, format!("no captured statement reads {}", view.name)),
            _ => Part::new(
                Status::Done,
                format!(
                    "{count} captured statements read {}, with {:.1} % of the workload's time",
                    view.name,
                    100.0 * ms / shapes.total_ms.max(f64::MIN_POSITIVE)
                ),
            ),
        });
    }
    Ok(Found::of(parts, why))
}

/// A job for indexes, and one for each partitioned table of the policy.
pub(super) fn maintenance(facts: &Facts) -> Result<Found, String> {
    let is_seen_to =
        facts.jobs()?.iter().any(|job| job.kind == index_maintenance::KIND && job.is_scheduled && job.runs);
    let mut parts = vec![match is_seen_to {
        true => Part::new(Status::Done, "a job sees to indexes"),
        false => blocked_without_jobs(
            Part::new(Status::Ready, "no job sees to bloated and left-over indexes")
                .with_ddl(statement("SELECT perf.index_maintenance_schedule()")),
        ),
    }];
    for name in names_of("SELECT table_name FROM perf.partition_policy ORDER BY table_name")? {
        let Some(relation) = facts.find(&name)?.filter(|relation| relation.kind == "p") else { continue };
        parts.push(match facts.jobs_of(partition::KIND, relation.oid)?.any(|job| job.runs) {
            true => Part::new(Status::Done, format!("a job manages the partitions of {}", relation.name)),
            false => manage(&name, &relation.name, false)?,
        });
    }
    Ok(Found::of(parts, "maintenance keeps what was gained"))
}

/// Old partitions that are let go, or moved.
pub(super) fn archival(facts: &Facts, task: &Task) -> Result<Found, String> {
    let names = match task.objects.is_empty() {
        false => task.objects.clone(),
        true => names_of("SELECT table_name FROM perf.partition_policy ORDER BY table_name")?,
    };
    let mut parts = Vec::new();
    for name in &names {
        let Some(relation) = facts.find(name)? else {
            parts.push(missing(name));
            continue;
        };
        let table = &relation.name;
        if relation.kind != "p" {
            parts.push(Part::new(Status::Blocked, format!("table {table} is to be partitioned first")));
            continue;
        }
        let job = facts.jobs_of(partition::KIND, relation.oid)?.find(|job| job.runs && job.has_retention);
        parts.push(match job {
            Some(job) if job.compresses => {
                Part::new(Status::Done, format!("old partitions of {table} are compressed, and let go in the end"))
            }
            Some(_) => {
                let hint = "partition_manage(compress_after => ...) compresses those that are kept";
                Part::new(Status::Done, format!("old partitions of {table} are let go; {hint}"))
            }
            None => manage(name, table, true)?,
        });
    }
    Ok(Found::of(parts, "space is what it saves"))
}

/// The job that loads ahead what an hour will read.
pub(super) fn prewarm(facts: &Facts) -> Result<Found, String> {
    let why = "what it saves is known once it has run: see perf.prewarm_hours";
    let part = match facts.jobs()?.iter().any(|job| job.kind == prewarm_job::KIND && job.is_scheduled && job.runs) {
        true => Part::new(Status::Done, "a job loads ahead what an hour will read"),
        false if background::in_recovery() => Part::new(Status::Blocked, "jobs run on the primary"),
        false => blocked_without_jobs(Part::new(Status::Ready, "no job learns by the hour what is read").with_ddl(
            "SELECT perf.prewarm_schedule();\n\
                 -- What a dashboard asks can be run ahead of its hours too: SELECT perf.prewarm_mark('SELECT ...');",
        )),
    };
    Ok(Found::of(vec![part], why))
}

/// What no server can look at.
pub(super) fn manual() -> Found {
    let part =
        Part::new(Status::Ready, "no server can tell whether it is done: perf.roadmap_tick(phase, task_no) says so");
    Found::of(vec![part], "")
}
