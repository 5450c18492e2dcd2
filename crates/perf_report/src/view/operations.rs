//! What runs by itself: jobs, partitions, caches, and perf_opt.

use super::{chip, day, finite, name, plain, sentence, sql, when, words, Block, Section, Table};
use crate::document::Document;
use crate::format;

/// A section of one table.
fn of_table(id: &'static str, title: &'static str, takeaway: String, table: Table) -> Section {
    let blocks = if table.rows.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id, title, takeaway, blocks }
}

/// The jobs of the scheduler, failing ones first.
pub(super) fn jobs(document: &Document) -> Section {
    let mut jobs: Vec<_> = document.jobs.iter().collect();
    let failing = |j: &&crate::document::Job| finite(j.consecutive_failures).is_some_and(|f| f > 0.0);
    jobs.sort_by_key(|j| !failing(j));
    let columns = ["Job", "Kind+", "Schedule", "Last run", "At", ">Took", "Next", ">Runs", ">Failed", "Message+"];
    let mut table = Table::new("Jobs, failing ones first", &columns);
    for job in &jobs {
        table.push(vec![
            name(&job.name),
            plain(words(&job.kind)),
            sentence(&job.schedule),
            if job.enabled { chip(&job.last_status) } else { chip("paused") },
            when(job.last_run_at),
            plain(format::ms(job.last_duration_ms)),
            when(job.next_run_at),
            plain(format::count(job.runs)),
            plain(format::count(job.failed_runs)),
            sentence(&job.message),
        ]);
    }
    let takeaway = match (jobs.len(), jobs.iter().filter(|j| failing(j)).count()) {
        (0, _) => {
            "No jobs. perf.job_schedule() runs SQL at set times, perf.matview_schedule() refreshes a view.".to_owned()
        }
        (all, 0) => format!("{}, none of them failing.", format::plural(all, "job", "jobs")),
        (all, failing) => format!("{failing} of {} failing.", format::plural(all, "job is", "jobs are")),
    };
    of_table("jobs", "Jobs", takeaway, table)
}

/// The partitioned tables, those with a problem first.
pub(super) fn partitions(document: &Document) -> Section {
    let mut tables: Vec<_> = document.partitions.iter().collect();
    tables.sort_by_key(|p| p.problem.is_empty());
    let columns = [
        "Table",
        "Every",
        ">Partitions",
        ">Size",
        "Oldest",
        "Covered until",
        "Kept for+",
        "Problem",
        "What repairs it+",
    ];
    let mut table = Table::new("Tables under management, those with a problem first", &columns);
    for p in &tables {
        table.push(vec![
            name(&p.parent),
            sentence(&p.every),
            plain(format::count(p.partitions)),
            plain(format::bytes(p.size_bytes)),
            day(p.oldest_at),
            day(p.covered_until_at),
            if p.retention.is_empty() { plain("ever") } else { sentence(&p.retention) },
            if p.problem.is_empty() { chip("ok") } else { sentence(&p.problem) },
            sql(&p.fix_sql),
        ]);
    }
    let takeaway = match (tables.len(), tables.iter().filter(|p| !p.problem.is_empty()).count()) {
        (0, _) => "No table is under partition management. perf.partition_manage() takes one over.".to_owned(),
        (all, 0) => format!("{} under management, without a problem.", format::plural(all, "table", "tables")),
        (all, bad) => format!("{bad} of {} a problem.", format::plural(all, "table has", "tables have")),
    };
    of_table("partitions", "Partitions", takeaway, table)
}

/// The caches.
pub(super) fn caches(document: &Document) -> Section {
    let columns = [
        "Cache",
        "Status",
        ">Entries",
        ">Size",
        ">Gets",
        ">Hits",
        ">Expected+",
        ">Invalidations+",
        ">Saved a minute",
        "Why+",
    ];
    let mut table = Table::new("Caches and what they save", &columns);
    for cache in &document.caches {
        table.push(vec![
            name(&cache.name),
            chip(&cache.status),
            plain(format::count(cache.entries)),
            plain(format::bytes(cache.bytes)),
            plain(format::count(cache.gets)),
            plain(format::percent(cache.hit_pct)),
            plain(format::percent(cache.expected_hit_pct)),
            plain(format::count(cache.invalidations)),
            plain(format::ms(cache.saved_ms_per_min)),
            sentence(&cache.reason),
        ]);
    }
    let savings = || document.caches.iter().filter_map(|c| finite(c.saved_ms_per_min)).filter(|saved| *saved > 0.0);
    let saved: f64 = savings().sum();
    let takeaway = match document.caches.len() {
        0 => "No cache is in use. perf.caching_strategies() tells which results are worth keeping.".to_owned(),
        _ if saved > 0.0 => {
            let caches = format::plural(savings().count(), "cache saves", "caches save");
            format!("{caches} {} of database time a minute.", format::ms(Some(saved)))
        }
        all => format!("{}; what they save is not measured yet.", format::plural(all, "cache", "caches")),
    };
    of_table("caches", "Caches", takeaway, table)
}

/// How perf_opt itself does.
pub(super) fn health(document: &Document) -> Section {
    let mut table = Table::new("Parts of perf_opt", &["Part", "Status", "Detail"]);
    for part in &document.health {
        table.push(vec![name(&part.component), chip(&part.status), sentence(&part.detail)]);
    }
    let bad = document.health.iter().filter(|h| h.status != "ok").count();
    let takeaway = match (document.health.len(), bad) {
        (0, _) => "perf.health() tells how capture, workers and history do.".to_owned(),
        (_, 0) => "Everything that this report rests on works.".to_owned(),
        (all, bad) => format!(
            "{bad} of {} attention: numbers of this report may be incomplete.",
            format::plural(all, "part wants", "parts want")
        ),
    };
    of_table("health", "perf_opt itself", takeaway, table)
}
