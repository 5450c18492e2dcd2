//! Relations and the buffer cache: how many blocks one has, how many of them are cached, and reading blocks into it. Called
//! by index maintenance and by the prewarm job, inside a transaction. Takes ACCESS SHARE on the relation if nobody is in the
//! way, for the time of one call, and never waits for it; for a moment the lock of a partition of the buffer table.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::background;
use super::lock::Shared;
use super::lwlock::LwLockGuard;
use crate::compat;

/// Blocks read between two looks at the clock.
const PACE_BLOCKS: u32 = 128;

/// Why a relation cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It does not exist any more.
    Gone,
    /// Somebody holds a lock that excludes readers, or waits for one.
    Locked,
    /// It has no blocks that others share.
    NoBlocks,
}

impl Unusable {
    /// Half a sentence that says why.
    pub fn describe(self) -> &'static str {
        match self {
            Unusable::Gone => "does not exist any more",
            Unusable::Locked => "is locked by another session",
            Unusable::NoBlocks => "has no blocks of its own",
        }
    }
}

/// What a load did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// Blocks asked for.
    pub blocks: u32,
    /// Of these, blocks that were not cached.
    pub read: u32,
}

/// Runs `body` on an open table, materialized view or index of the main fork with so many blocks.
fn with_relation<T>(oid: pg_sys::Oid, body: impl FnOnce(pg_sys::Relation, u32) -> T) -> Result<T, Unusable> {
    let Some(_lock) = Shared::try_take(oid) else { return Err(Unusable::Locked) };
    // SAFETY: plain relation-cache calls; the relation is opened under the lock just taken and closed before it is given
    // back. A raised error leaves both to the abort.
    unsafe {
        let relation = pg_sys::try_relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        if relation.is_null() {
            return Err(Unusable::Gone);
        }
        let class = (*relation).rd_rel;
        let has_blocks = matches!((*class).relkind as u8, b'r' | b'm' | b'i') && (*class).relpersistence as u8 != b't';
        let result = if has_blocks {
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
            Ok(body(relation, blocks))
        } else {
            Err(Unusable::NoBlocks)
        };
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        result
    }
}

/// How many blocks a relation has now.
pub fn blocks(oid: pg_sys::Oid) -> Result<u32, Unusable> {
    with_relation(oid, |_, blocks| blocks)
}

/// How many of the last `count` blocks of a relation are cached.
pub fn cached(oid: pg_sys::Oid, count: u32) -> Result<u32, Unusable> {
    with_relation(oid, |relation, blocks| {
        let mut found = 0;
        for block in blocks.saturating_sub(count)..blocks {
            if block % PACE_BLOCKS == 0 {
                background::check_for_interrupts();
            }
            // SAFETY: the relation is open.
            found += u32::from(unsafe { is_cached(relation, block) });
        }
        found
    })
}

/// # Safety
/// The relation is open.
unsafe fn is_cached(relation: pg_sys::Relation, block: u32) -> bool {
    // SAFETY: the tag lives through the calls; the partition's lock is chosen as the server does, and held for the look-up.
    unsafe {
        let mut tag = compat::buffer_tag(relation, block);
        let hash = pg_sys::BufTableHashCode(&raw mut tag);
        let at = pg_sys::BUFFER_MAPPING_LWLOCK_OFFSET + hash % pg_sys::NUM_BUFFER_PARTITIONS;
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(at as usize)).lock;
        let _guard = LwLockGuard::shared(lock);
        pg_sys::BufTableLookup(&raw mut tag, hash) >= 0
    }
}

/// Reads the first `count` of the last `last` blocks of a relation into the cache, at most so many bytes a second. Cancels
/// are obeyed.
pub fn load(oid: pg_sys::Oid, last: u32, count: u32, bytes_per_s: f64) -> Result<Loaded, Unusable> {
    with_relation(oid, |relation, blocks| {
        let first = blocks.saturating_sub(last);
        let blocks = blocks.min(first.saturating_add(count));
        let (started, read_before) = (Instant::now(), blocks_read());
        for block in first..blocks {
            background::check_for_interrupts();
            // SAFETY: the relation is open and locked, so that no block of it goes away; the pin is given back at once.
            unsafe {
                let buffer = pg_sys::ReadBufferExtended(
                    relation,
                    pg_sys::ForkNumber::MAIN_FORKNUM,
                    block,
                    pg_sys::ReadBufferMode::RBM_NORMAL,
                    std::ptr::null_mut(),
                );
                pg_sys::ReleaseBuffer(buffer);
            }
            if block % PACE_BLOCKS == 0 {
                let bytes = (blocks_read() - read_before) as f64 * f64::from(pg_sys::BLCKSZ);
                let ahead = Duration::from_secs_f64(bytes / bytes_per_s.max(1.0)).saturating_sub(started.elapsed());
                if ahead >= Duration::from_millis(1) {
                    background::pause(ahead.as_millis() as i64);
                }
            }
        }
        Loaded { blocks: blocks - first, read: u32::try_from(blocks_read() - read_before).unwrap_or(u32::MAX) }
    })
}

/// Blocks that this process has read into the cache.
fn blocks_read() -> i64 {
    // SAFETY: a counter of this process.
    unsafe { pg_sys::pgBufferUsage.shared_blks_read }
}

/// The table that a relation's rights are those of: an index has none of its own. None when it is gone.
fn rights_of(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: catalog look-ups that find nothing for what does not exist.
    unsafe {
        match pg_sys::get_rel_relkind(oid) as u8 {
            0 => None,
            b'i' => Some(pg_sys::IndexGetRelation(oid, true)).filter(|table| *table != pg_sys::InvalidOid),
            _ => Some(oid),
        }
    }
}

/// Whether the current role may read a table or the table of an index.
pub fn may_read(oid: pg_sys::Oid) -> bool {
    rights_of(oid).is_some_and(|table| {
        // SAFETY: a catalog look-up; a table that goes away in this moment raises, which the caller's abort takes.
        unsafe {
            pg_sys::pg_class_aclcheck(table, pg_sys::GetUserId(), pg_sys::ACL_SELECT as pg_sys::AclMode)
                == pg_sys::AclResult::ACLCHECK_OK
        }
    })
}
