//! Tasks that an advisor has an answer to: indexes, caches, partitioning, pooling, replicas, sharding. The advisors' numbers
//! are what was measured here or planned with what was captured; the policy's are none.

use perf_core::roadmap::{Known, Part, Status};
use serde_json::Value;

use super::facts::{Facts, Relation};
use super::{missing, statement, Found, Task};
use crate::act::tasks::partition;
use crate::advise::cost;
use crate::advise::index::Recommendation;
use crate::advise::scaling::Basis;
use crate::advise::{caching, scaling};
use crate::pg::text::Text;
use crate::pg::{background, catalog, ident, privilege};

/// How many replicas are wanted where no policy says so.
const REPLICAS: f64 = 1.0;

/// Indexes on the task's tables: the policy's, and what the workload asks for besides. Without objects: on all tables.
pub(super) fn index(facts: &Facts, task: &Task) -> Result<Found, String> {
    let rows = facts.indexes()?;
    let wanted = |row: &&Recommendation| matches!(row.action, "create" | "keep");
    let mut parts = Vec::new();
    let mut tables: Vec<String> = Vec::new();
    for object in &task.objects {
        let Some(relation) = facts.find(object)? else {
            parts.push(missing(object));
            continue;
        };
        let before = parts.len();
        parts.extend(rows.iter().filter(wanted).filter(|row| row.relation == relation.name).map(of_index));
        if parts.len() == before {
            parts.push(match facts.is_measured() {
                true => {
                    Part::new(Status::NotNeeded, format!("the workload would gain from no index on {}", relation.name))
                }
                false => Part::new(Status::Blocked, format!("index on {}: {}", relation.name, facts.why_unmeasured())),
            });
        }
        tables.push(relation.name);
    }
    if task.objects.is_empty() {
        parts.extend(rows.iter().filter(wanted).map(of_index));
        if parts.is_empty() && facts.is_measured() {
            parts.push(Part::new(Status::NotNeeded, "the workload would gain from no index"));
        }
    }
    let changes = facts.changes_or_none().iter().filter(|change| change.kind.starts_with("index_"));
    let changes: Vec<_> =
        changes.filter(|change| task.objects.is_empty() || tables.contains(&change.relation)).cloned().collect();
    parts.extend(
        changes.iter().filter(|change| change.is_under_way()).map(|change| {
            Part::new(Status::InProgress, format!("an index on {} is {}", change.relation, change.status))
        }),
    );
    let why = if facts.is_measured() { "" } else { facts.why_unmeasured() };
    Ok(Found { changes, ..Found::of(parts, why) })
}

fn of_index(row: &Recommendation) -> Part {
    let index = format!("index on {} ({})", row.relation, row.columns.join(", "));
    let status = match row.status {
        "exists" | "applied" | "verified" | "no_gain" => Status::Done,
        "building" => Status::InProgress,
        "recommended" => Status::Ready,
        "not_needed" => Status::NotNeeded,
        // There it is, and it has made things worse.
        "regressed" => Status::Blocked,
        // It has SQL, so the table is there: time ran out.
        _ if row.ddl.is_some() => Status::Blocked,
        _ => Status::NotApplicable,
    };
    let gain = row.benefit_pct.filter(|_| row.basis == "what_if");
    let reason = match (status, gain) {
        (Status::Done, _) => format!("{index} is there"),
        (Status::Ready, Some(pct)) => format!("{index} would save {pct:.1} % of the workload's time"),
        (Status::InProgress, _) => format!("{index} is being built"),
        _ => format!("{index}: {}", row.reason.trim_end_matches('.')),
    };
    Part {
        gain: gain.map(|pct| (pct, Known::WhatIf)),
        ddl: row.ddl.as_deref().filter(|_| status == Status::Ready).map(statement),
        ..Part::new(status, reason)
    }
}

/// The task's caches. Without objects: all that the policy or the workload names.
pub(super) fn cache(facts: &Facts, task: &Task) -> Result<Found, String> {
    let rows = facts.caches()?;
    let mut parts = Vec::new();
    for name in &task.objects {
        match rows.iter().find(|row| &row.name == name) {
            Some(row) => parts.push(of_cache(facts, row)?),
            None => {
                parts.push(Part::new(Status::NotApplicable, format!("cache \"{name}\" is not in perf.cache_policy")))
            }
        }
    }
    if task.objects.is_empty() {
        for row in rows {
            parts.push(of_cache(facts, row)?);
        }
    }
    let changes = facts.changes_or_none().iter().filter(|change| change.kind == "cache_policy");
    let changes =
        changes.filter(|change| task.objects.is_empty() || task.objects.contains(&change.relation)).cloned().collect();
    Ok(Found { changes, ..Found::of(parts, "what their reads take was not measured") })
}

