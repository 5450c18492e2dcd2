//! Text in the encoding of the current database, as bytes. A Rust `String` is UTF-8; a database need not be.

use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::IntoDatum;

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

// SAFETY: the datum made above is a text.
unsafe impl SqlTranslatable for DbText {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(DbText);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("TEXT"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("TEXT")));
}

// SAFETY: hands over the datum made above.
unsafe impl BoxRet for DbText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a text in the function's memory context.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
