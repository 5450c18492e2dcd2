//! Who collects where: a fixed table in shared memory with one slot for each database that has, or may soon have, a
//! collector. Owns the boot id, the key of entry ids, holds (statements that need a database without our worker in
//! it), and what `perf.health()` shows of each worker.
//!
//! Called by the launcher, the workers, the utility hook, and readers. One LWLock guards the table; nothing that can
//! raise and nothing slow happens while it is held. A worker clears its pid under the lock before it exits, so a pid
//! read under the lock belongs to a live worker.

mod attendant;
mod holds;

pub use attendant::{
    attach_attendant, changes_for, detach_attendant, is_wanted, jobs_changed, note_invalidation, reserve_attendant,
    run_ended, set_hungry, void_attendant_launch, wanted, Attendant, Invalidation, Post, Words,
};
pub use holds::{
    before_utility, changes_watches, note_invalidation_asked, note_jobs_change, note_outbox, note_shadow_change,
    note_watch_change, wake_invalidator,
};

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_sys, PGRXSharedMemory, PgAtomic, PgLwLock};

use crate::pg::background;

/// Databases that can have a collector at the same time.
pub const MAX_DATABASES: usize = 64;
const ERROR_BYTES: usize = 200;

/// Where the worker of a slot is in its life.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nobody has been asked to collect here.
    Idle,
    /// The postmaster has been asked for a worker.
    Launched,
    /// A worker is attached.
    Running,
    /// The database does not have the extension.
    NoExtension,
    /// It made way for a statement that wants the database alone.
    Left,
    /// It ended without being asked by a hold: killed, failed, or the server shuts down.
    Ended,
}

/// What is known of one database and its worker.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Database; 0 when the slot is free.
    pub dbid: u32,
    /// Number of the latest launch; a worker with another number must not start.
    pub ticket: u32,
    /// Worker, 0 when none is attached.
    pub pid: i32,
    latch: usize,
    /// Statements that want the database without a worker.
    pub holds: u32,
    /// See [`Phase`].
    pub phase: Phase,
    /// The extension was created or dropped here: look again.
    pub recheck: bool,
    /// When the worker attached.
    pub started_at: i64,
    /// When it last wrote history.
    pub last_run_at: i64,
    /// How long that took.
    pub last_run_ms: u32,
    /// Successful runs since the server started.
    pub runs: u64,
    /// Runs that failed in a row.
    pub failures: u32,
    /// When a run last failed.
    pub last_error_at: i64,
    error_length: u8,
    error: [u8; ERROR_BYTES],
    /// Slow statements that were overwritten before they could be written.
    pub slow_lost: u64,
    /// Bytes of history on disk at the last look.
    pub history_bytes: i64,
    /// The process that starts the jobs of this database.
    pub scheduler: Attendant,
    /// The process that works the outbox of the caches off.
    pub invalidator: Attendant,
    /// How that is going.
    pub invalidation: Invalidation,
}

impl Slot {
    const FREE: Slot = Slot {
        dbid: 0,
        ticket: 0,
        pid: 0,
        latch: 0,
        holds: 0,
        phase: Phase::Idle,
        recheck: false,
        started_at: 0,
        last_run_at: 0,
        last_run_ms: 0,
        runs: 0,
        failures: 0,
        last_error_at: 0,
        error_length: 0,
        error: [0; ERROR_BYTES],
        slow_lost: 0,
        history_bytes: 0,
        scheduler: Attendant::NONE,
        invalidator: Attendant::NONE,
        invalidation: Invalidation::NONE,
    };

    /// The slot without its database; launches that are under way are void.
    fn freed(&self) -> Slot {
        let (scheduler, invalidator) = (self.scheduler.freed(), self.invalidator.freed());
        Slot { ticket: self.ticket.wrapping_add(1), scheduler, invalidator, ..Slot::FREE }
    }

    /// Message of the latest failed run.
    pub fn last_error(&self) -> String {
        String::from_utf8_lossy(&self.error[..usize::from(self.error_length)]).into_owned()
    }
}

/// The table and what belongs to the launcher.
pub struct Registry {
    boot_id: i64,
    secret: u64,
    launcher_pid: i32,
    launcher_latch: usize,
    /// Bumped when the set of databases may have changed.
    changes: u64,
    /// Bumped by `perf.reset()`.
    resets: u64,
    /// Since when no worker could be started for want of max_worker_processes; 0 when all is well.
    starved_since: i64,
    /// Databases without a slot because the table is full.
    unserved: u32,
    slots: [Slot; MAX_DATABASES],
}

impl Registry {
    fn at_startup() -> Registry {
        Registry {
            boot_id: background::now(),
            secret: background::random_u64(),
            launcher_pid: 0,
            launcher_latch: 0,
            changes: 0,
            resets: 0,
            starved_since: 0,
            unserved: 0,
            slots: [Slot::FREE; MAX_DATABASES],
        }
    }

