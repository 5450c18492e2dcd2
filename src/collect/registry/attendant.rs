//! The part of the registry about processes that a database has only while there is something for them: the scheduler where
//! there are jobs, the invalidator where relations are watched. Called by the launcher, those processes, and whoever gives
//! them something to do. Locks the registry, as it says.

use super::{slot_argument, Slot, MAX_DATABASES, REGISTRY};
use crate::pg::background;

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Post {
    /// Starts the jobs.
    Scheduler,
    /// Works the outbox of the caches off.
    Invalidator,
}

impl Post {
    /// In the order in which the launcher looks at them.
    pub const ALL: [Post; 2] = [Post::Scheduler, Post::Invalidator];

    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Post::Scheduler => "scheduler",
            Post::Invalidator => "invalidator",
        }
    }

    /// The function that the process begins with.
    pub fn function(self) -> &'static str {
        match self {
            Post::Scheduler => "perf_opt_scheduler_main",
            Post::Invalidator => "perf_opt_invalidator_main",
        }
    }
}

/// What is known of such a process of a database.
#[derive(Clone, Copy)]
pub struct Attendant {
    /// Number of the latest change of what there is to do.
    pub(super) changes: u64,
    /// The change up to which the process has found nothing that it is needed for.
    pub(super) unneeded: u64,
    /// Number of the latest launch; a process with another number must not start.
    pub(super) ticket: u32,
    /// The process, 0 when none is attached.
    pub pid: i32,
    pub(super) latch: usize,
    /// When the postmaster was asked for it; 0 when it was not, or when it has come.
    pub launched_at: i64,
    /// When it attached.
    pub started_at: i64,
    /// Its runs wait for places that others have.
    pub(super) hungry: bool,
}

impl Attendant {
    pub(super) const NONE: Attendant = Attendant {
        changes: 0,
        unneeded: 0,
        ticket: 0,
        pid: 0,
        latch: 0,
        launched_at: 0,
        started_at: 0,
        hungry: false,
    };

    /// Whether there is, or may be, something to do.
    pub fn is_wanted(&self) -> bool {
        self.changes != self.unneeded
    }

    /// Without its database; launches that are under way are void.
    pub(super) fn freed(&self) -> Attendant {
        Attendant { ticket: self.ticket.wrapping_add(1), ..Attendant::NONE }
    }
}

impl Slot {
    /// Who has a post in this database.
    pub fn attendant(&self, post: Post) -> &Attendant {
        match post {
            Post::Scheduler => &self.scheduler,
            Post::Invalidator => &self.invalidator,
        }
    }

    pub(super) fn attendant_mut(&mut self, post: Post) -> &mut Attendant {
        match post {
            Post::Scheduler => &mut self.scheduler,
            Post::Invalidator => &mut self.invalidator,
        }
    }
}

/// There is something to do in a database, or that has changed: wakes who has the post, or whoever starts one.
pub fn wanted(post: Post, dbid: u32) {
    let mut registry = REGISTRY.exclusive();
    let launcher = registry.launcher_latch;
    let Some(slot) = registry.find_or_add(dbid) else { return };
    let attendant = slot.attendant_mut(post);
    attendant.changes += 1;
    let latch = if attendant.pid == 0 { launcher } else { attendant.latch };
    drop(registry);
    background::wake(latch);
}

/// The jobs of a database have changed, or it has been found to have some.
pub fn jobs_changed(dbid: u32) {
    wanted(Post::Scheduler, dbid);
}

/// Wakes who has the post, if it is there: for what happens so often that nobody should wait for anybody over it.
pub fn wake_attendant(post: Post, dbid: u32) -> bool {
    let registry = REGISTRY.share();
    let latch = registry.slots.iter().find(|slot| slot.dbid == dbid && dbid != 0).map_or(0, |slot| {
        let attendant = slot.attendant(post);
        if attendant.pid == 0 {
            0
        } else {
            attendant.latch
        }
    });
    drop(registry);
    background::wake(latch);
    latch != 0
}

/// Remembers whether runs of a database wait for places that others have.
pub fn set_hungry(dbid: u32, hungry: bool) {
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        slot.scheduler.hungry = hungry;
    }
}

/// A worker of a database ended: wakes its scheduler, and those that wait for the place.
pub fn run_ended(dbid: u32) {
    let mut latches = [0; MAX_DATABASES];
    let registry = REGISTRY.share();
    for (latch, slot) in latches.iter_mut().zip(&registry.slots) {
        if slot.dbid == dbid || slot.scheduler.hungry {
            *latch = slot.scheduler.latch;
        }
    }
    drop(registry);
    latches.into_iter().for_each(background::wake);
}

/// Whether a database has, or may have, something to do for a post.
pub fn is_wanted(post: Post, dbid: u32) -> bool {
    REGISTRY.exclusive().find(dbid).is_some_and(|slot| slot.attendant(post).is_wanted())
}

