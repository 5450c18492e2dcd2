//! The launcher: one process, connected to the shared catalogs only, that finds the databases with the extension and keeps
//! one collector in each, a scheduler in each that has jobs, and an invalidator in each that has watched relations. It wakes when the registry changes, when a worker starts
//! or ends, and once a second to see which statements wait for locks, which needs no database. On a standby it waits for
//! promotion, of which a process tells it that the postmaster starts then.
//!
//! Called by the postmaster. Takes the registry's lock for moments; holds nothing while it starts workers.

use std::collections::HashMap;

use perf_core::backoff::Backoff;
use pgrx::{pg_guard, pg_sys};

use crate::collect::registry::{self, Phase, Post, Slot};
use crate::pg::{background, lock_waits};

const SECOND_US: i64 = 1_000_000;
/// How often the list of databases is read although nobody announced a change.
const RESCAN_US: i64 = 60 * SECOND_US;
/// A launched worker that has not attached by then is given up.
const LAUNCH_LIMIT_US: i64 = 15 * SECOND_US;
/// A worker that lived that long is not one that keeps dying.
const SETTLED_US: i64 = 60 * SECOND_US;
/// Probes of databases that may not have the extension, at the same time.
const PROBES_AT_ONCE: usize = 2;
const SCAN_LIMIT_MS: i32 = 10_000;
/// Statements whose waits are kept until they have an entry, and how long after the wait.
const LOCK_WAITS_MAX: usize = 1_000;
const UNPLACED_US: i64 = 300 * SECOND_US;

/// Registers the launcher. Called from `_PG_init` while libraries are preloaded.
pub fn register() {
    if !background::is_binary_upgrade() {
        background::register_static("perf_opt launcher", "perf_opt_launcher_main");
        background::register_at_promotion("perf_opt promotion", "perf_opt_promotion_main");
    }
}

/// What the launcher remembers of a database.
struct Database {
    name: String,
    /// Not to be started before this time.
    next_start_at: i64,
    backoff: Backoff,
    launched_at: i64,
    /// It was found to have no extension.
    absent: bool,
    /// A collector ran here, so this is no mere probe.
    known: bool,
    /// The same for scheduler and invalidator, which are launched once a collector has found the extension.
    posts: [Launches; Post::ALL.len()],
}

/// When a process may be started again.
#[derive(Default)]
struct Launches {
    next_start_at: i64,
    backoff: Backoff,
}

#[derive(Default)]
struct Launcher {
    databases: HashMap<u32, Database>,
    scanned_at: i64,
    seen_changes: u64,
    starved_since: i64,
    starved: Backoff,
    next_launch_at: i64,
    sampled_at: i64,
    /// Waits of statements that have no entry yet, since nobody has finished one: milliseconds, last seen.
    lock_waits: HashMap<lock_waits::LockWait, (u64, i64)>,
}

/// Entry point of the launcher process.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_launcher_main(_argument: pg_sys::Datum) {
    background::install_signal_handlers();
    background::connect_to_shared_catalogs();
    crate::collect::mark_worker();
    registry::launcher_started(background::my_pid(), background::my_latch());
    background::on_exit(on_exit);
    let mut launcher = Launcher::default();
    while !background::must_end() {
        let now = background::now();
        launcher.sample_lock_waits(now);
        if !background::in_recovery() {
            launcher.tend(now);
        }
        background::wait(launcher.sleep_ms(background::now()));
    }
    // Not 0: the postmaster takes that for "never again". Superfluous when the server shuts down.
    background::exit(1);
}

/// Entry point of a process that only tells the launcher that the server takes writes now, and ends.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_promotion_main(_argument: pg_sys::Datum) {
    registry::wake_launcher();
    background::exit(0);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    registry::launcher_ended();
}

impl Launcher {
    fn sleep_ms(&self, now: i64) -> i64 {
        let next_sample = self.sampled_at + SECOND_US;
        ((next_sample - now).clamp(10_000, SECOND_US)) / 1_000
    }