    fn find(&mut self, dbid: u32) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.dbid == dbid && dbid != 0)
    }

    fn find_or_add(&mut self, dbid: u32) -> Option<&mut Slot> {
        if dbid == 0 {
            return None;
        }
        let index = self
            .slots
            .iter()
            .position(|slot| slot.dbid == dbid)
            .or_else(|| self.slots.iter().position(|slot| slot.dbid == 0))?;
        let slot = &mut self.slots[index];
        if slot.dbid == 0 {
            // Tickets go on, so that a process launched for the slot's former database cannot take it.
            *slot = Slot { dbid, ..slot.freed() };
        }
        Some(slot)
    }
}

// SAFETY: plain data without pointers into any process's own memory; a latch address is used as a number.
unsafe impl PGRXSharedMemory for Registry {}

// SAFETY: the name is used by nothing else.
static WATCH_GENERATION: PgAtomic<AtomicU64> = unsafe { PgAtomic::new(c"perf_opt_watch_generation") };

// SAFETY: the name is used by nothing else.
static REGISTRY: PgLwLock<Registry> = unsafe { PgLwLock::new(c"perf_opt_registry") };

/// Asks for the shared memory. Called from the library's shmem_request_hook.
pub fn request() {
    // SAFETY: only called from that hook.
    unsafe {
        REGISTRY.on_shmem_request();
        WATCH_GENERATION.on_shmem_request();
    }
}

/// Sets the shared memory up, or attaches to it. Called from the library's shmem_startup_hook.
pub fn startup() {
    // SAFETY: only called from that hook.
    unsafe {
        REGISTRY.on_shmem_startup(Registry::at_startup());
        WATCH_GENERATION.on_shmem_startup(AtomicU64::new(1));
    }
}

fn ready() -> bool {
    crate::memory::is_ready()
}

/// Changes with every commit that has changed watches of caches, or the policies that they follow, in any database; 0 without
/// shared memory. A plain read: each statement on a watched relation asks.
pub fn watch_generation() -> u64 {
    if ready() {
        WATCH_GENERATION.get().load(Ordering::Acquire)
    } else {
        0
    }
}

/// Identifies this life of shared memory: counters start from zero with each.
pub fn boot_id() -> i64 {
    if ready() {
        REGISTRY.share().boot_id
    } else {
        0
    }
}

/// Key for entry ids, unknown outside of shared memory.
pub fn secret() -> u64 {
    if ready() {
        REGISTRY.share().secret
    } else {
        0
    }
}

/// How often `perf.reset()` ran since shared memory was set up.
pub fn resets() -> u64 {
    if ready() {
        REGISTRY.share().resets
    } else {
        0
    }
}

/// To be called by `perf.reset()` after it removed entries: what is missing then was not evicted.
pub fn note_reset() {
    if ready() {
        REGISTRY.exclusive().resets += 1;
    }
}

/// A copy of the slots in use.
pub fn slots() -> Vec<Slot> {
    if !ready() {
        return Vec::new();
    }
    REGISTRY.share().slots.iter().filter(|slot| slot.dbid != 0).copied().collect()
}

/// Launcher's pid (0: not running), since when no worker slot was free (0: never mind), databases beyond the table.
pub fn launcher_state() -> (i32, i64, u32) {
    if !ready() {
        return (0, 0, 0);
    }
    let registry = REGISTRY.share();
    (registry.launcher_pid, registry.starved_since, registry.unserved)
}

// ---- the launcher's side ----

/// The launcher is up.
pub fn launcher_started(pid: i32, latch: usize) {
    let mut registry = REGISTRY.exclusive();
    registry.launcher_pid = pid;
    registry.launcher_latch = latch;
}

/// The launcher ends.
pub fn launcher_ended() {
    let mut registry = REGISTRY.exclusive();
    registry.launcher_pid = 0;
    registry.launcher_latch = 0;
}

/// Makes the launcher look around.
pub fn wake_launcher() {
    let latch = REGISTRY.share().launcher_latch;
    background::wake(latch);
}

/// Changes with every event after which databases must be looked at again.
pub fn changes() -> u64 {
    REGISTRY.share().changes
}

/// Remembers whether worker slots are lacking, and how many databases go without a slot here.
pub fn set_shortage(starved_since: i64, unserved: u32) {
    let mut registry = REGISTRY.exclusive();
    registry.starved_since = starved_since;
    registry.unserved = unserved;
}

/// The state of one database.
pub fn slot(dbid: u32) -> Option<Slot> {
    REGISTRY.exclusive().find(dbid).map(|slot| *slot)
}

