//! Where a statement's text is, and how to get it without its literals.

use crate::guc;
use crate::memory::statements::Source;
use crate::pg::local::ProcessLocal;
use core::ffi::{c_char, CStr};
use perf_core::normalize::{is_blank, literals, normalize_into, unambiguous};
use pgrx::pg_sys;

/// The longest text that perf_opt.max_query_length allows.
const LONGEST: usize = 65_536;

/// Normalised texts are made here. Never more than one is in use: recording does not nest.
static BUFFER: ProcessLocal<[u8; LONGEST]> = ProcessLocal::new([0; LONGEST]);

/// The text of one statement.
#[derive(Clone, Copy)]
pub enum StatementText<'a> {
    /// As the client sent it, perhaps with other statements around it: source, location, length.
    Raw { source: *const c_char, location: i32, len: i32 },
    /// As the client sent it, copied.
    Copied(&'a [u8]),
    /// Made by perf_opt; has no literals.
    Clean(&'a [u8]),
    /// Not known.
    Missing,
}

impl<'a> StatementText<'a> {
    pub const fn of(source: *const c_char, location: i32, len: i32) -> StatementText<'a> {
        StatementText::Raw { source, location, len }
    }

    /// The statement as it was written, with its literals but without a semicolon at its end. Not for keeping.
    pub fn raw(&self) -> &[u8] {
        match *self {
            StatementText::Raw { source, location, len } => {
                if source.is_null() {
                    return &[];
                }
                // SAFETY: the server's source texts are NUL-terminated and live as long as the statement runs.
                let all = unsafe { CStr::from_ptr(source) }.to_bytes();
                let from = usize::try_from(location).unwrap_or(0).min(all.len());
                let to = match usize::try_from(len) {
                    Ok(len) if len > 0 && location >= 0 => (from + len).min(all.len()),
                    _ => all.len(),
                };
                // From 18 on the location is behind the comments in front of a statement; they stay, as they do before.
                let from = if is_blank(&all[..from]) { 0 } else { from };
                let text = all[from..to].trim_ascii_end();
                text.strip_suffix(b";").unwrap_or(text)
            }
            StatementText::Copied(text) | StatementText::Clean(text) => text,
            StatementText::Missing => &[],
        }
    }

    /// True when no semicolon stands between two statements. A literal with a semicolon is taken for one.
    pub fn is_one_statement(&self) -> bool {
        let body = self.raw();
        !body.is_empty() && !body.contains(&b';')
    }

    /// Parameters that the text has itself; its literals are numbered after them.
    pub fn parameters(&self) -> u32 {
        match self.is_clean() {
            true => 0,
            false => literals::parameters(self.readable()),
        }
    }

    /// Shows `each` what the literals say, in the order of the parameters that normalising makes of them, until it says
    /// no; `None` where that is not known.
    pub fn each_value(&self, mut each: impl FnMut(Option<&[u8]>) -> bool) {
        if !self.is_clean() {
            let escapes = backslash_escapes();
            literals::each(self.readable(), escapes, |literal| each(literals::value(literal, escapes).as_deref()));
        }
    }

    /// As much of the statement as was written the way it is read here.
    fn readable(&self) -> &[u8] {
        match strings_are_certain() {
            true => self.raw(),
            false => unambiguous(self.raw()),
        }
    }

    /// True when the text has nothing to take out.
    pub fn is_clean(&self) -> bool {
        matches!(self, StatementText::Clean(_))
    }
}

impl Source for StatementText<'_> {
    fn text(&self) -> &[u8] {
        let raw = if self.is_clean() { self.raw() } else { self.readable() };
        // SAFETY: process-local; the slice returned is read before the next text is made.
        let buffer = unsafe { &mut *BUFFER.as_ptr() };
        let limit = guc::max_query_length().min(LONGEST);
        let len = if self.is_clean() {
            let len = raw.len().min(limit);
            buffer[..len].copy_from_slice(&raw[..len]);
            len
        } else {
            normalize_into(raw, &mut buffer[..limit], backslash_escapes())
        };
        // SAFETY: reads `len` bytes of the buffer; never raises.
        let clipped = if len == limit { unsafe { clip(buffer, len) } } else { len };
        &buffer[..clipped]
    }
}

/// Cuts a text so that its last character is whole.
unsafe fn clip(text: &[u8], len: usize) -> usize {
    unsafe extern "C" {
        /// Never raises.
        fn pg_mbcliplen(text: *const c_char, len: i32, limit: i32) -> i32;
    }
    // SAFETY: `text` has at least `len` bytes.
    let clipped = unsafe { pg_mbcliplen(text.as_ptr().cast(), len as i32, len as i32 - 1) };
    usize::try_from(clipped).unwrap_or(0)
}

/// standard_conforming_strings (inverted) when this process ran its first statement.
static ESCAPES_AT_START: ProcessLocal<bool> = ProcessLocal::new(false);

/// Remembers how strings are read; when this process runs its first statement.
pub fn note_strings() {
    ESCAPES_AT_START.set(backslash_escapes());
}

/// Whether a text was surely read with the setting as it is now; a session that changed it may have done so since.
fn strings_are_certain() -> bool {
    ESCAPES_AT_START.get() == backslash_escapes()
}

fn backslash_escapes() -> bool {
    // SAFETY: a plain read of a setting's variable.
    !unsafe { pg_sys::standard_conforming_strings }
}
