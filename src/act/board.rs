//! Which runs of jobs are under way in the whole server: a fixed table in shared memory with one place for each worker that
//! `perf_opt.max_running_jobs` can allow. It is what a `running` row of perf.job_run is checked against: a row without a
//! place here belongs to a worker that is gone. A crash of the server empties it with the rest of shared memory.
//!
//! Written by the schedulers (who reserve) and the workers of runs (who attach and leave); read by the job functions. One
//! LWLock guards the table; nothing that can raise and nothing slow happens while it is held. A worker clears its place
//! under the lock before it exits, so a pid read under the lock belongs to a live worker.

use std::collections::HashMap;

use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_sys, PGRXSharedMemory, PgLwLock};

use crate::collect::registry::{parse_argument, slot_argument};
use crate::pg::background;

/// Runs that can be under way at the same time in the whole server.
pub const MAX_RUNS: usize = 128;
/// A worker that has not attached by then never will: the postmaster could not start it.
pub const LAUNCH_LIMIT_US: i64 = 20_000_000;

/// One run under way.
#[derive(Clone, Copy)]
pub struct Place {
    /// Database of the job; 0 when the place is free.
    pub dbid: u32,
    /// Row of perf.job_run.
    pub run_id: i64,
    /// Which try of it.
    pub attempt: i32,
    /// Role the worker connects as.
    pub owner: u32,
    /// Worker; 0 until it has attached.
    pub pid: i32,
    /// Number of the latest reservation of this place; a worker with another number must not start.
    ticket: u32,
    /// When it was reserved.
    pub reserved_at: i64,
    /// Somebody asked for the run to be cancelled.
    pub cancelled: bool,
    /// The worker is connected to its database: what ends it from now on is not its login.
    pub connected: bool,
}

impl Place {
    const FREE: Place = Place {
        dbid: 0,
        run_id: 0,
        attempt: 0,
        owner: 0,
        pid: 0,
        ticket: 0,
        reserved_at: 0,
        cancelled: false,
        connected: false,
    };
}

/// A run that has left the table without having been connected: a database and a row of it.
#[derive(Clone, Copy)]
struct Refusal {
    dbid: u32,
    run_id: i64,
    attempt: i32,
}

/// Refusals that are remembered until their scheduler asks.
const MAX_REFUSALS: usize = MAX_RUNS;

/// The table.
pub struct Board {
    places: [Place; MAX_RUNS],
    refusals: [Refusal; MAX_REFUSALS],
    refusals_at: usize,
}

// SAFETY: plain data without pointers.
unsafe impl PGRXSharedMemory for Board {}

// SAFETY: the name is used by nothing else.
static BOARD: PgLwLock<Board> = unsafe { PgLwLock::new(c"perf_opt_board") };

/// Asks for the shared memory. Called from the library's shmem_request_hook.
pub fn request() {
    // SAFETY: only called from that hook.
    unsafe { BOARD.on_shmem_request() }
}

/// Sets the shared memory up, or attaches to it. Called from the library's shmem_startup_hook.
pub fn startup() {
    let empty = Board {
        places: [Place::FREE; MAX_RUNS],
        refusals: [Refusal { dbid: 0, run_id: 0, attempt: 0 }; MAX_REFUSALS],
        refusals_at: 0,
    };
    // SAFETY: only called from that hook.
    unsafe { BOARD.on_shmem_startup(empty) }
}

/// How many more runs may start now.
pub fn free_places(limit: usize) -> usize {
    let used = BOARD.share().places.iter().filter(|place| place.dbid != 0).count();
    limit.min(MAX_RUNS).saturating_sub(used)
}

/// How many runs each owner has under way in the whole server.
pub fn by_owner() -> HashMap<u32, usize> {
    let mut owners = HashMap::new();
    let places = BOARD.share().places;
    for place in places.iter().filter(|place| place.dbid != 0) {
        *owners.entry(place.owner).or_default() += 1;
    }
    owners
}

