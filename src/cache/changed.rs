//! What this backend's transaction has changed on watched relations, from the statements to the commit. Called by the outbox;
//! owns what waits, and hands it to the invalidator through shared memory once it is committed. What has no room there, or is
//! prepared for two-phase commit, goes to the table instead. Takes the lock of the pipes for moments.

use std::cell::RefCell;
use std::collections::HashMap;

use perf_core::cache::change::Change;

use super::outbox;
use crate::collect::registry;
use crate::memory::changes;
use crate::pg::names;
use crate::pg::transaction_events::{self, TransactionEvents};

/// A transaction with more to say says the rest in the table.
const BYTES_MAX: usize = 16 * 1024;

/// What waits for the end of the transaction.
#[derive(Default)]
struct Waiting {
    /// Changes as bytes, each once, and the subtransaction that has made them.
    changes: HashMap<Vec<u8>, u32>,
    bytes: usize,
    /// Room that is held for them.
    claimed: usize,
    /// It is about to commit: what comes now comes too late for it.
    is_closed: bool,
}

thread_local! {
    static WAITING: RefCell<Waiting> = RefCell::default();
}

static EVENTS: TransactionEvents = TransactionEvents {
    before_commit: Some(before_commit),
    before_prepare: Some(write),
    ended: Some(ended),
    failed: Some(failed),
};

/// Notes what a statement has changed, for the end of the transaction. False: there is no room for it, or nobody to tell.
pub fn note(change: &Change) -> bool {
    if !changes::is_ready() {
        return false;
    }
    let mut bytes = Vec::with_capacity(128);
    change.encode(&mut bytes);
    WAITING.with_borrow_mut(|waiting| {
        if waiting.is_closed {
            return false;
        }
        if waiting.changes.contains_key(&bytes) {
            return true;
        }
        if waiting.bytes + bytes.len() > BYTES_MAX {
            return false;
        }
        transaction_events::register(&EVENTS);
        waiting.bytes += bytes.len();
        waiting.changes.insert(bytes, transaction_events::current_subtransaction());
        true
    })
}

/// Takes hold of room in shared memory, or writes to the table while that can be done.
fn before_commit() {
    let bytes = WAITING.with_borrow_mut(|waiting| {
        waiting.is_closed = true;
        waiting.bytes
    });
    if bytes == 0 {
        return;
    }
    if changes::claim(names::current_database(), bytes) {
        WAITING.with_borrow_mut(|waiting| waiting.claimed = bytes);
    } else {
        write();
    }
}

/// Writes what waits to the table.
fn write() {
    let waiting = WAITING.with_borrow_mut(|waiting| std::mem::take(&mut waiting.changes));
    for bytes in waiting.keys() {
        if let Some(change) = Change::decode(&mut bytes.as_slice()) {
            outbox::insert_change(&change);
        }
    }
}

fn ended(is_committed: bool) {
    let waiting = WAITING.take();
    if waiting.claimed == 0 {
        return;
    }
    let database = names::current_database();
    if is_committed {
        let changes: Vec<&[u8]> = waiting.changes.keys().map(Vec::as_slice).collect();
        changes::put(database, &changes.concat());
        registry::wake_invalidator();
    } else {
        changes::give_up(database, waiting.claimed);
    }
}

fn failed(subtransaction: u32) {
    WAITING.with_borrow_mut(|waiting| {
        waiting.changes.retain(|_, made_in| *made_in < subtransaction);
        waiting.bytes = waiting.changes.keys().map(Vec::len).sum();
    });
}