    /// Adds the time since the last look to the statements that wait for a lock now.
    fn sample_lock_waits(&mut self, now: i64) {
        let elapsed = now - self.sampled_at;
        if elapsed < SECOND_US {
            return;
        }
        // After a pause nobody knows how long the waits were: count one second, not the pause.
        let elapsed_ms = elapsed.min(2 * SECOND_US) / 1_000;
        self.sampled_at = now;
        for wait in lock_waits::lock_waits() {
            if self.lock_waits.len() < LOCK_WAITS_MAX {
                let seen = self.lock_waits.entry(wait).or_insert((0, now));
                *seen = (seen.0 + elapsed_ms as u64, now);
            }
        }
        self.lock_waits.retain(|wait, (ms, seen_at)| {
            let placed = crate::memory::statements::add_lock_wait(wait.queryid, wait.dbid, wait.userid, *ms);
            !placed && now - *seen_at < UNPLACED_US
        });
    }

    fn tend(&mut self, now: i64) {
        let changes = registry::changes();
        if changes != self.seen_changes || now - self.scanned_at >= RESCAN_US {
            self.rescan(now, changes);
        }
        self.start_workers(now);
        self.start_attendants(now);
    }

    /// Starts the scheduler and the invalidator of each database whose collector runs and that has something for them.
    fn start_attendants(&mut self, now: i64) {
        for slot in registry::slots() {
            for (at, post) in Post::ALL.into_iter().enumerate() {
                self.start_attendant(now, &slot, at, post);
            }
        }
    }

    fn start_attendant(&mut self, now: i64, slot: &Slot, at: usize, post: Post) {
        let Some(database) = self.databases.get_mut(&slot.dbid) else { return };
        let attendant = slot.attendant(post);
        let launches = &mut database.posts[at];
        if attendant.pid != 0 {
            if now - attendant.started_at > SETTLED_US {
                launches.backoff.reset();
            }
            // Should it end, it is started again at once, and then ever more slowly.
            launches.next_start_at = launches.next_start_at.min(now);
            return;
        }
        if !attendant.is_wanted() {
            // It left because there was nothing to do: no failure.
            launches.backoff.reset();
            launches.next_start_at = 0;
            return;
        }
        if attendant.launched_at != 0 {
            if now - attendant.launched_at > LAUNCH_LIMIT_US {
                registry::void_attendant_launch(post, slot.dbid);
            }
            return;
        }
        let due = slot.phase == Phase::Running && now >= launches.next_start_at;
        if !due || now < self.next_launch_at {
            return;
        }
        let Some(argument) = registry::reserve_attendant(post, slot.dbid, now) else { return };
        let kind = format!("perf_opt {}", post.name());
        if background::start_dynamic(&format!("{kind} {}", database.name), &kind, post.function(), argument) {
            launches.next_start_at = now + launches.backoff.next();
            self.starved_since = 0;
            self.starved.reset();
        } else {
            registry::void_attendant_launch(post, slot.dbid);
            self.note_starved(now, post.name(), slot.dbid);
        }
    }

    /// No worker slot was free: says so once, and waits before the next try.
    fn note_starved(&mut self, now: i64, what: &str, dbid: u32) {
        if self.starved_since == 0 {
            self.starved_since = now;
            pgrx::log!(
                "perf_opt could not start its {what} for database \"{}\": no free worker slot; \
                 raise max_worker_processes. It keeps trying.",
                self.databases.get(&dbid).map_or("", |database| &database.name)
            );
        }
        self.next_launch_at = now + self.starved.next();
    }

