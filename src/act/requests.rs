//! Runs that a backend asks for from within its transaction and wants to have ended before that does: a fixed table in shared
//! memory. The backend writes down what it wants, the scheduler of its database queues a run for it in a transaction of its
//! own, and writes down the run's number. A request whose backend does not wait any more is given back by its age.
//!
//! One LWLock guards the table; nothing that can raise and nothing slow happens while it is held.

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{PGRXSharedMemory, PgLwLock};

use crate::collect::registry;
use crate::pg::{background, names};

/// Requests at the same time in the whole server.
const MAX_REQUESTS: usize = 64;
/// A request that has not been answered by then is forgotten.
const FORGET_US: i64 = 30_000_000;
/// How long a backend waits for a scheduler to take its request.
const ANSWER_LIMIT_US: i64 = 10_000_000;
const LOOK_MS: i64 = 2;

/// One of them.
#[derive(Clone, Copy)]
pub struct Request {
    /// Database; 0 when the place is free.
    pub dbid: u32,
    /// Which request.
    pub ticket: u64,
    /// Row of perf.job.
    pub job_id: i64,
    /// The time that the run is to take it to be, in microseconds since 1970.
    pub as_of_us: i64,
    /// The process that waits for it.
    pub caller: i32,
    /// Row of perf.job_run; 0 until there is one, -1 when there is no such job.
    run_id: i64,
    asked_at: i64,
}

const FREE: Request = Request { dbid: 0, ticket: 0, job_id: 0, as_of_us: 0, caller: 0, run_id: 0, asked_at: 0 };

struct Table {
    requests: [Request; MAX_REQUESTS],
    tickets: u64,
}

// SAFETY: plain data without pointers.
unsafe impl PGRXSharedMemory for Table {}

// SAFETY: the name is used by nothing else.
static TABLE: PgLwLock<Table> = unsafe { PgLwLock::new(c"perf_opt_requests") };

/// Asks for the shared memory. Called from the library's shmem_request_hook.
pub fn request_memory() {
    // SAFETY: only called from that hook.
    unsafe { TABLE.on_shmem_request() }
}

/// Sets the shared memory up, or attaches to it. Called from the library's shmem_startup_hook.
pub fn startup() {
    // SAFETY: only called from that hook.
    unsafe { TABLE.on_shmem_startup(Table { requests: [FREE; MAX_REQUESTS], tickets: 0 }) }
}

// ---- the backend's side ----

/// Has a run of a job queued, and waits for its number. `None` when nobody has taken the request in time, or there is no room
/// for it, or the job is gone.
pub fn queue_run(job_id: i64, as_of_us: i64) -> Option<i64> {
    let dbid = names::current_database();
    let now = background::now();
    let ticket = ask(dbid, job_id, as_of_us, now)?;
    registry::jobs_changed(dbid);
    loop {
        match answer(ticket) {
            Some(0) if background::now() < now + ANSWER_LIMIT_US => background::pause(LOOK_MS),
            answered => {
                give_back(ticket);
                return answered.filter(|run_id| *run_id > 0);
            }
        }
    }
}

fn ask(dbid: u32, job_id: i64, as_of_us: i64, now: i64) -> Option<u64> {
    let mut table = TABLE.exclusive();
    table.tickets += 1;
    let ticket = table.tickets;
    let is_free = |request: &&mut Request| request.dbid == 0 || request.asked_at + FORGET_US < now;
    let place = table.requests.iter_mut().find(is_free)?;
    let caller = background::my_pid();
    *place = Request { dbid, ticket, job_id, as_of_us, caller, run_id: 0, asked_at: now };
    Some(ticket)
}

fn answer(ticket: u64) -> Option<i64> {
    TABLE
        .share()
        .requests
        .iter()
        .find(|request| request.dbid != 0 && request.ticket == ticket)
        .map(|found| found.run_id)
}

fn give_back(ticket: u64) {
    let mut table = TABLE.exclusive();
    if let Some(place) = table.requests.iter_mut().find(|request| request.ticket == ticket) {
        *place = FREE;
    }
}

// ---- the scheduler's side ----

/// What backends of a database ask for and have no answer to.
pub fn pending(dbid: u32) -> Vec<Request> {
    let now = background::now();
    let is_open =
        |request: &&Request| request.dbid == dbid && request.run_id == 0 && request.asked_at + FORGET_US >= now;
    TABLE.share().requests.iter().filter(is_open).copied().collect()
}

/// The number of the run that was queued, once that is committed; -1 for none.
pub fn answered(ticket: u64, run_id: i64) {
    let mut table = TABLE.exclusive();
    if let Some(place) = table.requests.iter_mut().find(|request| request.dbid != 0 && request.ticket == ticket) {
        place.run_id = run_id;
    }
}