fn of_cache(facts: &Facts, row: &caching::Row) -> Result<Part, String> {
    let name = format!("cache {}", row.name);
    let reason = row.reason.trim_end_matches('.');
    let unwatched = match row.status {
        "recommended" | "insufficient_data" => unwatched(&row.invalidated_by),
        _ => Vec::new(),
    };
    let watched = !row.invalidated_by.is_empty() && unwatched.is_empty();
    let (status, reason) = match row.status {
        "active" => (Status::Done, format!("{name} is in use")),
        "recommended" if watched => {
            (Status::InProgress, format!("{name} is watched, and nobody asks it yet: {reason}"))
        }
        "recommended" => (Status::Ready, format!("{name}: {reason}")),
        "not_worth_it" => (Status::NotNeeded, format!("{name}: {reason}")),
        "not_applicable" => (Status::NotApplicable, format!("{name}: {reason}")),
        _ => (Status::Blocked, format!("{name}: {reason}")),
    };
    let how = if row.basis == "measured" { Known::Measured } else { Known::WhatIf };
    let gain = row.saved_ms_per_min.zip(facts.ms_per_min()).filter(|_| row.status == "recommended");
    let ddl = (status == Status::Ready).then(|| watches(facts, row, &unwatched)).transpose()?;
    Ok(Part {
        gain: gain.map(|(saved, all)| ((100.0 * saved / all).clamp(0.0, 100.0), how)),
        ddl,
        ..Part::new(status, reason)
    })
}

/// Events that no table is watched for, as far as the caller sees.
fn unwatched(events: &[String]) -> Vec<String> {
    let found = privilege::with_own_path(|| {
        crate::pg::query::select_under_snapshot(
            c"SELECT DISTINCT event FROM perf.cache_watches WHERE event IS NOT NULL",
            |row| Some(row.string(1)),
        )
    });
    events.iter().filter(|event| !found.contains(event)).cloned().collect()
}

/// What makes a cache exact: watches of its tables. Which table an event comes from only the application knows, so that with
/// several tables each of them is watched for each event, which invalidates too much rather than too little.
fn watches(facts: &Facts, row: &caching::Row, events: &[String]) -> Result<String, String> {
    let sources = privilege::with_own_path(|| {
        catalog::rows(
            "SELECT s.name FROM perf.cache_policy AS p, unnest(p.source_tables) WITH ORDINALITY AS s (name, place)
              WHERE p.cache_name = $1 AND s.name IS NOT NULL ORDER BY s.place",
            &[Text(row.name.clone()).into()],
            |found| Ok(found.get::<Text>(1)?.map(|name| name.0)),
        )
    });
    let mut relations = Vec::new();
    for source in sources.map_err(|error| error.to_string())? {
        relations.extend(facts.find(&source)?);
    }
    let mut lines = vec![format!(
        "-- {}: the application then asks perf.cached({}, ...).",
        row.name.replace(char::is_control, "?"),
        ident::literal(&row.name)
    )];
    for event in events {
        for relation in &relations {
            let (event, table) = (ident::literal(event), ident::literal(&relation.name));
            lines.push(format!("SELECT perf.cache_watch({event}, {table});"));
        }
    }
    Ok(lines.join("\n"))
}

/// The task's tables. Without objects: those that the workload would gain from.
pub(super) fn partitioning(facts: &Facts, task: &Task) -> Result<Found, String> {
    let mut parts = Vec::new();
    let mut tables = Vec::new();
    for object in &task.objects {
        match facts.find(object)? {
            Some(relation) => {
                parts.push(of_table(facts, object, &relation)?);
                tables.push(relation.name);
            }
            None => parts.push(missing(object)),
        }
    }
    if task.objects.is_empty() {
        let rows = facts.scaling()?.iter().filter(|row| row.kind == "partitioning" && row.id.matches(':').count() > 1);
        parts.extend(rows.map(|row| of_advice(facts, row)));
        if parts.is_empty() {
            parts.push(Part::new(Status::NotNeeded, "no table would gain from it"));
        }
    }
    let changes = facts.changes_or_none().iter().filter(|change| change.kind == "partitioning");
    let changes =
        changes.filter(|change| task.objects.is_empty() || tables.contains(&change.relation)).cloned().collect();
    let why = match facts.is_measured() {
        true => "what would make them faster was not seen in the workload",
        false => facts.why_unmeasured(),
    };
    Ok(Found { changes, ..Found::of(parts, why) })
}

