//! What this session was told to be missing, with the snapshot of that moment: a value put afterwards was computed since, so
//! it is no older. Owned by the process; locks nothing.
//!
//! The number of leases is bounded. A key whose lease was dropped is remembered for an hour: its next put is refused rather
//! than believed. A lease is void when it is an hour old, and when the session has since taken back changes that the value
//! may come from. Of two misses of one key, the older counts for the first put, and the second put is refused: clients of a
//! pooler share a session without knowing. A third miss in between is not told from the beginning of something new.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use perf_core::cache::snapshot::Snapshot;

use crate::pg::{snapshot, transaction_events};

const LEASES_MAX: usize = 64;
/// Keys whose leases were dropped; with more of them within an hour, no put without a lease is believed until it is over.
const DROPPED_MAX: usize = 10_000;
/// By a clock that nobody sets.
const LIFE: Duration = Duration::from_secs(3_600);

/// What is known of the beginning of a computation.
#[derive(Clone)]
pub struct Lease {
    /// What it may have seen.
    pub snapshot: Snapshot,
    /// The transaction that was running, if it had a number: what it had changed itself was seen too.
    xid: Option<u64>,
    /// What had been taken back by then.
    taken_back: u64,
    given_at: Instant,
}

impl Lease {
    fn now() -> Lease {
        Lease {
            snapshot: snapshot::active(),
            xid: snapshot::own(),
            taken_back: transaction_events::taken_back(),
            given_at: Instant::now(),
        }
    }

    /// Whether what was computed is as it will be: not from changes that were taken back.
    pub fn holds(&self) -> bool {
        self.taken_back == transaction_events::taken_back()
            && is_recent(self.given_at)
            && self.xid.is_none_or(|xid| snapshot::own() == Some(xid) || snapshot::was_committed(xid))
    }
}

fn is_recent(at: Instant) -> bool {
    at.elapsed() < LIFE
}

struct Given {
    entry: i64,
    lease: Lease,
    /// Who was told that it is missing and has not put it: clients that share the session may each have one to put.
    misses: u32,
}

/// An entry whose lease is not there any more.
struct Dropped {
    at: Instant,
    /// Puts that may still come.
    left: u32,
}

#[derive(Default)]
struct Leases {
    /// The oldest first.
    given: VecDeque<Given>,
    /// By the hash of the entry.
    dropped: HashMap<i64, Dropped>,
    /// When there were too many of them.
    overflowed_at: Option<Instant>,
}

impl Leases {
    fn note_dropped(&mut self, entry: i64, left: u32) {
        let at = Instant::now();
        if self.dropped.len() >= DROPPED_MAX {
            self.dropped.retain(|_, dropped| is_recent(dropped.at));
        }
        if self.dropped.len() < DROPPED_MAX {
            self.dropped.insert(entry, Dropped { at, left });
        } else {
            self.overflowed_at = Some(at);
        }
    }

    /// Whether nobody knows what a value was computed with.
    fn was_dropped(&mut self, entry: i64) -> bool {
        let Some(dropped) = self.dropped.get_mut(&entry) else { return self.overflowed_at.is_some_and(is_recent) };
        dropped.left = dropped.left.saturating_sub(1);
        let counts = is_recent(dropped.at);
        if dropped.left == 0 || !counts {
            self.dropped.remove(&entry);
        }
        counts
    }
}

thread_local! {
    static LEASES: RefCell<Leases> = RefCell::new(Leases::default());
}

/// An entry is missing. An older lease stays: a value that somebody else computes for this session may be as old as that.
pub fn give(entry: i64) {
    let lease = Lease::now();
    LEASES.with_borrow_mut(|leases| {
        leases.given.retain(|given| given.entry != entry || is_recent(given.lease.given_at));
        leases.dropped.remove(&entry);
        if let Some(given) = leases.given.iter_mut().find(|given| given.entry == entry) {
            given.misses = given.misses.saturating_add(1);
            return;
        }
        leases.given.push_back(Given { entry, lease, misses: 1 });
        if leases.given.len() > LEASES_MAX {
            if let Some(Given { entry, misses, .. }) = leases.given.pop_front() {
                leases.note_dropped(entry, misses);
            }
        }
    });
}

/// What a value of an entry that is put now was computed with; `None` where that is not known any more.
pub fn take(entry: i64) -> Option<Lease> {
    let found = LEASES.with_borrow_mut(|leases| {
        let at = leases.given.iter().position(|given| given.entry == entry);
        let Some(Given { lease, misses, .. }) = at.and_then(|at| leases.given.remove(at)) else {
            return leases.was_dropped(entry).then_some(None);
        };
        if misses > 1 {
            leases.note_dropped(entry, misses - 1);
        }
        Some(Some(lease))
    });
    found.unwrap_or_else(|| Some(Lease::now())).filter(Lease::holds)
}
