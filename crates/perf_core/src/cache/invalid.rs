//! What a change makes invalid: keys, beginnings of keys, and tags, filled from the values of changed rows; how it is put for
//! Redis and for listeners. Pure.

use std::collections::BTreeSet;

use super::marks::{beginning, of_beginning, of_key, of_tag};
use super::template::{Filled, Template};

/// What is invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalid {
    /// Exact keys.
    pub keys: BTreeSet<String>,
    /// Beginnings of keys; the empty one is that of all keys.
    pub prefixes: BTreeSet<String>,
    /// Exact tags.
    pub tags: BTreeSet<String>,
    /// Beginnings of tags, as far as the text of their template is known.
    pub tag_prefixes: BTreeSet<String>,
}

/// Values of the columns that were collected, row after row; without rows, any row may have changed.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Names of the columns.
    pub columns: &'a [String],
    /// As many for each row as there are columns.
    pub rows: Option<&'a [Option<String>]>,
}

impl Invalid {
    /// Fills templates of keys and of tags with the values of the changed rows.
    pub fn add(&mut self, keys: &[Template], tags: &[Template], values: Values<'_>) {
        let width = values.columns.len();
        match values.rows {
            Some(rows) if width > 0 && !rows.is_empty() => {
                for row in rows.chunks_exact(width) {
                    let value = |name: &str| {
                        let at = values.columns.iter().position(|column| column == name)?;
                        row[at].as_deref()
                    };
                    self.add_row(keys, tags, &value);
                }
            }
            _ => self.add_row(keys, tags, &|_| None),
        }
    }

    fn add_row<'a>(&mut self, keys: &[Template], tags: &[Template], value: &dyn Fn(&str) -> Option<&'a str>) {
        for template in keys {
            match template.fill(value) {
                Filled::Key(key) => self.keys.insert(key),
                Filled::Beginning(beginning) => self.prefixes.insert(beginning),
            };
        }
        for template in tags {
            match template.fill(value) {
                Filled::Key(tag) => self.tags.insert(tag),
                Filled::Beginning(_) => self.tag_prefixes.insert(template.literal().to_owned()),
            };
        }
    }

    /// Takes all that another has.
    pub fn merge(&mut self, other: Invalid) {
        self.keys.extend(other.keys);
        self.prefixes.extend(other.prefixes);
        self.tags.extend(other.tags);
        self.tag_prefixes.extend(other.tag_prefixes);
    }

    /// Leaves out what a beginning includes.
    pub fn reduce(&mut self) {
        let mut kept: BTreeSet<String> = BTreeSet::new();
        // In order, so that a beginning comes before those that begin with it.
        for prefix in std::mem::take(&mut self.prefixes) {
            if kept.last().is_none_or(|last| !prefix.starts_with(last.as_str())) {
                kept.insert(prefix);
            }
        }
        self.prefixes = kept;
        let prefixes = &self.prefixes;
        self.keys.retain(|key| {
            let before =
                prefixes.range::<str, _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key.as_str())));
            before.last().is_none_or(|prefix| !key.starts_with(prefix.as_str()))
        });
    }

    /// The marks of it among the entries of a role, or of [`super::marks::EVERYBODY`].
    pub fn marks(&self, owner: u32) -> Vec<i64> {
        let mut marks: Vec<i64> = Vec::new();
        marks.extend(self.keys.iter().map(|key| of_key(owner, key)));
        marks.extend(self.prefixes.iter().map(|prefix| of_beginning(owner, beginning(prefix))));
        marks.extend(self.tags.iter().map(|tag| of_tag(owner, tag)));
        if !self.tag_prefixes.is_empty() {
            // Which entries have such a tag is not known.
            marks.push(of_beginning(owner, ""));
        }
        marks
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.tags.is_empty() && self.tag_prefixes.is_empty()
    }

    /// How many texts it names.
    pub fn count(&self) -> usize {
        self.keys.len() + self.prefixes.len() + self.tags.len() + self.tag_prefixes.len()
    }

    /// Whatever there is.
    pub fn everything() -> Invalid {
        let all = || BTreeSet::from([String::new()]);
        Invalid { prefixes: all(), tag_prefixes: all(), ..Invalid::default() }
    }

    /// The same in parts none of which takes more than so many bytes as JSON, escapes included, unless it is one text alone.
    pub fn split(self, limit: usize) -> Vec<Invalid> {
        let mut parts: Vec<Invalid> = Vec::new();
        let mut size = limit + 1;
        let kinds = [
            (self.keys, (|part| &mut part.keys) as fn(&mut Invalid) -> &mut BTreeSet<String>),
            (self.prefixes, |part| &mut part.prefixes),
            (self.tags, |part| &mut part.tags),
            (self.tag_prefixes, |part| &mut part.tag_prefixes),
        ];
        for (texts, of) in kinds {
            for text in texts {
                let bytes = json_bytes(&text) + 1;
                if size + bytes > limit {
                    parts.push(Invalid::default());
                    size = 0;
                }
                size += bytes;
                if let Some(part) = parts.last_mut() {
                    of(part).insert(text);
                }
            }
        }
        parts
    }
}

