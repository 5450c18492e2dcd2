//! What to do when ticks were missed, when the clock was set back, and when a run has failed. Called by the scheduler
//! when it wakes; every answer takes a bounded number of steps, however long the server was down.

use super::{Instant, Kind, Schedule, Zone, DAY_US, HORIZON_US, MINUTE_US, SECOND_US};
use crate::backoff::Backoff;

/// What is done about ticks that passed while nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// One run, for the latest of them.
    RunOnce,
    /// No run, unless the latest is late by no more than [`SKIP_GRACE_US`].
    Skip,
    /// A run for each, but for the latest [`RUNS_LIMIT`] of them at most.
    All,
}

/// A tick this little late was not missed.
pub const SKIP_GRACE_US: i64 = 60 * SECOND_US;
/// How many missed ticks are run at most.
pub const RUNS_LIMIT: usize = 1000;

impl CatchUp {
    /// All of them, the default first.
    pub const ALL: [CatchUp; 3] = [CatchUp::RunOnce, CatchUp::Skip, CatchUp::All];

    /// The word shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            CatchUp::RunOnce => "run_once",
            CatchUp::Skip => "skip",
            CatchUp::All => "all",
        }
    }

    /// Reads the word.
    pub fn from_name(name: &str) -> Option<CatchUp> {
        CatchUp::ALL.into_iter().find(|catch_up| catch_up.name() == name)
    }
}

/// What becomes of the ticks up to now. Each is either run or skipped, and `next` is the first one that is neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The ticks to run, oldest first.
    pub runs: Vec<Instant>,
    /// The ticks not to run.
    pub skipped: Option<Skipped>,
    /// The next tick, after now.
    pub next: Option<Instant>,
}

/// Ticks in a row that are not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// How many they are.
    pub count: u64,
    /// There are more than `count`: counting was given up.
    pub at_least: bool,
    /// The first of them.
    pub first: Instant,
    /// The last of them.
    pub last: Instant,
}

/// How many ticks on the wall clock are counted one by one. Intervals of real time are reckoned.
pub(super) const COUNT_LIMIT: usize = 10_000;

/// A tick farther away than this beyond where it belongs was set by a clock that was wrong.
const WRONG_CLOCK_US: i64 = 7 * DAY_US;

impl Schedule {
    /// Divides the ticks that are due, from `next_run_at` up to and with `now`, into those to run and those to skip.
    /// `next_run_at` counts as a tick whether or not the schedule has one there.
    pub fn missed(
        &self,
        next_run_at: Instant,
        now: Instant,
        catch_up: CatchUp,
        zone: &dyn Zone,
        anchor: Instant,
    ) -> Plan {
        if next_run_at > now {
            return Plan { runs: Vec::new(), skipped: None, next: Some(next_run_at) };
        }
        let ticks = Ticks { schedule: self, zone, anchor };
        let keep = if catch_up == CatchUp::All { RUNS_LIMIT } else { 1 };
        let until = now.min(HORIZON_US);
        let (mut runs, mut skipped) = match &self.kind {
            Kind::Every(interval) => ticks.reckoned(*interval, next_run_at, until, keep),
            Kind::Days(_) | Kind::Cron(_) => ticks.walked(next_run_at, until, keep),
        };
        if catch_up == CatchUp::Skip {
            for tick in runs.extract_if(.., |tick| now.saturating_sub(*tick) > SKIP_GRACE_US) {
                let before = skipped.unwrap_or(Skipped { count: 0, at_least: false, first: tick, last: tick });
                skipped = Some(Skipped { count: before.count + 1, last: tick, ..before });
            }
        }
        Plan { runs, skipped, next: ticks.after(now) }
    }

    /// The tick to wait for instead of `next_run_at` after the clock was set back, if it must be another one.
    ///
    /// An interval of real time goes on from now: the caller takes the answer for its new anchor as well, so that no
    /// tick of the time that is now lived again comes a second time. What goes by the wall clock keeps its tick, and so
    /// runs no tick twice; only when that tick is more than a week beyond the next but one, as after a clock that was
    /// years ahead, is it replaced by the next one. A clock that was set forward has left missed ticks behind.
    pub fn after_clock_change(
        &self,
        next_run_at: Instant,
        now: Instant,
        zone: &dyn Zone,
        anchor: Instant,
    ) -> Option<Instant> {
        match &self.kind {
            Kind::Every(interval) => {
                let latest = now.saturating_add(*interval);
                (next_run_at > latest).then_some(latest)
            }
            Kind::Days(_) | Kind::Cron(_) => {
                let next = self.next_after(now, zone, anchor)?;
                let next_but_one = self.next_after(next, zone, anchor)?;
                (next_run_at > next_but_one.saturating_add(WRONG_CLOCK_US)).then_some(next)
            }
        }
    }
}

