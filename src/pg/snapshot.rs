//! Snapshots and transaction numbers with their epochs, as pure code compares them. Called inside a transaction. Locks
//! nothing beyond what taking a snapshot locks.

use perf_core::cache::snapshot::Snapshot;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::pgrx_sql_entity_graph::impl_sql_translatable;
use pgrx::{pg_sys, FromDatum, IntoDatum};

use super::text::Text;

/// What the statement that runs sees; its own transaction's changes count as not seen, for others do not see them.
pub fn active() -> Snapshot {
    // SAFETY: a function called by a statement has an active snapshot; where there is none, a new one is taken.
    unsafe {
        match pg_sys::ActiveSnapshotSet() {
            true => of(pg_sys::GetActiveSnapshot()),
            false => of(pg_sys::GetLatestSnapshot()),
        }
    }
}

/// What a statement that began now would see.
pub fn latest() -> Snapshot {
    // SAFETY: inside a transaction, not in a parallel one: the functions that get here are parallel unsafe.
    unsafe { of(pg_sys::GetLatestSnapshot()) }
}

/// # Safety
/// A valid snapshot of rows' visibility.
unsafe fn of(snapshot: pg_sys::Snapshot) -> Snapshot {
    // SAFETY: the array has as many elements as it says.
    unsafe {
        let next = pg_sys::ReadNextFullTransactionId().value;
        if (*snapshot).takenDuringRecovery {
            // A standby lists what runs in another array, and not all of it when there are many; what is below the oldest
            // of it has ended for sure.
            return Snapshot::new(widen(u64::from((*snapshot).xmin.into_inner()), next), Vec::new());
        }
        let count = (*snapshot).xcnt as usize;
        let running = if count == 0 { &[] } else { std::slice::from_raw_parts((*snapshot).xip, count) };
        let widen = |xid: &pg_sys::TransactionId| widen(u64::from(xid.into_inner()), next);
        Snapshot::new(widen(&(*snapshot).xmax), running.iter().map(widen).collect()).without(own())
    }
}

/// A number with its epoch: the one that is not after the next to be given out.
fn widen(xid: u64, next: u64) -> u64 {
    let here = next & !u64::from(u32::MAX) | xid;
    if here > next {
        here.saturating_sub(1 << 32)
    } else {
        here
    }
}

/// The number of this transaction, if it has one.
pub fn own() -> Option<u64> {
    // SAFETY: a plain look-up; 0 is no transaction.
    let own = unsafe { pg_sys::GetTopFullTransactionIdIfAny().value };
    (own != 0).then_some(own)
}

/// The number of this transaction, which gets one now.
pub fn assigned() -> u64 {
    // SAFETY: inside a transaction that may write.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// Whether a transaction that has ended was committed. False as well where that is not kept any more.
pub fn was_committed(xid: u64) -> bool {
    // SAFETY: a look-up with the one argument of its type, which gives NULL or a text.
    unsafe { pgrx::direct_function_call::<Text>(pg_sys::pg_xact_status, &[Some(pg_sys::Datum::from(xid))]) }
        .is_some_and(|status| status.0 == "committed")
}

/// A `pg_snapshot` in SQL.
#[derive(Clone, Debug)]
pub struct PgSnapshot(pub Snapshot);

impl FromDatum for PgSnapshot {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<PgSnapshot> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a pg_snapshot; its output function gives ASCII.
        let printed = unsafe {
            let printed = pgrx::direct_function_call_as_datum(pg_sys::pg_snapshot_out, &[Some(datum)])?;
            super::ident::owned(printed.cast_mut_ptr())?
        };
        Snapshot::parse(&printed).ok().map(PgSnapshot)
    }
}

impl IntoDatum for PgSnapshot {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let printed = std::ffi::CString::new(self.0.to_string()).ok()?;
        // SAFETY: the input function takes a C string and copies what it keeps.
        unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::pg_snapshot_in, &[Some(pg_sys::Datum::from(printed.as_ptr()))])
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::PG_SNAPSHOTOID
    }
}

// SAFETY: the result owns its memory.
unsafe impl UnboxDatum for PgSnapshot {
    type As<'src> = PgSnapshot;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> PgSnapshot
    where
        Self: 'src,
    {
        // SAFETY: the caller vouches for a pg_snapshot that is not NULL.
        unsafe { PgSnapshot::from_datum(datum.sans_lifetime(), false) }
            .unwrap_or(PgSnapshot(Snapshot::new(0, Vec::new())))
    }
}

// SAFETY: an argument's datum is what FromDatum reads.
unsafe impl<'fcx> ArgAbi<'fcx> for PgSnapshot {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for an argument of the declared type that is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(PgSnapshot(Snapshot::new(0, Vec::new())))
    }
}

// SAFETY: the datum made is a pg_snapshot, as declared.
unsafe impl BoxRet for PgSnapshot {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: see above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

impl_sql_translatable!(PgSnapshot, "pg_snapshot");