/// Reserves the right to launch a worker: slot index and ticket; `Err(true)` when the table is full, `Err(false)`
/// when somebody holds the database or a worker is there.
pub fn reserve(dbid: u32) -> Result<(usize, u32), bool> {
    let mut registry = REGISTRY.exclusive();
    let ticket = {
        let Some(slot) = registry.find_or_add(dbid) else { return Err(true) };
        if slot.holds > 0 || slot.pid != 0 {
            return Err(false);
        }
        slot.ticket = slot.ticket.wrapping_add(1);
        slot.phase = Phase::Launched;
        slot.recheck = false;
        slot.ticket
    };
    let index = registry.slots.iter().position(|slot| slot.dbid == dbid).unwrap_or_default();
    Ok((index, ticket))
}

/// The launch did not happen, or the worker never came: its ticket is void.
pub fn void_launch(dbid: u32) {
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        if slot.pid == 0 && slot.phase == Phase::Launched {
            slot.ticket = slot.ticket.wrapping_add(1);
            slot.phase = Phase::Ended;
        }
    }
}

/// Frees the slot of a database that has no extension, unless it is in use or to be looked at again.
pub fn release(dbid: u32) {
    free_slot(dbid, |slot| !slot.recheck);
}

/// Frees the slot of a database that is gone, unless it is in use. Should it come back, it is looked at as a new one.
pub fn release_gone(dbid: u32) {
    free_slot(dbid, |_| true);
}

fn free_slot(dbid: u32, may: impl FnOnce(&Slot) -> bool) {
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        if slot.pid == 0 && slot.scheduler.pid == 0 && slot.invalidator.pid == 0 && slot.holds == 0 && may(slot) {
            *slot = slot.freed();
        }
    }
}

// ---- the worker's side ----

/// Takes the slot. `None` when the launch is void or the database is held: the worker must end at once.
pub fn attach(index: usize, ticket: u32, pid: i32, latch: usize) -> Option<u32> {
    let mut registry = REGISTRY.exclusive();
    let slot = registry.slots.get_mut(index)?;
    if slot.dbid == 0 || slot.ticket != ticket || slot.pid != 0 {
        return None;
    }
    if slot.holds > 0 {
        slot.phase = Phase::Left;
        return None;
    }
    slot.pid = pid;
    slot.latch = latch;
    slot.phase = Phase::Running;
    slot.started_at = background::now();
    Some(slot.dbid)
}

/// Gives the slot back, whatever the reason; `phase` says which. Wakes the launcher.
pub fn detach(dbid: u32, pid: i32, phase: Phase) {
    let mut registry = REGISTRY.exclusive();
    if let Some(slot) = registry.find(dbid) {
        if slot.pid == pid {
            slot.pid = 0;
            slot.latch = 0;
            slot.phase = if slot.holds > 0 { Phase::Left } else { phase };
        }
    }
    let latch = registry.launcher_latch;
    drop(registry);
    background::wake(latch);
}

/// Whether some statement wants this database without a worker.
pub fn is_held(dbid: u32) -> bool {
    REGISTRY.exclusive().find(dbid).is_some_and(|slot| slot.holds > 0)
}

/// What a run of the worker came to.
pub struct RunReport<'a> {
    /// Length of the run.
    pub elapsed_ms: u32,
    /// What went wrong, if something did.
    pub error: Option<&'a str>,
    /// Slow statements lost since the run before.
    pub slow_lost: u64,
    /// Bytes of history, when measured.
    pub history_bytes: Option<i64>,
}

/// Notes a finished run.
pub fn note_run(dbid: u32, report: &RunReport<'_>) {
    let now = background::now();
    let mut registry = REGISTRY.exclusive();
    let Some(slot) = registry.find(dbid) else { return };
    slot.slow_lost += report.slow_lost;
    if let Some(bytes) = report.history_bytes {
        slot.history_bytes = bytes;
    }
    match report.error {
        None => {
            slot.last_run_at = now;
            slot.last_run_ms = report.elapsed_ms;
            slot.runs += 1;
            slot.failures = 0;
        }
        Some(message) => {
            let mut length = message.len().min(ERROR_BYTES);
            while !message.is_char_boundary(length) {
                length -= 1;
            }
            slot.error[..length].copy_from_slice(&message.as_bytes()[..length]);
            slot.error_length = length as u8;
            slot.last_error_at = now;
            slot.failures = slot.failures.saturating_add(1);
        }
    }
}

/// What a worker is started with: its slot and its ticket in one number.
pub fn slot_argument(index: usize, ticket: u32) -> i64 {
    ((i64::from(ticket)) << 8) | index as i64
}

/// The reverse of [`slot_argument`].
pub fn parse_argument(argument: pg_sys::Datum) -> (usize, u32) {
    let value = argument.value() as u64;
    ((value & 0xFF) as usize, (value >> 8) as u32)
}
