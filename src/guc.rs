//! Every setting of perf_opt: type, unit, default and why.

use std::ffi::CString;

use crate::pg::local::setting_now;
use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// Which statements are captured.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Track {
    /// Those that clients send.
    #[name = c"top"]
    Top,
    /// Those within functions as well.
    #[name = c"all"]
    All,
    /// None.
    #[name = c"none"]
    None,
}

/// What perf_opt does by itself about what it recommends.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Autopilot {
    /// Nothing.
    #[name = c"off"]
    Off,
    /// Notes in the audit what it would do.
    #[name = c"advise"]
    Advise,
    /// Does it.
    #[name = c"apply"]
    Apply,
}

/// What autopilot does about what others have changed.
#[derive(PostgresGucEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutopilotGuard {
    /// Nothing.
    #[name = c"off"]
    Off,
    /// Judges it, and says so.
    #[name = c"notice"]
    Notice,
    /// Puts back what does harm.
    #[name = c"undo"]
    Undo,
}

/// `all`: what hides in a function is what an advisor must see; `toplevel` tells the two apart.
static TRACK: GucSetting<Track> = GucSetting::<Track>::new(Track::All);
/// 1 s: where a person starts to notice.
static SLOW_MS: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static CRITICAL_MS: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static EMERGENCY_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// 5000: what pg_stat_statements keeps by default.
static MAX_STATEMENTS: GucSetting<i32> = GucSetting::<i32>::new(5_000);
/// 4 kB holds nearly every statement an ORM writes.
static MAX_QUERY_LENGTH: GucSetting<i32> = GucSetting::<i32>::new(4_096);
/// 2 MB: enough to tell what share of transactions touches one key, within two points.
static TRANSACTION_SAMPLES: GucSetting<i32> = GucSetting::<i32>::new(2_048);
/// A minute: fine enough for a trend, small enough to lose.
static COLLECT_INTERVAL_S: GucSetting<i32> = GucSetting::<i32>::new(60);
static HISTORY_MAX_MB: GucSetting<i32> = GucSetting::<i32>::new(256);
/// 4 of the 8 worker processes that a server has by default: some are left for parallel queries.
static MAX_RUNNING_JOBS: GucSetting<i32> = GucSetting::<i32>::new(4);
/// Two weeks: what happened on the same weekday before can still be seen.
static JOB_HISTORY_DAYS: GucSetting<i32> = GucSetting::<i32>::new(14);
/// About 30 MB.
static JOB_HISTORY_MAX: GucSetting<i32> = GucSetting::<i32>::new(100_000);
/// None: nobody writes files of the server's before its administrator has said where.
static ARCHIVE_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Empty: the machine itself. Tests put files of other machines there.
static HOST_ROOT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// None: the caches are in the database alone.
static REDIS_URL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Those of the machine.
static REDIS_CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Some hundred thousand invalidations.
static CACHE_OUTBOX_MAX_MB: GucSetting<i32> = GucSetting::<i32>::new(64);
/// An hour: what a cache without a policy is mostly used for.
static CACHE_DEFAULT_TTL_S: GucSetting<i32> = GucSetting::<i32>::new(3_600);
static CACHE_WAIT_MS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
/// 1 MB: the largest of the shipped policies is half of that.
static CACHE_MAX_VALUE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(1_048_576);
/// 256 MB: as the history.
static CACHE_MAX_MB: GucSetting<i32> = GucSetting::<i32>::new(256);
/// Empty: the current role's own entries.
static CACHE_ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// A get from the embedded cache costs a tenth of a millisecond: a faster statement gains nothing.
static CACHE_SURVEY_MIN_MS: GucSetting<f64> = GucSetting::<f64>::new(2.0);
/// 100: enough for a difference of a tenth to be told from noise, and reached in minutes by what matters.
static VERIFY_MIN_CALLS: GucSetting<i32> = GucSetting::<i32>::new(100);
/// 1 GB: as index maintenance leaves free.
static APPLY_MIN_FREE_MB: GucSetting<i32> = GucSetting::<i32>::new(1_024);
/// Off: nothing is changed unasked.
static AUTOPILOT: GucSetting<Autopilot> = GucSetting::<Autopilot>::new(Autopilot::Off);
/// Off: what people change is theirs.
static AUTOPILOT_GUARD: GucSetting<AutopilotGuard> = GucSetting::<AutopilotGuard>::new(AutopilotGuard::Off);
/// Empty: at any time.
static AUTOPILOT_WINDOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// 1 GB: what most databases can spare.
static AUTOPILOT_MAX_MB: GucSetting<i32> = GucSetting::<i32>::new(1_024);
static COLLECTOR: GucSetting<bool> = GucSetting::<bool>::new(true);
static CAPTURE_PLANS: GucSetting<bool> = GucSetting::<bool>::new(true);
static SAMPLE_LITERALS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The names of settings that only a server start can change, so they are missing without preloading.
pub fn define_preload_settings() {
    GucRegistry::define_int_guc(
        c"perf_opt.max_statements",
        c"Number of statements kept in shared memory.",
        c"When there are more, the least valuable are evicted and their totals added to the row (other). About 3.7 kB each.",
        &MAX_STATEMENTS,
        100,
        1_000_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.max_query_length",
        c"Bytes of a query text that are kept.",
        c"Longer texts are cut.",
        &MAX_QUERY_LENGTH,
        256,
        65_536,
        GucContext::Postmaster,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.transaction_samples",
        c"Number of transactions kept in shared memory as they were.",
        c"Their statements and hashes of the values in them; the newest ones, about 20 a second at most. About 1 kB each. 0: none.",
        &TRANSACTION_SAMPLES,
        0,
        1_000_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"perf_opt.collector",
        c"Runs the background workers that write history and run jobs.",
        c"Off: statistics live in shared memory only, and no job runs.",
        &COLLECTOR,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// Settings that can change while the server runs.
pub fn define_settings() {
    GucRegistry::define_enum_guc(
        c"perf_opt.track",
        c"Selects which statements are captured.",
        c"top: those clients send; all: those within functions too; none.",
        &TRACK,
        GucContext::Suset,
        GucFlags::default(),
    );
    for (name, short, setting) in [
        (c"perf_opt.slow_ms", c"Executions above this are slow and kept one by one.", &SLOW_MS),
        (c"perf_opt.critical_ms", c"Executions above this are critical.", &CRITICAL_MS),
        (c"perf_opt.emergency_ms", c"Executions above this are an emergency.", &EMERGENCY_MS),
    ] {
        GucRegistry::define_int_guc(
            name,
            short,
            c"-1 switches the class off.",
            setting,
            -1,
            i32::MAX,
            GucContext::Suset,
            GucFlags::UNIT_MS,
        );
    }
    GucRegistry::define_int_guc(
        c"perf_opt.collect_interval",
        c"Time between two writes of history.",
        c"A crash of the server loses at most one interval of history.",
        &COLLECT_INTERVAL_S,
        1,
        3_600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.history_max_mb",
        c"Size that the history of a database may take.",
        c"The oldest history is dropped first.",
        &HISTORY_MAX_MB,
        8,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.max_running_jobs",
        c"Number of jobs that run at the same time in the whole server.",
        c"Each takes one of max_worker_processes; others wait in the queue. 0: none is started.",
        &MAX_RUNNING_JOBS,
        0,
        128,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.job_history_days",
        c"Days for which the runs of jobs are kept.",
        c"The latest run of each job is kept for as long as the job.",
        &JOB_HISTORY_DAYS,
        1,
        3_650,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.job_history_max",
        c"Number of runs of jobs that are kept in a database.",
        c"The oldest are removed first; the latest run of each job is kept.",
        &JOB_HISTORY_MAX,
        1_000,
        100_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.cache_default_ttl",
        c"How long a value of the cache lives that is put without a ttl and has no policy.",
        c"Up to ten years.",
        &CACHE_DEFAULT_TTL_S,
        1,
        315_360_000,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.cache_wait",
        c"How long perf.cached() waits for another session that computes the same value.",
        c"Then it computes the value itself. A shorter lock_timeout counts in its place. 0: not at all.",
        &CACHE_WAIT_MS,
        0,
        3_600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.cache_max_value_bytes",
        c"Size of the largest value that the cache takes, uncompressed.",
        c"Larger ones are an error of perf.cache_put(), and are computed and not stored by perf.cached().",
        &CACHE_MAX_VALUE_BYTES,
        1_024,
        67_108_864,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.cache_max_mb",
        c"Size that the cache of a database may take.",
        c"Entries that were not read lately make room.",
        &CACHE_MAX_MB,
        1,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_string_guc(
        c"perf_opt.cache_role",
        c"Role whose entries of the cache are read and written.",
        c"Empty: the current role's own. Another one has to be a role that the current one is a member of.",
        &CACHE_ROLE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"perf_opt.archive_directory",
        c"Directory of the server for the files of archived partitions.",
        c"An absolute path that the server may write to. Empty: partitions are not archived to files.",
        &ARCHIVE_DIRECTORY,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"perf_opt.host_root",
        c"Directory under which /proc and /sys of the host are read.",
        c"For tests. Empty: the host's own.",
        &HOST_ROOT,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL,
    );
    GucRegistry::define_string_guc(
        c"perf_opt.redis_url",
        c"Redis in which caches are invalidated as well.",
        c"redis://user:password@host:port/database, or rediss:// for TLS. Empty: none.",
        &REDIS_URL,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"perf_opt.redis_ca_file",
        c"File with the certificates that Redis' own is checked against, in PEM format.",
        c"Empty: those that the machine trusts.",
        &REDIS_CA_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.cache_outbox_max_mb",
        c"Invalidations kept for a Redis that cannot be reached.",
        c"Beyond, one order takes their place that removes whatever the templates can name.",
        &CACHE_OUTBOX_MAX_MB,
        1,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_float_guc(
        c"perf_opt.cache_survey_min_ms",
        c"Reads that take longer are looked at for whether a cache would answer them.",
        c"-1 switches that off; statements that are shadowed are looked at anyway.",
        &CACHE_SURVEY_MIN_MS,
        -1.0,
        3_600_000.0,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"perf_opt.verify_min_calls",
        c"Executions of the statements concerned after which a change that perf.apply() has made is verified.",
        c"More make the verdict surer and later.",
        &VERIFY_MIN_CALLS,
        10,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.apply_min_free_mb",
        c"Disk space that stays free when perf.apply() builds an index.",
        c"An index that would take of it is not begun.",
        &APPLY_MIN_FREE_MB,
        0,
        1_073_741_824,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_enum_guc(
        c"perf_opt.autopilot",
        c"What is done unasked about recommended indexes.",
        c"off: nothing; advise: perf.audit says what would be done; apply: it is done as the owner of the table, verified, and undone should it be a regression.",
        &AUTOPILOT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"perf_opt.autopilot_guard",
        c"What is done about settings and indexes that others have changed.",
        c"off: nothing; notice: what they do to the statements is measured, and told in perf.applied_changes and the log; undo: what does harm by two rounds of executions is put back. Nothing where perf_opt.autopilot is off.",
        &AUTOPILOT_GUARD,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"perf_opt.autopilot_window",
        c"Hours of the day in which autopilot begins changes.",
        c"Such as 22:00-05:00 Europe/Berlin; without a time zone: of UTC. Empty: at any time. A regression is undone at any time.",
        &AUTOPILOT_WINDOW,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"perf_opt.autopilot_max_mb",
        c"Size of all indexes that autopilot has made in a database.",
        c"It makes none that goes beyond.",
        &AUTOPILOT_MAX_MB,
        0,
        1_073_741_824,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_bool_guc(
        c"perf_opt.capture_plans",
        c"Keeps the plan of slow executions, without literals.",
        c"At most ten a second in the whole server.",
        &CAPTURE_PLANS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"perf_opt.sample_literals",
        c"Keeps a few executions of each statement with their literals and parameters, in shared memory only.",
        c"The index advisor plans them; nothing shows them. Off: it plans with constants from the statistics.",
        &SAMPLE_LITERALS,
        GucContext::Suset,
        GucFlags::default(),
    );
}

#[inline]
pub fn track() -> Track {
    Track::from_ordinal(setting_now(&TRACK))
}

/// The three thresholds, mildest first; a class that is switched off is never reached.
#[inline]
pub fn thresholds_ns() -> [u64; 3] {
    [setting_now(&SLOW_MS), setting_now(&CRITICAL_MS), setting_now(&EMERGENCY_MS)].map(threshold_ns)
}

/// The lowest of the three, in nanoseconds: for each statement, so in a few instructions. One that is off is -1, and more
/// than all others as a number without sign.
#[inline]
pub fn slow_threshold_ns() -> u64 {
    let [slow, critical, emergency] =
        [setting_now(&SLOW_MS), setting_now(&CRITICAL_MS), setting_now(&EMERGENCY_MS)].map(|ms| ms as u32);
    u64::from(slow.min(critical).min(emergency)) * 1_000_000
}

#[inline]
fn threshold_ns(ms: i32) -> u64 {
    u64::try_from(ms).map_or(u64::MAX, |ms| ms * 1_000_000)
}

pub fn max_statements() -> usize {
    usize::try_from(MAX_STATEMENTS.get()).unwrap_or(100)
}

pub fn max_query_length() -> usize {
    usize::try_from(MAX_QUERY_LENGTH.get()).unwrap_or(256)
}

pub fn transaction_samples() -> usize {
    usize::try_from(TRANSACTION_SAMPLES.get()).unwrap_or(0)
}

pub fn collect_interval_s() -> i32 {
    COLLECT_INTERVAL_S.get()
}

pub fn history_max_mb() -> i32 {
    HISTORY_MAX_MB.get()
}

pub fn max_running_jobs() -> usize {
    usize::try_from(MAX_RUNNING_JOBS.get()).unwrap_or(0)
}

pub fn job_history_days() -> i32 {
    JOB_HISTORY_DAYS.get()
}

pub fn job_history_max() -> i32 {
    JOB_HISTORY_MAX.get()
}

pub fn cache_default_ttl_s() -> i64 {
    i64::from(CACHE_DEFAULT_TTL_S.get())
}

/// No longer than the session waits for locks.
pub fn cache_wait_us() -> i64 {
    // SAFETY: a plain read of a process global.
    let lock_timeout_ms = unsafe { pgrx::pg_sys::LockTimeout };
    let limit_ms = if lock_timeout_ms > 0 { lock_timeout_ms } else { i32::MAX };
    i64::from(CACHE_WAIT_MS.get().min(limit_ms)) * 1_000
}

pub fn cache_max_value_bytes() -> usize {
    usize::try_from(CACHE_MAX_VALUE_BYTES.get()).unwrap_or(0)
}

pub fn cache_max_bytes() -> i64 {
    i64::from(CACHE_MAX_MB.get()) << 20
}

/// Empty for the current role.
pub fn cache_role() -> String {
    text_of(&CACHE_ROLE)
}

fn text_of(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Empty when partitions are not archived to files.
pub fn archive_directory() -> String {
    text_of(&ARCHIVE_DIRECTORY)
}

/// Empty for the machine itself.
pub fn host_root() -> String {
    text_of(&HOST_ROOT)
}

/// Empty when there is none.
pub fn redis_url() -> String {
    text_of(&REDIS_URL)
}

/// Empty for those of the machine.
pub fn redis_ca_file() -> String {
    text_of(&REDIS_CA_FILE)
}

pub fn cache_outbox_max_bytes() -> i64 {
    i64::from(CACHE_OUTBOX_MAX_MB.get()) * 1_048_576
}

/// From which duration on reads are surveyed for caches; `None` when none is.
pub fn cache_survey_min_ns() -> Option<u64> {
    let ms = CACHE_SURVEY_MIN_MS.get();
    (ms >= 0.0).then_some((ms * 1e6) as u64)
}

pub fn autopilot() -> Autopilot {
    AUTOPILOT.get()
}

/// Off as well while autopilot is.
pub fn autopilot_guard() -> AutopilotGuard {
    match autopilot() {
        Autopilot::Off => AutopilotGuard::Off,
        _ => AUTOPILOT_GUARD.get(),
    }
}

pub fn autopilot_window() -> String {
    text_of(&AUTOPILOT_WINDOW)
}

pub fn autopilot_max_bytes() -> f64 {
    f64::from(AUTOPILOT_MAX_MB.get()) * 1_048_576.0
}

pub fn verify_min_calls() -> u64 {
    u64::try_from(VERIFY_MIN_CALLS.get()).unwrap_or(0)
}

pub fn apply_min_free_bytes() -> f64 {
    f64::from(APPLY_MIN_FREE_MB.get()) * 1_048_576.0
}

pub fn worker_enabled() -> bool {
    COLLECTOR.get()
}

pub fn capture_plans() -> bool {
    CAPTURE_PLANS.get()
}

pub fn sample_literals() -> bool {
    SAMPLE_LITERALS.get()
}
