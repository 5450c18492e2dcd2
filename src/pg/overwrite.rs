//! Numbers of rows written over where they are: no other version of the row comes of it, no dead one to be removed, and
//! whoever reads the row sees them at once, before the transaction ends and even if it fails. For a table of perf_opt's own
//! that is not logged, whose numbers mean the same either way. Called inside a transaction. Locks the table as an UPDATE
//! does, and a page at a time while it writes.
//!
//! A row that somebody has locked, changed or removed, or tried to, is left alone: an UPDATE knows what to do with it. Who
//! locks a row and then writes what was read before keeps callers away by another lock.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_sys;

use super::query::{tuples_by_keys, Array, Row};

/// Bytes of a number.
const WIDTH: usize = size_of::<i64>();

/// Writes `values`, each into the column of its number (from 1), to all rows that have one of these keys in their first column,
/// as far as `may` says so of the row; all columns up to the last of them are of eight bytes and never NULL. Under the
/// active snapshot, which should be a new one. The keys of the rows that it has written to.
pub fn by_keys(
    table: &CStr,
    index: &CStr,
    keys: Array,
    values: &[(usize, i64)],
    may: impl Fn(&Row) -> bool,
) -> Vec<i64> {
    let mut written = Vec::new();
    let last = values.iter().map(|(column, _)| *column).max().unwrap_or(0);
    // SAFETY: the lock is that of writers; what is written to is checked here.
    unsafe {
        tuples_by_keys(table, index, keys, pg_sys::RowExclusiveLock, |relation, tuple| {
            let descriptor = (*relation).rd_att;
            let is_number = |at| {
                let attribute = crate::compat::attribute(descriptor, at);
                attribute.attlen as usize == WIDTH && attribute.attbyval && attribute.attnotnull
            };
            let fits = (*(*relation).rd_rel).relpersistence as u8 == b'u'
                && last <= (*descriptor).natts as usize
                && (0..last).all(is_number);
            let row = Row { tuple, descriptor };
            if fits && may(&row) && overwrite(relation, tuple, values) {
                written.extend(row.get::<i64>(1));
            }
        });
    }
    written
}

/// False: it was left alone.
///
/// # Safety
/// The tuple is one of the relation's as a scan has it, which holds its page; so many of its first columns are numbers.
unsafe fn overwrite(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple, values: &[(usize, i64)]) -> bool {
    // SAFETY: under the exclusive lock of its page nobody else writes to it, and readers, who need no lock, meet either
    // number: they are aligned, as all of a tuple's columns are that follow others of eight bytes. Nothing raises in between.
    unsafe {
        let place = (*tuple).t_self.ip_blkid;
        let block = u32::from(place.bi_hi) << 16 | u32::from(place.bi_lo);
        let buffer = pg_sys::ReadBuffer(relation, block);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer).cast::<u8>();
        let header = (*tuple).t_data;
        let is_there = (page..page.add(pg_sys::BLCKSZ as usize)).contains(&header.cast::<u8>());
        let is_free = is_there && u32::from((*header).t_infomask) & pg_sys::HEAP_XMAX_INVALID != 0;
        if is_free {
            let columns = header.cast::<u8>().add(usize::from((*header).t_hoff));
            for (column, value) in values {
                let number = columns.add((column - 1) * WIDTH).cast::<AtomicI64>();
                (*number).store(*value, Ordering::Relaxed);
            }
            pg_sys::MarkBufferDirty(buffer);
        }
        pg_sys::UnlockReleaseBuffer(buffer);
        is_free
    }
}