/// Reserves the right to launch a process: what it is to be started with.
pub fn reserve_attendant(post: Post, dbid: u32, now: i64) -> Option<i64> {
    let mut registry = REGISTRY.exclusive();
    let index = registry.slots.iter().position(|slot| slot.dbid == dbid && dbid != 0)?;
    let slot = &mut registry.slots[index];
    let is_held = slot.holds > 0;
    let attendant = slot.attendant_mut(post);
    if is_held || attendant.pid != 0 || !attendant.is_wanted() {
        return None;
    }
    attendant.ticket = attendant.ticket.wrapping_add(1);
    attendant.launched_at = now;
    Some(slot_argument(index, attendant.ticket))
}

/// The launch did not happen, or the process never came: its ticket is void.
pub fn void_attendant_launch(post: Post, dbid: u32) {
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        let attendant = slot.attendant_mut(post);
        attendant.ticket = attendant.ticket.wrapping_add(1);
        attendant.launched_at = 0;
    }
}

/// Takes a post. `None` when the launch is void or the database is held: end at once.
pub fn attach_attendant(post: Post, index: usize, ticket: u32, pid: i32, latch: usize) -> Option<u32> {
    let mut registry = REGISTRY.exclusive();
    let slot = registry.slots.get_mut(index)?;
    let (dbid, is_held) = (slot.dbid, slot.holds > 0);
    let attendant = slot.attendant_mut(post);
    if dbid == 0 || attendant.ticket != ticket || attendant.pid != 0 {
        return None;
    }
    attendant.launched_at = 0;
    if is_held {
        return None;
    }
    attendant.pid = pid;
    attendant.latch = latch;
    attendant.started_at = background::now();
    Some(dbid)
}

/// The number to remember before looking for something to do, for [`detach_attendant`].
pub fn changes_for(post: Post, dbid: u32) -> u64 {
    REGISTRY.exclusive().find(dbid).map_or(0, |slot| slot.attendant(post).changes)
}

/// The process ends. `unneeded`: it found nothing to do after that change, so that none is started until the next one.
pub fn detach_attendant(post: Post, dbid: u32, pid: i32, unneeded: Option<u64>) {
    let mut registry = REGISTRY.exclusive();
    if let Some(slot) = registry.find(dbid) {
        let attendant = slot.attendant_mut(post);
        if attendant.pid == pid {
            attendant.pid = 0;
            attendant.latch = 0;
            if let Some(changes) = unneeded {
                attendant.unneeded = changes;
            }
        }
    }
    let latch = registry.launcher_latch;
    drop(registry);
    background::wake(latch);
}

const PROBLEM_BYTES: usize = 200;

/// How the invalidation of caches is going in a database, for perf.health() and the metrics.
#[derive(Clone, Copy)]
pub struct Invalidation {
    /// When a batch was last worked off.
    pub last_run_at: i64,
    /// Rows of the outbox worked off since the server started.
    pub rows: u64,
    /// A Redis is set.
    pub has_redis: bool,
    /// Since when it cannot be reached; 0: it can.
    pub down_since: i64,
    /// How often the queue for it became too long and was replaced.
    pub flushes: u64,
    /// Hits and misses of Redis, at the last look and at the one before, and when that was.
    pub counts: [(u64, u64); 2],
    /// When Redis was last asked for them.
    pub counted_at: i64,
    /// What is wrong with Redis.
    pub problem: Words,
    /// How many keys and tags it has refused to remove since the server started, and why it refused the latest.
    pub refused: u64,
    pub refusal: Words,
    /// Since when batches of the outbox fail; 0: the latest did not.
    pub failing_since: i64,
    /// Why they do.
    pub failure: Words,
}

/// A short text in shared memory.
#[derive(Clone, Copy)]
pub struct Words {
    length: u8,
    bytes: [u8; PROBLEM_BYTES],
}

impl Words {
    /// None.
    pub const EMPTY: Words = Words { length: 0, bytes: [0; PROBLEM_BYTES] };

    /// A text, as far as there is room.
    pub fn of(text: &str) -> Words {
        let mut length = text.len().min(PROBLEM_BYTES);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let mut words = Words { length: length as u8, ..Words::EMPTY };
        words.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        words
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes[..usize::from(self.length)]))
    }
}

impl Invalidation {
    pub(super) const NONE: Invalidation = Invalidation {
        last_run_at: 0,
        rows: 0,
        has_redis: false,
        down_since: 0,
        flushes: 0,
        counts: [(0, 0); 2],
        counted_at: 0,
        problem: Words::EMPTY,
        refused: 0,
        refusal: Words::EMPTY,
        failing_since: 0,
        failure: Words::EMPTY,
    };
}

/// Notes how the invalidation of caches is going.
pub fn note_invalidation(dbid: u32, note: impl FnOnce(&mut Invalidation)) {
    // Outside of the lock: it may be anything.
    let Some(mut invalidation) = super::slot(dbid).map(|slot| slot.invalidation) else { return };
    note(&mut invalidation);
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        slot.invalidation = invalidation;
    }
}
