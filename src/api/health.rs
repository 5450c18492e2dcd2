//! `perf.health()`: is everything running, and what was lost. Rows of memory, of the workers, of the history.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use crate::act::jobs::to_unix;
use crate::collect::registry::{self, Phase, Slot};
use crate::collect::sampler::STORAGE_MAX_BYTES;
use crate::partitions::check;
use crate::pg::query::select_under_snapshot;
use crate::pg::text::Text;
use crate::pg::{background, names};

/// Runs a worker may be behind before that is a warning, and an error.
const LATE_RUNS: i64 = 3;
const VERY_LATE_RUNS: i64 = 10;
/// Time a worker has to appear, and to run first.
const GRACE_S: i64 = 10;
/// Share of the history's cap from which the next rotation drops something.
const NEARLY_FULL_PCT: f64 = 95.0;

/// Share of a core from which on sampling is too dear.
const SAMPLER_CORE_PCT: f64 = 1.0;

/// Wait of a run for a free place from which on it is a warning.
const JOB_WAIT_S: f64 = 60.0;

/// Age of a change that is not worked off from which on it is a warning.
const INVALIDATION_WAIT_S: f64 = 10.0;

/// Problems of partitions that are named.
const PROBLEMS_NAMED: usize = 5;

/// How a component is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    Warning,
    Error,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Error => "error",
        }
    }

    /// 0 is well, 1 a warning, 2 an error.
    pub fn number(self) -> u8 {
        self as u8
    }

    fn from_u8(value: u8) -> Status {
        match value {
            0 => Status::Ok,
            1 => Status::Warning,
            _ => Status::Error,
        }
    }
}

/// Component, how it is, details, a value.
type Row = (String, Status, String, Option<f64>);

struct Report {
    rows: Vec<Row>,
}

impl Report {
    fn add(&mut self, component: impl Into<String>, status: Status, detail: impl Into<String>, value: Option<f64>) {
        self.rows.push((component.into(), status, detail.into(), value));
    }
}

/// State of perf_opt itself, a row for each component. Works without preloading, and says so then.
#[pg_extern(volatile, parallel_restricted)]
fn health() -> TableIterator<
    'static,
    (
        name!(component, String),
        name!(status, &'static str),
        name!(detail, String),
        name!(value, Option<f64>),
        name!(measured_at, TimestampWithTimeZone),
    ),
> {
    let at = TimestampWithTimeZone::try_from(background::now())
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity());
    TableIterator::new(
        rows().into_iter().map(move |(component, status, detail, value)| (component, status.name(), detail, value, at)),
    )
}

/// A row for each component.
pub fn rows() -> Vec<Row> {
    let mut report = Report { rows: Vec::new() };
    for row in crate::memory::health() {
        report.add(row.component, Status::from_u8(row.status), row.detail, Some(row.value));
    }
    if crate::memory::is_ready() {
        workers(&mut report);
        history(&mut report);
    }
    sampler(&mut report);
    fleet(&mut report);
    jobs(&mut report);
    partitions(&mut report);
    invalidation(&mut report);
    pending_detaches(&mut report);
    report.rows
}

fn database_names() -> Vec<(u32, String)> {
    select_under_snapshot(c"SELECT oid, datname::text FROM pg_catalog.pg_database", |row| {
        Some((row.get::<pg_sys::Oid>(1)?.to_u32(), row.get::<Text>(2)?.0))
    })
}

fn workers(report: &mut Report) {
    let now = background::now();
    let (pid, starved_since, unserved) = registry::launcher_state();
    let standby = background::in_recovery();
    if !crate::guc::worker_enabled() {
        report.add("launcher", Status::Warning, "switched off by perf_opt.collector", Some(0.0));
    } else if pid == 0 {
        report.add("launcher", Status::Error, "not running; the postmaster restarts it within a second", Some(0.0));
    } else if starved_since != 0 {
        let seconds = (now - starved_since) / 1_000_000;
        let detail = format!("no free worker slot for {seconds} s: raise max_worker_processes");
        report.add("launcher", Status::Error, detail, Some(1.0));
    } else if unserved > 0 {
        let detail = format!("{unserved} databases beyond the {} that can have a collector", registry::MAX_DATABASES);
        report.add("launcher", Status::Warning, detail, Some(1.0));
    } else {
        let detail = if standby { "running; collectors start after promotion" } else { "running" };
        report.add("launcher", Status::Ok, detail, Some(1.0));
    }
    if standby {
        return;
    }
    let names = database_names();
    let here = names::current_database();
    let slots = registry::slots();
    if !slots.iter().any(|slot| slot.dbid == here) {
        report.add("collector", Status::Error, "no collector for this database yet", None);
    }
    // A database that is only being looked at for the extension is nobody's business.
    let probe =
        |slot: &Slot| slot.runs == 0 && matches!(slot.phase, Phase::Idle | Phase::Launched | Phase::NoExtension);
    for slot in slots.iter().filter(|slot| slot.dbid == here || !probe(slot)) {
        let Some((_, name)) = names.iter().find(|(dbid, _)| *dbid == slot.dbid) else { continue };
        let (status, detail, lag_s) = worker_status(slot, now);
        report.add(format!("collector {name}"), status, detail, lag_s);
        if slot.slow_lost > 0 {
            let detail = format!(
                "{} slow statements of all databases were overwritten before they could be written; lower perf_opt.collect_interval",
                slot.slow_lost
            );
            report.add(format!("slow statements {name}"), Status::Warning, detail, Some(slot.slow_lost as f64));
        }
    }
}

