//! Text in the encoding of the current database, as bytes. A Rust `String` is UTF-8; a database need not be.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
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

    /// From Rust text. In SQL_ASCII, which says nothing of what bytes mean, it stays UTF-8.
    pub fn from_utf8(text: &str) -> DbText {
        // SAFETY: a plain look-up.
        match unsafe { pg_sys::GetDatabaseEncoding() } as u32 {
            pg_sys::pg_enc::PG_UTF8 | pg_sys::pg_enc::PG_SQL_ASCII => DbText(text.as_bytes().to_vec()),
            _ => DbText::convert(text.as_bytes().to_vec(), pg_sys::pg_enc::PG_UTF8 as i32),
        }
    }

    /// As Rust text; what is invalid becomes U+FFFD. The way back gives the same bytes for all that is valid.
    pub fn to_utf8(&self) -> String {
        // SAFETY: a plain look-up.
        let here = unsafe { pg_sys::GetDatabaseEncoding() };
        let utf8 = pg_sys::pg_enc::PG_UTF8 as i32;
        let converted = if here == utf8 || self.0.is_ascii() { None } else { try_convert(&self.0, here, utf8) };
        String::from_utf8_lossy(converted.as_deref().unwrap_or(&self.0)).into_owned()
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

/// A message to the client: those are sent as if they were in the database's encoding already, so in one that is not UTF-8
/// only ASCII stays.
pub fn message(text: String) -> String {
    // SAFETY: a plain look-up.
    match unsafe { pg_sys::GetDatabaseEncoding() } as u32 {
        pg_sys::pg_enc::PG_UTF8 | pg_sys::pg_enc::PG_SQL_ASCII => text,
        _ => text.chars().map(|char| if char.is_ascii() { char } else { '?' }).collect(),
    }
}

/// Whether all of a text that came from the database could be read: where that is not in UTF-8, what cannot be converted
/// becomes U+FFFD.
pub fn is_whole(text: &str) -> bool {
    // SAFETY: a plain look-up.
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32;
    is_utf8 || !text.contains(char::REPLACEMENT_CHARACTER)
}

/// Rust text that is a `text` in SQL: converted from the database's encoding when read, and to it when written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Text(pub String);

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        DbText::from_utf8(&self.0).into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, type_oid: pg_sys::Oid) -> Option<Text> {
        // SAFETY: passed on to the caller.
        unsafe { DbText::from_polymorphic_datum(datum, is_null, type_oid) }.map(|text| Text(text.to_utf8()))
    }
}

// SAFETY: the result owns its memory.
unsafe impl UnboxDatum for Text {
    type As<'src> = Text;

    unsafe fn unbox<'src>(datum: Datum<'src>) -> Text
    where
        Self: 'src,
    {
        // SAFETY: the caller vouches for a text datum that is not NULL.
        unsafe { Text::from_datum(datum.sans_lifetime(), false) }.unwrap_or_default()
    }
}

// SAFETY: a text argument's datum is what FromDatum reads.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for an argument of the declared type that is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_default()
    }
}

// SAFETY: the datum made is a text, as declared.
unsafe impl BoxRet for Text {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: passed on to the caller.
        unsafe { DbText::from_utf8(&self.0).box_into(fcinfo) }
    }
}

impl_sql_translatable!(Text, "text");

/// A `jsonb` in SQL.
#[derive(Clone, Debug, Default)]
pub struct Document(pub serde_json::Value);

impl IntoDatum for Document {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let mut printed = self.0.to_string();
        // SAFETY: a plain look-up.
        let here = unsafe { pg_sys::GetDatabaseEncoding() } as u32;
        if !matches!(here, pg_sys::pg_enc::PG_UTF8 | pg_sys::pg_enc::PG_SQL_ASCII) {
            // The server makes escapes what they are in its encoding.
            let mut escaped = String::with_capacity(printed.len());
            for unit in printed.encode_utf16() {
                match u8::try_from(unit) {
                    Ok(byte) if byte.is_ascii() => escaped.push(byte as char),
                    _ => escaped.push_str(&format!("\\u{unit:04x}")),
                }
            }
            printed = escaped;
        }
        // A NUL character is an escape in JSON.
        let printed = std::ffi::CString::new(printed).unwrap_or_default();
        // SAFETY: jsonb's input function takes a C string and copies what it keeps.
        unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(printed.as_ptr()))]) }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Document> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a jsonb datum; what the server prints of it is in the database's encoding.
        let printed = unsafe {
            let printed = pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)])?;
            super::ident::owned(printed.cast_mut_ptr())?
        };
        serde_json::from_str(&printed).ok().map(Document)
    }
}

// SAFETY: the datum made is a jsonb, as declared.
unsafe impl BoxRet for Document {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a jsonb datum, which is what the function is declared to return.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

impl_sql_translatable!(Document, "jsonb");
