//! What comes from outside (texts of statements, names of relations and applications) made fit to be shown: bounded, on
//! one line where a line is wanted, and without characters that a reader cannot see or that turn a line around. Called
//! for every text of a document on its way into a view; escaping is the renderers' own affair.

/// The most characters that a text of a statement shows.
pub(crate) const STATEMENT: usize = 600;
/// The most characters of SQL that is there to be copied; what is longer is not shown as if it were whole.
pub(crate) const SQL: usize = 4000;
/// The same in a cell of a table, of which there are many.
pub(crate) const CELL_SQL: usize = 1500;
/// The most characters of a sentence.
pub(crate) const SENTENCE: usize = 500;
/// The most characters of a name.
pub(crate) const NAME: usize = 120;

/// Whether a character would change how what is around it reads, without being seen itself.
fn hidden(c: char) -> bool {
    matches!(c, '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// One line: white space as single blanks, at most `limit` characters, an ellipsis for what was left out.
pub(crate) fn line(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    let mut blank = false;
    for c in text.chars() {
        if c.is_whitespace() && !hidden(c) {
            blank = !out.is_empty();
            continue;
        }
        if length + usize::from(blank) >= limit {
            while out.ends_with(' ') {
                out.pop();
            }
            out.push('…');
            return out;
        }
        if std::mem::take(&mut blank) {
            out.push(' ');
            length += 1;
        }
        out.push(visible(c));
        length += 1;
    }
    out
}

/// A character, or what stands for one that cannot be seen.
fn visible(c: char) -> char {
    match c {
        // The pictures of the control characters.
        '\0'..='\u{1F}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{FFFD}'),
        '\u{7F}' => '\u{2421}',
        c if c.is_control() || hidden(c) => '\u{FFFD}',
        c => c,
    }
}

/// SQL that is there to be copied and run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sql {
    /// What is shown.
    pub text: String,
    /// Whether that is, to the character, what was meant: only then may it be copied.
    pub exact: bool,
}

impl Sql {
    /// The lines of `text`. What holds characters that cannot be seen, or is too long, is shown but not for copying.
    pub(crate) fn of(text: &str, limit: usize) -> Sql {
        let text = text.trim();
        let mut shown = String::new();
        let mut exact = true;
        for (length, c) in text.chars().enumerate() {
            if length >= limit {
                shown.push('…');
                exact = false;
                break;
            }
            match c {
                '\n' | '\t' => shown.push(c),
                // A line that ends the way of other systems ends here as well.
                '\r' => {}
                c => {
                    exact &= visible(c) == c;
                    shown.push(visible(c));
                }
            }
        }
        Sql { text: shown, exact }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert_eq!(line("a\u{202E}b\0c\u{200B}\u{7F}", 90), "a\u{FFFD}b\u{2400}c\u{FFFD}\u{2421}");
        assert_eq!(line("  SELECT 1,\n\t 2  ", 90), "SELECT 1, 2");
        assert_eq!(line("abcdef", 3), "abc…");
        assert_eq!(line("ab cdef", 3), "ab…");
    }

    #[test]
    fn sql_that_is_not_what_it_seems_is_not_for_copying() {
        assert_eq!(Sql::of("SELECT 1\r\n, 2\n", SQL), Sql { text: "SELECT 1\n, 2".into(), exact: true });
        assert!(!Sql::of("DROP TABLE a\u{202E}b", SQL).exact);
        let long = Sql::of(&"x".repeat(100_000), SQL);
        assert!(!long.exact && long.text.chars().count() == SQL + 1);
    }

    proptest! {
        #[test]
        fn a_line_is_one_and_bounded(text: String, limit in 1_usize..50) {
            let line = line(&text, limit);
            prop_assert!(line.chars().count() <= limit + 1);
            prop_assert!(!line.chars().any(|c| c.is_control() || hidden(c)));
        }
    }
}
