//! The scheduler of one database: queues the ticks of its jobs, starts a worker for each run, and puts right what workers
//! left undone that were killed. Started by the launcher where there are jobs; ends when there are none.
//!
//! It sleeps until the next job is due, a job changes, or a worker ends: no polling. Each round is one transaction, and a
//! run is claimed in it before its worker is started, so that whatever dies leaves a row that says so. Locks rows of
//! perf.job for the length of a round.

use std::sync::atomic::{AtomicU32, Ordering};

use perf_core::backoff::Backoff;
use pgrx::{pg_guard, pg_sys};

use super::board;
use super::executor::Failure;
use super::jobs::{self, Look};
use super::requests;
use super::runs::{self, Ready};
use crate::collect::registry::{self, Post};
use crate::pg::alarm::Alarm;
use crate::pg::{background, privilege, query};

const SECOND_US: i64 = 1_000_000;
/// None: the server leaves the alarm of a limit armed that is no longer needed, and it would wake us for nothing. What a
/// round could wait for is a lock, and that has its own limit.
const ROUND_LIMIT_MS: i32 = 0;
/// How soon to look again after something that no event will announce: a locked row, a round that failed, want of worker
/// slots.
const SOON_US: i64 = SECOND_US;
/// The same for want of worker slots. Mostly they are only waiting for the postmaster to take leave of processes that have
/// ended, which takes milliseconds; when others have them, it takes longer each time.
const SLOT_US: i64 = 5_000;
const PRUNE_EVERY_US: i64 = 600 * SECOND_US;
const PRUNE_BATCH: i64 = 10_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// How long a scheduler without anything to do stays, for a job that is asked for next.
const LINGER_US: i64 = 30 * SECOND_US;
/// A clock that goes back by less is being adjusted, not set.
const SET_BACK_US: i64 = 2 * SECOND_US;
const NO_WORKER: &str = "waiting for a worker slot: raise max_worker_processes";

/// Database whose slot this process has.
static ATTACHED: AtomicU32 = AtomicU32::new(0);

/// Entry point of a scheduler process.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_scheduler_main(argument: pg_sys::Datum) {
    crate::collect::mark_worker();
    background::on_exit(on_exit);
    let (index, ticket) = registry::parse_argument(argument);
    let attached =
        registry::attach_attendant(Post::Scheduler, index, ticket, background::my_pid(), background::my_latch());
    let Some(dbid) = attached else { background::exit(0) };
    ATTACHED.store(dbid, Ordering::Relaxed);
    background::install_signal_handlers();
    background::connect_to_database(dbid);
    crate::collect::worker::settings();
    query::keep_plans();
    let mut scheduler = Scheduler::new(dbid);
    let unneeded = scheduler.work();
    registry::detach_attendant(Post::Scheduler, dbid, background::my_pid(), unneeded);
    background::exit(0);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    registry::detach_attendant(Post::Scheduler, ATTACHED.load(Ordering::Relaxed), background::my_pid(), None);
}

/// What a round came to.
struct Round {
    /// Runs that are claimed and need a worker.
    claimed: Vec<Ready>,
    /// When to look again unless something happens before; `None`: never.
    wake_at: Option<i64>,
    /// Runs wait for a place that somebody else has.
    hungry: bool,
    /// More might start if there were more places.
    short: bool,
    /// Requests for which runs were queued: which, and the run.
    answers: Vec<(u64, i64)>,
    /// No job will ever be due, and no run is to be started or has not ended.
    idle: bool,
}

struct Scheduler {
    dbid: u32,
    alarm: Alarm,
    /// Nothing has been looked at since this process began.
    is_first_round: bool,
    looked_at: i64,
    pruned_at: i64,
    /// No worker could be started; not to be tried before this time.
    starved_until: i64,
    starved: Backoff,
    /// Since when there is nothing to do; 0: there is.
    idle_since: i64,
    last_message: String,
}

