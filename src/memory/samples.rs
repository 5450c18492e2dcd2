//! Samples of executions, with their literals: what the advisor plans. They live with their statement's entry in the
//! arena and never leave shared memory but into the planner.
//!
//! Stored as: search path and statement, each with its length in front; the number of parameters and their values, each
//! with type and length; the rest are the rows that its plan's nodes gave.

use perf_core::cardinality::{self, Identity};

use super::get_ref;
use super::survey;
use super::table::Key;
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
    /// Rows that nodes of its plan gave, by what they are rows of; empty when they were not counted.
    pub cardinalities: Vec<(Identity, f64)>,
}

/// Writes a sample's stored form into a buffer; `None` when it does not fit.
pub struct Encoder<'a> {
    out: &'a mut [u8],
    len: usize,
    /// Where the number of parameters goes.
    count_at: usize,
    params: u32,
}

/// Length words of values that have no text.
const NULL: u32 = u32::MAX;
const UNKNOWN: u32 = u32::MAX - 1;

impl<'a> Encoder<'a> {
    pub fn new(out: &'a mut [u8], search_path: &[u8], text: &[u8]) -> Option<Encoder<'a>> {
        let mut encoder = Encoder { out, len: 0, count_at: 0, params: 0 };
        encoder.bytes(search_path)?;
        encoder.bytes(text)?;
        encoder.count_at = encoder.len;
        encoder.word(0)?;
        Some(encoder)
    }

    pub fn text(&mut self, type_oid: u32, value: &[u8]) -> Option<()> {
        self.parameter(type_oid)?;
        self.bytes(value)
    }

    pub fn null(&mut self, type_oid: u32) -> Option<()> {
        self.parameter(type_oid)?;
        self.word(NULL)
    }

    pub fn unknown(&mut self, type_oid: u32) -> Option<()> {
        self.parameter(type_oid)?;
        self.word(UNKNOWN)
    }

    /// Adds counts of rows, after the last parameter. Without room for all of them there are none.
    pub fn cardinalities(&mut self, counts: impl Iterator<Item = (Identity, f64)>) {
        let room = self.out.get_mut(self.len..).unwrap_or_default();
        self.len += cardinality::write(counts, room).unwrap_or(0);
    }

    pub fn finish(self) -> &'a [u8] {
        if let Some(count) = self.out.get_mut(self.count_at..self.count_at + 4) {
            count.copy_from_slice(&self.params.to_le_bytes());
        }
        &self.out[..self.len]
    }

    fn parameter(&mut self, type_oid: u32) -> Option<()> {
        self.params += 1;
        self.word(type_oid)
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
    for _ in 0..word(&mut rest)? {
        let type_oid = word(&mut rest)?;
        let value = match word(&mut rest)? {
            NULL => Value::Null,
            UNKNOWN => Value::Unknown,
            len => Value::Text(DbText::convert(take(&mut rest, len)?.to_vec(), encoding)),
        };
        params.push(Param { type_oid, value });
    }
    Some(Sample { search_path, text, params, cardinalities: cardinality::read(rest) })
}

/// The samples of all statements of a database.
pub fn of_database(dbid: u32) -> Vec<(Key, Vec<Sample>)> {
    let Some(memory) = get_ref() else { return Vec::new() };
    let mut stored = Vec::new();
    survey::visit(
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