    /// Reads the list of databases. One that could not be read is tried again with the next change or minute.
    fn rescan(&mut self, now: i64, changes: u64) {
        self.scanned_at = now;
        let listed = background::transaction(SCAN_LIMIT_MS, || Ok(background::connectable_databases()));
        let listed: HashMap<u32, String> = match listed {
            Ok(listed) => listed.into_iter().collect(),
            Err(message) => {
                pgrx::log!("perf_opt launcher could not read pg_database: {message}");
                return;
            }
        };
        self.databases.retain(|dbid, _| {
            let exists = listed.contains_key(dbid);
            if !exists {
                registry::release_gone(*dbid);
            }
            exists
        });
        for slot in registry::slots() {
            if !listed.contains_key(&slot.dbid) {
                registry::release_gone(slot.dbid);
            }
        }
        for (dbid, name) in listed {
            let database = self.databases.entry(dbid).or_insert_with(|| Database {
                name: String::new(),
                next_start_at: 0,
                backoff: Backoff::new(SECOND_US, 60 * SECOND_US),
                launched_at: 0,
                absent: false,
                known: false,
                posts: Default::default(),
            });
            database.name = name;
        }
        self.seen_changes = changes;
    }

    fn start_workers(&mut self, now: i64) {
        let mut probing = 0;
        let mut unserved = 0;
        let mut wanted: Vec<u32> = Vec::new();
        for (&dbid, database) in &mut self.databases {
            let slot = registry::slot(dbid);
            let phase = slot.map_or(Phase::Idle, |slot| slot.phase);
            match phase {
                Phase::Running => {
                    if slot.is_some_and(|slot| slot.last_run_at > slot.started_at) {
                        database.known = true;
                    }
                    if slot.is_some_and(|slot| now - slot.started_at > SETTLED_US) {
                        database.backoff.reset();
                    }
                    if !database.known {
                        probing += 1;
                    }
                    database.launched_at = 0;
                }
                Phase::Launched if now - database.launched_at < LAUNCH_LIMIT_US => {
                    probing += usize::from(!database.known);
                }
                Phase::Launched => {
                    registry::void_launch(dbid);
                    database.launched_at = 0;
                    database.next_start_at = now + database.backoff.next();
                }
                Phase::NoExtension => {
                    database.absent = !slot.is_some_and(|slot| slot.recheck);
                    database.known = false;
                    database.launched_at = 0;
                    if database.absent {
                        registry::release(dbid);
                    } else {
                        wanted.push(dbid);
                    }
                }
                Phase::Left => {
                    if slot.is_some_and(|slot| slot.holds == 0) {
                        wanted.push(dbid);
                    }
                }
                Phase::Ended => {
                    if database.launched_at != 0 || database.next_start_at == 0 {
                        database.launched_at = 0;
                        database.next_start_at = now + database.backoff.next();
                    }
                    if now >= database.next_start_at {
                        wanted.push(dbid);
                    }
                }
                Phase::Idle => {
                    if slot.is_some_and(|slot| slot.recheck) {
                        database.absent = false;
                    }
                    if database.absent {
                        // A slot that only held the database for a statement has served its purpose.
                        registry::release(dbid);
                    } else if slot.is_none_or(|slot| slot.holds == 0) {
                        wanted.push(dbid);
                    }
                }
            }
        }
        if now < self.next_launch_at {
            return;
        }
        // Known collectors first: they must not wait for probes.
        wanted.sort_by_key(|dbid| self.databases.get(dbid).is_none_or(|database| !database.known));
        for dbid in wanted {
            let Some(database) = self.databases.get_mut(&dbid) else { continue };
            if !database.known && probing >= PROBES_AT_ONCE {
                continue;
            }
            let (index, ticket) = match registry::reserve(dbid) {
                Ok(reserved) => reserved,
                Err(full) => {
                    unserved += u32::from(full);
                    continue;
                }
            };
            let name = format!("perf_opt collector {}", database.name);
            let argument = registry::slot_argument(index, ticket);
            if background::start_dynamic(&name, "perf_opt collector", "perf_opt_collector_main", argument) {
                database.launched_at = now;
                database.next_start_at = 0;
                probing += usize::from(!database.known);
                self.starved_since = 0;
                self.starved.reset();
            } else {
                registry::void_launch(dbid);
                database.launched_at = 0;
                database.next_start_at = now;
                self.note_starved(now, "collector", dbid);
                break;
            }
        }
        registry::set_shortage(self.starved_since, unserved);
    }
}
