//! The collector of one database: every `perf_opt.collect_interval` it writes what memory has beyond the history, takes
//! capacity samples and rotates its tables; every second it looks at the states of backends.
//!
//! Started by the launcher. A run is one transaction; what the worker remembers is taken over only after its commit, and
//! whatever fails makes it read the tables again, so nothing is written twice and nothing is lost by a restart of the
//! worker. SIGTERM interrupts a run and is followed by one last, short one; a statement that wants the database alone
//! makes the worker leave at once.

use pgrx::{pg_guard, pg_sys};

use super::history::{self, Memo};
use super::registry::{self, Phase, Post, RunReport};
use super::sampler;
use crate::memory::applications;
use crate::pg::local::ProcessLocal;
use crate::pg::query::{run_with, select_under_snapshot, text};
use crate::pg::{background, names};

const SECOND_US: i64 = 1_000_000;
/// Limits of transactions: an ordinary run, the last one before the process ends.
const RUN_LIMIT_MS: i32 = 30_000;
const LAST_RUN_LIMIT_MS: i32 = 3_000;
/// How long a worker that ends waits for clients that end too, to count what they did last.
const CLIENTS_LIMIT_US: i64 = 300_000;
const POLL_MS: i64 = 10;
const ROTATE_EVERY_US: i64 = 60 * SECOND_US;
const TEXTS_EVERY_US: i64 = 3_600 * SECOND_US;

/// What a step wants told once its transaction is committed.
#[derive(Debug, Default)]
pub struct News {
    /// For the server's log.
    pub lines: Vec<String>,
    /// Channels and payloads of NOTIFY.
    pub notices: Vec<(&'static str, String)>,
}

/// What follows each ordinary run, in a transaction of its own: it lies further down than this module and is given from
/// above.
pub type Step = fn(now: i64) -> Result<News, crate::error::Error>;
/// What looks at memory between the runs and keeps what it finds: it lies further down than this module and is given from
/// above.
#[derive(Clone, Copy)]
pub struct Watcher {
    /// Looks at memory; how long until the next look, in microseconds. May use transactions of its own of that length, in ms.
    pub look: fn(limit_ms: i32) -> Result<i64, String>,
    /// Writes down what was found, in the transaction of a run.
    pub write: fn() -> Result<(), crate::error::Error>,
    /// The collector leaves.
    pub end: fn(),
}

static WATCHER: ProcessLocal<Option<Watcher>> = ProcessLocal::new(None);

/// Sets the watcher. Called when the library is loaded, so that every collector has it.
pub fn watch(watcher: Watcher) {
    WATCHER.set(Some(watcher));
}

/// Notices beyond this number, the oldest, are dropped while none can be sent.
const NOTICES_MAX: usize = 1_000;
/// A step is left out until so many times its own length has passed since: where there is much to read and the interval is
/// short, it takes a twentieth of the time at most.
const STEP_PAUSE: i64 = 20;
/// How many there are.
const STEPS: usize = 5;
static AFTER_RUN: ProcessLocal<[Option<Step>; STEPS]> = ProcessLocal::new([None; STEPS]);

/// Sets the steps after each run. Called when the library is loaded, so that every collector has them.
pub fn after_each_run(steps: [Step; STEPS]) {
    AFTER_RUN.set(steps.map(Some));
}

/// Why the main loop ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM.
    Asked,
    /// A statement wants the database alone.
    Held,
    /// The extension is gone, or was never there.
    NoExtension,
}

/// Entry point of a collector process.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_collector_main(argument: pg_sys::Datum) {
    super::mark_worker();
    background::on_exit(on_exit);
    let (index, ticket) = registry::parse_argument(argument);
    // Attached before signals are let through: whoever asks us to leave from now on finds our pid.
    let Some(dbid) = registry::attach(index, ticket, background::my_pid(), background::my_latch()) else {
        background::exit(0);
    };
    ATTACHED.store(dbid, std::sync::atomic::Ordering::Relaxed);
    background::install_signal_handlers();
    background::connect_to_database(dbid);
    settings();
    let mut collector = Collector::new();
    let end = collector.run();
    if end == End::Asked {
        collector.last_run();
    }
    end_watch();
    let phase = if end == End::NoExtension { Phase::NoExtension } else { Phase::Ended };
    registry::detach(dbid, background::my_pid(), phase);
    background::exit(0);
}

