//! Names and ids of recommended indexes: deterministic, so that the same advice has the same id tomorrow.

use crate::fnv::fnv1a;

/// Longest identifier that the server keeps (`NAMEDATALEN - 1` bytes).
pub const NAME_BYTES_MAX: usize = 63;

/// `relation_column_column_idx`, shortened at a character boundary with a hash of what was cut, and numbered until
/// `is_used` says no. Always under 63 bytes, whatever the names are.
pub fn index_name(relation: &str, columns: &[String], is_used: impl Fn(&str) -> bool) -> String {
    let mut base = relation.to_owned();
    for column in columns {
        base.push('_');
        base.push_str(column);
    }
    for attempt in 1u32.. {
        let suffix = if attempt == 1 { "_idx".to_owned() } else { format!("_idx{attempt}") };
        let name = format!("{}{suffix}", shortened(&base, NAME_BYTES_MAX - 1 - suffix.len()));
        if !is_used(&name) {
            return name;
        }
    }
    unreachable_name()
}

/// An expression's SQL as a key of an index definition wants it: in parentheses, unless it is in them already.
pub fn in_parentheses(sql: &str) -> String {
    let (mut depth, mut quote) = (0usize, None);
    let enclosed = sql.starts_with('(')
        && sql.char_indices().all(|(at, char)| {
            match (quote, char) {
                (Some(open), _) => quote = (char != open).then_some(open),
                (None, '\'' | '"') => quote = Some(char),
                (None, '(') => depth += 1,
                (None, ')') => depth = depth.saturating_sub(1),
                _ => {}
            }
            // Closed only by the last character.
            depth > 0 || at + char.len_utf8() == sql.len()
        });
    if enclosed {
        sql.to_owned()
    } else {
        format!("({sql})")
    }
}

/// Words that follow the first of a type's name.
const TYPE_WORDS: [&str; 7] = ["varying", "precision", "without", "with", "time", "zone", "bit"];
/// Longest piece of a name that stands for an expression, in characters.
const PIECE_CHARS_MAX: usize = 30;

/// A piece of a name for an expression, from its SQL: its words without casts and qualification, `lower_email` for
/// `lower(email)`, `payload_kind` for `(payload ->> 'kind'::text)`. `expr` when there is no word in it.
pub fn expression_piece(sql: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut rest = sql;
    let mut in_cast = false;
    while let Some(char) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            in_cast = true;
            rest = after;
        } else if char.is_alphanumeric() || char == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            // A type's name may be several words; a qualified name keeps its last part.
            let more_of_type = TYPE_WORDS.iter().any(|more| after.trim_start().starts_with(more));
            if in_cast {
                in_cast = more_of_type || after.starts_with('.');
            } else if !after.starts_with('.') && words.last().is_none_or(|last| last != word) {
                words.push(word.to_owned());
            }
            rest = after;
        } else {
            rest = &rest[char.len_utf8()..];
        }
    }
    let piece: String = words.join("_").chars().take(PIECE_CHARS_MAX).collect();
    let piece = piece.trim_matches('_');
    if piece.is_empty() {
        "expr".to_owned()
    } else {
        piece.to_owned()
    }
}

/// Only reached after 2^32 collisions.
fn unreachable_name() -> String {
    "perf_opt_idx".to_owned()
}

/// The text, or its beginning up to a character boundary and a hash of the whole.
pub fn shortened(base: &str, bytes_max: usize) -> String {
    if base.len() <= bytes_max {
        return base.to_owned();
    }
    let hash = format!("_{:08x}", fnv1a(base.bytes()) as u32);
    let mut end = bytes_max - hash.len();
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &base[..end])
}

/// A stable id of one piece of advice: hash of its parts, separated so that ("a", "bc") differs from ("ab", "c").
pub fn stable_id(parts: &[&str]) -> String {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    format!("idx-{:016x}", fnv1a(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_name() {
        let columns = ["user_id".to_owned(), "created_at".to_owned()];
        assert_eq!(index_name("transactions", &columns, |_| false), "transactions_user_id_created_at_idx");
        assert_eq!(
            index_name("transactions", &columns, |name| name == "transactions_user_id_created_at_idx"),
            "transactions_user_id_created_at_idx2"
        );
    }

    #[test]
    fn expressions_become_words() {
        for (sql, piece) in [
            ("lower(email)", "lower_email"),
            ("lower((email)::text)", "lower_email"),
            ("date_trunc('day'::text, at)", "date_trunc_day_at"),
            ("(payload ->> 'kind'::text)", "payload_kind"),
            ("((a)::character varying || b)", "a_b"),
            ("date_part('hour'::text, (at)::timestamp without time zone)", "date_part_hour_at"),
            ("tools.slug(title)", "slug_title"),
            ("(- 1)", "1"),
            ("('%' || '-')", "expr"),
        ] {
            assert_eq!(expression_piece(sql), piece, "{sql}");
        }
    }

    #[test]
    fn parentheses_where_they_are_missing() {
        for (sql, expected) in [
            ("(a || b)", "(a || b)"),
            ("(a)::text", "((a)::text)"),
            ("(a) || (b)", "((a) || (b))"),
            ("(a || ')'::text)", "(a || ')'::text)"),
            ("(\"a)(\" || b)", "(\"a)(\" || b)"),
            ("CASE WHEN a THEN b END", "(CASE WHEN a THEN b END)"),
        ] {
            assert_eq!(in_parentheses(sql), expected);
        }
    }

    #[test]
    fn numbers() {}

    #[test]
    fn ids_tell_parts_apart() {
        assert_ne!(stable_id(&["a", "bc"]), stable_id(&["ab", "c"]));
        assert_eq!(stable_id(&["public.t", "a"]), stable_id(&["public.t", "a"]));
    }

    proptest! {
        #[test]
        fn a_piece_is_short_and_never_empty(sql in "\\PC{0,80}") {
            let piece = expression_piece(&sql);
            prop_assert!(!piece.is_empty() && piece.chars().count() <= PIECE_CHARS_MAX);
        }

        #[test]
        fn under_63_bytes_and_unused(relation in "\\PC{1,40}", columns in prop::collection::vec("\\PC{1,40}", 1..5), used in 0usize..20) {
            let taken = std::cell::RefCell::new(Vec::new());
            let name = index_name(&relation, &columns, |name| {
                let refuse = taken.borrow().len() < used;
                if refuse { taken.borrow_mut().push(name.to_owned()); }
                refuse
            });
            prop_assert!(name.len() < NAME_BYTES_MAX);
            prop_assert!(!taken.borrow().contains(&name));
        }
    }
}
