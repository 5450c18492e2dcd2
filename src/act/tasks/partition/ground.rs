//! Where the steps of partition management run: each in a transaction of its own in the worker of a run, each in a
//! subtransaction where the caller of `perf.partition_tick` is in a transaction already. A step that cannot have its lock at
//! once gives way and tries again: nobody else ever waits behind it for longer than [`LOCK_WAIT_MS`].
//!
//! Called by the steps. Locks nothing itself.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::snapshots;
use crate::act::executor::{self, Failure};
use crate::pg::{background, ddl, ident, privilege, query};

/// How long a step waits for a lock, and so makes others wait who come after it.
pub const LOCK_WAIT_MS: i32 = 100;
/// How long it goes on trying.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Pause between two tries: at least, and how much more at most.
const PAUSE_MS: i64 = 50;
const PAUSE_MORE_MS: u64 = 400;
/// Holders of a lock that are named.
const HOLDERS_MAX: i64 = 3;

/// Where steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The worker of a run, outside of any transaction: what refuses to run in one can run.
    TopLevel,
    /// A caller's transaction, which holds the locks until it ends.
    Inside,
}

impl Ground {
    /// Runs `body` in a (sub)transaction. When it cannot have a lock it is undone, and tried again for some time; then the
    /// failure says who holds `relations`.
    pub fn step<T>(
        self,
        relations: &[pg_sys::Oid],
        mut body: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.retried(relations, || {
            let limited = || privilege::with_lock_timeout(LOCK_WAIT_MS, &mut body);
            match self {
                Ground::TopLevel => executor::transaction(limited),
                Ground::Inside => executor::subtransaction(limited),
            }
        })
    }

    /// Runs a statement that refuses to run in a transaction, with the same patience. At top level only.
    pub fn statement(self, relations: &[pg_sys::Oid], statement: &str) -> Result<(), Failure> {
        self.retried(relations, || at_once(statement, c"100ms"))
    }

    fn retried<T>(
        self,
        relations: &[pg_sys::Oid],
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        loop {
            let failure = match attempt() {
                Err(failure) if failure.is_of_a_lock() => failure,
                outcome => return outcome,
            };
            self.rest(started, failure, || self.read(|| Ok(holders(relations))))?;
        }
    }

    /// The pause after a try that could not have a lock; `failure`, with who holds it, when it has been tried for long enough.
    pub fn rest(
        self,
        started: Instant,
        failure: Failure,
        holders: impl FnOnce() -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        if started.elapsed() >= GIVE_UP {
            let seconds = started.elapsed().as_secs();
            let holders = if snapshots::is_in_the_way(&failure) { String::new() } else { holders()? };
            let message = match holders.as_str() {
                "" => format!("{} (for {seconds} s)", failure.message),
                holders => format!("the lock could not be had in {seconds} s: {holders}"),
            };
            return Err(Failure { message, ..failure });
        }
        self.pause(PAUSE_MS + (background::random_u64() % PAUSE_MORE_MS) as i64)
    }

    /// Sleeps a little. A cancel ends it as it ends a step: at top level there is no transaction that would catch it.
    pub fn pause(self, pause_ms: i64) -> Result<(), Failure> {
        match self {
            Ground::TopLevel => executor::transaction(|| {
                background::pause(pause_ms);
                Ok(())
            }),
            Ground::Inside => {
                background::pause(pause_ms);
                Ok(())
            }
        }
    }

    /// Runs `body`, which only reads: a lock that it cannot have is a failure like any other.
    pub fn read<T>(self, body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let limited = || privilege::with_lock_timeout(LOCK_WAIT_MS, body);
        match self {
            Ground::TopLevel => executor::transaction(limited),
            Ground::Inside => executor::subtransaction(limited),
        }
    }
}

/// Runs a statement that refuses to run in a transaction, once: it gives way when it cannot have a lock for `lock_wait`. At
/// top level only.
pub fn at_once(statement: &str, lock_wait: &CStr) -> Result<(), Failure> {
    background::set_session(c"lock_timeout", lock_wait);
    let outcome = executor::statement(statement);
    background::set_session(c"lock_timeout", c"0");
    outcome
}

/// Locks a table, as LOCK TABLE does, until the end of the (sub)transaction.
pub fn lock(relation: pg_sys::Oid, mode: &str) {
    if let Some(name) = ident::relation(relation) {
        ddl::run(&format!("LOCK TABLE ONLY {name} IN {mode} MODE"));
    }
}

/// Who holds locks on relations, in half a sentence; empty when nobody does any more.
pub fn holders(relations: &[pg_sys::Oid]) -> String {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT DISTINCT ON (l.pid) format('%s is held by process %s%s%s', l.relation::regclass, l.pid,
                       ' of ' || quote_ident(a.usename),
                       ', ' || a.state || ' since ' || to_char(a.state_change, 'YYYY-MM-DD HH24:MI:SSTZH'))
                FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
               WHERE l.relation = ANY ($1) AND l.granted AND l.pid <> pg_backend_pid()
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               ORDER BY l.pid LIMIT $2",
            &[relations.to_vec().into(), HOLDERS_MAX.into()],
            |row| row.string(1),
        )
        .1
    });
    found.join("; ")
}