fn of_table(facts: &Facts, object: &str, relation: &Relation) -> Result<Part, String> {
    let name = &relation.name;
    match relation.kind.as_str() {
        "p" => {
            let managed = facts.jobs_of(partition::KIND, relation.oid)?.find(|job| job.runs);
            return Ok(match managed {
                Some(job) if job.failures > 0 => Part::new(
                    Status::InProgress,
                    format!("table {name} is partitioned, but the job that manages it fails"),
                ),
                Some(_) => Part::new(Status::Done, format!("table {name} is partitioned, and a job manages it")),
                None => manage(object, name, false)?,
            });
        }
        "r" => {}
        _ => return Ok(Part::new(Status::Blocked, format!("table {name} is no table"))),
    }
    if is_being_converted(relation) {
        return Ok(Part::new(Status::InProgress, format!("table {name} is being converted")));
    }
    Ok(match facts.scaling_row(&format!("scaling:partitioning:{name}"))? {
        Some(row) => of_advice(facts, row),
        None => Part::new(Status::NotNeeded, format!("neither the workload nor the policy wants {name} partitioned")),
    })
}

fn of_advice(facts: &Facts, row: &scaling::Row) -> Part {
    let how = match row.basis {
        Basis::Measured => Known::Measured,
        _ => Known::WhatIf,
    };
    let status = match (row.triggered, row.basis) {
        // The workload does not ask for it. Where nothing is known of the workload, the owner's wish stands.
        (false, Basis::Policy) if facts.is_measured() => Status::NotNeeded,
        (_, Basis::Policy) if row.config.is_none() => Status::Blocked,
        (_, Basis::Policy) | (true, _) => Status::Ready,
        (false, _) => Status::Blocked,
    };
    let part = Part {
        gain: row.expected_benefit_pct.map(|pct| (pct, how)),
        ddl: row.config.as_deref().filter(|_| status == Status::Ready).map(statement),
        ..Part::new(status, row.reason.clone())
    };
    blocked_without_jobs(part)
}

/// What is to be done by a job is not ready where no job runs.
pub(super) fn blocked_without_jobs(part: Part) -> Part {
    match Facts::why_no_jobs().filter(|_| matches!(part.status, Status::Ready | Status::InProgress)) {
        Some(why) => Part { status: Status::Blocked, reason: format!("{}; {why}", part.reason), ..part },
        None => part,
    }
}

/// Reads what is to mean the same in whatever session it is run later.
fn own_text<T>(body: impl FnOnce() -> T) -> T {
    privilege::with_own_path(|| privilege::with_plain_text(body))
}

/// What has a partitioned table managed, as the policy wants it.
pub(super) fn manage(object: &str, name: &str, with_retention: bool) -> Result<Part, String> {
    let policy = own_text(|| {
        catalog::rows(
            "SELECT every, retention::text, on_expire FROM perf.partition_policy WHERE table_name = $1",
            &[Text(object.to_owned()).into()],
            |row| {
                let text = |n| Ok::<_, pgrx::spi::Error>(row.get::<Text>(n)?.map(|text| text.0));
                Ok(Some((text(1)?.unwrap_or_default(), text(2)?, text(3)?.unwrap_or_default())))
            },
        )
    });
    let Some((every, retention, on_expire)) = policy.map_err(|error| error.to_string())?.pop() else {
        return Ok(Part::new(
            Status::Blocked,
            format!("table {name} is partitioned and nothing manages it; perf.partition_policy has no row for it"),
        ));
    };
    let retention = match (with_retention, retention) {
        (true, Some(retention)) => {
            format!(", retention => {}, on_expire => {}", ident::literal(&retention), ident::literal(&on_expire))
        }
        (true, None) => {
            return Ok(Part::new(Status::Blocked, format!("perf.partition_policy has no retention for {name}")))
        }
        (false, _) => String::new(),
    };
    let ddl = format!("SELECT perf.partition_manage({}, {}{retention});", ident::literal(name), ident::literal(&every));
    let reason = match with_retention {
        true => format!("old partitions of {name} stay for ever"),
        false => format!("table {name} is partitioned, and no job manages it"),
    };
    let status = if with_retention { Status::Ready } else { Status::InProgress };
    Ok(blocked_without_jobs(Part::new(status, reason).with_ddl(ddl)))
}