/// Bytes of a text in JSON, at most.
pub fn json_bytes(text: &str) -> usize {
    2 + text
        .chars()
        .map(|char| match char {
            '"' | '\\' => 2,
            char if u32::from(char) < 0x20 => 6,
            char => char.len_utf8(),
        })
        .sum::<usize>()
}

/// A pattern of Redis for all texts that begin like this.
pub fn glob(beginning: &str) -> String {
    let mut pattern = String::with_capacity(beginning.len() + 1);
    for char in beginning.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn templates(texts: &[&str]) -> Vec<Template> {
        texts.iter().map(|text| Template::parse(text).unwrap()).collect()
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn filled_from_rows() {
        let columns = ["user_id".to_owned(), "kind".to_owned()];
        let rows = [Some("1".to_owned()), Some("a".to_owned()), Some("2".to_owned()), None];
        let mut invalid = Invalid::default();
        let values = Values { columns: &columns, rows: Some(&rows) };
        invalid.add(&templates(&["u:{user_id}", "k:{user_id}:{kind}", "x:{gone}"]), &templates(&["t-{kind}"]), values);
        assert_eq!(invalid.keys, set(&["u:1", "u:2", "k:1:a"]));
        assert_eq!(invalid.prefixes, set(&["k:2:", "x:"]));
        assert_eq!((invalid.tags, invalid.tag_prefixes), (set(&["t-a"]), set(&["t-"])));
    }

    #[test]
    fn all_rows() {
        let mut invalid = Invalid::default();
        let columns = ["user_id".to_owned()];
        invalid.add(&templates(&["u:{user_id}", "whole"]), &[], Values { columns: &columns, rows: None });
        assert_eq!((invalid.keys, invalid.prefixes), (set(&["whole"]), set(&["u:"])));
    }

    #[test]
    fn a_beginning_includes() {
        let mut invalid = Invalid { keys: set(&["a:1", "a:b:2", "b", "a"]), ..Invalid::default() };
        invalid.prefixes = set(&["a:", "a:b:", "c:"]);
        invalid.reduce();
        assert_eq!((invalid.keys, invalid.prefixes), (set(&["a", "b"]), set(&["a:", "c:"])));
    }

    #[test]
    fn patterns() {
        assert_eq!(glob("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:*");
        assert_eq!(glob(""), "*");
    }

    proptest! {
        #[test]
        fn split_loses_nothing(keys in prop::collection::btree_set(".{0,20}", 0..40), tags in prop::collection::btree_set("[a-z]{1,9}", 0..9)) {
            let whole = Invalid { keys, tags, ..Invalid::default() };
            let mut again = Invalid::default();
            for part in whole.clone().split(200) {
                prop_assert!(!part.is_empty());
                let bytes: usize = part.keys.iter().chain(&part.tags).map(|text| json_bytes(text) + 1).sum();
                prop_assert!(bytes <= 200);
                again.merge(part);
            }
            prop_assert_eq!(again, whole);
        }

        #[test]
        fn reduced_covers_the_same(keys in prop::collection::btree_set("[ab:]{1,5}", 0..20), prefixes in prop::collection::btree_set("([ab]:){0,3}", 0..6)) {
            let whole = Invalid { keys, prefixes, ..Invalid::default() };
            let mut reduced = whole.clone();
            reduced.reduce();
            let covers = |invalid: &Invalid, key: &str| {
                invalid.keys.contains(key) || invalid.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
            };
            for key in whole.keys.iter().chain(&whole.prefixes) {
                prop_assert_eq!(covers(&whole, key), covers(&reduced, key));
            }
        }
    }
}
