//! The invalidator of one database: works off what has changed as soon as a writer has committed, so that caches hold nothing that
//! is not true any more. Started by the launcher where relations are watched; ends when there is nothing to watch.
//!
//! It sleeps until a writer's commit wakes it, or Redis' thread has an answer. Each batch is one transaction that takes changes
//! and marks what they make invalid; for Redis, the same transaction queues what is to be done there, and what was done
//! is removed in another. Whatever is done twice after a crash does no harm, so no commit waits for the disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use perf_core::backoff::Backoff;
use perf_core::cache::invalid::Invalid;
use pgrx::{pg_guard, pg_sys};

use super::batch::{self, Batch, Portion, Position, Source, Watches};
use super::redis::{Address, Redis};
use super::watch;
use crate::act::executor;
use crate::collect::registry::{self, Post, Words};
use crate::memory::changes::{self, Missing};
use crate::pg::background;
use crate::pg::query::{self, run_with, select_with};

mod queue;

const SECOND_US: i64 = 1_000_000;
const BATCH_LIMIT_MS: i32 = 30_000;
/// How long it sleeps when nothing wakes it: to look for partitions that have come, and for what a lost signal has left.
const REST_US: i64 = 60 * SECOND_US;
/// The same while prepared transactions may hold changes: whoever commits one wakes nobody.
const PREPARED_US: i64 = SECOND_US;
/// After a batch that failed.
const SOON_US: i64 = SECOND_US;
/// How long one without anything to do stays.
const LINGER_US: i64 = 30 * SECOND_US;
const COUNT_EVERY_US: i64 = 60 * SECOND_US;
/// Rows removed after which the outbox is vacuumed, and how long after the time before.
const VACUUM_ROWS: u64 = 5_000;
const VACUUM_EVERY_US: i64 = 30 * SECOND_US;
/// Time between two batches while changes keep coming: writers lose less to one that takes many of them at once, and a
/// change that comes alone is worked off at once.
const PACE: Duration = Duration::from_millis(20);
/// Keys, tags and beginnings of an event that listeners are still to be told; of more, all is invalid.
const UNTOLD_MAX: usize = 50_000;

/// Database whose post this process has.
static ATTACHED: AtomicU32 = AtomicU32::new(0);

/// Entry point of an invalidator process.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_invalidator_main(argument: pg_sys::Datum) {
    crate::collect::mark_worker();
    background::on_exit(on_exit);
    let (index, ticket) = registry::parse_argument(argument);
    let (pid, latch) = (background::my_pid(), background::my_latch());
    let attached = registry::attach_attendant(Post::Invalidator, index, ticket, pid, latch);
    let Some(dbid) = attached else { background::exit(0) };
    ATTACHED.store(dbid, Ordering::Relaxed);
    background::install_signal_handlers();
    background::connect_to_database(dbid);
    crate::collect::worker::settings();
    background::set_session(c"synchronous_commit", c"off");
    // The outbox has a few live rows among many dead ones, which statistics never know.
    background::set_session(c"enable_seqscan", c"off");
    query::keep_plans();
    let mut invalidator = Invalidator::new(dbid);
    let unneeded = invalidator.work();
    if !invalidator.untold.is_empty() {
        changes::make_unknown(dbid);
    }
    registry::detach_attendant(Post::Invalidator, dbid, pid, unneeded);
    // A writer whose commit woke this process since its last look counts on it; from now on they count on the next one.
    if unneeded.is_some() && (!changes::is_empty(dbid) || is_something_left()) {
        registry::wanted(Post::Invalidator, dbid);
    }
    background::exit(0);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    registry::detach_attendant(Post::Invalidator, ATTACHED.load(Ordering::Relaxed), background::my_pid(), None);
}

fn is_something_left() -> bool {
    let look = || {
        let found = background::extension_installed()
            .then(|| select_with(c"SELECT EXISTS (SELECT FROM perf.cache_outbox)", &[], |row| row.get::<bool>(1)));
        Ok(found.is_some_and(|rows| rows.contains(&true)))
    };
    background::transaction(BATCH_LIMIT_MS, look).unwrap_or(true)
}

/// What is under way in Redis.
struct Flight {
    /// The latest batch of the queue that is in it.
    until: i64,
    /// It asks only for counts.
    is_count: bool,
}

/// What is known of the table of changes.
#[derive(Default)]
struct Table {
    /// How many transactions had written to it when it was last looked at; `None`: somebody may have, or there is more.
    noted: Option<u64>,
    looked_at: i64,
    /// Prepared transactions may have.
    has_prepared: bool,
}