impl Scheduler {
    fn new(dbid: u32) -> Scheduler {
        Scheduler {
            dbid,
            alarm: Alarm::new(),
            is_first_round: true,
            looked_at: background::now(),
            pruned_at: 0,
            starved_until: 0,
            starved: Backoff::new(SLOT_US, SOON_US),
            idle_since: 0,
            last_message: String::new(),
        }
    }

    /// Works until asked to leave, or until there is nothing to schedule: gives the change up to which that is known.
    fn work(&mut self) -> Option<u64> {
        while !background::must_end() && !registry::is_held(self.dbid) {
            let changes = registry::changes_for(Post::Scheduler, self.dbid);
            let now = background::now();
            match background::transaction(ROUND_LIMIT_MS, || Ok(self.round(now))) {
                Ok(None) => return Some(changes),
                Ok(Some(round)) => {
                    self.last_message.clear();
                    self.looked_at = now;
                    self.is_first_round = false;
                    round.answers.iter().for_each(|(ticket, run_id)| requests::answered(*ticket, *run_id));
                    registry::set_hungry(self.dbid, round.hungry);
                    let all_started = self.start(&round.claimed);
                    self.prune(now);
                    self.idle_since = match (round.idle, self.idle_since) {
                        (false, _) => 0,
                        (true, 0) => now,
                        (true, since) => since,
                    };
                    if round.idle && now >= self.idle_since + LINGER_US {
                        return Some(changes);
                    }
                    let wake_at = match (round.idle, all_started) {
                        (true, _) => Some(self.idle_since + LINGER_US),
                        (false, true) => round.wake_at,
                        (false, false) => Some(self.starved_until),
                    };
                    let limit = crate::guc::max_running_jobs();
                    if round.short && now >= self.starved_until && board::free_places(limit) > 0 {
                        // Given back before anybody knew that we wait for it, so that nobody wakes us.
                        continue;
                    }
                    if wake_at.is_none_or(|at| at > background::now()) {
                        self.alarm.wait(wake_at);
                    }
                }
                Err(message) => {
                    if !background::must_end() {
                        self.failed(&message);
                        self.alarm.wait(Some(background::now() + SOON_US));
                    }
                }
            }
        }
        None
    }

    /// One look at everything. `None` when the extension is gone.
    fn round(&mut self, now: i64) -> Option<Round> {
        if !background::extension_installed() {
            return None;
        }
        if self.is_first_round {
            runs::queue_interrupted();
        }
        if now + SET_BACK_US < self.looked_at {
            jobs::clock_set_back(now);
        }
        board::give_back_late(self.dbid, now);
        let all_settled = self.settle_lost();
        let requested = requests::pending(self.dbid);
        let answers = requested.iter().map(|one| (one.ticket, runs::queue_requested(one))).collect();
        let look = jobs::queue_due(now);
        let limit = crate::guc::max_running_jobs();
        // Should the clock have been set back, the wait is not as long as that.
        self.starved_until = self.starved_until.min(now + SOON_US);
        let places = if now < self.starved_until { 0 } else { board::free_places(limit) };
        // One place is left for others by everybody but superusers.
        let most = limit.saturating_sub(1).max(1);
        let may_start = |owner: u32, runs: usize| runs < most || privilege::is_superuser(pg_sys::Oid::from(owner));
        let mut owners = board::by_owner();
        let full: Vec<u32> =
            owners.iter().filter(|(owner, runs)| !may_start(**owner, **runs)).map(|(owner, _)| *owner).collect();
        let (ready, refused) = runs::ready(now, places.max(1), &full);
        for refused in &refused {
            runs::refuse(refused);
        }
        let mut claimed: Vec<Ready> = Vec::with_capacity(places);
        for run in &ready {
            let runs = owners.entry(run.owner).or_default();
            if claimed.len() < places && may_start(run.owner, *runs) {
                *runs += 1;
                claimed.push(*run);
            }
        }
        if !claimed.is_empty() {
            runs::claim(&claimed);
        }
        let short = claimed.len() == places && !ready.is_empty();
        let hungry = short || !full.is_empty();
        let soon = match look {
            Look::More => Some(now),
            Look::Locked => Some(now + SOON_US),
            Look::Done => None,
        };
        let starved = (now < self.starved_until && !ready.is_empty()).then_some(self.starved_until);
        let late = board::of_database(self.dbid)
            .iter()
            .filter(|place| place.pid == 0)
            .map(|place| place.reserved_at + board::LAUNCH_LIMIT_US)
            .min();
        // What was read and not taken leaves room for what was not read.
        let passed_over = !claimed.is_empty() && claimed.len() < places.min(ready.len());
        let again = (!refused.is_empty() || passed_over).then_some(now);
        let unsettled = (!all_settled).then_some(now + SOON_US);
        let times = [soon, unsettled, starved, late, again, jobs::next_due_at(now), runs::next_retry_at(now)];
        let wake_at = times.into_iter().flatten().min();
        let idle = wake_at.is_none() && claimed.is_empty() && ready.is_empty() && runs::claimed().is_empty();
        Some(Round { claimed, wake_at, hungry, short, answers, idle })
    }

