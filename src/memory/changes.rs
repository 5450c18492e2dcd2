//! What committed transactions have changed on watched relations, for each database until its invalidator has worked it off:
//! a pipe for each of them in an area of its own. Commits put in what is theirs; one reader looks at what is there and lets
//! go of it once its own transaction is committed, so that nothing is lost with it.
//!
//! Nothing of this is in the write-ahead log. What is in the pipes when the server shuts down is left in a file for the next
//! start. While the server runs the file is empty: found so, or not at all, nobody knows what was lost, and each database is
//! [unknown](missing) until its invalidator has made everything invalid that was watched before. That is so after a crash,
//! and where a copy of a running server begins, as a standby does that is promoted.
//!
//! A commit claims its bytes before, where it can still do something else, and puts them after. One lock guards all of it,
//! for as long as a few bytes are copied; nothing here raises.

use core::ffi::CStr;

use perf_core::fnv::fnv1a;
use pgrx::pg_sys;

use crate::pg::data_directory;
use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;

const NAME: &CStr = c"perf_opt_changes";
/// Databases that can have a pipe; writers of others go by the table.
const PIPES: usize = 32;
/// Bytes of a pipe: some thousand changes. Writers of what does not fit go by the table, too.
const BYTES: usize = 128 * 1024;
/// The file that a shutdown leaves.
const FILE: &str = "perf_opt_changes";
const FILE_MAGIC: &[u8; 8] = b"pochg\0\0\x01";

#[repr(C)]
struct Pipe {
    /// Its database; 0: it is free.
    dbid: u32,
    /// What is in it.
    filled: u32,
    /// What transactions that are committing will put in.
    claimed: u32,
    /// Everything was made invalid since what may have been lost.
    is_known: bool,
    /// Changes were lost.
    is_lost: bool,
    /// The latest of the transactions that have written to the table instead, numbered in all databases.
    tabled: u64,
    bytes: [u8; BYTES],
}

#[repr(C)]
struct Area {
    /// Changes may have been lost before this life of shared memory.
    is_unknown: bool,
    /// Transactions that have written to the table, in all databases.
    tabled: u64,
    pipes: [Pipe; PIPES],
}

static AREA: ProcessLocal<*mut Area> = ProcessLocal::new(core::ptr::null_mut());
static LOCK: ProcessLocal<*mut pg_sys::LWLockPadded> = ProcessLocal::new(core::ptr::null_mut());

/// Asks for the memory and the lock; from shmem_request_hook.
pub fn request() {
    // SAFETY: called from shmem_request_hook, the one place where both are allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(size_of::<Area>());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

/// Attaches the memory and, the first time, fills it with what the last shutdown has left; from shmem_startup_hook.
pub fn startup() {
    let mut found = false;
    // After a crash it is another one.
    AREA.set(core::ptr::null_mut());
    // SAFETY: called from shmem_startup_hook. The area is as large as `Area`, cache-line aligned, never freed; all-zero bytes
    // are valid for it, and nobody else sees them before the hook returns.
    unsafe {
        let area = pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Area>(), &mut found).cast::<Area>();
        if !found {
            core::ptr::write_bytes(area, 0, 1);
            let left = data_directory::left(FILE).filter(|_| data_directory::was_shut_down());
            if left.is_none_or(|left| (*area).read_from(&left).is_none()) {
                core::ptr::write_bytes(area, 0, 1);
                (*area).is_unknown = true;
            }
            if let Err(problem) = data_directory::leave(FILE, &[]) {
                pgrx::log!("perf_opt writes what changes on watched relations to a table: {problem}");
                return;
            }
        }
        AREA.set(area);
        LOCK.set(pg_sys::GetNamedLWLockTranche(NAME.as_ptr()));
        if !pg_sys::IsUnderPostmaster {
            pg_sys::on_shmem_exit(Some(leave_file), pg_sys::Datum::from(0));
        }
    }
}

/// At the end of the postmaster, when every other process has ended.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave_file(code: core::ffi::c_int, _argument: pg_sys::Datum) {
    let area = AREA.get();
    // An immediate shutdown ends so, too, and has stopped commits midway.
    if code != 0 || area.is_null() || !data_directory::was_shut_down() {
        return;
    }
    // SAFETY: nobody else is left who could write to it.
    let bytes = unsafe { (*area).as_file() };
    if let Err(problem) = data_directory::leave(FILE, &bytes) {
        pgrx::log!("perf_opt cannot keep what changed on watched relations, so that everything will count as changed: {problem}");
    }
}

