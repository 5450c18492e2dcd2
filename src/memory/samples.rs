//! Samples of executions, with their literals: what the advisor plans. They live with their statement's entry in the
//! arena and never leave shared memory but into the planner.
//!
//! Stored as: search path, statement and the values of its parameters, each with its length in front.

use super::get_ref;
use super::statements::{self, Key};
use crate::pg::text::DbText;

/// A parameter of a sampled execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub type_oid: u32,
    pub value: Value,
}

/// What is known of a parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    /// Too long, or of a type whose output cannot be trusted in a hook.
    Unknown,
    /// In the type's text form.
    Text(DbText),
}

/// One sampled execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub search_path: DbText,
    pub text: DbText,
    pub params: Vec<Param>,
}

/// Writes a sample's stored form into a buffer; `None` when it does not fit.
pub struct Encoder<'a> {
    out: &'a mut [u8],
    len: usize,
}

/// Length words of values that have no text.
const NULL: u32 = u32::MAX;
const UNKNOWN: u32 = u32::MAX - 1;

impl<'a> Encoder<'a> {
    pub fn new(out: &'a mut [u8], search_path: &[u8], text: &[u8]) -> Option<Encoder<'a>> {
        let mut encoder = Encoder { out, len: 0 };
        encoder.bytes(search_path)?;
        encoder.bytes(text)?;
        Some(encoder)
    }

    pub fn text(&mut self, type_oid: u32, value: &[u8]) -> Option<()> {
        self.word(type_oid)?;
        self.bytes(value)
    }

    pub fn null(&mut self, type_oid: u32) -> Option<()> {
        self.word(type_oid)?;
        self.word(NULL)
    }

    pub fn unknown(&mut self, type_oid: u32) -> Option<()> {
        self.word(type_oid)?;
        self.word(UNKNOWN)
    }

    pub fn finish(self) -> &'a [u8] {
        &self.out[..self.len]
    }

    fn word(&mut self, word: u32) -> Option<()> {
        self.raw(&word.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.word(u32::try_from(bytes.len()).ok()?)?;
        self.raw(bytes)
    }

    fn raw(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

fn decode(bytes: &[u8], encoding: i32) -> Option<Sample> {
    fn word(rest: &mut &[u8]) -> Option<u32> {
        let (word, tail) = rest.split_first_chunk::<4>()?;
        *rest = tail;
        Some(u32::from_le_bytes(*word))
    }
    fn take<'a>(rest: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
        let (bytes, tail) = rest.split_at_checked(len as usize)?;
        *rest = tail;
        Some(bytes)
    }
    let mut rest = bytes;
    let string = |rest: &mut &[u8]| {
        let len = word(rest)?;
        Some(DbText::convert(take(rest, len)?.to_vec(), encoding))
    };
    let (search_path, text) = (string(&mut rest)?, string(&mut rest)?);
    let mut params = Vec::new();
    while !rest.is_empty() {
        let type_oid = word(&mut rest)?;
        let value = match word(&mut rest)? {
            NULL => Value::Null,
            UNKNOWN => Value::Unknown,
            len => Value::Text(DbText::convert(take(&mut rest, len)?.to_vec(), encoding)),
        };
        params.push(Param { type_oid, value });
    }
    Some(Sample { search_path, text, params })
}

/// The samples of all statements of a database.
pub fn of_database(dbid: u32) -> Vec<(Key, Vec<Sample>)> {
    let Some(memory) = get_ref() else { return Vec::new() };
    let mut stored = Vec::new();
    statements::visit(
        memory,
        |entry| {
            if entry.key.dbid == dbid && !entry.is_other {
                stored.push((entry.key, entry.samples(), entry.encoding()));
            }
        },
        || {},
    );
    stored
        .into_iter()
        .map(|(key, samples, encoding)| (key, samples.iter().filter_map(|bytes| decode(bytes, encoding)).collect()))
        .collect()
}
