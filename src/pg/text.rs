//! Text in the encoding of the current database, as bytes. A Rust `String` is UTF-8; a database need not be.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::impl_sql_translatable;
use pgrx::{pg_sys, FromDatum, IntoDatum};

/// Text in the current database's encoding.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DbText(Vec<u8>);

impl DbText {
    /// Converts bytes that are in `encoding`. What is invalid in it, or has no counterpart here, becomes `?`; nothing
    /// is raised.
    pub fn convert(bytes: Vec<u8>, encoding: i32) -> DbText {
        // SAFETY: plain look-ups.
        let (here, utf8) = unsafe { (pg_sys::GetDatabaseEncoding(), pg_sys::pg_enc::PG_UTF8 as i32) };
        if bytes.is_ascii() {
            return DbText(bytes);
        }
        if encoding == here {
            // SAFETY: reads no further than the length given.
            let valid = unsafe { pg_sys::pg_verify_mbstr(encoding, bytes.as_ptr().cast(), bytes.len() as i32, true) };
            return if valid { DbText(bytes) } else { ascii_only(&bytes) };
        }
        if encoding == utf8 || here == utf8 {
            if let Some(converted) = try_convert(&bytes, encoding, here) {
                return DbText(converted);
            }
        }
        ascii_only(&bytes)
    }

    /// Text made here of text in the current database's encoding; what was whole characters stays so.
    pub fn from_bytes(bytes: Vec<u8>) -> DbText {
        DbText(bytes)
    }

    /// ASCII is the same in every server encoding.
    pub fn from_ascii(text: &str) -> DbText {
        DbText(text.as_bytes().to_vec())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For logic that only looks for ASCII words.
    pub fn lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

fn ascii_only(bytes: &[u8]) -> DbText {
    DbText(bytes.iter().map(|&byte| if byte.is_ascii() { byte } else { b'?' }).collect())
}

fn try_convert(bytes: &[u8], from: i32, to: i32) -> Option<Vec<u8>> {
    // SAFETY: the source is NUL-terminated by `CString`, conversion functions read `len` bytes; the target has room
    // for the longest conversion there is. With `noError` the function reports how far it came instead of raising.
    unsafe {
        let procedure = pg_sys::FindDefaultConversionProc(from, to);
        if procedure == pg_sys::InvalidOid {
            return None;
        }
        let source = std::ffi::CString::new(bytes).ok()?;
        let mut target = vec![0u8; bytes.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
        let done = pg_sys::pg_do_encoding_conversion_buf(
            procedure,
            from,
            to,
            source.as_ptr().cast_mut().cast(),
            bytes.len() as i32,
            target.as_mut_ptr().cast(),
            target.len() as i32,
            true,
        );
        if usize::try_from(done).ok()? != bytes.len() {
            return None;
        }
        let end = target.iter().position(|&byte| byte == 0)?;
        target.truncate(end);
        Some(target)
    }
}

impl IntoDatum for DbText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // SAFETY: the pointer and length are those of a live slice; the result is palloc'd.
        let text = unsafe { pg_sys::cstring_to_text_with_len(self.0.as_ptr().cast(), self.0.len() as i32) };
        Some(pg_sys::Datum::from(text))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

impl FromDatum for DbText {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<DbText> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a text datum; detoasting gives a varlena with a four-byte or one-byte head.
        unsafe {
            let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            Some(DbText(pgrx::varlena::varlena_to_byte_slice(varlena).to_vec()))
        }
    }
}

// SAFETY: a text argument's datum is what FromDatum reads.
unsafe impl<'fcx> ArgAbi<'fcx> for DbText {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for an argument of the declared type that is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_default()
    }
}

// SAFETY: the datum made is a text, as declared.
unsafe impl BoxRet for DbText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a text datum, which is what the function is declared to return.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

impl_sql_translatable!(DbText, "text");
