//! The values that normalising takes out of a text, in the order of the parameters that stand for them.

use super::{beginning, each_literal, highest_parameter};
use std::borrow::Cow;

/// Parameters that a text has before it is normalised; its literals are numbered after them.
pub fn parameters(source: &[u8]) -> u32 {
    highest_parameter(beginning(source.trim_ascii()))
}

/// Shows `each` the literals of a text as they are written, a number's sign included, until it says no.
pub fn each(source: &[u8], backslash_escapes: bool, mut each: impl FnMut(&[u8]) -> bool) {
    let source = beginning(source.trim_ascii());
    each_literal(source, backslash_escapes, |literal| each(&source[literal]));
}

/// What a literal says, as the same value would be printed: without quotes, doubled quotes single. `None` where that takes
/// more than looking at it: escapes, bit strings, numbers to another base, strings that go on in the next line.
pub fn value(literal: &[u8], backslash_escapes: bool) -> Option<Cow<'_, [u8]>> {
    match literal {
        [b'-' | b'.' | b'0'..=b'9', ..] => number(literal),
        [b'\'', ..] => quoted(literal, backslash_escapes),
        [b'e' | b'E', string @ ..] => quoted(string, true),
        [b'n' | b'N', string @ ..] => quoted(string, backslash_escapes),
        // A string after U& has escapes always.
        [b'u' | b'U', b'&', string @ ..] => quoted(string, true),
        [b'$', rest @ ..] => {
            let tag = rest.iter().position(|&byte| byte == b'$')? + 2;
            let body = literal.get(tag..literal.len().checked_sub(tag)?)?;
            (literal[..tag] == literal[literal.len() - tag..]).then_some(Cow::Borrowed(body))
        }
        _ => None,
    }
}

fn number(literal: &[u8]) -> Option<Cow<'_, [u8]>> {
    let digits = literal.strip_prefix(b"-").unwrap_or(literal);
    if let [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] = digits {
        return None;
    }
    if !literal.contains(&b'_') {
        return Some(Cow::Borrowed(literal));
    }
    Some(Cow::Owned(literal.iter().copied().filter(|&byte| byte != b'_').collect()))
}

fn quoted(string: &[u8], backslash_escapes: bool) -> Option<Cow<'_, [u8]>> {
    let body = string.strip_prefix(b"'")?.strip_suffix(b"'")?;
    if backslash_escapes && body.contains(&b'\\') {
        return None;
    }
    if !body.contains(&b'\'') {
        return Some(Cow::Borrowed(body));
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body.iter().copied();
    while let Some(byte) = rest.next() {
        // One that is not doubled ends a part of a string that goes on in the next line.
        if byte == b'\'' && rest.next() != Some(b'\'') {
            return None;
        }
        out.push(byte);
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::super::normalize_bytes;
    use super::*;
    use proptest::prelude::*;

    fn values(source: &str) -> Vec<Option<String>> {
        let mut found = Vec::new();
        each(source.as_bytes(), false, |literal| {
            found.push(value(literal, false).map(|value| String::from_utf8_lossy(&value).into_owned()));
            true
        });
        found
    }

    fn check(source: &str, expected: &[&str]) {
        let expected: Vec<Option<String>> =
            expected.iter().map(|value| (*value != "?").then(|| (*value).to_owned())).collect();
        assert_eq!(values(source), expected, "of {source}");
    }

    #[test]
    fn values_are_what_they_say() {
        check("SELECT 42, '42', -42, 4_2, 1.5e-3, .5", &["42", "42", "-42", "42", "1.5e-3", ".5"]);
        check("SELECT a - 42, (-7)", &["42", "-7"]);
        check("SELECT 'it''s', '', '''', N'n', E'e', U&'u'", &["it's", "", "'", "n", "e", "u"]);
        check("SELECT $$it's$$, $a$ $$ $a$, $$$$", &["it's", " $$ ", ""]);
        check("SELECT * FROM t WHERE a IN (1, 2) AND b = $1 LIMIT 3", &["1", "2", "3"]);
    }

    #[test]
    fn what_would_take_more_is_not_known() {
        check(r"SELECT E'a\nb', U&'\0061', B'01', x'ff', 0xff, 0b1", &["?", "?", "?", "?", "?", "?"]);
        check("SELECT 'a'\n'b', 7", &["?", "7"]);
        check("SELECT 'a''\n''b'", &["a'\n'b"]);
        check("SELECT 'not closed", &["?"]);
        check("SELECT $a$ not closed", &["?"]);
        assert_eq!(value(br"'a\b'", true), None);
        assert_eq!(value(br"'a\b'", false).as_deref(), Some(&br"a\b"[..]));
    }

    #[test]
    fn literals_are_numbered_after_the_parameters() {
        assert_eq!(parameters(b"SELECT $2 + 7, 'x'"), 2);
        assert_eq!(parameters(b"SELECT '$9'"), 0);
    }

    #[test]
    fn each_stops_when_told() {
        let mut seen = 0;
        each(b"SELECT 1, 2, 3", false, |_| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }

    proptest! {
        #[test]
        fn there_is_one_for_each_parameter_made(source in "[-a1 ,'xE(\\\\\n_.;]{0,40}", escapes in any::<bool>()) {
            let mut count = 0;
            each(source.as_bytes(), escapes, |literal| {
                let _ = value(literal, escapes);
                count += 1;
                true
            });
            let normalised = normalize_bytes(source.as_bytes(), escapes);
            prop_assert_eq!(normalised.iter().filter(|&&byte| byte == b'$').count(), count);
        }

        #[test]
        fn quoting_comes_off_again(text in "[a'$ \n]{0,20}") {
            let literal = format!("'{}'", text.replace('\'', "''"));
            let value = value(literal.as_bytes(), false);
            prop_assert_eq!(value.as_deref(), Some(text.as_bytes()));
        }

        #[test]
        fn value_never_panics(literal in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = value(&literal, true);
        }
    }
}
