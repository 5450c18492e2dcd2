//! What a statement has changed on a watched relation, as bytes: the form in which a commit hands it to the process that
//! invalidates. Pure.
//!
//! Names and values are in the encoding of their database. All numbers are little-endian; a text is its length and its bytes.

/// A value that is NULL.
const NULL: u32 = u32::MAX;

/// What one statement has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change<'a> {
    /// Numbers of the watches that it concerns.
    pub watches: Vec<i64>,
    /// Names of the columns that their templates name.
    pub columns: Vec<&'a [u8]>,
    /// Their distinct values, row after row; None: any row may have changed.
    pub values: Option<Vec<Option<&'a [u8]>>>,
}

impl<'a> Change<'a> {
    /// Writes it behind what is there, with its length before it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put(out, 0);
        put(out, self.watches.len());
        for watch in &self.watches {
            out.extend_from_slice(&watch.to_le_bytes());
        }
        put(out, self.columns.len());
        for column in &self.columns {
            text(out, column);
        }
        match &self.values {
            None => out.extend_from_slice(&NULL.to_le_bytes()),
            Some(values) => {
                put(out, values.len());
                for value in values {
                    match value {
                        Some(value) => text(out, value),
                        None => out.extend_from_slice(&NULL.to_le_bytes()),
                    }
                }
            }
        }
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Reads the next one and leaves what is behind it. None at the end, and where nothing can be read.
    pub fn decode(bytes: &mut &'a [u8]) -> Option<Change<'a>> {
        let length = number(bytes)?;
        let mut inner = take(bytes, length)?;
        let mut change = Change::default();
        for _ in 0..number(&mut inner)? {
            change.watches.push(i64::from_le_bytes(take(&mut inner, 8)?.try_into().ok()?));
        }
        for _ in 0..number(&mut inner)? {
            let length = number(&mut inner)?;
            change.columns.push(take(&mut inner, length)?);
        }
        let count = u32::from_le_bytes(take(&mut inner, 4)?.try_into().ok()?);
        if count != NULL {
            let mut values = Vec::new();
            for _ in 0..count {
                let length = u32::from_le_bytes(take(&mut inner, 4)?.try_into().ok()?);
                values.push(match length {
                    NULL => None,
                    length => Some(take(&mut inner, length as usize)?),
                });
            }
            change.values = Some(values);
        }
        Some(change)
    }
}

fn put(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u32).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, text.len());
    out.extend_from_slice(text);
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<i64>, Vec<Vec<u8>>, Option<Vec<Option<Vec<u8>>>>);

    fn one() -> impl Strategy<Value = Owned> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
        (
            proptest::collection::vec(any::<i64>(), 0..4),
            proptest::collection::vec(bytes(), 0..4),
            proptest::option::of(proptest::collection::vec(proptest::option::of(bytes()), 0..6)),
        )
    }

    fn borrowed((watches, columns, values): &Owned) -> Change<'_> {
        Change {
            watches: watches.clone(),
            columns: columns.iter().map(Vec::as_slice).collect(),
            values: values.as_ref().map(|values| values.iter().map(Option::as_deref).collect()),
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(all in proptest::collection::vec(one(), 0..6)) {
            let mut bytes = Vec::new();
            all.iter().for_each(|one| borrowed(one).encode(&mut bytes));
            let mut rest = bytes.as_slice();
            for one in &all {
                prop_assert_eq!(Change::decode(&mut rest), Some(borrowed(one)));
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(Change::decode(&mut rest), None);
        }

        #[test]
        fn whatever_the_bytes_are_reading_ends(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut rest = bytes.as_slice();
            while Change::decode(&mut rest).is_some() {}
        }
    }
}