fn end_watch() {
    if let Some(watcher) = WATCHER.get() {
        (watcher.end)();
    }
}

/// Database whose slot this process has.
static ATTACHED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    end_watch();
    registry::detach(ATTACHED.load(std::sync::atomic::Ordering::Relaxed), background::my_pid(), Phase::Ended);
}

/// Settings of our own session: a database's or role's defaults must not change what we do.
pub fn settings() {
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"synchronous_commit", c"local"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"lock_timeout", c"1s"),
        // Sooner than anybody else: should we be part of a deadlock, we are the one to give way.
        (c"deadlock_timeout", c"50ms"),
        (c"default_tablespace", c""),
        (c"default_table_access_method", c"heap"),
        (c"session_replication_role", c"origin"),
        (c"row_security", c"off"),
        (c"jit", c"off"),
        (c"max_parallel_workers_per_gather", c"0"),
        (c"work_mem", c"8MB"),
        (c"TimeZone", c"UTC"),
        (c"DateStyle", c"ISO"),
        // Names of objects must not change with it.
        (c"quote_all_identifiers", c"off"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"event_triggers", c"off"),
    ] {
        background::set_session(name, value);
    }
}

/// Whether the scheduler has something to do here, now or later.
fn has_jobs() -> bool {
    let found = select_under_snapshot(
        c"SELECT EXISTS (SELECT FROM perf.job WHERE enabled AND next_run_at IS NOT NULL
                            AND (paused_until IS NULL OR paused_until < 'infinity'))
              OR EXISTS (SELECT FROM perf.job_run WHERE status IN ('queued', 'running'))",
        |row| row.get::<bool>(1),
    );
    found.first().copied().unwrap_or(false)
}

/// Whether the invalidator has something to do here, now or later.
fn has_watches() -> bool {
    let found = select_under_snapshot(
        c"SELECT EXISTS (SELECT FROM perf.cache_watch_table) OR EXISTS (SELECT FROM perf.cache_outbox)
              OR EXISTS (SELECT FROM perf.cache_redis_queue)",
        |row| row.get::<bool>(1),
    );
    found.first().copied().unwrap_or(false)
}

struct Collector {
    memo: Memo,
    dbid: u32,
    next_run_at: i64,
    next_observation_at: i64,
    next_look_at: i64,
    next_rotation_at: i64,
    next_texts_at: i64,
    /// When each step after runs ended last, and how long it took.
    last_steps: [(i64, i64); STEPS],
    /// What listeners have not been told yet.
    notices: Vec<(&'static str, String)>,
    last_message: String,
    failures: u32,
}

impl Collector {
    fn new() -> Collector {
        Collector {
            memo: Memo::default(),
            dbid: names::current_database(),
            next_run_at: 0,
            next_observation_at: 0,
            next_look_at: 0,
            next_rotation_at: 0,
            next_texts_at: background::now() + TEXTS_EVERY_US,
            last_steps: [(0, 0); STEPS],
            notices: Vec::new(),
            last_message: String::new(),
            failures: 0,
        }
    }

    fn run(&mut self) -> End {
        match self.extension_present() {
            Ok(true) => {
                if let Err(message) = self.look_for_jobs(RUN_LIMIT_MS) {
                    self.failed(&message);
                }
            }
            Ok(false) => return End::NoExtension,
            Err(message) => self.failed(&message),
        }
        loop {
            if registry::is_held(self.dbid) {
                return End::Held;
            }
            if background::must_end() {
                return End::Asked;
            }
            let now = background::now();
            // A clock that was set back must not end the looks, nor the rotations, until it has caught up.
            self.next_observation_at = self.next_observation_at.min(now + SECOND_US);
            self.next_rotation_at = self.next_rotation_at.min(now + ROTATE_EVERY_US);
            self.next_texts_at = self.next_texts_at.min(now + TEXTS_EVERY_US);
            if now >= self.next_observation_at {
                self.next_observation_at = now + SECOND_US;
                sampler::observe_backends();
            }
            self.next_look_at = self.next_look_at.min(now + SECOND_US);
            if now >= self.next_look_at {
                self.look();
            }
            let interval = i64::from(crate::guc::collect_interval_s().max(1)) * SECOND_US;
            // A shorter interval or a clock set back takes effect at once.
            if now >= self.next_run_at || self.next_run_at - now > interval {
                self.next_run_at = now + interval;
                if !self.collect(RUN_LIMIT_MS) {
                    return End::NoExtension;
                }
                continue;
            }
            let next = self.next_run_at.min(self.next_observation_at).min(self.next_look_at);
            background::wait((next - background::now()).clamp(0, SECOND_US) / 1_000 + 1);
        }
    }

