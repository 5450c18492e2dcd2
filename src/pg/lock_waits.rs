//! What other processes wait for, read from the server's status arrays. Called by the launcher once a second.
//! Takes no lock of ours; the status array is read by its own change counters.

use crate::compat;
use pgrx::pg_sys;

/// Wait event class of heavyweight locks.
const WAIT_LOCK: u32 = 0x0300_0000;
const CLASS_MASK: u32 = 0xFF00_0000;

/// A backend that waits for a heavyweight lock while it runs a statement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LockWait {
    /// Its statement.
    pub queryid: u64,
    /// Its database.
    pub dbid: u32,
    /// Its role.
    pub userid: u32,
}

/// The backends that wait for a heavyweight lock now. Cheap when none does: one word of each process is read.
pub fn lock_waits() -> Vec<LockWait> {
    let mut waits = Vec::new();
    if !any_waits_for_lock() {
        return waits;
    }
    // SAFETY: the status snapshot is local memory that is discarded before and after; entries are read only until then.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for index in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = compat::local_backend_entry(index);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            let queryid = compat::query_id(status.st_query_id);
            if queryid == 0 || status.st_state != pg_sys::BackendState::STATE_RUNNING {
                continue;
            }
            let process = pg_sys::BackendPidGetProc(status.st_procpid);
            if process.is_null() {
                continue;
            }
            let event = (&raw const (*process).wait_event_info).read_volatile();
            if event & CLASS_MASK == WAIT_LOCK {
                waits.push(LockWait {
                    queryid,
                    dbid: status.st_databaseid.to_u32(),
                    userid: status.st_userid.to_u32(),
                });
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
    waits
}

fn any_waits_for_lock() -> bool {
    // SAFETY: allProcs is a fixed array of allProcCount entries for as long as the server lives; a torn or outdated
    // word only makes the closer look happen for nothing, or a second later.
    unsafe {
        let global = pg_sys::ProcGlobal;
        if global.is_null() {
            return false;
        }
        (0..(*global).allProcCount as usize).any(|index| {
            let process = (*global).allProcs.add(index);
            (&raw const (*process).wait_event_info).read_volatile() & CLASS_MASK == WAIT_LOCK
        })
    }
}
