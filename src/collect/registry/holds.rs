//! What a backend's transaction asks of our workers: to leave a database that a statement needs alone, and to look again at
//! what it has changed once it has ended. Called by the utility hook and the job functions. Locks the registry for moments,
//! and waits for workers to leave without it.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use super::attendant::wake_attendant;
use super::{jobs_changed, ready, wanted, Post, REGISTRY, WATCH_GENERATION};
use crate::error::Error;
use crate::memory::{changes, reads};
use crate::pg::transaction_events::{self, TransactionEvents};
use crate::pg::utility::{self, UtilityKind};
use crate::pg::{background, names};

/// How long a statement waits for the worker to leave.
const LEAVE_LIMIT_MS: i64 = 5_000;
const LEAVE_POLL_MS: i64 = 5;

thread_local! {
    /// What this backend's transaction holds, and whether it touches the extension.
    static PENDING: RefCell<Pending> = const { RefCell::new(Pending::NOTHING) };
}

struct Pending {
    held: Vec<u32>,
    databases: bool,
    extension: bool,
    jobs: bool,
    outbox: bool,
    watches: bool,
    asked: bool,
    shadows: bool,
}

impl Pending {
    const NOTHING: Pending = Pending {
        held: Vec::new(),
        databases: false,
        extension: false,
        jobs: false,
        outbox: false,
        watches: false,
        asked: false,
        shadows: false,
    };
}

/// Notes something of this transaction, for its end.
fn note(change: impl FnOnce(&mut Pending)) {
    static EVENTS: TransactionEvents = TransactionEvents {
        before_prepare: Some(refuse_prepare),
        ended: Some(|_| transaction_ended()),
        ..TransactionEvents::NONE
    };
    transaction_events::register(&EVENTS);
    PENDING.with_borrow_mut(change);
}

/// To be called by the utility hook before it runs a statement that [`utility::classify`] recognised. Makes our
/// worker leave the database concerned and waits for that (at most 5 s, interruptible). What is to happen
/// afterwards, at commit or abort, is arranged here.
pub fn before_utility(kind: &UtilityKind) {
    if !ready() || background::in_recovery() || crate::collect::is_worker() {
        return;
    }
    note(|pending| {
        pending.databases = true;
        pending.extension |= matches!(kind, UtilityKind::CreateExtension | UtilityKind::DropExtension);
    });
    let dbid = match kind {
        UtilityKind::CreateDatabase { template } => utility::database_for(template, true),
        UtilityKind::ExclusiveDatabase { name } => utility::database_for(name, false),
        UtilityKind::DropExtension => utility::may_drop_extension().then(names::current_database),
        UtilityKind::CreateExtension => None,
    };
    if let Some(dbid) = dbid {
        request_leave(dbid);
    }
}

/// To be called by whoever changes the jobs of the current database: their scheduler hears of it at the end.
pub fn note_jobs_change() {
    if ready() {
        note(|pending| pending.jobs = true);
    }
}

/// To be called by whoever writes to the outbox of the caches in the current database: its invalidator hears of it at the
/// end.
pub fn note_outbox() {
    if ready() {
        note(|pending| pending.outbox = true);
    }
}

/// To be called by whoever changes watches of caches, or the policies that they follow: everybody reads them anew at the end.
pub fn note_watch_change() {
    note_outbox();
    PENDING.with_borrow_mut(|pending| pending.watches = true);
}

/// To be called by whoever marks in the current transaction what is invalid. Marks are unlogged: a crash takes those of a
/// prepared transaction and leaves the transaction, so that its commit would invalidate nothing.
pub fn note_invalidation_asked() {
    note(|pending| pending.asked = true);
}

/// To be called by whoever changes what is shadowed in the current database: its collector hears of it at the end.
pub fn note_shadow_change() {
    note(|pending| pending.shadows = true);
}

/// To be called by a transaction that is committed and has left changes for the invalidator of the current database.
pub fn wake_invalidator() {
    if !wake_attendant(Post::Invalidator, names::current_database()) {
        wanted(Post::Invalidator, names::current_database());
    }
}

/// Whether the transaction of this backend has changed watches: what it remembers of them is neither right nor to be kept.
pub fn changes_watches() -> bool {
    PENDING.with_borrow(|pending| pending.watches)
}

/// What the scheduler is to hear of at commit cannot wait in a prepared transaction, which another session commits: refused,
/// as the server itself refuses NOTIFY there.
fn refuse_prepare() {
    let refused = PENDING.with_borrow(|pending| {
        [
            (pending.jobs, "changed or started jobs", "Commit it with COMMIT."),
            (
                pending.asked,
                "called perf.cache_invalidate()",
                "Watch the table with perf.cache_watch(), or call it once the transaction is committed.",
            ),
            (pending.watches, "changed watches or policies of caches", "Commit it with COMMIT."),
        ]
        .into_iter()
        .find(|(is_so, ..)| *is_so)
    });
    if let Some((_, what, hint)) = refused {
        Error::Unsupported { message: format!("cannot PREPARE a transaction that has {what}"), hint: hint.to_owned() }
            .raise();
    }
}

/// Makes our workers of a database leave and keeps it out until this transaction ends.
fn request_leave(dbid: u32) {
    let already = PENDING.with_borrow(|pending| pending.held.contains(&dbid));
    if !already {
        let held = match REGISTRY.exclusive().find_or_add(dbid) {
            Some(slot) => {
                slot.holds += 1;
                true
            }
            None => false,
        };
        if !held {
            return;
        }
        PENDING.with_borrow_mut(|pending| pending.held.push(dbid));
    }
    let deadline = background::now() + LEAVE_LIMIT_MS * 1_000;
    let mut asked: Vec<i32> = Vec::new();
    loop {
        let pids = {
            let mut registry = REGISTRY.exclusive();
            let pids = registry.find(dbid).map_or([0; 3], |slot| [slot.pid, slot.scheduler.pid, slot.invalidator.pid]);
            for pid in pids {
                if pid != 0 && !asked.contains(&pid) {
                    background::terminate(pid);
                    asked.push(pid);
                }
            }
            pids
        };
        let gone = pids == [0; 3] && !asked.iter().any(|&pid| background::is_attached(pid));
        if gone || background::now() > deadline {
            return;
        }
        background::pause(LEAVE_POLL_MS);
    }
}

/// Called at the end of each transaction of a backend that used `before_utility`: gives back what it held and tells
/// the launcher to look at the databases again.
fn transaction_ended() {
    let pending = PENDING.with_borrow_mut(|pending| std::mem::replace(pending, Pending::NOTHING));
    if !ready() {
        return;
    }
    if let Some(reads) = reads::get().filter(|_| pending.shadows) {
        reads.note_change();
    }
    // After a rollback too: what it had locked was passed over, and nothing else would have it looked at again.
    if pending.jobs {
        jobs_changed(names::current_database());
    }
    if pending.watches || pending.extension {
        WATCH_GENERATION.get().fetch_add(1, Ordering::AcqRel);
    }
    if pending.outbox {
        changes::note_tabled(names::current_database());
        wake_invalidator();
    }
    if !pending.databases {
        return;
    }
    let mut registry = REGISTRY.exclusive();
    for dbid in pending.held {
        if let Some(slot) = registry.find(dbid) {
            slot.holds = slot.holds.saturating_sub(1);
        }
    }
    if pending.extension {
        if let Some(slot) = registry.find_or_add(names::current_database()) {
            slot.recheck = true;
        }
    }
    registry.changes += 1;
    let latch = registry.launcher_latch;
    drop(registry);
    background::wake(latch);
}
