//! Normalised statement texts made parseable again. Pure text in, pure text out.

/// Types whose constants are written as `type 'text'`, which normalisation turns into `type $1`: no syntax the server knows.
const TYPED_CONSTANTS: [&str; 6] = ["interval", "timestamptz", "timestamp", "date", "time", "numeric"];

/// Rewrites `interval $1` as `CAST($1 AS interval)`, so that a normalised text can be parsed again.
pub fn with_casts(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let (before, parameter) = (&rest[..at], &rest[at..at + 1 + digits]);
        let trimmed = before.trim_end();
        let typed = (digits > 0 && trimmed.len() < before.len())
            .then(|| {
                TYPED_CONSTANTS.iter().find(|name| {
                    trimmed.len() >= name.len()
                        && trimmed.is_char_boundary(trimmed.len() - name.len())
                        && trimmed[trimmed.len() - name.len()..].eq_ignore_ascii_case(name)
                        && !trimmed[..trimmed.len() - name.len()]
                            .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | ':'))
                })
            })
            .flatten();
        match typed {
            Some(name) => {
                result.push_str(&trimmed[..trimmed.len() - name.len()]);
                result.push_str(&format!("CAST({parameter} AS {name})"));
            }
            None => {
                result.push_str(before);
                result.push_str(parameter);
            }
        }
        rest = &rest[at + 1 + digits..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn typed_constants_become_casts() {
        assert_eq!(with_casts("SELECT now() - interval $1, b = $2"), "SELECT now() - CAST($1 AS interval), b = $2");
        assert_eq!(with_casts("WHERE at >= DATE $1"), "WHERE at >= CAST($1 AS date)");
    }

    #[test]
    fn columns_of_such_a_name_stay() {
        for text in ["WHERE t.date $1", "SELECT my_date $1", "SELECT x::interval, $1", "date$1", "$ $x $1$2"] {
            assert_eq!(with_casts(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_parameters(text in "[a-z $0-9é.(]{0,60}(interval|date)? {0,2}[$]?[0-9]{0,2}") {
            let dollars = |text: &str| text.matches('$').count();
            prop_assert_eq!(dollars(&with_casts(&text)), dollars(&text));
        }
    }
}
