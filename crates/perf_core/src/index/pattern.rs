//! What is known of the texts that a pattern matches: enough to tell whether an index is worth a try. The planner decides.

/// The language of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `LIKE`: `%` and `_`, with a backslash before what stands for itself.
    Like,
    /// A POSIX regular expression.
    Regex,
    /// Plain text that the value begins with.
    Prefix,
}

/// Whether every text that matches begins with the same characters.
pub fn has_fixed_prefix(pattern: &str, language: Language) -> bool {
    match language {
        Language::Prefix => !pattern.is_empty(),
        Language::Like => pattern.chars().next().is_some_and(|first| first != '%' && first != '_'),
        Language::Regex => {
            let Some(rest) = pattern.strip_prefix('^') else { return false };
            let mut chars = rest.chars();
            let begins = chars.next().is_some_and(is_plain);
            // The first character may be repeated no times; alternatives may begin otherwise.
            begins && !matches!(chars.next(), Some('*' | '?' | '{')) && !rest.contains('|')
        }
    }
}

/// The most letters and digits in a row that every text that matches contains.
pub fn known_run(pattern: &str, language: Language) -> usize {
    let (mut longest, mut run, mut depth) = (0usize, 0usize, 0usize);
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match (language, char) {
            (Language::Regex, '|') => return 0,
            // What is in a bracket, a group or a bound is optional or one of several.
            (Language::Regex, '[' | '(' | '{') => (depth, run) = (depth + 1, 0),
            (Language::Regex, ']' | ')' | '}') => (depth, run) = (depth.saturating_sub(1), 0),
            (Language::Regex, '*' | '?') => run = 0,
            (Language::Like | Language::Regex, '\\') => {
                // An escaped letter is a class in a regular expression, itself in LIKE; a sign ends a word in both.
                let next = chars.next();
                run = if language == Language::Like && next.is_some_and(char::is_alphanumeric) { run + 1 } else { 0 };
            }
            _ if depth == 0 && char.is_alphanumeric() => run += 1,
            _ => run = 0,
        }
        longest = longest.max(run);
    }
    longest
}

fn is_plain(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, ' ' | '_' | '-' | '/' | ':' | ',' | '@' | '#' | '%' | '&' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes() {
        for (pattern, language, expected) in [
            ("abc%", Language::Like, true),
            ("%abc", Language::Like, false),
            ("_bc", Language::Like, false),
            ("\\%abc", Language::Like, true),
            ("", Language::Like, false),
            ("^abc", Language::Regex, true),
            ("abc", Language::Regex, false),
            ("^a*", Language::Regex, false),
            ("^ab|c", Language::Regex, false),
            ("^.a", Language::Regex, false),
            ("abc", Language::Prefix, true),
            ("", Language::Prefix, false),
        ] {
            assert_eq!(has_fixed_prefix(pattern, language), expected, "{pattern}");
        }
    }

    #[test]
    fn runs() {
        for (pattern, language, expected) in [
            ("%abc%", Language::Like, 3),
            ("%ab%cd_e%", Language::Like, 2),
            ("%a\\bcd%", Language::Like, 4),
            ("ab.*cde", Language::Regex, 3),
            ("[abcdef]gh", Language::Regex, 2),
            ("(abcd)?e", Language::Regex, 1),
            ("abc|d", Language::Regex, 0),
            ("a\\dbc", Language::Regex, 2),
        ] {
            assert_eq!(known_run(pattern, language), expected, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(pattern in "\\PC{0,30}") {
            for language in [Language::Like, Language::Regex, Language::Prefix] {
                prop_assert!(known_run(&pattern, language) <= pattern.chars().count());
                prop_assert!(!has_fixed_prefix(&pattern, language) || !pattern.is_empty());
            }
        }
    }
}