fn worker_status(slot: &Slot, now: i64) -> (Status, String, Option<f64>) {
    let interval_s = i64::from(crate::guc::collect_interval_s().max(1));
    let alive = slot.phase == Phase::Running;
    let state = match slot.phase {
        Phase::Running => format!("running as {}", slot.pid),
        Phase::Left if slot.holds > 0 => "made way for a statement that wants the database alone".to_owned(),
        Phase::Launched | Phase::Idle | Phase::Left => "starting".to_owned(),
        Phase::NoExtension => "the extension is gone".to_owned(),
        Phase::Ended => "ended; it is started again".to_owned(),
    };
    let error = if slot.failures > 0 {
        format!("; failed {} times in a row: {}", slot.failures, slot.last_error())
    } else {
        String::new()
    };
    if slot.last_run_at == 0 {
        let young = alive && now - slot.started_at < GRACE_S * 1_000_000;
        let status = match (slot.failures > 0, young) {
            (true, _) => Status::Error,
            (false, true) => Status::Ok,
            (false, false) => Status::Warning,
        };
        return (status, format!("{state}, has not written yet{error}"), None);
    }
    let lag_s = (now - slot.last_run_at) / 1_000_000;
    let status = if slot.failures > 0 || lag_s > VERY_LATE_RUNS * interval_s + GRACE_S {
        Status::Error
    } else if lag_s > LATE_RUNS * interval_s + GRACE_S || !alive {
        Status::Warning
    } else {
        Status::Ok
    };
    let detail = format!("{state}, last wrote {lag_s} s ago in {} ms, {} runs{error}", slot.last_run_ms, slot.runs);
    (status, detail, Some(lag_s as f64))
}

fn history(report: &mut Report) {
    let here = names::current_database();
    let Some(slot) = registry::slots().into_iter().find(|slot| slot.dbid == here) else { return };
    let cap = f64::from(crate::guc::history_max_mb()) * 1_048_576.0;
    let bytes = slot.history_bytes as f64;
    let pct = 100.0 * bytes / cap;
    let status = if bytes > cap {
        Status::Error
    } else if pct > NEARLY_FULL_PCT {
        Status::Warning
    } else {
        Status::Ok
    };
    let detail =
        format!("{:.1} MB of {} MB (perf_opt.history_max_mb)", bytes / 1_048_576.0, crate::guc::history_max_mb());
    report.add("history", status, detail, Some(bytes));
}

/// What sampling costs. Nothing while there was no sample.
fn sampler(report: &mut Report) {
    let cost =
        select_under_snapshot(c"SELECT run_ms, core_pct, stored_bytes, problem FROM perf.capacity_cost", |row| {
            Some((row.get::<f64>(1)?, row.get::<f64>(2), row.get::<i64>(3)?, row.get::<Text>(4)))
        });
    let Some((run_ms, core_pct, bytes, problem)) = cost.into_iter().next() else { return };
    let core = core_pct.map_or(String::new(), |pct| format!(", {pct:.2} % of a core"));
    let megabytes = |bytes: i64| bytes as f64 / 1_048_576.0;
    let mut detail =
        format!("{run_ms:.0} ms a sample{core}, {:.1} MB of {:.0} MB", megabytes(bytes), megabytes(STORAGE_MAX_BYTES));
    let is_costly = core_pct.is_some_and(|pct| pct > SAMPLER_CORE_PCT) || bytes > STORAGE_MAX_BYTES;
    if let Some(problem) = &problem {
        detail.push_str(&format!("; could not measure {}", problem.0));
    }
    let status = if is_costly || problem.is_some() { Status::Warning } else { Status::Ok };
    report.add("sampler", status, detail, core_pct);
}

