//! Rewrites a table beside itself: a second table with the same columns is filled and indexed, then the two exchange
//! their files, as CLUSTER and VACUUM FULL do it, but with the indexes, so that the table is locked in ACCESS EXCLUSIVE
//! for the moment of the exchange only. All that refers to the table, or is said of it, stays.
//!
//! Rows are written as frozen: visible to everybody at once. That is right only where every snapshot that there is sees
//! the same rows in the old files, which [`all_visible_pages`] tells: a page is all-visible when all of its rows are
//! visible to all, and whoever changes a page takes its mark away. Only VACUUM gives it back, which SHARE UPDATE
//! EXCLUSIVE keeps out.
//!
//! Called by the job that compresses partitions, inside its transaction. What is locked is said at each function.

use std::ffi::CString;

use pgrx::pg_sys;

use super::background;
use super::text::DbText;
use crate::compat;

/// VISIBILITYMAP_ALL_VISIBLE.
const ALL_VISIBLE: u8 = 1;
/// Rows fetched at once, and written at once at most.
const ROWS: usize = 1_000;
/// Bytes that are written at once: rows may be large.
const BYTES: usize = 1 << 20;

unsafe extern "C-unwind" {
    // Raises as any function that writes catalogs.
    fn make_new_heap(
        table: pg_sys::Oid,
        tablespace: pg_sys::Oid,
        access_method: pg_sys::Oid,
        persistence: core::ffi::c_char,
        lock: pg_sys::LOCKMODE,
    ) -> pg_sys::Oid;
    // As any function that takes locks in shared memory.
    fn TransferPredicateLocksToHeapRelation(relation: pg_sys::Relation);
}

/// How many pages a table has, when all of them hold nothing but rows that are visible to all; `None` when one does
/// not. With the table locked in SHARE UPDATE EXCLUSIVE or more.
pub fn all_visible_pages(table: pg_sys::Oid) -> Option<u32> {
    // SAFETY: the relation is locked by the caller, and closed.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        let mut visible = 0;
        pg_sys::visibilitymap_count(relation, &raw mut visible, std::ptr::null_mut());
        let is_visible = pages == visible || others_are_new(relation, pages);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        is_visible.then_some(pages)
    }
}

/// Whether all pages that are not marked have never been written to: the file was extended ahead.
///
/// # Safety
/// The relation is open and locked, and has so many pages.
unsafe fn others_are_new(relation: pg_sys::Relation, pages: u32) -> bool {
    // SAFETY: see the function's contract; buffers are pinned while they are looked at, and released. Of a page only
    // one number is read, which is 0 until the page is first used, and never again.
    unsafe {
        let mut map = pg_sys::InvalidBuffer as pg_sys::Buffer;
        let found = (0..pages).all(|page| {
            if pg_sys::visibilitymap_get_status(relation, page, &raw mut map) & ALL_VISIBLE != 0 {
                return true;
            }
            let buffer = pg_sys::ReadBuffer(relation, page);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let is_new = (*pg_sys::BufferGetPage(buffer).cast::<pg_sys::PageHeaderData>()).pd_upper == 0;
            pg_sys::UnlockReleaseBuffer(buffer);
            is_new
        });
        if map != pg_sys::InvalidBuffer as pg_sys::Buffer {
            pg_sys::ReleaseBuffer(map);
        }
        found
    }
}

/// Makes the second table: empty, with the same columns, dropped ones too. Locked in ACCESS EXCLUSIVE until the end of
/// the transaction; nobody else sees it.
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
pub fn twin(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the table is locked by the caller; its catalog row is read as what it is.
    unsafe {
        let lock = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(table, lock);
        let (tablespace, method, persistence) =
            ((*(*relation).rd_rel).reltablespace, (*(*relation).rd_rel).relam, (*(*relation).rd_rel).relpersistence);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let twin = pg_sys::ffi::pg_guard_ffi_boundary(|| make_new_heap(table, tablespace, method, persistence, lock));
        pg_sys::CommandCounterIncrement();
        twin
    }
}

/// A column that is filled.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Its values are of variable length, with a header that says so.
    pub is_varlena: bool,
}

