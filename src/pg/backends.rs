//! Counts client connections by state, role and what they wait for, from the server's arrays of backends: no catalog
//! access, no transaction needed, no lock held but what `pg_stat_activity` takes itself. Called about once a second by the
//! collector worker.

use std::collections::HashMap;

use crate::compat;
use pgrx::pg_sys;

/// Client connections at one instant.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct BackendCounts {
    /// All of them.
    pub total: u32,
    /// Running a statement.
    pub active: u32,
    /// In a transaction, waiting for the client; aborted transactions too.
    pub idle_in_transaction: u32,
}

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    IdleInTransaction,
    /// Outside of a transaction; or the session does not say (track_activities).
    Idle,
}

impl Activity {
    fn of(state: pg_sys::BackendState::Type) -> Activity {
        use pg_sys::BackendState::{
            STATE_FASTPATH, STATE_IDLEINTRANSACTION, STATE_IDLEINTRANSACTION_ABORTED, STATE_RUNNING,
        };
        match state {
            STATE_RUNNING | STATE_FASTPATH => Activity::Active,
            STATE_IDLEINTRANSACTION | STATE_IDLEINTRANSACTION_ABORTED => Activity::IdleInTransaction,
            _ => Activity::Idle,
        }
    }
}

impl BackendCounts {
    fn add(&mut self, activity: Activity) {
        self.total += 1;
        match activity {
            Activity::Active => self.active += 1,
            Activity::IdleInTransaction => self.idle_in_transaction += 1,
            Activity::Idle => {}
        }
    }

    /// Those that keep a connection of a pool to themselves.
    pub fn busy(&self) -> u32 {
        self.active + self.idle_in_transaction
    }
}

/// What an active backend waits for: names by the number of the class. The first is none: it computes.
pub const WAIT_CLASSES: [&str; 6] = ["CPU", "IO", "Lock", "LWLock", "Client", "other"];
/// Those in which another backend could use the core. Waiting for a lightweight lock is contention for what is in memory:
/// more backends make more of it.
const WAITS_ASIDE: [bool; 6] = [false, true, true, false, true, true];

/// The number of a wait event's class in [`WAIT_CLASSES`].
fn wait_class(wait_event_info: u32) -> usize {
    const LWLOCK: u32 = 0x01;
    const LOCK: u32 = 0x03;
    const BUFFER_PIN: u32 = 0x04;
    const CLIENT: u32 = 0x06;
    const IO: u32 = 0x0A;
    // The class is the highest byte, in every version.
    match wait_event_info >> 24 {
        0 => 0,
        IO => 1,
        LOCK | BUFFER_PIN => 2,
        LWLOCK => 3,
        CLIENT => 4,
        _ => 5,
    }
}

/// Connections of one role.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RoleCounts {
    /// By state.
    pub counts: BackendCounts,
    /// Busy ones that waited for something that is not a core.
    pub waiting: u32,
}

impl RoleCounts {
    fn add(&mut self, activity: Activity, class: usize) {
        self.counts.add(activity);
        let aside = match activity {
            Activity::Active => WAITS_ASIDE[class],
            Activity::IdleInTransaction => true,
            Activity::Idle => false,
        };
        self.waiting += u32::from(aside);
    }
}

impl std::ops::AddAssign for RoleCounts {
    fn add_assign(&mut self, other: Self) {
        self.counts.total += other.counts.total;
        self.counts.active += other.counts.active;
        self.counts.idle_in_transaction += other.counts.idle_in_transaction;
        self.waiting += other.waiting;
    }
}

/// What one look at all backends saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Look {
    /// The whole server.
    pub server: BackendCounts,
    /// This process' database.
    pub database: RoleCounts,
    /// Its roles.
    pub roles: HashMap<u32, RoleCounts>,
    /// Active backends of the whole server, by the number of the class they wait in.
    pub waits: [u32; WAIT_CLASSES.len()],
}

/// Looks at all client connections, now.
pub fn look() -> Look {
    let mut look = Look::default();
    let mut waits = None;
    each_client(|status| {
        let activity = Activity::of(status.st_state);
        look.server.add(activity);
        let mut class = 0;
        if activity == Activity::Active {
            class = waits.get_or_insert_with(wait_events).get(&status.st_procpid).map_or(0, |info| wait_class(*info));
            look.waits[class] += 1;
        }
        // SAFETY: a plain value set when the process attached to its database.
        if status.st_databaseid == unsafe { pg_sys::MyDatabaseId } {
            look.database.add(activity, class);
            look.roles.entry(status.st_userid.to_u32()).or_default().add(activity, class);
        }
    });
    look
}

/// Client connections of the whole server and of this process' database, now.
pub fn count() -> (BackendCounts, BackendCounts) {
    let look = look();
    (look.server, look.database.counts)
}

/// Calls `visit` with the status of each client connection.
fn each_client(mut visit: impl FnMut(&pg_sys::PgBackendStatus)) {
    // SAFETY: the snapshot is private to this process and is taken anew because it was cleared first; entries are read
    // between taking and clearing it.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for index in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = compat::local_backend_entry(index);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            if status.st_procpid > 0 && status.st_backendType == pg_sys::BackendType::B_BACKEND {
                visit(status);
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
}

/// What the processes of the server that wait wait for, by pid.
fn wait_events() -> HashMap<i32, u32> {
    let mut found = HashMap::new();
    // SAFETY: the array lies in shared memory for the life of the server, and its size never changes. Both fields are
    // written by their owner without a lock and read so by pg_stat_activity: a word of each is read once, and a process
    // that comes or goes meanwhile is counted as it was or not at all.
    unsafe {
        let all = pg_sys::ProcGlobal;
        if all.is_null() {
            return found;
        }
        for index in 0..(*all).allProcCount as usize {
            let process = (*all).allProcs.add(index);
            let info = (&raw const (*process).wait_event_info).read_volatile();
            let pid = (&raw const (*process).pid).read_volatile();
            if pid != 0 && info != 0 {
                found.insert(pid, info);
            }
        }
    }
    found
}