/// The standbys that are asked. What is the matter with one is said in perf.fleet_nodes to whom it concerns.
fn fleet(report: &mut Report) {
    let nodes = select_under_snapshot(c"SELECT name, status FROM perf.fleet_nodes ORDER BY name", |row| {
        Some((row.get::<Text>(1)?.0, row.get::<Text>(2)?.0))
    });
    if nodes.is_empty() {
        return;
    }
    let unwell: Vec<String> = nodes
        .iter()
        .filter(|(_, status)| status != "ok" && status != "new")
        .map(|(name, status)| format!("{name} is {status}"))
        .collect();
    let (status, found) = match unwell.is_empty() {
        true => (Status::Ok, "all are well".to_owned()),
        false => (Status::Warning, format!("{}; see perf.fleet_nodes", unwell.join(", "))),
    };
    let noun = if nodes.len() == 1 { "node" } else { "nodes" };
    report.add("fleet", status, format!("{} {noun}: {found}", nodes.len()), Some(unwell.len() as f64));
}

/// The scheduler of this database, and jobs that fail or wait. Numbers only: whose jobs they are is nobody's business.
fn jobs(report: &mut Report) {
    let counted =
        select_under_snapshot(c"SELECT jobs, failing, switched_off, oldest_wait_s FROM perf._job_counts()", |row| {
            Some((row.get::<i64>(1)?, row.get::<i64>(2)?, row.get::<i64>(3)?, row.get::<f64>(4)))
        });
    let Some((jobs, failing, switched_off, oldest_wait_s)) = counted.into_iter().next() else { return };
    if crate::memory::is_ready() && jobs > 0 && !background::in_recovery() {
        let scheduler = registry::slots().into_iter().find(|slot| slot.dbid == names::current_database());
        let (status, detail) = match scheduler.map(|slot| slot.scheduler) {
            _ if !crate::guc::worker_enabled() => (Status::Error, "no job runs: perf_opt.collector is off".to_owned()),
            Some(scheduler) if scheduler.pid != 0 => (Status::Ok, format!("running as {}", scheduler.pid)),
            Some(scheduler) if scheduler.is_wanted() => (Status::Warning, "starting".to_owned()),
            _ => (Status::Ok, "not needed: no job is due by itself".to_owned()),
        };
        report.add("scheduler", status, detail, Some(jobs as f64));
    }
    if failing + switched_off > 0 {
        let detail = format!(
            "{failing} jobs whose latest run failed, {switched_off} switched off since they cannot run; see perf.jobs and perf.job_runs"
        );
        report.add("jobs", Status::Warning, detail, Some((failing + switched_off) as f64));
    }
    if let Some(seconds) = oldest_wait_s.filter(|&seconds| seconds > JOB_WAIT_S) {
        let detail = format!(
            "a run has waited {seconds:.0} s for its turn; raise perf_opt.max_running_jobs or max_worker_processes"
        );
        report.add("job queue", Status::Warning, detail, Some(seconds));
    }
}

