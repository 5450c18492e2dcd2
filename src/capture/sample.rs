//! Keeps an execution as it was, literals and parameters included, for the advisor to plan. A few for each statement,
//! taken when a statement is new or its count of calls reaches a power of two; of costly statements with the rows that
//! their plan's nodes gave.

use super::actuals;
use super::source::StatementText;
use crate::memory::samples::Encoder;
use crate::memory::statements::{self, Key};
use crate::memory::Memory;
use crate::pg::attempt::attempt;
use crate::pg::local::ProcessLocal;
use core::ffi::CStr;
use pgrx::pg_sys;

/// A statement with its parameters that is longer is not sampled.
const LONGEST: usize = 8_192;
/// A longer value is not kept.
const LONGEST_VALUE: usize = 512;
/// Built-in types end here; the output function of any other type may be somebody's own code.
const FIRST_USER_OID: u32 = 16_384;

static BUFFER: ProcessLocal<[u8; LONGEST]> = ProcessLocal::new([0; LONGEST]);

/// Samples an execution that is about to end.
///
/// # Safety
/// `query` is a live descriptor whose executor is open; `measured` when its nodes counted their rows and it ran to its end.
#[cold]
pub unsafe fn take(memory: &Memory, key: &Key, query: *mut pg_sys::QueryDesc, text: &StatementText, measured: bool) {
    // SAFETY: process-local; sampling does not nest. The search path is a setting's NUL-terminated string.
    let (buffer, search_path) = unsafe {
        let path = pg_sys::namespace_search_path;
        let path = if path.is_null() { &[][..] } else { CStr::from_ptr(path).to_bytes() };
        (&mut *BUFFER.as_ptr(), path)
    };
    // SAFETY: the caller vouches for the descriptor.
    let params = unsafe { (*query).params.as_ref() };
    let Some(mut encoder) = Encoder::new(buffer, search_path, text.raw()) else { return };
    if let Some(params) = params {
        // Values that come from a callback are not fetched: that may run code.
        if params.paramFetch.is_some() {
            return;
        }
        // SAFETY: the list holds `numParams` values behind its head.
        let values = unsafe { params.params.as_slice(params.numParams.max(0) as usize) };
        if values.iter().try_for_each(|value| encode(&mut encoder, value)).is_none() {
            return;
        }
    }
    if measured {
        // SAFETY: as the caller vouches.
        if let Some(mut gathered) = unsafe { actuals::of(query) } {
            encoder.cardinalities(gathered.counts());
        }
    }
    statements::store_sample(memory, key, encoder.finish());
}

fn encode(encoder: &mut Encoder, param: &pg_sys::ParamExternData) -> Option<()> {
    let type_oid = param.ptype.to_u32();
    if param.isnull {
        return encoder.null(type_oid);
    }
    match text_of(param) {
        Some(text) => encoder.text(type_oid, &text),
        None => encoder.unknown(type_oid),
    }
}

/// A parameter's value in its text form; `None` when it is NULL, too long, or not of a built-in type.
pub fn text_of(param: &pg_sys::ParamExternData) -> Option<Vec<u8>> {
    let is_builtin = (1..FIRST_USER_OID).contains(&param.ptype.to_u32());
    if param.isnull || !is_builtin {
        return None;
    }
    output(param)
}

fn output(param: &pg_sys::ParamExternData) -> Option<Vec<u8>> {
    // SAFETY: the value is of the type it says; a long one is not even read. Output functions of built-in types allocate
    // and may raise: in the current (per-query) context, and caught here.
    unsafe {
        let text = attempt(|| {
            let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(param.ptype, &mut function, &mut is_varlena);
            if is_varlena && pg_sys::toast_raw_datum_size(param.value) > LONGEST_VALUE {
                return None;
            }
            let text = pg_sys::OidOutputFunctionCall(function, param.value);
            let bytes = CStr::from_ptr(text).to_bytes().to_vec();
            pg_sys::pfree(text.cast());
            Some(bytes)
        });
        text.filter(|text| text.len() <= LONGEST_VALUE)
    }
}
