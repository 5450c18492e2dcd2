//! LIKE over query texts, in which runs of white space count as one space.

/// Whether a text is like a pattern: `%` stands for anything, `_` for one character, a backslash makes the next one itself.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (squeezed(text), squeezed(pattern));
    let (mut at, mut of) = (0, 0);
    // Where to go on when the text does not go on as the pattern does: behind the latest `%`.
    let mut again: Option<(usize, usize)> = None;
    while at < text.len() {
        let (wanted, is_escaped, next) = match pattern.get(of) {
            Some('\\') if of + 1 < pattern.len() => (pattern.get(of + 1), true, of + 2),
            wanted => (wanted, false, of + 1),
        };
        match wanted {
            Some('%') if !is_escaped => {
                again = Some((at, next));
                of = next;
            }
            Some(wanted) if *wanted == text[at] || *wanted == '_' && !is_escaped => {
                at += 1;
                of = next;
            }
            _ => match again {
                Some((from, behind)) => {
                    again = Some((from + 1, behind));
                    (at, of) = (from + 1, behind);
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|rest| *rest == '%')
}

fn squeezed(text: &str) -> Vec<char> {
    let mut chars: Vec<char> = Vec::with_capacity(text.len());
    for one in text.trim().chars() {
        match one.is_whitespace() {
            true if chars.last() == Some(&' ') => {}
            true => chars.push(' '),
            false => chars.push(one),
        }
    }
    chars
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn like() {
        assert!(is_like("SELECT a,\n   b FROM t WHERE x = $1", "SELECT a, b FROM t%"));
        assert!(is_like("abc", "a%c%"));
        assert!(is_like("aXbXc", "a%X_"));
        assert!(is_like("100%", "100\\%"));
        assert!(!is_like("1000", "100\\%"));
        assert!(!is_like("SELECT 1", "select%"));
        assert!(is_like("", "%"));
        assert!(!is_like("", "_"));
        assert!(!is_like("x\\", "y\\"));
        assert!(is_like("x\\", "x\\"));
    }
}
