//! Counts client connections by state from the server's backend status array: no catalog access, no transaction needed, no
//! lock held but what `pg_stat_activity` takes itself. Called about once a second by the collector worker.

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

impl BackendCounts {
    fn add(&mut self, state: pg_sys::BackendState::Type) {
        use pg_sys::BackendState::{
            STATE_FASTPATH, STATE_IDLEINTRANSACTION, STATE_IDLEINTRANSACTION_ABORTED, STATE_RUNNING,
        };
        self.total += 1;
        match state {
            STATE_RUNNING | STATE_FASTPATH => self.active += 1,
            STATE_IDLEINTRANSACTION | STATE_IDLEINTRANSACTION_ABORTED => self.idle_in_transaction += 1,
            _ => {}
        }
    }
}

/// Client connections of the whole server and of this process' database, now.
pub fn count() -> (BackendCounts, BackendCounts) {
    let (mut server, mut database) = (BackendCounts::default(), BackendCounts::default());
    // SAFETY: the snapshot is private to this process and is taken anew because it was cleared first; entries are read
    // between taking and clearing it. MyDatabaseId is a plain value set when the process attached to its database.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for index in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let entry = compat::local_backend_entry(index);
            if entry.is_null() {
                continue;
            }
            let status = &(*entry).backendStatus;
            if status.st_procpid <= 0 || status.st_backendType != pg_sys::BackendType::B_BACKEND {
                continue;
            }
            server.add(status.st_state);
            if status.st_databaseid == pg_sys::MyDatabaseId {
                database.add(status.st_state);
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
    (server, database)
}
