//! Key templates: `cache:risk:user:{user_id}`. A placeholder is a name in braces; a brace that is no part of one is an error.

use super::marks;

/// A template that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(String),
}

/// Why a text is no template. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing in it.
    Empty,
    /// An opening brace has no closing one.
    Unclosed(usize),
    /// A closing brace without an opening one.
    Unopened(usize),
    /// What stands in braces is no name: letters, digits, underscores and dollars, not beginning with a digit.
    NoName(usize),
}

/// A template with values in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Each placeholder had a value.
    Key(String),
    /// One had none: the key begins like this, and more is not known. Can be invalidated as it stands.
    Beginning(String),
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, Fault> {
        if text.is_empty() {
            return Err(Fault::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let brace = rest.find(['{', '}']).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(brace);
            if !literal.is_empty() {
                parts.push(Part::Text(literal.to_owned()));
            }
            if after.starts_with('}') {
                return Err(Fault::Unopened(at + brace));
            }
            let Some(inner) = after.strip_prefix('{') else { break };
            let end = inner.find('}').ok_or(Fault::Unclosed(at + brace))?;
            let name = &inner[..end];
            if !is_name(name) {
                return Err(Fault::NoName(at + brace));
            }
            parts.push(Part::Placeholder(name.to_owned()));
            rest = &inner[end + 1..];
        }
        Ok(Template { parts })
    }

    /// Names of the placeholders, in order, with repetitions.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Placeholder(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Whether a key may have been made of this template: a placeholder stands for one character or more, and for no colon.
    pub fn matches(&self, key: &str) -> bool {
        matches(&self.parts, key)
    }

    /// Bytes that are no placeholder: of templates that match a key, the one with the most says the most.
    pub fn literal_bytes(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum()
    }

    /// Puts values in the place of placeholders; `None` for one that is not known.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Filled {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Placeholder(name) => match value(name) {
                    Some(text) => key.push_str(text),
                    None => return Filled::Beginning(marks::beginning(&key).to_owned()),
                },
            }
        }
        Filled::Key(key)
    }

    /// A text in which braces mean nothing.
    pub fn literal_of(text: &str) -> Template {
        Template { parts: vec![Part::Text(text.to_owned())] }
    }

    /// What stands before the first placeholder.
    pub fn literal(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }
}

fn matches(parts: &[Part], key: &str) -> bool {
    // What a placeholder may stand for ends where the text after it begins: the first such place that lets the rest match.
    match parts {
        [] => key.is_empty(),
        [Part::Text(text), rest @ ..] => key.strip_prefix(text.as_str()).is_some_and(|key| matches(rest, key)),
        [Part::Placeholder(_)] => !key.is_empty() && !key.contains(':'),
        [Part::Placeholder(_), rest @ ..] => {
            let longest = key.find(':').unwrap_or(key.len());
            let ends = key.char_indices().map(|(at, _)| at).chain([key.len()]).skip(1);
            ends.take_while(|end| *end <= longest).any(|end| matches(rest, &key[end..]))
        }
    }
}

fn is_name(name: &str) -> bool {
    let follows = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filled() {
        let template = Template::parse("cache:metrics:ts:{metric_type}:{minutes}").unwrap();
        assert_eq!(template.placeholders().collect::<Vec<_>>(), ["metric_type", "minutes"]);
        let filled = |known: &[(&str, &'static str)]| {
            template.fill(|name| known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
        };
        assert_eq!(filled(&[("metric_type", "cpu"), ("minutes", "5")]), Filled::Key("cache:metrics:ts:cpu:5".into()));
        assert_eq!(filled(&[("metric_type", "cpu")]), Filled::Beginning("cache:metrics:ts:cpu:".into()));
        assert_eq!(filled(&[("minutes", "5")]), Filled::Beginning("cache:metrics:ts:".into()));
    }

    #[test]
    fn a_beginning_ends_at_a_colon() {
        let template = Template::parse("app:user-{id}").unwrap();
        assert_eq!(template.fill(|_| None), Filled::Beginning("app:".into()));
    }

    #[test]
    fn matched() {
        let of = |template: &str, key: &str| Template::parse(template).unwrap().matches(key);
        assert!(of("a:b", "a:b") && !of("a:b", "a:bc") && !of("a:b", "a:"));
        assert!(of("a:{x}", "a:1") && !of("a:{x}", "a:") && !of("a:{x}", "a:1:2"));
        assert!(of("a:{x}:{y}", "a:1:2") && of("{x}-{y}", "1-2-3") && !of("{x}-{y}", "12"));
        assert!(of("{x}{y}", "12") && !of("{x}{y}", "1") && of("é{x}", "éé"));
    }

    #[test]
    fn faults() {
        assert_eq!(Template::parse(""), Err(Fault::Empty));
        assert_eq!(Template::parse("a:{b"), Err(Fault::Unclosed(2)));
        assert_eq!(Template::parse("a}"), Err(Fault::Unopened(1)));
        assert_eq!(Template::parse("{}"), Err(Fault::NoName(0)));
        assert_eq!(Template::parse("a{b}c{d e}"), Err(Fault::NoName(5)));
        assert_eq!(Template::parse("{1a}"), Err(Fault::NoName(0)));
        assert_eq!(Template::parse("{a{b}}"), Err(Fault::NoName(0)));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = Template::parse(&text);
        }

        #[test]
        fn what_was_filled_matches(text in "([a-c:]|\\{[a-c]\\}){1,6}", value in "[a-cé]{1,4}") {
            let template = Template::parse(&text).unwrap();
            let Filled::Key(key) = template.fill(|_| Some(&value)) else { panic!("all were known") };
            prop_assert!(template.matches(&key));
        }

        #[test]
        fn a_beginning_covers_every_key(text in "([a-z:]|\\{[a-c]\\}){1,12}", known in "[a-z:]{0,5}", unknown in "[a-z:]{0,5}") {
            let template = Template::parse(&text).unwrap();
            let part = template.fill(|name| (name == "a").then_some(known.as_str()));
            let whole = template.fill(|name| Some(if name == "a" { known.as_str() } else { unknown.as_str() }));
            let Filled::Key(key) = whole else { panic!("all were known") };
            match part {
                Filled::Key(same) => prop_assert_eq!(same, key),
                Filled::Beginning(beginning) => prop_assert!(marks::beginnings(&key).any(|one| one == beginning)),
            }
        }
    }
}