/// The ticks of one job.
struct Ticks<'a> {
    schedule: &'a Schedule,
    zone: &'a dyn Zone,
    anchor: Instant,
}

impl Ticks<'_> {
    fn after(&self, instant: Instant) -> Option<Instant> {
        self.schedule.next_after(instant, self.zone, self.anchor)
    }

    /// The latest `keep` ticks from `first` to `now`, and the ones before them, by arithmetic.
    fn reckoned(&self, interval: i64, first: Instant, now: Instant, keep: usize) -> (Vec<Instant>, Option<Skipped>) {
        let Some(second) = self.after(first).filter(|second| *second <= now) else {
            return (vec![first], None);
        };
        let tick = |number: i64| if number == 0 { first } else { second + (number - 1) * interval };
        let count = (now - second) / interval + 2;
        let skip = (count - keep as i64).max(0);
        let skipped = (skip > 0).then(|| Skipped { count: skip as u64, at_least: false, first, last: tick(skip - 1) });
        ((skip..count).map(tick).collect(), skipped)
    }

    /// The same by walking from tick to tick, and where there are too many, from the end.
    fn walked(&self, first: Instant, now: Instant, keep: usize) -> (Vec<Instant>, Option<Skipped>) {
        let (ticks, more) = self.collect(first, now, COUNT_LIMIT);
        let skip = |ticks: &[Instant], last: Instant, at_least: bool| {
            Some(Skipped { count: ticks.len() as u64, at_least, first, last })
        };
        let Some(more) = more else {
            let (older, runs) = ticks.split_at(ticks.len().saturating_sub(keep));
            return (runs.to_vec(), older.last().and_then(|last| skip(older, *last, false)));
        };
        let runs = self.latest(first, now, keep);
        let Some(&oldest) = runs.first() else {
            return (runs, skip(&ticks, now, true));
        };
        let older = &ticks[..ticks.partition_point(|tick| *tick < oldest)];
        let at_least = older.len() == ticks.len() && more != oldest;
        let last = self.latest(first, oldest - 1, 1).last().copied().unwrap_or(first);
        (runs, skip(older, last, at_least))
    }

    /// A tick, and those that follow it up to `now`; with the one after them if `limit` has left it out.
    fn collect(&self, first: Instant, now: Instant, limit: usize) -> (Vec<Instant>, Option<Instant>) {
        let mut ticks = vec![first];
        let mut last = first;
        while let Some(tick) = self.after(last).filter(|tick| *tick <= now) {
            if ticks.len() == limit {
                return (ticks, Some(tick));
            }
            ticks.push(tick);
            last = tick;
        }
        (ticks, None)
    }

    /// The latest `keep` ticks up to `now`, of more than that many after `first`.
    fn latest(&self, first: Instant, now: Instant, keep: usize) -> Vec<Instant> {
        // Looks back from the end, twice as far each time, until there are enough; then halves the last step until
        // there are not far too many.
        let (mut enough, mut too_few) = (first, now);
        let mut back = keep as i64 * MINUTE_US;
        let mut found = Vec::new();
        while too_few - enough > 1 {
            let halfway = enough + (too_few - enough) / 2;
            let from = halfway.max(now.saturating_sub(back));
            back = back.saturating_mul(2);
            let (ticks, more) = match self.after(from).filter(|tick| *tick <= now) {
                Some(tick) => self.collect(tick, now, 2 * keep),
                None => (Vec::new(), None),
            };
            if more.is_some() {
                enough = from;
            } else if ticks.len() < keep {
                too_few = from;
            } else {
                found = ticks;
                break;
            }
        }
        found.split_off(found.len().saturating_sub(keep))
    }
}

/// When a run that has failed for the `attempt`th time, counted from 1, is tried again: after 1 s, 2 s, 4 s and so on
/// up to 5 min, each cut by up to a half. The cut depends on `seed` and the attempt alone; jobs that failed together
/// come apart when each has its own.
pub fn retry_at(now: Instant, attempt: u32, seed: u64) -> Instant {
    let mut backoff = Backoff::new(SECOND_US, 5 * MINUTE_US);
    let mut wait = backoff.next();
    for _ in 1..attempt.min(RETRY_STEPS) {
        wait = backoff.next();
    }
    let half = wait / 2;
    now.saturating_add(wait - (mixed(seed, attempt) % (half as u64 + 1)) as i64)
}

/// By then the wait has reached its limit.
const RETRY_STEPS: u32 = 10;

/// Bits that look random: the finalizer of SplitMix64.
fn mixed(seed: u64, attempt: u32) -> u64 {
    let mut bits = seed.wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