/// Whether a table is on its way to be a partition.
fn is_being_converted(relation: &Relation) -> bool {
    let found = privilege::as_owner_of(c"partition_conversion", || {
        crate::pg::query::run_with(
            c"SELECT FROM perf.partition_conversion WHERE relation = $1 AND state = 'converting'",
            &[relation.oid.into()],
            |_| (),
        )
        .0
    });
    found.is_some_and(|rows| rows > 0)
}

/// Connection pooling.
pub(super) fn pooling(facts: &Facts) -> Result<Found, String> {
    let why = "fewer connections are no share of the statements' time";
    let part = match facts.scaling_row("scaling:connection_pooling")? {
        Some(row) => advice(row, row.triggered && row.config.is_some(), None),
        None => Part::new(Status::Blocked, "no advice on pooling"),
    };
    Ok(Found::of(vec![part], why))
}

/// What an advisor recommends, ready or not needed.
fn advice(row: &scaling::Row, is_ready: bool, gain: Option<(f64, Known)>) -> Part {
    let reason = format!("{} {}", row.recommendation, row.reason);
    if !is_ready {
        return Part::new(Status::NotNeeded, reason);
    }
    let ddl = row.config.as_ref().map(|config| config.trim_end().to_owned());
    Part { gain, ddl, ..Part::new(Status::Ready, reason) }
}

/// How many replicas the policy wants.
pub fn replicas_wanted() -> Result<f64, String> {
    let wanted = privilege::with_own_path(|| {
        catalog::value::<f64>(
            "SELECT max((settings ->> 'replicas')::float8) FROM perf.scaling_trigger
              WHERE kind = 'read_replicas' AND jsonb_typeof(settings -> 'replicas') = 'number'",
            &[],
        )
    });
    Ok(wanted.map_err(|error| error.to_string())?.filter(|n| *n >= 1.0).unwrap_or(REPLICAS))
}

/// Read replicas.
pub(super) fn replicas(facts: &Facts) -> Result<Found, String> {
    let why = "what they could take over was not measured";
    if background::in_recovery() {
        let part = Part::new(Status::Done, "this is a replica; its primary knows of the others");
        return Ok(Found::of(vec![part], why));
    }
    let wanted = replicas_wanted()?;
    let part = match cost::replicas() {
        Some(connected) if connected >= wanted => {
            Part::new(Status::Done, format!("{connected:.0} replicas are connected, {wanted:.0} are wanted"))
        }
        Some(connected) if connected > 0.0 => {
            Part::new(Status::InProgress, format!("{connected:.0} of {wanted:.0} replicas are connected"))
        }
        connected => {
            let part = match facts.scaling_row("scaling:read_replicas")? {
                Some(row) => {
                    let gain = row.expected_benefit_pct.map(|pct| (pct, Known::Measured));
                    advice(row, row.triggered && row.config.is_some(), gain)
                }
                None => Part::new(Status::Blocked, "no advice on replicas"),
            };
            match connected {
                Some(_) => part,
                None => Part {
                    reason: format!("which replicas are connected is not shown to the current role; {}", part.reason),
                    ..part
                },
            }
        }
    };
    Ok(Found::of(vec![part], why))
}

/// Sharding: the verdict on the workload is the evaluation.
pub(super) fn sharding(facts: &Facts) -> Result<Found, String> {
    let why = "what sharding would gain is capacity";
    let part = match facts.scaling_row("scaling:horizontal")? {
        _ if !facts.is_measured() => {
            Part::new(Status::Blocked, format!("there is nothing to judge by: {}", facts.why_unmeasured()))
        }
        Some(row) => {
            let verdict = row.evidence.get("verdict").and_then(Value::as_str).unwrap_or_default();
            advice(row, verdict == "shard" && row.config.is_some(), None)
        }
        None => Part::new(Status::Blocked, "no advice on sharding"),
    };
    Ok(Found::of(vec![part], why))
}