impl Table {
    /// Whether there may be something in it. `noted`: how many transactions have written to it now.
    fn is_due(&self, noted: Option<u64>, now: i64) -> bool {
        let rest = if self.has_prepared { PREPARED_US } else { REST_US };
        self.noted.is_none() || noted != self.noted || !(0..rest).contains(&(now - self.looked_at))
    }
}

struct Invalidator {
    dbid: u32,
    /// Everything was made invalid because changes may have been lost, and that could not be remembered.
    is_flushed: bool,
    position: Position,
    watches: Watches,
    generation: Option<u64>,
    table: Table,
    address: Address,
    redis: Option<Redis>,
    flight: Option<Flight>,
    /// When to try a Redis again that could not be reached; 0: it could.
    retry_at: i64,
    retry: Backoff,
    /// Batches up to this one are done in Redis.
    done_until: i64,
    /// Bytes of the queue, at most; `None`: to be counted.
    queued: Option<i64>,
    counted_at: i64,
    arranged_at: i64,
    removed: u64,
    vacuumed_at: i64,
    idle_since: i64,
    batch_ended_at: Option<Instant>,
    /// How much the next batch may take: less after one that failed.
    portion: Portion,
    failing_since: i64,
    /// The last batch failed: the next one marks what is invalid and tells nobody, in case the telling is what fails, as it
    /// does while the server's queue of notices is full.
    is_silent: bool,
    /// What listeners have still to be told.
    untold: BTreeMap<String, Invalid>,
    last_message: String,
}

/// What a round came to.
struct Round {
    batch: Batch,
    /// What is known of the table now, where it was looked at.
    table: Option<Table>,
    /// Nobody had known what has changed.
    was_unknown: bool,
    /// Bytes in the queue of Redis now, if something was put there.
    queued: Option<i64>,
    /// It was too long, and is one order now.
    is_flush: bool,
    /// What listeners are not told.
    untold: BTreeMap<String, Invalid>,
}

impl Invalidator {
    fn new(dbid: u32) -> Invalidator {
        Invalidator {
            dbid,
            is_flushed: false,
            position: Position::default(),
            watches: Watches::default(),
            generation: None,
            table: Table::default(),
            address: Address::default(),
            redis: None,
            flight: None,
            retry_at: 0,
            retry: Backoff::new(SECOND_US / 4, 30 * SECOND_US),
            done_until: 0,
            queued: None,
            counted_at: 0,
            arranged_at: 0,
            removed: 0,
            vacuumed_at: background::now(),
            idle_since: 0,
            batch_ended_at: None,
            portion: Portion::WHOLE,
            failing_since: 0,
            is_silent: false,
            untold: BTreeMap::new(),
            last_message: String::new(),
        }
    }

    /// Works until asked to leave, or until nothing is watched: gives the change up to which that is known.
    fn work(&mut self) -> Option<u64> {
        while !background::must_end() && !registry::is_held(self.dbid) {
            let changes = registry::changes_for(Post::Invalidator, self.dbid);
            self.follow_settings();
            self.pace();
            let now = background::now();
            match background::transaction(BATCH_LIMIT_MS, || self.round(now)) {
                Ok(None) => return Some(changes),
                Ok(Some(round)) => {
                    self.succeeded();
                    let is_full = round.batch.is_full;
                    self.take_over(round, now);
                    self.tell_untold();
                    self.arrange(now);
                    self.tend_redis(now);
                    self.vacuum(now);
                    if is_full {
                        continue;
                    }
                    let is_idle = self.watches.is_empty() && self.flight.is_none() && self.untold.is_empty();
                    self.idle_since = match (is_idle, self.idle_since) {
                        (false, _) => 0,
                        (true, 0) => now,
                        (true, since) => since,
                    };
                    if is_idle && now - self.idle_since > LINGER_US {
                        return Some(changes);
                    }
                    // What has woken this process may have been taken for something else that was waited for since.
                    if !changes::is_empty(self.dbid) || changes::tabled(self.dbid) != self.table.noted {
                        continue;
                    }
                    self.sleep(match self.untold.is_empty() {
                        false => SOON_US,
                        true if self.table.has_prepared => PREPARED_US,
                        true => REST_US,
                    });
                }
                Err(message) => {
                    if !background::must_end() {
                        self.failed(&message);
                        self.table.noted = None;
                        if self.is_silent {
                            self.portion = self.portion.smaller();
                        }
                        self.is_silent = true;
                        self.failing_since = if self.failing_since == 0 { now } else { self.failing_since };
                        let since = self.failing_since;
                        registry::note_invalidation(self.dbid, |note| {
                            (note.failing_since, note.failure) = (since, Words::of(&message));
                        });
                        self.sleep(SOON_US);
                    }
                }
            }
        }
        None
    }

