//! A `jsonb` as it is, without a look into it: for values that are stored and given back. Memory is the server's, of the
//! context in which it was read. Locks nothing.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::pgrx_sql_entity_graph::impl_sql_translatable;
use pgrx::{pg_sys, FromDatum, IntoDatum};

use super::text::Document;

/// The datum of a jsonb.
#[derive(Clone, Copy, Debug)]
pub struct RawJsonb(pg_sys::Datum);

impl RawJsonb {
    /// Bytes of the value, uncompressed.
    pub fn bytes(self) -> usize {
        // SAFETY: a jsonb; its size is in its head, or in the pointer to where it is.
        unsafe { pg_sys::toast_raw_datum_size(self.0) }
    }

    /// Read; null where the server prints what is no JSON.
    pub fn parsed(self) -> serde_json::Value {
        // SAFETY: a jsonb.
        unsafe { Document::from_datum(self.0, false) }.map_or(serde_json::Value::Null, |document| document.0)
    }

    /// A copy in the current memory context that does not depend on the row it is from.
    pub fn copied(self) -> RawJsonb {
        // SAFETY: a valid varlena; the copy is whole, uncompressed and in memory.
        RawJsonb(pg_sys::Datum::from(unsafe { pg_sys::pg_detoast_datum_copy(self.0.cast_mut_ptr()) }))
    }
}

impl IntoDatum for RawJsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

impl FromDatum for RawJsonb {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<RawJsonb> {
        (!is_null).then_some(RawJsonb(datum))
    }
}

// SAFETY: the datum is passed on; it lives as long as what it was read from, which the caller vouches for.
unsafe impl UnboxDatum for RawJsonb {
    type As<'src> = RawJsonb;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> RawJsonb
    where
        Self: 'src,
    {
        RawJsonb(datum.sans_lifetime())
    }
}

// SAFETY: an argument lives as long as the call.
unsafe impl<'fcx> ArgAbi<'fcx> for RawJsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for an argument of the declared type that is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(RawJsonb(pg_sys::Datum::from(0)))
    }
}

// SAFETY: a jsonb datum, as declared.
unsafe impl BoxRet for RawJsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

impl_sql_translatable!(RawJsonb, "jsonb");