    /// Claimed runs without a worker: it was killed, ended by an administrator, or could not connect.
    /// False when some are to be looked at again.
    fn settle_lost(&self) -> bool {
        // Rows first: one that ends in between is gone from the board only after its row has said so.
        let claimed = runs::claimed();
        if claimed.is_empty() {
            return true;
        }
        let mut all_settled = true;
        let places = board::of_database(self.dbid);
        for (run_id, attempt) in claimed {
            if places.iter().any(|place| place.run_id == run_id && place.attempt == attempt) {
                continue;
            }
            let (status, failure) = if board::was_refused(self.dbid, run_id, attempt) {
                let message = "the job's worker could not connect as the job's owner; the server log has the reason";
                ("failed", Failure::new("08006", message))
            } else {
                ("crashed", Failure::new("57P01", "the job's worker ended before its work was done"))
            };
            all_settled &= runs::lost(run_id, attempt, &failure, status, background::random_u64());
        }
        all_settled
    }

    /// Starts a worker for each claimed run. What could not be started goes back to the queue; false then.
    fn start(&mut self, claimed: &[Ready]) -> bool {
        let mut left: &[Ready] = claimed;
        while let [run, rest @ ..] = left {
            let limit = crate::guc::max_running_jobs();
            let reserved = board::reserve(self.dbid, run.run_id, run.attempt, run.owner, limit);
            let Some(argument) = reserved else { break };
            if !background::start_dynamic("perf_opt job", "perf_opt job", "perf_opt_job_main", argument) {
                board::give_back(self.dbid, run.run_id);
                break;
            }
            left = rest;
        }
        if left.is_empty() {
            if !claimed.is_empty() {
                self.starved.reset();
            }
            return true;
        }
        self.starved_until = background::now() + self.starved.next();
        let unclaimed = background::transaction(ROUND_LIMIT_MS, || {
            runs::unclaim(left, NO_WORKER);
            Ok(())
        });
        if let Err(message) = unclaimed {
            // They are found without a worker in the next round.
            self.failed(&message);
        }
        false
    }

    fn prune(&mut self, now: i64) {
        if now - self.pruned_at < PRUNE_EVERY_US {
            return;
        }
        let before = now - i64::from(crate::guc::job_history_days()) * DAY_US;
        let most = i64::from(crate::guc::job_history_max());
        match background::transaction(ROUND_LIMIT_MS, || Ok(runs::prune(before, most, PRUNE_BATCH))) {
            // More of them at the next wake-up.
            Ok(removed) if removed as i64 == PRUNE_BATCH => {}
            Ok(_) => self.pruned_at = now,
            Err(message) => {
                self.pruned_at = now;
                self.failed(&message);
            }
        }
    }

    fn failed(&mut self, message: &str) {
        if self.last_message != message {
            pgrx::log!("perf_opt scheduler: {message}");
            self.last_message = message.to_owned();
        }
    }
}