/// The invalidator of this database, what waits for it, and Redis.
fn invalidation(report: &mut Report) {
    let counted = select_under_snapshot(
        c"SELECT watches, inactive, widened, waiting, oldest_s, queued, orphans FROM perf._cache_counts()",
        |row| {
            let count = |column| row.get::<i64>(column).unwrap_or(0);
            Some(([count(1), count(2), count(3), count(4), count(6), count(7)], row.get::<f64>(5)))
        },
    );
    let Some((counts, oldest_s)) = counted.into_iter().next() else { return };
    let [watches, inactive, widened, waiting, queued, orphans] = counts;
    if orphans > 0 {
        let detail = format!(
            "{orphans} tables have triggers of watches that are not there: perf.cache_watch() makes a watch anew, \
             perf.cache_unwatch() removes the triggers"
        );
        report.add("cache triggers", Status::Error, detail, Some(orphans as f64));
    }
    if watches + waiting + queued == 0 {
        return;
    }
    let slot = registry::slots().into_iter().find(|slot| slot.dbid == names::current_database());
    if !background::in_recovery() {
        let (mut status, state) = match slot.map(|slot| slot.invalidator) {
            None => (Status::Error, "nothing is invalidated: perf_opt is not preloaded".to_owned()),
            _ if !crate::guc::worker_enabled() => {
                (Status::Error, "nothing is invalidated: perf_opt.collector is off".to_owned())
            }
            Some(process) if process.pid != 0 => (Status::Ok, format!("running as {}", process.pid)),
            Some(_) => (Status::Warning, "starting".to_owned()),
        };
        let oldest_s = oldest_s.unwrap_or(0.0);
        if oldest_s > INVALIDATION_WAIT_S && status == Status::Ok {
            status = Status::Warning;
        }
        let last = match slot.map_or(0, |slot| slot.invalidation.last_run_at) {
            0 => "nothing has changed yet".to_owned(),
            at => format!("last worked {:.0} s ago", (background::now() - at) as f64 / 1e6),
        };
        let failing = match slot.map(|slot| slot.invalidation).filter(|invalidation| invalidation.failing_since != 0) {
            None => String::new(),
            Some(invalidation) => {
                let seconds = (background::now() - invalidation.failing_since) / 1_000_000;
                status = Status::Error;
                format!(", and nothing has been invalidated for {seconds} s: {}", invalidation.failure)
            }
        };
        let detail =
            format!("{state}, {watches} watches, {last}, {waiting} changes wait, the oldest {oldest_s:.1} s{failing}");
        report.add("invalidator", status, detail, Some(waiting as f64));
    }
    if inactive > 0 {
        let detail = format!(
            "{inactive} watches whose triggers or tables are missing, or that are switched off; perf.cache_watches names them, perf.cache_watch() makes them anew"
        );
        report.add("cache watches", Status::Error, detail, Some(inactive as f64));
    } else if widened > 0 {
        let detail = format!(
            "{widened} watches with placeholders that are no columns any more, so that more is invalidated than necessary; see perf.cache_watches"
        );
        report.add("cache watches", Status::Warning, detail, Some(widened as f64));
    }
    if let Some(invalidation) = slot.map(|slot| slot.invalidation).filter(|invalidation| invalidation.has_redis) {
        let (status, detail) = match invalidation.down_since {
            0 => (Status::Ok, "can be reached".to_owned()),
            since => {
                let seconds = (background::now() - since) / 1_000_000;
                (Status::Error, format!("not reached for {seconds} s: {}", invalidation.problem))
            }
        };
        let flushes = match invalidation.flushes {
            0 => String::new(),
            count => format!("; the queue was too long {count} times (perf_opt.cache_outbox_max_mb)"),
        };
        let (status, refused) = match invalidation.refused {
            0 => (status, String::new()),
            count => (
                if status == Status::Ok { Status::Warning } else { status },
                format!("; it has refused to remove {count} keys or tags, the latest: {}", invalidation.refusal),
            ),
        };
        report.add("redis", status, format!("{detail}, {queued} batches wait{flushes}{refused}"), Some(queued as f64));
    }
}

/// Managed partitioned tables that need somebody; perf.partition_check says more, and how.
fn partitions(report: &mut Report) {
    let summary = check::summary(to_unix(background::now()));
    if summary.managed == 0 {
        return;
    }
    let (status, found) = match summary.problems.len() {
        0 => (Status::Ok, "none needs anybody".to_owned()),
        count => {
            let more = count.saturating_sub(PROBLEMS_NAMED);
            let named: Vec<String> = summary.problems.into_iter().take(PROBLEMS_NAMED).collect();
            let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
            (Status::Warning, format!("{}{rest}; see perf.partition_check()", named.join("; ")))
        }
    };
    let part = match summary.looked_at {
        looked_at if looked_at < summary.managed => format!(" ({looked_at} looked at)"),
        _ => String::new(),
    };
    let detail = format!("{} tables managed{part}: {found}", summary.managed);
    report.add("partitions", status, detail, Some(summary.managed as f64));
}

fn pending_detaches(report: &mut Report) {
    let pending = select_under_snapshot(
        c"SELECT pg_catalog.format('%s of %s', inhrelid::pg_catalog.regclass, inhparent::pg_catalog.regclass) \
          FROM pg_catalog.pg_inherits WHERE inhdetachpending ORDER BY 1",
        |row| Some(row.get::<Text>(1)?.0),
    );
    let count = Some(pending.len() as f64);
    if pending.is_empty() {
        report.add("pending detaches", Status::Ok, "none", count);
    } else {
        let detail = format!("ALTER TABLE ... DETACH PARTITION ... FINALIZE is due for {}", pending.join(", "));
        report.add("pending detaches", Status::Warning, detail, count);
    }
}
