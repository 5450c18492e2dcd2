//! perf_opt: a performance engineer inside PostgreSQL. Modules are listed in data-flow order; imports point upwards only.
#![deny(ffi_unwind_calls)]

pgrx::pg_module_magic!(name, version);

mod compat;
mod error;
mod pg;

mod guc;

mod capture;
mod memory;

mod collect;

mod baselines;
mod indexes;
mod partitions;
mod workload;

mod act;
mod cache;

mod advise;

mod report;

mod api;

use pg::local::ProcessLocal;
use pgrx::pg_sys;

static PREVIOUS_REQUEST: ProcessLocal<pg_sys::shmem_request_hook_type> = ProcessLocal::new(None);
static PREVIOUS_STARTUP: ProcessLocal<pg_sys::shmem_startup_hook_type> = ProcessLocal::new(None);

/// Called once in each process that loads the library; with shared_preload_libraries, that is the postmaster.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::define_settings();
    // SAFETY: a plain read of a process global.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    guc::define_preload_settings();
    // SAFETY: hook variables are plain globals, set before any backend exists; query ids may be switched on while
    // libraries are preloaded.
    unsafe {
        pg_sys::EnableQueryId();
        PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(request_memory);
        PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(attach_memory);
    }
    memory::watch::register();
    collect::worker::after_each_run([
        cache::tidy::maintain,
        cache::tidy::forget_marks,
        advise::alerts::evaluate,
        advise::guard::look,
        act::change::verify::due,
    ]);
    act::tasks::autopilot::give(advise::autopilot::step);
    collect::worker::watch(advise::caching::watch::WATCHER);
    if guc::worker_enabled() {
        act::launcher::register();
    }
}

#[pgrx::pg_guard]
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
unsafe extern "C-unwind" fn request_memory() {
    if let Some(previous) = PREVIOUS_REQUEST.get() {
        // SAFETY: the hook that was there before, called as the server would.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
    }
    memory::request();
    collect::registry::request();
    act::board::request();
    act::requests::request_memory();
}

#[pgrx::pg_guard]
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
unsafe extern "C-unwind" fn attach_memory() {
    if let Some(previous) = PREVIOUS_STARTUP.get() {
        // SAFETY: the hook that was there before, called as the server would.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| previous()) };
    }
    memory::startup();
    collect::registry::startup();
    act::board::startup();
    act::requests::startup();
    // Now that every library has put its hooks in place, so that perf_opt's are called first: pg_stat_statements takes
    // the queryid off a utility statement before it hands it on.
    capture::hooks::install(collect::before_utility);
}

