//! Set-returning functions that fill a tuplestore row by row, for results of many rows and columns: several times
//! cheaper than building typed rows. One guarded call of the server a row; texts are laid out here.

use pgrx::pg_sys;

/// What a result may take in memory when work_mem is less: results here have a bounded number of rows, and writing them to
/// a file costs more than forming them.
const IN_MEMORY_KB: i32 = 16_384;

/// The result of a set-returning function being filled.
pub struct RowSink {
    info: *mut pg_sys::ReturnSetInfo,
    /// The texts of the row being put together, as varlenas, each at a multiple of eight bytes.
    texts: Vec<u64>,
}

/// One row being put together; columns in order.
pub struct Row<'a, const N: usize> {
    values: [pg_sys::Datum; N],
    nulls: [bool; N],
    /// Columns whose value is still a place in `texts`.
    is_text: [bool; N],
    at: usize,
    texts: &'a mut Vec<u64>,
}

impl RowSink {
    /// Prepares the result of the function called with `fcinfo`; raises when the caller cannot take a set.
    ///
    /// # Safety
    /// `fcinfo` is the call information the server gave to a function declared to return TABLE.
    pub unsafe fn start(fcinfo: pg_sys::FunctionCallInfo) -> RowSink {
        // SAFETY: the caller vouches for `fcinfo`; InitMaterializedSRF checks that a set is accepted and sets up the
        // tuplestore and the row type.
        unsafe {
            pg_sys::InitMaterializedSRF(fcinfo, 0);
            let info: *mut pg_sys::ReturnSetInfo = (*fcinfo).resultinfo.cast();
            if pg_sys::work_mem < IN_MEMORY_KB {
                // The same store again, with more room before it goes to disk.
                pg_sys::tuplestore_end((*info).setResult);
                let random = (*info).allowedModes as u32 & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random != 0;
                let outer = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
                (*info).setResult = pg_sys::tuplestore_begin_heap(random, false, IN_MEMORY_KB);
                pg_sys::MemoryContextSwitchTo(outer);
            }
            RowSink { info, texts: Vec::new() }
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, fill: impl FnOnce(&mut Row<N>)) {
        self.texts.clear();
        let mut row = Row {
            values: [pg_sys::Datum::from(0); N],
            nulls: [true; N],
            is_text: [false; N],
            at: 0,
            texts: &mut self.texts,
        };
        fill(&mut row);
        let Row { mut values, mut nulls, is_text, at, texts } = row;
        for (value, _) in values.iter_mut().zip(is_text).filter(|(_, is_text)| *is_text) {
            *value = pg_sys::Datum::from(texts[value.value()..].as_ptr());
        }
        // SAFETY: the result was set up by `start`; that the row has the columns the function declares is checked before
        // the tuplestore reads them; it copies what the values point to.
        unsafe {
            let columns = (*(*self.info).setDesc).natts as usize;
            if columns != N || at != N {
                pgrx::error!("perf_opt: a row of {at} of {N} columns for a result of {columns}");
            }
            let (store, shape) = ((*self.info).setResult, (*self.info).setDesc);
            pg_sys::tuplestore_putvalues(store, shape, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}

impl<const N: usize> Row<'_, N> {
    /// The next column; NULL when `None`.
    pub fn put(&mut self, value: Option<pg_sys::Datum>) {
        if let (Some(value), true) = (value, self.at < N) {
            self.values[self.at] = value;
            self.nulls[self.at] = false;
        }
        self.at += 1;
    }

    pub fn bigint(&mut self, value: u64) {
        self.put(Some(pg_sys::Datum::from(value as i64)));
    }

    pub fn float(&mut self, value: f64) {
        self.put(Some(pg_sys::Datum::from(value.to_bits())));
    }

    pub fn float_or_null(&mut self, value: Option<f64>) {
        self.put(value.map(|value| pg_sys::Datum::from(value.to_bits())));
    }

    /// A timestamptz; NULL when 0, which stands for never.
    pub fn timestamp(&mut self, value: i64) {
        self.put((value != 0).then(|| pg_sys::Datum::from(value)));
    }

    /// A text in the current database's encoding.
    pub fn text(&mut self, value: &[u8]) {
        let place = self.texts.len();
        let bytes = pg_sys::VARHDRSZ + value.len();
        self.texts.resize(place + bytes.div_ceil(size_of::<u64>()), 0);
        // SAFETY: the words just added have room for the header and the bytes; a varlena's header is its first word.
        unsafe {
            let varlena: *mut u8 = self.texts[place..].as_mut_ptr().cast();
            pgrx::varlena::set_varsize_4b(varlena.cast(), bytes as i32);
            core::ptr::copy_nonoverlapping(value.as_ptr(), varlena.add(pg_sys::VARHDRSZ), value.len());
        }
        if self.at < N {
            self.is_text[self.at] = true;
        }
        self.put(Some(pg_sys::Datum::from(place)));
    }

    pub fn text_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.text(value),
            None => self.put(None),
        }
    }
}
