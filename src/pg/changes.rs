//! What a statement has changed, for a trigger function that the server calls once after it: the rows as they were and as
//! they are, of which only the distinct values of some columns are of interest. Called in whatever session writes to the
//! relation, as its user. Locks nothing.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::{parameter_types, privilege};

/// Kind of the statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// The call of a trigger function after a statement.
pub struct Statement {
    trigger: *mut pg_sys::TriggerData,
}

/// What was found.
pub enum Changed {
    /// No row.
    Nothing,
    /// Some rows; which ones is not known.
    Some,
    /// Rows with these values, one for each column asked for that there is, row after row.
    Values(Vec<Option<Vec<u8>>>),
}

/// How much is collected before it counts as [`Changed::Some`].
pub struct Limits {
    /// Distinct combinations of values.
    pub tuples: usize,
    /// Bytes of them all.
    pub bytes: usize,
}

/// One column to be printed.
struct Printer {
    attribute: usize,
    output: Output,
    /// Its values are datums themselves: equal ones have one text.
    is_by_value: bool,
}

/// What makes text of a value.
enum Output {
    /// A number of two, four or eight bytes, without the server's help.
    Integer(i16),
    Function {
        function: pg_sys::FmgrInfo,
        /// Its values end in blanks that mean nothing.
        is_padded: bool,
    },
}

impl Printer {
    /// # Safety
    /// The descriptor is live and has that column.
    unsafe fn new(descriptor: pg_sys::TupleDesc, attribute: usize) -> Printer {
        // SAFETY: as promised; look-ups of a type that the open relation uses.
        unsafe {
            let column = crate::compat::attribute(descriptor, attribute);
            let output = match column.atttypid {
                pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Output::Integer(column.attlen),
                type_oid => {
                    let (mut number, mut is_varlena) = (pg_sys::InvalidOid, false);
                    pg_sys::getTypeOutputInfo(type_oid, &raw mut number, &raw mut is_varlena);
                    let mut function = pg_sys::FmgrInfo::default();
                    pg_sys::fmgr_info(number, &raw mut function);
                    Output::Function { function, is_padded: parameter_types::is_padded(type_oid) }
                }
            };
            Printer { attribute, output, is_by_value: column.attbyval }
        }
    }

    /// # Safety
    /// The value is of the column's type. What the server makes of it is left in the current memory context.
    unsafe fn print(&mut self, value: pg_sys::Datum) -> Vec<u8> {
        match &mut self.output {
            Output::Integer(2) => (value.value() as i16).to_string().into_bytes(),
            Output::Integer(4) => (value.value() as i32).to_string().into_bytes(),
            Output::Integer(_) => (value.value() as i64).to_string().into_bytes(),
            Output::Function { function, is_padded } => {
                // SAFETY: as promised; the text is copied at once.
                let bytes = unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(function, value)) }.to_bytes();
                let blanks = bytes.iter().rev().take_while(|byte| *is_padded && **byte == b' ').count();
                bytes[..bytes.len() - blanks].to_vec()
            }
        }
    }
}

/// The statement that the server has called a function after; `None` when it was not called as such a trigger. For the
/// functions that the server calls alone: the result lives as long as the call.
pub fn statement_of_call(fcinfo: pg_sys::FunctionCallInfo) -> Option<Statement> {
    const WHEN: u32 = pg_sys::TRIGGER_EVENT_TIMINGMASK | pg_sys::TRIGGER_EVENT_ROW;
    // SAFETY: the server hands its functions a live call; the context's tag says whether it is a trigger's data.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return None;
        }
        let trigger = context.cast::<pg_sys::TriggerData>();
        ((*trigger).tg_event & WHEN == pg_sys::TRIGGER_EVENT_AFTER).then_some(Statement { trigger })
    }
}

impl Statement {
    /// The relation that the statement has named.
    pub fn relation(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open during the call.
        unsafe { (*(*self.trigger).tg_relation).rd_id }
    }

    pub fn operation(&self) -> Operation {
        // SAFETY: the data is live during the call.
        match unsafe { (*self.trigger).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Operation::Delete,
            _ => Operation::Truncate,
        }
    }