impl Area {
    fn as_file(&self) -> Vec<u8> {
        let mut out = FILE_MAGIC.to_vec();
        out.push(u8::from(self.is_unknown));
        for pipe in
            self.pipes.iter().filter(|pipe| pipe.dbid != 0 && (pipe.filled > 0 || pipe.is_known || pipe.is_lost))
        {
            out.extend_from_slice(&pipe.dbid.to_le_bytes());
            out.push(u8::from(pipe.is_known) | u8::from(pipe.is_lost) << 1);
            out.extend_from_slice(&pipe.filled.to_le_bytes());
            out.extend_from_slice(&pipe.bytes[..pipe.filled as usize]);
        }
        let check = fnv1a(out.iter().copied());
        out.extend_from_slice(&check.to_le_bytes());
        out
    }

    /// `None` when it is not what [`Area::as_file`] has written, and half read then.
    fn read_from(&mut self, file: &[u8]) -> Option<()> {
        let (mut rest, check) = file.split_last_chunk::<8>()?;
        if fnv1a(rest.iter().copied()) != u64::from_le_bytes(*check) {
            return None;
        }
        rest = rest.strip_prefix(FILE_MAGIC)?;
        let (is_unknown, mut rest) = rest.split_first()?;
        self.is_unknown = *is_unknown != 0;
        for pipe in &mut self.pipes {
            let Some((dbid, after)) = rest.split_first_chunk::<4>() else { break };
            let (is_known, after) = after.split_first()?;
            let (filled, after) = after.split_first_chunk::<4>()?;
            pipe.dbid = u32::from_le_bytes(*dbid);
            (pipe.is_known, pipe.is_lost) = (is_known & 1 != 0, is_known & 2 != 0);
            pipe.filled = u32::from_le_bytes(*filled);
            let (bytes, after) = after.split_at_checked(pipe.filled as usize)?;
            pipe.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
            rest = after;
        }
        rest.is_empty().then_some(())
    }

    fn find(&mut self, dbid: u32) -> Option<&mut Pipe> {
        self.pipes.iter_mut().find(|pipe| pipe.dbid == dbid && dbid != 0)
    }

    /// The pipe of a database. Where none is free, that of a database gives way of which nothing has to be remembered.
    fn find_or_add(&mut self, dbid: u32) -> Option<&mut Pipe> {
        if let Some(at) = self.pipes.iter().position(|pipe| pipe.dbid == dbid) {
            return self.pipes.get_mut(at);
        }
        let is_unknown = self.is_unknown;
        let gives_way = |pipe: &Pipe| {
            pipe.dbid == 0 || pipe.filled == 0 && pipe.claimed == 0 && !pipe.is_lost && !(is_unknown && pipe.is_known)
        };
        let free = self.pipes.iter().position(|pipe| pipe.dbid == 0);
        let at = free.or_else(|| self.pipes.iter().position(gives_way))?;
        // Whoever remembers a number of this pipe sees another one.
        self.tabled += 1;
        let tabled = self.tabled;
        let pipe = self.pipes.get_mut(at)?;
        (pipe.dbid, pipe.is_known, pipe.tabled) = (dbid, false, tabled);
        Some(pipe)
    }
}

/// Whether there are pipes.
pub fn is_ready() -> bool {
    !AREA.get().is_null()
}

/// Runs `body` under the lock; `None` where the library was not preloaded.
fn locked<T>(body: impl FnOnce(&mut Area) -> T) -> Option<T> {
    let area = AREA.get();
    if area.is_null() {
        return None;
    }
    // SAFETY: the tranche has one lock, which this process does not hold: `body` takes none. Whoever touches the area has it.
    unsafe {
        let _lock = LwLockGuard::exclusive(&raw mut (*LOCK.get()).lock);
        Some(body(&mut *area))
    }
}

/// Takes hold of room for what a transaction of a database is about to commit. False: there is none.
pub fn claim(dbid: u32, bytes: usize) -> bool {
    let claimed = locked(|area| {
        let Some(pipe) = area.find_or_add(dbid) else { return false };
        let is_room = bytes <= BYTES.saturating_sub(pipe.filled as usize + pipe.claimed as usize);
        if is_room {
            pipe.claimed += bytes as u32;
        }
        is_room
    });
    claimed.unwrap_or(false)
}