    /// Has the watcher look at memory.
    fn look(&mut self) {
        let Some(watcher) = WATCHER.get() else { return };
        match (watcher.look)(LAST_RUN_LIMIT_MS) {
            Ok(pause) => self.next_look_at = background::now() + pause.clamp(1_000, SECOND_US),
            Err(message) => {
                self.next_look_at = background::now() + SECOND_US;
                if !background::must_end() && !registry::is_held(self.dbid) {
                    self.failed(&message);
                }
            }
        }
    }

    fn extension_present(&self) -> Result<bool, String> {
        background::transaction(RUN_LIMIT_MS, || Ok(background::extension_installed()))
    }

    /// Asks for a scheduler where there are jobs, and for an invalidator where there are watches, that nobody announced:
    /// they were there when the server started, or a restore brought them.
    fn look_for_jobs(&self, limit_ms: i32) -> Result<(), String> {
        for (post, has_work) in [(Post::Scheduler, has_jobs as fn() -> bool), (Post::Invalidator, has_watches)] {
            if !registry::is_wanted(post, self.dbid) && background::transaction(limit_ms, || Ok(has_work()))? {
                registry::wanted(post, self.dbid);
            }
        }
        Ok(())
    }

    /// One run. False when the extension is gone.
    fn collect(&mut self, limit_ms: i32) -> bool {
        background::report_activity(Some(c"perf_opt: writing history"));
        let started_at = background::now();
        let outcome = self.collect_inner(limit_ms, started_at);
        background::report_activity(None);
        let interrupted = background::must_end() || registry::is_held(self.dbid);
        match outcome {
            Ok(None) => return false,
            Ok(Some((slow_lost, history_bytes))) => {
                self.failures = 0;
                self.last_message.clear();
                let elapsed_ms = u32::try_from((background::now() - started_at) / 1_000).unwrap_or(u32::MAX);
                registry::note_run(self.dbid, &RunReport { elapsed_ms, error: None, slow_lost, history_bytes });
            }
            // Asked to end in the middle: what was not written is written by the last run, or by the next worker.
            Err(_) if interrupted => self.memo.forget(),
            Err(message) => self.failed(&message),
        }
        true
    }

    fn collect_inner(&mut self, limit_ms: i32, now: i64) -> Result<Option<(u64, Option<i64>)>, String> {
        let memo = &self.memo;
        let present = background::transaction(limit_ms, || {
            let present = background::extension_installed();
            if present {
                history::ensure_partitions(memo, now)?;
            }
            Ok(present)
        })?;
        if !present {
            return Ok(None);
        }
        let dbid = self.dbid;
        let next = background::transaction(limit_ms, || history::write(memo, background::now()))?;
        let slow_lost = self.memo.take_over(next);
        // None of what follows keeps the rest from being done; the first that fails is what is said.
        let sampled = background::transaction(limit_ms, || {
            let Ok(at) = pgrx::datum::TimestampWithTimeZone::try_from(now) else { return Ok(()) };
            sampler::sample(at, Some(applications::statements_of(dbid))).map(|_| ())
        });
        self.check_goes_on(&sampled, limit_ms)?;
        let rotated = self.rotate(limit_ms, now);
        self.check_goes_on(&rotated, limit_ms)?;
        let watched = match WATCHER.get() {
            Some(watcher) => background::transaction(limit_ms, watcher.write),
            None => Ok(()),
        };
        self.check_goes_on(&watched, limit_ms)?;
        let stepped = self.step(limit_ms);
        sampled?;
        let history_bytes = rotated?;
        watched?;
        stepped?;
        Ok(Some((slow_lost, history_bytes)))
    }

