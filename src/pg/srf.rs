//! Set-returning functions that fill a tuplestore row by row, for results of many rows and columns: several times
//! cheaper than building typed rows.

use pgrx::pg_sys;

/// The result of a set-returning function being filled.
pub struct RowSink {
    info: *mut pg_sys::ReturnSetInfo,
    row_context: pg_sys::MemoryContext,
}

/// One row being put together; columns in order.
pub struct Row<const N: usize> {
    values: [pg_sys::Datum; N],
    nulls: [bool; N],
    at: usize,
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
            RowSink {
                info: (*fcinfo).resultinfo.cast(),
                row_context: pg_sys::AllocSetContextCreateExtended(
                    pg_sys::CurrentMemoryContext,
                    c"perf_opt rows".as_ptr(),
                    pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
                ),
            }
        }
    }

    /// Adds a row. What `fill` allocates is freed afterwards.
    pub fn row<const N: usize>(&self, fill: impl FnOnce(&mut Row<N>)) {
        // SAFETY: the result was set up by `start`; the row has as many columns as the function declares, or the
        // tuplestore would be given less than it reads: checked below.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.row_context);
            let mut row = Row { values: [pg_sys::Datum::from(0); N], nulls: [true; N], at: 0 };
            fill(&mut row);
            let columns = (*(*self.info).setDesc).natts as usize;
            if columns != N || row.at != N {
                pgrx::error!("perf_opt: a row of {} of {N} columns for a result of {columns}", row.at);
            }
            pg_sys::tuplestore_putvalues(
                (*self.info).setResult,
                (*self.info).setDesc,
                row.values.as_ptr().cast_mut(),
                row.nulls.as_ptr().cast_mut(),
            );
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::MemoryContextReset(self.row_context);
        }
    }
}

impl<const N: usize> Row<N> {
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
        // SAFETY: a live slice; the result is palloc'd in the row's context.
        let datum = unsafe { pg_sys::cstring_to_text_with_len(value.as_ptr().cast(), value.len() as i32) };
        self.put(Some(pg_sys::Datum::from(datum)));
    }

    pub fn text_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.text(value),
            None => self.put(None),
        }
    }
}
