//! What this session was told to be missing, with the snapshot of that moment: a value put afterwards was computed since, so
//! it is no older. Owned by the process; locks nothing.
//!
//! The number of leases is bounded. Who is missing more keys than that without putting them gets, for a key whose lease was
//! dropped, the oldest of those snapshots: a put is refused rather than believed.

use std::cell::RefCell;
use std::collections::VecDeque;

use perf_core::cache::snapshot::Snapshot;

use crate::pg::snapshot;

const LEASES_MAX: usize = 64;

/// What is known of the beginning of a computation.
#[derive(Clone)]
pub struct Lease {
    /// What it may have seen.
    pub snapshot: Snapshot,
    /// The transaction that was running, if it had a number: what it had changed itself was seen too.
    pub xid: Option<u64>,
}

impl Lease {
    fn now() -> Lease {
        Lease { snapshot: snapshot::active(), xid: snapshot::own() }
    }

    /// Whether what was computed is as it will be: not from changes that were taken back.
    pub fn holds(&self) -> bool {
        self.xid.is_none_or(|xid| snapshot::own() == Some(xid) || snapshot::was_committed(xid))
    }
}

#[derive(Default)]
struct Leases {
    /// By the hash of the entry, the oldest first.
    given: VecDeque<(i64, Lease)>,
    oldest_dropped: Option<Lease>,
}

thread_local! {
    static LEASES: RefCell<Leases> = RefCell::new(Leases::default());
}

/// An entry is missing.
pub fn give(entry: i64) {
    let lease = Lease::now();
    LEASES.with_borrow_mut(|leases| {
        leases.given.retain(|(known, _)| *known != entry);
        leases.given.push_back((entry, lease));
        if leases.given.len() > LEASES_MAX {
            let dropped = leases.given.pop_front().map(|(_, lease)| lease);
            leases.oldest_dropped = leases.oldest_dropped.take().or(dropped);
        }
    });
}

/// What a value of an entry that is put now was computed with.
pub fn take(entry: i64) -> Lease {
    let found = LEASES.with_borrow_mut(|leases| {
        let at = leases.given.iter().position(|(known, _)| *known == entry);
        match at {
            Some(at) => leases.given.remove(at).map(|(_, lease)| lease),
            None => leases.oldest_dropped.clone(),
        }
    });
    found.unwrap_or_else(Lease::now)
}