    /// Those of the columns that the relation has now. A virtual one is not in the rows.
    pub fn present<'a>(&self, columns: &'a [CString]) -> Vec<(&'a CString, usize)> {
        let mut present = Vec::with_capacity(columns.len());
        // SAFETY: the relation is open during the call; names of attributes are NUL-terminated.
        unsafe {
            let descriptor = (*(*self.trigger).tg_relation).rd_att;
            for column in columns {
                let found = (0..(*descriptor).natts as usize).find(|&at| {
                    let attribute = crate::compat::attribute(descriptor, at);
                    !attribute.attisdropped
                        && attribute.attgenerated as u8 != b'v'
                        && CStr::from_ptr(attribute.attname.data.as_ptr()) == column.as_c_str()
                });
                present.extend(found.map(|at| (column, at)));
            }
        }
        present
    }

    /// The distinct values of columns (by their places, from [`Statement::present`]) in the rows before and after.
    pub fn values(&self, attributes: &[usize], limits: &Limits) -> Changed {
        // SAFETY: both are null or tuplestores that live during the call.
        let stores = unsafe { [(*self.trigger).tg_oldtable, (*self.trigger).tg_newtable] };
        if stores.iter().all(|store| store.is_null()) {
            return Changed::Some;
        }
        // SAFETY: as above.
        let rows: i64 = stores
            .iter()
            .filter(|store| !store.is_null())
            .map(|&store| unsafe { pg_sys::tuplestore_tuple_count(store) })
            .sum();
        if rows == 0 {
            return Changed::Nothing;
        }
        if attributes.is_empty() {
            return Changed::Some;
        }
        // SAFETY: the descriptor is the open relation's; what the server prints is copied at once, in a memory context that
        // is emptied after each row.
        unsafe {
            let descriptor = (*(*self.trigger).tg_relation).rd_att;
            let mut printers: Vec<Printer> = attributes.iter().map(|&at| Printer::new(descriptor, at)).collect();
            let depends =
                attributes.iter().any(|&at| !is_same_everywhere(crate::compat::attribute(descriptor, at).atttypid));
            let mut collect = || Self::collect(&stores, descriptor, &mut printers, limits);
            if depends {
                privilege::with_plain_text(collect)
            } else {
                collect()
            }
        }
    }

    /// # Safety
    /// The stores are null or live, their rows are as the descriptor says, and so are the printers.
    unsafe fn collect(
        stores: &[*mut pg_sys::Tuplestorestate],
        descriptor: pg_sys::TupleDesc,
        printers: &mut [Printer],
        limits: &Limits,
    ) -> Changed {
        let last = printers.iter().map(|printer| printer.attribute + 1).max().unwrap_or(0) as i32;
        let mut seen: BTreeSet<Vec<Option<Vec<u8>>>> = BTreeSet::new();
        let (mut bytes, mut fits) = (0, true);
        // An UPDATE mostly leaves the columns of keys as they are: such a row is not printed again.
        let is_by_value = printers.iter().all(|printer| printer.is_by_value);
        let mut last_row: Vec<Option<pg_sys::Datum>> = Vec::new();
        // SAFETY: a read pointer of our own leaves those of others where they are; the slot is dropped, the memory context
        // deleted; a raised error leaves both to the abort.
        unsafe {
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"perf_opt changed rows".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsMinimalTuple);
            for &store in stores.iter().filter(|store| !store.is_null()) {
                let pointer = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
                pg_sys::tuplestore_select_read_pointer(store, pointer);
                pg_sys::tuplestore_rescan(store);
                while fits && pg_sys::tuplestore_gettupleslot(store, true, false, slot) {
                    pgrx::check_for_interrupts!();
                    if i32::from((*slot).tts_nvalid) < last {
                        pg_sys::slot_getsomeattrs_int(slot, last);
                    }
                    let value = |printer: &Printer| {
                        let at = printer.attribute;
                        (!*(*slot).tts_isnull.add(at)).then(|| *(*slot).tts_values.add(at))
                    };
                    if is_by_value {
                        if printers.iter().map(value).eq(last_row.iter().copied()) {
                            continue;
                        }
                        last_row.clear();
                        last_row.extend(printers.iter().map(value));
                    }
                    let outer = pg_sys::MemoryContextSwitchTo(context);
                    let row: Vec<Option<Vec<u8>>> =
                        printers.iter_mut().map(|printer| value(printer).map(|value| printer.print(value))).collect();
                    pg_sys::MemoryContextSwitchTo(outer);
                    pg_sys::MemoryContextReset(context);
                    if !seen.contains(&row) {
                        bytes += row.iter().flatten().map(Vec::len).sum::<usize>();
                        seen.insert(row);
                        fits = seen.len() <= limits.tuples && bytes <= limits.bytes;
                    }
                }
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::MemoryContextDelete(context);
        }
        if fits {
            Changed::Values(seen.into_iter().flatten().collect())
        } else {
            Changed::Some
        }
    }
}