pgrx::extension_sql_file!(
    "../sql/statements.sql",
    name = "statements",
    requires = [api::statements::reset, api::statements::_normalize, api::statements::_severity]
);
pgrx::extension_sql_file!(
    "../sql/transactions.sql",
    name = "transactions",
    requires = [api::transactions::_applications, api::transactions::_transaction_traces]
);
pgrx::extension_sql_file!("../sql/history.sql", name = "history");
pgrx::extension_sql_file!(
    "../sql/observe.sql",
    name = "observe",
    requires = [
        "history",
        api::health::health,
        api::observe::_checked_limit,
        api::observe::_histogram_add,
        api::observe::_histogram_quantile,
        api::observe::_history_start,
        api::observe::_pending_slow,
        api::observe::_pending_statements,
        api::observe::_severity_name,
        api::observe::_severity_number,
        api::observe::_slow_cause,
        api::observe::_slow_trend,
        api::observe::_trend_start
    ]
);
pgrx::extension_sql_file!("../sql/baseline_tables.sql", name = "baseline_tables", requires = ["observe"]);
pgrx::extension_sql_file!(
    "../sql/baseline.sql",
    name = "baseline",
    requires = [
        "baseline_tables",
        api::baselines::baseline_capture,
        api::baselines::baseline_compare,
        api::baselines::baseline_drop
    ]
);
pgrx::extension_sql_file!("../sql/comments.sql", name = "comments", finalize);
pgrx::extension_sql_file!("../sql/policy.sql", name = "policy_tables");
pgrx::extension_sql_file!("../sql/comments_policy.sql", name = "policy_comments", requires = ["policy_tables"]);
pgrx::extension_sql_file!("../sql/cache_tables.sql", name = "cache_tables", requires = ["policy_tables"]);
pgrx::extension_sql_file!(
    "../sql/cache_watch.sql",
    name = "cache_watch",
    requires = ["policy_tables", "cache_tables", api::cache_watch::cache_watch, api::cache_watch::cache_unwatch]
);
pgrx::extension_sql_file!(
    "../sql/cache.sql",
    name = "cache_functions",
    requires = [
        "cache_tables",
        api::cache::cache_put,
        api::cache::cache_get,
        api::cache::cache_snapshot,
        api::cache::cache_invalidate,
        api::cache::cache_stats,
        api::cache::cached
    ]
);
pgrx::extension_sql_file!("../sql/caching_tables.sql", name = "caching_tables");
pgrx::extension_sql_file!(
    "../sql/caching.sql",
    name = "caching",
    requires = ["caching_tables", "policy_tables", api::caching::caching_strategies, api::caching::cache_shadow]
);
pgrx::extension_sql_file!("../sql/capacity.sql", name = "capacity_tables");
pgrx::extension_sql_file!(
    "../sql/capacity_functions.sql",
    name = "capacity_functions",
    requires = [
        "capacity_tables",
        api::capacity::capacity_estimate,
        api::capacity::capacity_samples,
        api::capacity::capacity_sample_now
    ]
);
pgrx::extension_sql_file!("../sql/metrics.sql", name = "metrics", requires = [api::metrics::metrics]);
pgrx::extension_sql_file!("../sql/alerts.sql", name = "alerts", requires = ["policy_tables", api::alerts::alerts]);
pgrx::extension_sql_file!(
    "../sql/report.sql",
    name = "report",
    requires = [
        "observe",
        api::capacity::capacity_samples,
        api::report::report,
        api::report::prometheus_metrics,
        api::report::prometheus_rules
    ]
);
pgrx::extension_sql_file!("../sql/cost.sql", name = "cost", requires = ["policy_tables", api::cost::cost_impact]);
pgrx::extension_sql_file!("../sql/jobs.sql", name = "job_tables", requires = [api::jobs::_running_jobs]);
pgrx::extension_sql_file!(
    "../sql/jobs_functions.sql",
    name = "job_functions",
    requires = [
        "job_tables",
        api::jobs::job_schedule,
        api::jobs::job_unschedule,
        api::jobs::job_pause,
        api::jobs::job_resume,
        api::jobs::job_run_now,
        api::jobs::job_cancel,
        api::jobs::job_wait
    ]
);
pgrx::extension_sql_file!("../sql/apply.sql", name = "change_tables", requires = ["job_tables", "baseline_tables"]);
pgrx::extension_sql_file!("../sql/guard.sql", name = "guard_tables", requires = ["change_tables"]);
pgrx::extension_sql_file!(
    "../sql/apply_functions.sql",
    name = "change_functions",
    requires = ["change_tables", api::act::apply, api::act::verify, api::act::undo]
);
pgrx::extension_sql_file!("../sql/maintenance.sql", name = "maintenance_tables", requires = ["job_tables"]);
pgrx::extension_sql_file!(
    "../sql/maintenance_functions.sql",
    name = "maintenance_functions",
    requires = [
        "maintenance_tables",
        api::maintenance::index_maintenance,
        api::maintenance::index_maintenance_schedule,
        api::maintenance::prewarm,
        api::maintenance::prewarm_schedule,
        api::maintenance::prewarm_mark,
        api::maintenance::prewarm_unmark
    ]
);
pgrx::extension_sql_file!(
    "../sql/fleet.sql",
    name = "fleet",
    requires = [
        "job_tables",
        "capacity_tables",
        api::fleet::fleet_node_add,
        api::fleet::fleet_node_remove,
        api::pools::_pool_advice,
        api::pools::_pgbouncer_ini
    ]
);
pgrx::extension_sql_file!("../sql/partitions_tables.sql", name = "partition_tables");
pgrx::extension_sql_file!(
    "../sql/partitions.sql",
    name = "partitions",
    requires = [
        "partition_tables",
        "job_tables",
        "policy_tables",
        api::partitions::partition_manage,
        api::partitions::partition_unmanage,
        api::partitions::partition_tick
    ]
);
pgrx::extension_sql_file!("../sql/partition_policy.sql", name = "partition_policy", requires = ["partitions"]);
pgrx::extension_sql_file!(
    "../sql/partition_check.sql",
    name = "partition_check",
    requires = ["partitions", api::partition_check::partition_advice, api::partition_check::partition_check]
);
pgrx::extension_sql_file!(
    "../sql/partition_convert.sql",
    name = "partition_convert",
    requires = [
        "job_functions",
        api::partition_convert::_partition_convert_start,
        api::partition_convert::_partition_convert_progress
    ]
);
pgrx::extension_sql_file!(
    "../sql/partition_convert_functions.sql",
    name = "partition_convert_functions",
    requires = ["partition_convert", api::partition_convert::partition_convert_plan]
);
pgrx::extension_sql_file!(
    "../sql/matviews.sql",
    name = "matviews",
    requires = ["job_tables", "policy_tables", api::matviews::matview_schedule, api::matviews::matview_unschedule]
);
pgrx::extension_sql_file!(
    "../sql/scaling.sql",
    name = "scaling",
    requires = [api::scaling::scaling_recommendations, api::sharding::sharding_advice]
);
pgrx::extension_sql_file!(
    "../sql/rewrites.sql",
    name = "rewrites",
    requires = ["policy_tables", api::rewrites::sql_optimization_examples]
);
pgrx::extension_sql_file!("../sql/roadmap.sql", name = "roadmap_tables");
pgrx::extension_sql_file!(
    "../sql/roadmap_functions.sql",
    name = "roadmap_functions",
    requires = [
        "roadmap_tables",
        "policy_tables",
        api::roadmap::optimization_roadmap,
        api::roadmap::roadmap_tick,
        api::roadmap::roadmap_untick,
        api::roadmap::deployment_checklist,
        api::roadmap::checklist_tick,
        api::roadmap::checklist_untick
    ]
);
