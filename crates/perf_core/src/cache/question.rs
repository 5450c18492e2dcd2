//! The statement of a policy with its placeholders as parameters: `{user_id}` becomes `$1`. Braces in quotes, in dollar quotes
//! and in comments are part of the statement. Pure.

/// A statement with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The statement.
    pub sql: String,
    /// What each parameter is named, from `$1` on.
    pub parameters: Vec<String>,
}

impl Question {
    /// Reads a statement. What is no placeholder is left for the server to complain about.
    pub fn parse(text: &str) -> Question {
        let mut question = Question { sql: String::with_capacity(text.len()), parameters: Vec::new() };
        let mut rest = text;
        let mut before = None;
        while let Some(first) = rest.chars().next() {
            let taken = skipped(rest, before).unwrap_or_else(|| question.placeholder(rest));
            let taken = if taken == 0 {
                question.sql.push(first);
                first.len_utf8()
            } else {
                if first != '{' {
                    question.sql.push_str(&rest[..taken]);
                }
                taken
            };
            before = rest[..taken].chars().next_back();
            rest = &rest[taken..];
        }
        question
    }

    /// Takes a placeholder at the beginning of the text; how long it is, 0 where there is none.
    fn placeholder(&mut self, text: &str) -> usize {
        let Some((name, _)) = text.strip_prefix('{').and_then(|inner| inner.split_once('}')) else { return 0 };
        if !is_name(name) {
            return 0;
        }
        let number = self.parameters.iter().position(|known| known == name).unwrap_or_else(|| {
            self.parameters.push(name.to_owned());
            self.parameters.len() - 1
        });
        self.sql.push_str(&format!("${}", number + 1));
        name.len() + 2
    }
}

/// The text of a policy for a statement: each `$n` outside of quotes and comments becomes what `written` says of n. `None` when
/// that says nothing of one.
pub fn with_placeholders(sql: &str, written: impl Fn(usize) -> Option<String>) -> Option<String> {
    let mut text = String::with_capacity(2 * sql.len());
    let mut rest = sql;
    let mut before = None;
    while let Some(first) = rest.chars().next() {
        let taken = match parameter(rest, before) {
            Some((number, bytes)) => {
                text.push_str(&written(number)?);
                bytes
            }
            None => {
                let bytes = skipped(rest, before).unwrap_or(first.len_utf8());
                text.push_str(&rest[..bytes]);
                bytes
            }
        };
        before = rest[..taken].chars().next_back();
        rest = &rest[taken..];
    }
    Some(text)
}

/// The number of the parameter that a text begins with, and how long it is.
fn parameter(text: &str, before: Option<char>) -> Option<(usize, usize)> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
    let digits = text.strip_prefix('$').filter(|_| !in_word)?;
    let bytes = digits.bytes().take_while(u8::is_ascii_digit).count();
    Some((digits[..bytes].parse().ok()?, 1 + bytes))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$')
}

/// How much of the text is a quoted part or a comment that it begins with; `None`: it begins with neither.
fn skipped(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
    match text.as_bytes()[0] {
        b'\'' => {
            // A string with escapes is E'...' on its own.
            Some(quoted(text, '\'', matches!(before, Some('e' | 'E'))))
        }
        b'"' => Some(quoted(text, '"', false)),
        b'-' if text.starts_with("--") => Some(text.find('\n').unwrap_or(text.len())),
        b'/' if text.starts_with("/*") => Some(comment(text)),
        b'$' if !in_word => {
            let end = text[1..].find('$')? + 2;
            let tag = &text[..end];
            let name = &tag[1..end - 1];
            if !name.is_empty() && (!is_name(name) || name.contains('$')) {
                return None;
            }
            Some(text[end..].find(tag).map_or(text.len(), |at| end + at + end))
        }
        _ => None,
    }
}

fn quoted(text: &str, quote: char, with_escapes: bool) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' && with_escapes {
            characters.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Comments can be nested.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> (String, Vec<String>) {
        let question = Question::parse(text);
        (question.sql, question.parameters)
    }

    #[test]
    fn parameters_become_placeholders() {
        let of = |sql: &str| with_placeholders(sql, |n| (n < 12).then(|| format!("{{v{n}}}")));
        assert_eq!(of("a = $1 AND b=$11").as_deref(), Some("a = {v1} AND b={v11}"));
        let quoted = "'$1' \"$2\" -- $3\n /* $4 */ $x$ $5 $x$ a$6 ";
        assert_eq!(of(quoted).as_deref(), Some(quoted));
        assert_eq!(of("f($2::text[1], $1)").as_deref(), Some("f({v2}::text[1], {v1})"));
        assert_eq!(of("$12"), None);
        assert_eq!(of("\u{fc} $").as_deref(), Some("\u{fc} $"));
    }

    #[test]
    fn placeholders_become_parameters() {
        let (sql, names) = of("SELECT {a}::int + {b} + {a}");
        assert_eq!(sql, "SELECT $1::int + $2 + $1");
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn quotes_and_comments_stay() {
        for text in [
            "SELECT '{a}'",
            "SELECT 'it''s {a}'",
            r"SELECT E'\'{a}'",
            "SELECT \"{a}\"",
            "SELECT $${a}$$",
            "SELECT $x${a}$$ {a}$x$",
            "SELECT 1 -- {a}",
            "SELECT /* {a} /* {a} */ {a} */ 1",
            "SELECT '{a}",
            "SELECT {a b}",
            "SELECT {",
            "SELECT a$b${c",
        ] {
            assert_eq!(of(text), (text.to_owned(), Vec::new()), "{text}");
        }
        assert_eq!(of("SELECT 'x'{a}-{b} -- c\n{c}").0, "SELECT 'x'$1-$2 -- c\n$3");
        assert_eq!(of(r"SELECT '\'{a}").0, r"SELECT '\'$1");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(sql in "([a-z =(),]|[$][1-9]|'[^']{0,3}'|--[^\n]{0,3}\n){0,20}") {
            let text = with_placeholders(&sql, |n| Some(format!("{{v{n}}}"))).unwrap_or_default();
            let question = Question::parse(&text);
            let back = with_placeholders(&question.sql, |n| {
                question.parameters.get(n - 1).map(|name| name.replacen('v', "$", 1))
            });
            prop_assert_eq!(back, Some(sql));
        }

        #[test]
        fn never_panics(text in "[a-c{}'\"$/*\\\\ \n-]{0,30}|.{0,30}") {
            let question = Question::parse(&text);
            prop_assert!(question.parameters.is_empty() || question.sql != text);
        }
    }
}