    fn sleep(&self, at_most_us: i64) {
        let now = background::now();
        let linger = if self.idle_since > 0 { LINGER_US } else { at_most_us };
        let retry = if self.retry_at > now { self.retry_at - now } else { at_most_us };
        let count = if self.has_redis() { COUNT_EVERY_US } else { at_most_us };
        let limit = at_most_us.min(linger).min(retry).min(count).max(1_000);
        background::wait_with(self.redis.as_ref().map(Redis::descriptor), Some(limit / 1_000));
    }

    /// Waits a moment after a batch that has only just ended, whoever wakes us but Redis.
    fn pace(&mut self) {
        let Some(ended_at) = self.batch_ended_at else { return };
        while let Some(left) = PACE.checked_sub(ended_at.elapsed()).filter(|left| !left.is_zero()) {
            match self.redis.as_ref().filter(|_| self.flight.is_some()).map(Redis::descriptor) {
                None => std::thread::sleep(left),
                Some(descriptor) => {
                    background::wait_for_input(descriptor, (left.as_millis() as i64).max(1));
                    self.tend_redis(background::now());
                }
            }
        }
    }

    fn has_redis(&self) -> bool {
        !self.address.url.is_empty()
    }

    /// Takes up another Redis, or none.
    fn follow_settings(&mut self) {
        // One that always has something to do never waits.
        background::reload();
        let address = Address { url: crate::guc::redis_url(), ca_file: crate::guc::redis_ca_file() };
        if address != self.address {
            // What the former thread still does harms nobody; it ends when it finds nobody to answer.
            (self.redis, self.flight) = (None, None);
            self.retry_at = 0;
            self.retry.reset();
            self.address = address;
            let has_redis = self.has_redis();
            registry::note_invalidation(self.dbid, |note| {
                (note.has_redis, note.down_since) = (has_redis, 0);
                note.problem = Words::EMPTY;
            });
        }
    }

    /// One batch. `None` when the extension is gone.
    fn round(&self, now: i64) -> Result<Option<Round>, crate::error::Error> {
        let missing = if self.is_flushed { Missing::Nothing } else { changes::missing(self.dbid) };
        let was_unknown = missing != Missing::Nothing;
        // Before it is looked at: who writes to it later is noted later.
        let noted = changes::tabled(self.dbid);
        let looks = !was_unknown && self.table.is_due(noted, now);
        // Who drops the extension has us leave first; that is enough between two looks.
        if !super::marks::exist() || looks && !background::extension_installed() {
            return Ok(None);
        }
        // Before it is looked at, too: one that is committed meanwhile is found at the next look.
        let prepared = looks && has_prepared();
        let batch = if was_unknown {
            batch::take_all(missing)?
        } else {
            batch::take(&Source {
                dbid: self.dbid,
                table: looks.then_some(&self.position),
                portion: self.portion,
                watches: &self.watches,
                generation: self.generation,
            })?
        };
        let (mut queued, mut is_flush, mut untold) = (None, false, BTreeMap::new());
        if !batch.events.is_empty() {
            let is_down = self.retry_at != 0;
            if self.has_redis() {
                let (bytes, flush) = self.queue(
                    &batch.events,
                    is_down,
                    batch.watches.as_ref().map_or(&self.watches, |(watches, _)| watches),
                );
                (queued, is_flush) = (Some(bytes), flush);
            }
            if (!self.has_redis() || is_down) && self.is_silent {
                untold.clone_from(&batch.events);
            } else if !self.has_redis() || is_down {
                batch.events.iter().for_each(|(event, invalid)| batch::tell(event, invalid.clone(), is_down));
            }
        }
        let table =
            looks.then(|| Table { noted: noted.filter(|_| !batch.is_full), looked_at: now, has_prepared: prepared });
        Ok(Some(Round { batch, table, was_unknown, queued, is_flush, untold }))
    }