/// The runs under way in a database.
pub fn of_database(dbid: u32) -> Vec<Place> {
    BOARD.share().places.iter().filter(|place| place.dbid == dbid && dbid != 0).copied().collect()
}

// ---- the scheduler's side ----

/// Takes a place for a run; what its worker is to be started with. `None` when `limit` places are taken.
pub fn reserve(dbid: u32, run_id: i64, attempt: i32, owner: u32, limit: usize) -> Option<i64> {
    let now = background::now();
    let mut board = BOARD.exclusive();
    let used = board.places.iter().filter(|place| place.dbid != 0).count();
    if used >= limit.min(MAX_RUNS) {
        return None;
    }
    let index = board.places.iter().position(|place| place.dbid == 0)?;
    let place = &mut board.places[index];
    let ticket = place.ticket.wrapping_add(1);
    *place = Place { dbid, run_id, attempt, owner, ticket, reserved_at: now, ..Place::FREE };
    Some(slot_argument(index, ticket))
}

/// Gives back the place of a run whose worker was not started.
pub fn give_back(dbid: u32, run_id: i64) {
    free(|place| place.dbid == dbid && place.run_id == run_id && place.pid == 0);
}

/// Gives back the places of a database whose workers never came.
pub fn give_back_late(dbid: u32, now: i64) {
    free(|place| place.dbid == dbid && place.pid == 0 && now - place.reserved_at > LAUNCH_LIMIT_US);
}

fn free(gone: impl Fn(&Place) -> bool) {
    let mut board = BOARD.exclusive();
    for place in board.places.iter_mut().filter(|place| place.dbid != 0 && gone(place)) {
        *place = Place { ticket: place.ticket.wrapping_add(1), ..Place::FREE };
    }
}

/// Whether the worker of this try ended before it was connected: its login was refused.
pub fn was_refused(dbid: u32, run_id: i64, attempt: i32) -> bool {
    BOARD.share().refusals.iter().any(|r| r.dbid == dbid && r.run_id == run_id && r.attempt == attempt)
}

// ---- the worker's side ----

/// Takes the place over. `None` when the reservation is void: the worker must end at once.
pub fn attach(argument: pg_sys::Datum, pid: i32) -> Option<Place> {
    let (index, ticket) = parse_argument(argument);
    let mut board = BOARD.exclusive();
    let place = board.places.get_mut(index)?;
    if place.dbid == 0 || place.ticket != ticket || place.pid != 0 {
        return None;
    }
    place.pid = pid;
    Some(*place)
}

/// The worker is connected.
pub fn connected(pid: i32) {
    if let Some(place) = BOARD.exclusive().places.iter_mut().find(|place| place.pid == pid) {
        place.connected = true;
    }
}

/// The worker ends. Gives the database whose scheduler has to know.
pub fn leave(pid: i32) -> Option<u32> {
    let mut board = BOARD.exclusive();
    let index = board.places.iter().position(|place| place.pid == pid && place.dbid != 0)?;
    let place = board.places[index];
    if !place.connected {
        let at = board.refusals_at;
        board.refusals[at] = Refusal { dbid: place.dbid, run_id: place.run_id, attempt: place.attempt };
        board.refusals_at = (at + 1) % MAX_REFUSALS;
    }
    board.places[index] = Place { ticket: place.ticket.wrapping_add(1), ..Place::FREE };
    Some(place.dbid)
}

/// Whether somebody asked for the run of this worker to be cancelled.
pub fn is_cancelled(pid: i32) -> bool {
    BOARD.share().places.iter().any(|place| place.pid == pid && place.cancelled)
}

// ---- the job functions' side ----

/// Cancels what the worker of a run does. False when it is not under way.
pub fn cancel(dbid: u32, run_id: i64) -> bool {
    let mut board = BOARD.exclusive();
    let Some(place) = board.places.iter_mut().find(|place| place.dbid == dbid && place.run_id == run_id) else {
        return false;
    };
    place.cancelled = true;
    // One that has not attached yet looks when it starts.
    background::interrupt(place.pid);
    true
}