/// Types whose text does not depend on settings of the session.
fn is_same_everywhere(type_oid: pg_sys::Oid) -> bool {
    matches!(
        type_oid,
        pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BPCHAROID
            | pg_sys::NAMEOID
            | pg_sys::UUIDOID
            | pg_sys::BOOLOID
            | pg_sys::NUMERICOID
            | pg_sys::OIDOID
    )
}

/// One value of a row that [`insert`] writes.
pub enum Value<'a> {
    Null,
    /// Any type whose values are passed as they are.
    Plain(i64),
    Numbers(&'a [i64]),
    /// Text in the database's encoding.
    Text(&'a [u8]),
    /// The same, in an array.
    Texts(&'a [Option<&'a [u8]>]),
}

/// Writes a row to a table of perf_opt's own, and to its indexes, without a parser, planner or anybody's rights. The number
/// of values is that of the table's columns.
pub fn insert(table: pg_sys::Oid, row: &[Value]) {
    // SAFETY: inside a transaction; the relation is open while it is written to, and its lock is kept to the end of the
    // transaction; there is a value for each column, of its type, as the caller knows the table.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        let mut values = Vec::with_capacity(row.len());
        let mut nulls = Vec::with_capacity(row.len());
        for value in row {
            nulls.push(matches!(value, Value::Null));
            values.push(match value {
                Value::Null => pg_sys::Datum::from(0),
                Value::Plain(value) => pg_sys::Datum::from(*value),
                Value::Text(text) => text_datum(text),
                Value::Numbers(numbers) => {
                    let mut elements: Vec<pg_sys::Datum> = numbers.iter().map(|&n| pg_sys::Datum::from(n)).collect();
                    array(&mut elements, &mut vec![false; numbers.len()], pg_sys::INT8OID, 8, true, b'd')
                }
                Value::Texts(texts) => {
                    let mut elements: Vec<pg_sys::Datum> = texts
                        .iter()
                        .map(|text| match text {
                            Some(text) => text_datum(text),
                            None => pg_sys::Datum::from(0),
                        })
                        .collect();
                    let mut missing: Vec<bool> = texts.iter().map(Option::is_none).collect();
                    array(&mut elements, &mut missing, pg_sys::TEXTOID, -1, false, b'i')
                }
            });
        }
        if (*(*relation).rd_att).natts as usize == row.len() {
            let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsert(relation, tuple);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

fn text_datum(text: &[u8]) -> pg_sys::Datum {
    // SAFETY: pointer and length are those of a live slice, which is copied.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(text.as_ptr().cast(), text.len() as i32)) }
}

/// # Safety
/// The elements are of the type, which is as the other arguments say.
unsafe fn array(
    elements: &mut [pg_sys::Datum],
    missing: &mut [bool],
    type_oid: pg_sys::Oid,
    length: i32,
    by_value: bool,
    alignment: u8,
) -> pg_sys::Datum {
    let mut dimension = elements.len() as i32;
    let mut lower = 1;
    // SAFETY: one dimension of as many elements as there are.
    unsafe {
        pg_sys::Datum::from(pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            missing.as_mut_ptr(),
            1,
            &raw mut dimension,
            &raw mut lower,
            type_oid,
            length,
            by_value,
            alignment as core::ffi::c_char,
        ))
    }
}
