//! The schedulers' part of the registry: which databases have jobs, and the process that starts those of each. Called by the
//! launcher, the schedulers, the workers of runs and whoever changes jobs. Locks the registry, as it says.

use super::{slot_argument, MAX_DATABASES, REGISTRY};
use crate::pg::background;

/// What is known of the scheduler of a database. There is one only where there are jobs.
#[derive(Clone, Copy)]
pub struct Scheduler {
    /// Number of the latest change of the jobs here.
    pub(super) changes: u64,
    /// The change up to which a scheduler has found nothing that it is needed for.
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

impl Scheduler {
    pub(super) const NONE: Scheduler = Scheduler {
        changes: 0,
        unneeded: 0,
        ticket: 0,
        pid: 0,
        latch: 0,
        launched_at: 0,
        started_at: 0,
        hungry: false,
    };

    /// Whether the database has, or may have, jobs.
    pub fn is_wanted(&self) -> bool {
        self.changes != self.unneeded
    }
}

/// The jobs of a database have changed, or it has been found to have some: wakes its scheduler, or whoever starts one.
pub fn jobs_changed(dbid: u32) {
    let mut registry = REGISTRY.exclusive();
    let launcher = registry.launcher_latch;
    let Some(slot) = registry.find_or_add(dbid) else { return };
    slot.scheduler.changes += 1;
    let latch = if slot.scheduler.pid == 0 { launcher } else { slot.scheduler.latch };
    drop(registry);
    background::wake(latch);
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

/// Whether a database has, or may have, jobs.
pub fn is_scheduler_wanted(dbid: u32) -> bool {
    REGISTRY.exclusive().find(dbid).is_some_and(|slot| slot.scheduler.is_wanted())
}

/// Reserves the right to launch the scheduler of a database: what it is to be started with.
pub fn reserve_scheduler(dbid: u32, now: i64) -> Option<i64> {
    let mut registry = REGISTRY.exclusive();
    let index = registry.slots.iter().position(|slot| slot.dbid == dbid && dbid != 0)?;
    let slot = &mut registry.slots[index];
    if slot.holds > 0 || slot.scheduler.pid != 0 || !slot.scheduler.is_wanted() {
        return None;
    }
    slot.scheduler.ticket = slot.scheduler.ticket.wrapping_add(1);
    slot.scheduler.launched_at = now;
    Some(slot_argument(index, slot.scheduler.ticket))
}

/// The launch did not happen, or the scheduler never came: its ticket is void.
pub fn void_scheduler_launch(dbid: u32) {
    if let Some(slot) = REGISTRY.exclusive().find(dbid) {
        slot.scheduler.ticket = slot.scheduler.ticket.wrapping_add(1);
        slot.scheduler.launched_at = 0;
    }
}

/// Takes the scheduler's part of a slot. `None` when the launch is void or the database is held: end at once.
pub fn attach_scheduler(index: usize, ticket: u32, pid: i32, latch: usize) -> Option<u32> {
    let mut registry = REGISTRY.exclusive();
    let slot = registry.slots.get_mut(index)?;
    if slot.dbid == 0 || slot.scheduler.ticket != ticket || slot.scheduler.pid != 0 {
        return None;
    }
    slot.scheduler.launched_at = 0;
    if slot.holds > 0 {
        return None;
    }
    slot.scheduler.pid = pid;
    slot.scheduler.latch = latch;
    slot.scheduler.started_at = background::now();
    Some(slot.dbid)
}

/// The number to remember before the jobs are read, for [`detach_scheduler`].
pub fn job_changes(dbid: u32) -> u64 {
    REGISTRY.exclusive().find(dbid).map_or(0, |slot| slot.scheduler.changes)
}

/// The scheduler ends. `unneeded`: it found no jobs after that change, so that none is started until the next one.
pub fn detach_scheduler(dbid: u32, pid: i32, unneeded: Option<u64>) {
    let mut registry = REGISTRY.exclusive();
    if let Some(slot) = registry.find(dbid) {
        if slot.scheduler.pid == pid {
            slot.scheduler.pid = 0;
            slot.scheduler.latch = 0;
            if let Some(changes) = unneeded {
                slot.scheduler.unneeded = changes;
            }
        }
    }
    let latch = registry.launcher_latch;
    drop(registry);
    background::wake(latch);
}