/// Puts in what room has been claimed for; the transaction is committed.
pub fn put(dbid: u32, changes: &[u8]) {
    locked(|area| {
        // There is one: it does not give way while something is claimed.
        let Some(pipe) = area.find(dbid) else { return };
        let at = pipe.filled as usize;
        match pipe.bytes.get_mut(at..at + changes.len()) {
            Some(room) => {
                room.copy_from_slice(changes);
                pipe.filled += changes.len() as u32;
            }
            None => pipe.is_lost = true,
        }
        pipe.claimed = pipe.claimed.saturating_sub(changes.len() as u32);
    });
}

/// Gives back what has been claimed; the transaction is not committed.
pub fn give_up(dbid: u32, bytes: usize) {
    locked(|area| {
        if let Some(pipe) = area.find(dbid) {
            pipe.claimed = pipe.claimed.saturating_sub(bytes as u32);
        }
    });
}

/// A transaction of a database has written to the table.
pub fn note_tabled(dbid: u32) {
    locked(|area| {
        area.tabled += 1;
        let tabled = area.tabled;
        if let Some(pipe) = area.find_or_add(dbid) {
            pipe.tabled = tabled;
        }
    });
}

/// The number of the latest that has. `None`: nobody has counted.
pub fn tabled(dbid: u32) -> Option<u64> {
    locked(|area| area.find_or_add(dbid).map(|pipe| pipe.tabled)).flatten()
}

/// Whether nothing is in the pipe of a database.
pub fn is_empty(dbid: u32) -> bool {
    locked(|area| area.find(dbid).is_none_or(|pipe| pipe.filled == 0)).unwrap_or(true)
}

/// What is in the pipe of a database.
pub fn look(dbid: u32) -> Vec<u8> {
    locked(|area| area.find(dbid).map(|pipe| pipe.bytes[..pipe.filled as usize].to_vec())).flatten().unwrap_or_default()
}

/// Lets go of the first bytes of it: they are worked off.
pub fn let_go(dbid: u32, bytes: usize) {
    locked(|area| {
        if let Some(pipe) = area.find(dbid) {
            let filled = pipe.filled as usize;
            pipe.bytes.copy_within(bytes.min(filled)..filled, 0);
            pipe.filled = (filled - bytes.min(filled)) as u32;
        }
    });
}

/// What may be missing of the changes of a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// Some from before this life of shared memory.
    Earlier,
    /// Any.
    Some,
}

/// What may be missing of the changes of a database.
pub fn missing(dbid: u32) -> Missing {
    let found = locked(|area| {
        let earlier = if area.is_unknown { Missing::Earlier } else { Missing::Nothing };
        match area.find(dbid) {
            Some(pipe) if pipe.is_lost => Missing::Some,
            Some(pipe) if pipe.is_known => Missing::Nothing,
            _ => earlier,
        }
    });
    found.unwrap_or(Missing::Some)
}

/// Everything is invalid there. False where that cannot be remembered.
pub fn make_known(dbid: u32) -> bool {
    let remembered = locked(|area| area.find_or_add(dbid).map(|pipe| (pipe.is_known, pipe.is_lost) = (true, false)));
    remembered.flatten().is_some()
}

/// Something of it was not told, and whoever knew what is gone: everything will be invalid.
pub fn make_unknown(dbid: u32) {
    locked(|area| {
        if let Some(pipe) = area.find_or_add(dbid) {
            pipe.is_lost = true;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area() -> Box<Area> {
        // SAFETY: all-zero bytes are valid for it.
        unsafe { Box::<Area>::new_zeroed().assume_init() }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut before = area();
        before.is_unknown = true;
        for (at, (dbid, changes, is_known)) in
            [(5, b"abc".as_slice(), false), (7, b"", true), (9, b"", false)].into_iter().enumerate()
        {
            let pipe = &mut before.pipes[at];
            pipe.bytes[..changes.len()].copy_from_slice(changes);
            (pipe.dbid, pipe.filled, pipe.is_known) = (dbid, changes.len() as u32, is_known);
        }
        let file = before.as_file();
        let mut after = area();
        assert!(after.read_from(&file).is_some() && after.is_unknown);
        let read: Vec<_> = after.pipes[..3].iter().map(|pipe| (pipe.dbid, pipe.filled, pipe.is_known)).collect();
        assert_eq!(read, [(5, 3, false), (7, 0, true), (0, 0, false)]);
        assert_eq!(&after.pipes[0].bytes[..3], b"abc");
        for cut in 0..file.len() {
            assert!(area().read_from(&file[..cut]).is_none());
        }
    }
}
