//! Marks: 64-bit names of what can be invalidated at once: a key, all keys with a common beginning, or a tag. An entry depends
//! on some marks and is invalid as soon as one of them was marked after it was computed. Two things with one mark only cost
//! an entry too many, never a stale one.
//!
//! Beginnings end with a colon, and only the first [`LEVELS_MAX`] of a key count, so the marks of an entry are few whatever its
//! key looks like; an invalidation of a longer beginning is widened to the last that counts ([`beginning`]).

use crate::fnv::fnv1a;

/// Colons of a key up to which its beginnings are told apart.
pub const LEVELS_MAX: usize = 8;
/// Whose entries a mark is about when it is about everybody's.
pub const EVERYBODY: u32 = 0;

/// Parts of what is hashed; no text can contain them.
const KEY: u8 = 0xfd;
const BEGINNING: u8 = 0xfe;
const TAG: u8 = 0xff;

fn mark(owner: u32, kind: u8, text: &str) -> i64 {
    let bytes = owner.to_le_bytes().into_iter().chain([kind]).chain(text.bytes());
    i64::from_le_bytes(fnv1a(bytes).to_le_bytes())
}

/// The mark of one key. `owner`: the role whose entry it is, or [`EVERYBODY`].
pub fn of_key(owner: u32, key: &str) -> i64 {
    mark(owner, KEY, key)
}

/// The mark of all keys that begin like this; the text should come from [`beginning`].
pub fn of_beginning(owner: u32, beginning: &str) -> i64 {
    mark(owner, BEGINNING, beginning)
}

/// The mark of a tag.
pub fn of_tag(owner: u32, tag: &str) -> i64 {
    mark(owner, TAG, tag)
}

/// The beginnings of a key that can be invalidated, from the empty one on.
pub fn beginnings(key: &str) -> impl Iterator<Item = &str> {
    let ends = key.bytes().enumerate().filter(|(_, byte)| *byte == b':').map(|(at, _)| at + 1);
    [0].into_iter().chain(ends).take(LEVELS_MAX + 1).map(|end| &key[..end])
}

/// The longest beginning that can be invalidated and includes all keys that begin like this.
pub fn beginning(prefix: &str) -> &str {
    beginnings(prefix).last().unwrap_or_default()
}

/// What an entry depends on: each mark of its owner and of everybody, sorted and distinct.
pub fn of_entry<'a>(owner: u32, key: &str, tags: impl IntoIterator<Item = &'a str> + Clone) -> Vec<i64> {
    let mut marks = Vec::new();
    for owner in [owner, EVERYBODY] {
        marks.push(of_key(owner, key));
        marks.extend(beginnings(key).map(|beginning| of_beginning(owner, beginning)));
        marks.extend(tags.clone().into_iter().map(|tag| of_tag(owner, tag)));
    }
    marks.sort_unstable();
    marks.dedup();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beginnings_end_with_a_colon() {
        let of = |key| beginnings(key).collect::<Vec<_>>();
        assert_eq!(of("cache:risk:user:7"), ["", "cache:", "cache:risk:", "cache:risk:user:"]);
        assert_eq!(of("plain"), [""]);
        assert_eq!(of(":"), ["", ":"]);
        assert_eq!(beginnings(&"x:".repeat(100)).count(), LEVELS_MAX + 1);
    }

    #[test]
    fn a_beginning_is_widened_to_a_colon() {
        assert_eq!(beginning("cache:risk:us"), "cache:risk:");
        assert_eq!(beginning("cache"), "");
        assert_eq!(beginning(&"x:".repeat(100)).len(), 2 * LEVELS_MAX);
    }

    #[test]
    fn kinds_and_owners_differ() {
        let all = [of_key(0, "a:"), of_beginning(0, "a:"), of_tag(0, "a:"), of_key(1, "a:"), of_beginning(1, "a:")];
        let mut distinct = all.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());
    }

    proptest! {
        #[test]
        fn an_entry_depends_on_all_that_can_invalidate_it(key in "[a-z:é]{1,40}", cut in 0usize..40, owner in 1u32..9) {
            let marks = of_entry(owner, &key, ["t"]);
            let end = (0..=cut.min(key.len())).rev().find(|at| key.is_char_boundary(*at)).unwrap_or(0);
            for whose in [owner, EVERYBODY] {
                prop_assert!(marks.contains(&of_key(whose, &key)));
                prop_assert!(marks.contains(&of_tag(whose, "t")));
                prop_assert!(marks.contains(&of_beginning(whose, beginning(&key[..end]))));
            }
            prop_assert!(!marks.contains(&of_key(owner + 1, &key)));
        }
    }
}