    /// What was committed counts.
    fn take_over(&mut self, round: Round, now: i64) {
        let (count, is_full) = (round.batch.changes as u64, round.batch.is_full);
        changes::let_go(self.dbid, round.batch.bytes);
        if let Some(table) = round.table {
            self.table = table;
        }
        if round.was_unknown {
            self.is_flushed = !changes::make_known(self.dbid);
            if count > 0 {
                pgrx::log!(
                    "perf_opt: changes of watched relations may have been lost when the server ended; everything that templates \
                     of watches can name is invalid"
                );
            }
        }
        if let Some((watches, generation)) = round.batch.watches {
            self.watches = watches;
            if self.generation.replace(generation) != Some(generation) {
                self.arranged_at = 0;
            }
        }
        self.queued = round.queued.or(self.queued);
        for (event, invalid) in round.untold {
            let untold = self.untold.entry(event).or_default();
            untold.merge(invalid);
            untold.reduce();
            if untold.count() > UNTOLD_MAX {
                *untold = Invalid::everything();
            }
        }
        if round.is_flush {
            pgrx::log!(
                "perf_opt: too much was waiting for Redis; once it can be reached, all keys and tags that templates can \
                 name are removed from it"
            );
            registry::note_invalidation(self.dbid, |note| note.flushes += 1);
        }
        self.removed += round.batch.rows as u64;
        if let Some(position) = round.batch.position {
            self.position = position;
        }
        if count > 0 {
            // A full one leaves others behind, which need not wait.
            self.batch_ended_at = (!is_full).then(Instant::now);
            registry::note_invalidation(self.dbid, |note| {
                note.last_run_at = now;
                note.rows += count;
            });
        }
    }

    /// Tells listeners what a batch that marked it could not tell.
    fn tell_untold(&mut self) {
        if !self.is_silent {
            return;
        }
        let (untold, is_down) = (&self.untold, self.retry_at != 0);
        let told = background::transaction(BATCH_LIMIT_MS, || {
            // A queue that was full stays so for the server, whatever listeners have read since, until somebody asks.
            run_with(c"SELECT pg_catalog.pg_notification_queue_usage()", &[], |_| ());
            untold.iter().for_each(|(event, invalid)| batch::tell(event, invalid.clone(), is_down));
            Ok(())
        });
        match told {
            Ok(()) => {
                self.untold.clear();
                self.is_silent = false;
                self.last_message.clear();
            }
            Err(message) if !background::must_end() => {
                self.failed(&format!("what is invalid is marked, and listeners will be told: {message}"));
            }
            Err(_) => {}
        }
    }

    /// Watches partitions that have come since, and forgets relations that are gone.
    fn arrange(&mut self, now: i64) {
        if (now - self.arranged_at).abs() < REST_US {
            return;
        }
        self.arranged_at = now;
        let missing = background::transaction(BATCH_LIMIT_MS, || {
            watch::follow_relations();
            Ok(watch::incomplete())
        });
        match missing {
            Ok(missing) => {
                for relation in missing {
                    if let Err(message) = background::transaction(BATCH_LIMIT_MS, || watch::arrange_triggers(relation))
                    {
                        self.failed(&message);
                        // Whoever holds the relation has made us wait once; changes wait for us meanwhile.
                        break;
                    }
                }
            }
            Err(message) => self.failed(&message),
        }
    }

    /// Gives the room of removed rows back to the writers.
    fn vacuum(&mut self, now: i64) {
        if self.removed < VACUUM_ROWS || (now - self.vacuumed_at).abs() < VACUUM_EVERY_US {
            return;
        }
        (self.removed, self.vacuumed_at) = (0, now);
        if let Err(failure) = executor::statement("VACUUM (TRUNCATE off) perf.cache_outbox, perf.cache_redis_queue") {
            if !background::must_end() {
                self.failed(&failure.message);
            }
        }
    }

    /// A batch is committed.
    fn succeeded(&mut self) {
        if !self.is_silent {
            self.last_message.clear();
        }
        self.portion = self.portion.larger();
        if self.failing_since != 0 {
            self.failing_since = 0;
            registry::note_invalidation(self.dbid, |note| (note.failing_since, note.failure) = (0, Words::EMPTY));
        }
    }

    fn failed(&mut self, message: &str) {
        if self.last_message != message {
            pgrx::log!("perf_opt invalidator: {message}");
            self.last_message = message.to_owned();
        }
    }
}

/// Whether there are prepared transactions in this database.
fn has_prepared() -> bool {
    let found = select_with(
        c"SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database())",
        &[],
        |row| row.get::<bool>(1),
    );
    found.first().copied().unwrap_or(false)
}