/// Fills it with what a query gives: for each of `columns`, in this order, a value. Values are taken out of TOAST, and
/// so compressed anew, by the method of the column. How many rows there were.
pub fn fill(twin: pg_sys::Oid, query: &str, columns: &[Column]) -> u64 {
    let Ok(query) = CString::new(DbText::from_utf8(query).as_bytes()) else { return 0 };
    let mut rows = 0;
    // SAFETY: connect and finish enclose all uses of SPI memory. Slots, the state of the bulk insert and the relation
    // are released in reverse order; a raised error leaves them to the abort. Arrays have an element for each attribute
    // of the tuples they are used with; tuples are formed, stored and freed in `context`.
    unsafe {
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            pgrx::error!("perf_opt: a table cannot be read");
        }
        let portal = pg_sys::SPI_cursor_open(std::ptr::null(), plan, std::ptr::null_mut(), std::ptr::null(), false);
        let mut writer = Writer::open(twin);
        let mut source = Vec::new();
        let mut source_nulls = Vec::new();
        loop {
            background::check_for_interrupts();
            pg_sys::SPI_cursor_fetch(portal, true, ROWS as core::ffi::c_long);
            let (table, fetched) = (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize);
            if table.is_null() || fetched == 0 {
                break;
            }
            let descriptor = (*table).tupdesc;
            source.resize((*descriptor).natts as usize, pg_sys::Datum::from(0));
            source_nulls.resize((*descriptor).natts as usize, true);
            for index in 0..fetched {
                let tuple = *(*table).vals.add(index);
                pg_sys::heap_deform_tuple(tuple, descriptor, source.as_mut_ptr(), source_nulls.as_mut_ptr());
                writer.add(columns, &source, &source_nulls);
            }
            writer.flush();
            rows += fetched as u64;
            pg_sys::SPI_freetuptable(table);
        }
        writer.close();
        pg_sys::SPI_cursor_close(portal);
        pg_sys::SPI_finish();
    }
    rows
}

/// Writes rows into a table of the heap's, many at once.
struct Writer {
    relation: pg_sys::Relation,
    state: pg_sys::BulkInsertState,
    command: pg_sys::CommandId,
    context: pg_sys::MemoryContext,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    waiting: usize,
    bytes: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Writer {
    /// # Safety
    /// Inside a transaction; the table is a heap that nobody else sees.
    unsafe fn open(table: pg_sys::Oid) -> Writer {
        // SAFETY: see the function's contract; the context is a child of the current one.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE);
            let descriptor = (*relation).rd_att;
            let columns = (*descriptor).natts as usize;
            Writer {
                relation,
                state: pg_sys::GetBulkInsertState(),
                command: pg_sys::GetCurrentCommandId(true),
                context: pg_sys::AllocSetContextCreateExtended(
                    pg_sys::CurrentMemoryContext,
                    c"perf_opt rows".as_ptr(),
                    pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
                ),
                slots: (0..ROWS)
                    .map(|_| pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple))
                    .collect(),
                waiting: 0,
                bytes: 0,
                values: vec![pg_sys::Datum::from(0); columns],
                nulls: vec![true; columns],
            }
        }
    }

    /// # Safety
    /// `values` and `nulls` are of columns of the types of `columns`.
    unsafe fn add(&mut self, columns: &[Column], values: &[pg_sys::Datum], nulls: &[bool]) {
        // SAFETY: see the function's contract. A datum of variable length that is not NULL points to a varlena, which
        // is copied where it is compressed or elsewhere.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.context);
            let descriptor = (*self.relation).rd_att;
            for ((column, value), null) in columns.iter().zip(values).zip(nulls) {
                let Some(place) = usize::try_from(column.number - 1).ok().filter(|place| *place < self.nulls.len())
                else {
                    continue;
                };
                self.nulls[place] = *null;
                self.values[place] = if column.is_varlena && !*null {
                    pg_sys::Datum::from(pg_sys::pg_detoast_datum(value.cast_mut_ptr()))
                } else {
                    *value
                };
            }
            let tuple = pg_sys::heap_form_tuple(descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            self.bytes += (*tuple).t_len as usize;
            pg_sys::ExecStoreHeapTuple(tuple, self.slots[self.waiting], true);
            self.waiting += 1;
            pg_sys::MemoryContextSwitchTo(outer);
            if self.waiting == ROWS || self.bytes >= BYTES {
                self.flush();
            }
        }
    }

    /// # Safety
    /// As for `open`.
    unsafe fn flush(&mut self) {
        if self.waiting == 0 {
            return;
        }
        // SAFETY: the slots up to `waiting` hold tuples in `context`, which is emptied when they do not any more.
        unsafe {
            let options = pg_sys::HEAP_INSERT_SKIP_FSM | pg_sys::HEAP_INSERT_FROZEN;
            let outer = pg_sys::MemoryContextSwitchTo(self.context);
            pg_sys::heap_multi_insert(
                self.relation,
                self.slots.as_mut_ptr(),
                self.waiting as i32,
                self.command,
                options as i32,
                self.state,
            );
            for slot in &self.slots[..self.waiting] {
                pg_sys::ExecClearTuple(*slot);
            }
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::MemoryContextReset(self.context);
        }
        self.waiting = 0;
        self.bytes = 0;
    }

    /// # Safety
    /// As for `open`.
    unsafe fn close(mut self) {
        // SAFETY: all were made by `open`, and are used no more.
        unsafe {
            self.flush();
            for slot in &self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(*slot);
            }
            pg_sys::FreeBulkInsertState(self.state);
            pg_sys::MemoryContextDelete(self.context);
            pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::CommandCounterIncrement();
        }
    }
}

/// Locks relations in ACCESS EXCLUSIVE until the end of the (sub)transaction.
pub fn lock(relations: impl IntoIterator<Item = pg_sys::Oid>) {
    for relation in relations {
        // SAFETY: inside a transaction, to which the lock belongs. Any oid may be given.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE) }
    }
}