    /// Passes on what failed because the worker is to leave.
    fn check_goes_on<T>(&self, outcome: &Result<T, String>, limit_ms: i32) -> Result<(), String> {
        let leaves = limit_ms != RUN_LIMIT_MS || background::must_end() || registry::is_held(self.dbid);
        match outcome {
            Err(message) if leaves => Err(message.clone()),
            _ => Ok(()),
        }
    }

    /// The steps after a run. None keeps the next from being done; the first that fails is what is said.
    fn step(&mut self, limit_ms: i32) -> Result<(), String> {
        let mut first = Ok(());
        for n in 0..STEPS {
            let done = self.one_step(limit_ms, n);
            first = first.and(done);
        }
        let told = self.notify(limit_ms);
        first.and(told)
    }

    fn one_step(&mut self, limit_ms: i32, n: usize) -> Result<(), String> {
        let began_at = background::now();
        let (ended_at, took) = self.last_steps[n];
        // A clock set back takes effect at once.
        let is_due = limit_ms == RUN_LIMIT_MS && (began_at - ended_at).abs() >= took.saturating_mul(STEP_PAUSE);
        if let Some(step) = AFTER_RUN.get()[n].filter(|_| is_due) {
            let outcome = background::transaction(limit_ms, || step(began_at));
            let now = background::now();
            self.last_steps[n] = (now, (now - began_at).max(0));
            let news = outcome?;
            // Only what is stored is told, so nothing is told again because storing it failed.
            news.lines.iter().for_each(|line| pgrx::log!("{line}"));
            self.notices.extend(news.notices);
            let beyond = self.notices.len().saturating_sub(NOTICES_MAX);
            self.notices.drain(..beyond);
        }
        Ok(())
    }

    /// Sends what is left to be told to listeners. Where that fails, for the queue is full or a commit elsewhere holds it, it is
    /// tried again with the next run.
    fn notify(&mut self, limit_ms: i32) -> Result<(), String> {
        if self.notices.is_empty() {
            return Ok(());
        }
        let notices = &self.notices;
        background::transaction(limit_ms, || {
            for (channel, payload) in notices {
                run_with(c"SELECT pg_catalog.pg_notify($1, $2)", &[text(channel), text(payload)], |_| ());
            }
            Ok(())
        })?;
        self.notices.clear();
        Ok(())
    }

    fn rotate(&mut self, limit_ms: i32, now: i64) -> Result<Option<i64>, String> {
        let interval = i64::from(crate::guc::collect_interval_s()) * SECOND_US;
        if now < self.next_rotation_at {
            return Ok(None);
        }
        self.next_rotation_at = now + ROTATE_EVERY_US.min(interval);
        self.look_for_jobs(limit_ms)?;
        let memo = &self.memo;
        let bytes = background::transaction(limit_ms, || history::rotate(memo, now))?;
        background::transaction(limit_ms, || {
            let Ok(at) = pgrx::datum::TimestampWithTimeZone::try_from(now) else { return Ok(()) };
            sampler::rotate(at).map(|_| ())
        })?;
        if now >= self.next_texts_at {
            self.next_texts_at = now + TEXTS_EVERY_US;
            background::transaction(limit_ms, history::remove_unused_texts)?;
            self.memo.forget();
        }
        Ok(Some(bytes))
    }

    /// Says so in the log, once for a message and then ever more rarely, and waits for the next interval.
    fn failed(&mut self, message: &str) {
        self.memo.forget();
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() || self.last_message != message {
            pgrx::log!(
                "perf_opt collector could not write its history (failure {} in a row): {message}",
                self.failures
            );
        }
        self.last_message = message.to_owned();
        registry::note_run(
            self.dbid,
            &RunReport { elapsed_ms: 0, error: Some(message), slow_lost: 0, history_bytes: None },
        );
    }

    /// The run before the end, once clients that end at the same time have handed over what they counted.
    fn last_run(&mut self) {
        let deadline = background::now() + CLIENTS_LIMIT_US;
        while background::client_connections(self.dbid) > 0 && background::now() < deadline {
            background::wait(POLL_MS);
        }
        self.collect(LAST_RUN_LIMIT_MS);
    }
}