/// Exchanges the files of two tables and of their indexes, each with its twin. With all of them locked in ACCESS
/// EXCLUSIVE.
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
pub fn exchange(tables: (pg_sys::Oid, pg_sys::Oid), indexes: &[(pg_sys::Oid, pg_sys::Oid)]) {
    // SAFETY: inside a transaction that has all locks; each pair is of the same kind.
    unsafe {
        // What serializable transactions have read is known by its place, which is another one now.
        let relation = pg_sys::table_open(tables.0, pg_sys::NoLock as pg_sys::LOCKMODE);
        pg_sys::ffi::pg_guard_ffi_boundary(|| TransferPredicateLocksToHeapRelation(relation));
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        for (index, _) in indexes {
            let relation = pg_sys::index_open(*index, pg_sys::NoLock as pg_sys::LOCKMODE);
            pg_sys::ffi::pg_guard_ffi_boundary(|| TransferPredicateLocksToHeapRelation(relation));
            pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        exchange_files(tables, true);
        for pair in indexes {
            exchange_files(*pair, false);
        }
        pg_sys::CommandCounterIncrement();
    }
}

/// # Safety
/// As in [`exchange`].
unsafe fn exchange_files((one, other): (pg_sys::Oid, pg_sys::Oid), is_table: bool) {
    // SAFETY: both rows exist, since their relations are locked; they are changed as copies, and written back as rows
    // of pg_class. Which TOAST table belongs to which table is written down in pg_depend as well.
    unsafe {
        compat::take_over_file(one, other);
        let catalog = pg_sys::table_open(pg_sys::RelationRelationId, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        let (row, other_row) = (copy_of(one), copy_of(other));
        let a = &mut *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>();
        let b = &mut *pg_sys::GETSTRUCT(other_row).cast::<pg_sys::FormData_pg_class>();
        std::mem::swap(&mut a.relfilenode, &mut b.relfilenode);
        std::mem::swap(&mut a.reltablespace, &mut b.reltablespace);
        std::mem::swap(&mut a.relpages, &mut b.relpages);
        std::mem::swap(&mut a.reltuples, &mut b.reltuples);
        std::mem::swap(&mut a.relallvisible, &mut b.relallvisible);
        if is_table {
            std::mem::swap(&mut a.relfrozenxid, &mut b.relfrozenxid);
            std::mem::swap(&mut a.relminmxid, &mut b.relminmxid);
            std::mem::swap(&mut a.reltoastrelid, &mut b.reltoastrelid);
        }
        let toasts = [(one, a.reltoastrelid), (other, b.reltoastrelid)];
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*row).t_self, row);
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*other_row).t_self, other_row);
        pg_sys::heap_freetuple(row);
        pg_sys::heap_freetuple(other_row);
        pg_sys::table_close(catalog, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        if is_table {
            for (table, toast) in toasts {
                if toast != pg_sys::InvalidOid {
                    belong(toast, table);
                }
            }
        }
    }
}

/// # Safety
/// As in [`exchange`].
unsafe fn copy_of(relation: pg_sys::Oid) -> pg_sys::HeapTuple {
    let (cache, zero) = (pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(0));
    // SAFETY: a catalog look-up that gives a copy.
    let row = unsafe { pg_sys::SearchSysCacheCopy(cache, pg_sys::Datum::from(relation), zero, zero, zero) };
    if row.is_null() {
        pgrx::error!("perf_opt: relation {} is gone", relation.to_u32());
    }
    row
}

/// Writes down whose a TOAST table is.
///
/// # Safety
/// As in [`exchange`].
unsafe fn belong(toast: pg_sys::Oid, table: pg_sys::Oid) {
    let address =
        |relation| pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: relation, objectSubId: 0 };
    let (depender, on) = (address(toast), address(table));
    // SAFETY: plain calls on the catalog with live addresses. A TOAST table depends on its table only.
    unsafe {
        pg_sys::deleteDependencyRecordsFor(pg_sys::RelationRelationId, toast, false);
        pg_sys::recordDependencyOn(&raw const depender, &raw const on, pg_sys::DependencyType::DEPENDENCY_INTERNAL);
    }
}

/// Gives the TOAST table that a table has got from its twin, and the index of that, the names that they have elsewhere.
/// After the twin was dropped.
pub fn name_toast(table: pg_sys::Oid, toast: pg_sys::Oid, index: pg_sys::Oid) {
    let name = |suffix: &str| CString::new(format!("pg_toast_{}{suffix}", table.to_u32())).unwrap_or_default();
    // SAFETY: inside a transaction that has the table locked; names are NUL-terminated and copied.
    unsafe {
        pg_sys::RenameRelationInternal(toast, name("").as_ptr(), true, false);
        pg_sys::RenameRelationInternal(index, name("_index").as_ptr(), true, true);
        pg_sys::CommandCounterIncrement();
        pg_sys::ResetRelRewrite(toast);
        pg_sys::CommandCounterIncrement();
    }
}
