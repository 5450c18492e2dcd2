//! What is decided about the conversion of a plain table into a partitioned one: where its own rows end, what its unique
//! indexes become, and what things are called. Called by the conversion job and by the function that shows its plan; plain
//! data in, plain data out.

use crate::index::name::{shortened, NAME_BYTES_MAX};
use crate::partition::{At, Ruler};

/// How far from the newest row, and from the clock, the end of the first partition is at least: as long as rows go into
/// the table alone, those beyond would be refused.
pub const MARGIN_US: i64 = 24 * 3_600 * 1_000_000;
/// A row farther in the future than this is a mark like 9999-12-31, or no time at all.
const FUTURE_US: i64 = 100 * 366 * MARGIN_US;
/// With less than this left, the end is moved before anything is built on it.
const LEFT_US: i64 = MARGIN_US / 4;

/// Where the first partition ends: the first bound that is a day away from the clock and from the newest row. `None`
/// when that row is a hundred years away, so that no partition would ever be needed after it.
pub fn boundary(ruler: &Ruler, utc_us: i64, newest: Option<At>) -> Option<At> {
    let now = ruler.now(utc_us);
    let newest = newest.unwrap_or(now);
    if newest.saturating_sub(now) > FUTURE_US {
        return None;
    }
    // The bound itself lies outside: an interval that begins right at the margin is not needed before it.
    let last = now.max(newest).saturating_add(MARGIN_US).saturating_sub(1);
    Some(ruler.interval_of(last).upper).filter(|upper| *upper != At::MAX)
}

/// Whether an end that was chosen earlier is still far enough from the clock.
pub fn is_far_enough(ruler: &Ruler, utc_us: i64, boundary: At) -> bool {
    boundary.saturating_sub(ruler.now(utc_us)) >= LEFT_US
}

/// A name made of another one, at most as long as the server keeps, that `is_used` says is free: `events_legacy`,
/// `events_legacy2` ...
pub fn free_name(base: &str, suffix: &str, is_used: impl Fn(&str) -> bool) -> String {
    let mut number = 1u32;
    loop {
        let ending = if number == 1 { format!("_{suffix}") } else { format!("_{suffix}{number}") };
        let name = shortened(base, NAME_BYTES_MAX - ending.len()) + &ending;
        if number == u32::MAX || !is_used(&name) {
            return name;
        }
        number += 1;
    }
}

/// A definition of an index, as `pg_get_indexdef` gives it, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// `CREATE INDEX` or `CREATE UNIQUE INDEX`.
    head: &'static str,
    /// From after the table's name to before the keys: ` USING btree `.
    method: String,
    /// The keys, without their parentheses.
    keys: String,
    /// From after the keys: INCLUDE, NULLS NOT DISTINCT, WITH, TABLESPACE, WHERE.
    rest: String,
}

impl Definition {
    /// Takes a definition apart; `name` and `table` are the index and its table as the server quotes them there. `None` when it
    /// is not what the server writes.
    pub fn parse(definition: &str, name: &str, table: &str) -> Option<Definition> {
        let head = ["CREATE UNIQUE INDEX", "CREATE INDEX"].into_iter().find(|head| definition.starts_with(head))?;
        let rest = definition.strip_prefix(head)?.strip_prefix(' ')?.strip_prefix(name)?;
        let rest = rest.strip_prefix(" ON ")?;
        let rest = rest.strip_prefix("ONLY ").unwrap_or(rest).strip_prefix(table)?;
        let open = rest.find('(')?;
        let close = open + closing(&rest[open..])?;
        Some(Definition {
            head,
            method: rest[..open].to_owned(),
            keys: rest[open + 1..close].to_owned(),
            rest: rest[close + 1..].to_owned(),
        })
    }

    /// The keys, as they stand between their parentheses.
    pub fn keys(&self) -> &str {
        &self.keys
    }

    /// With one more key at the end, as the server quotes it.
    pub fn with_key(mut self, column: &str) -> Definition {
        self.keys = format!("{}, {column}", self.keys);
        self
    }

    /// The statement that makes it: of a name, on a table.
    pub fn statement(&self, concurrently: bool, name: &str, table: &str) -> String {
        let concurrently = if concurrently { " CONCURRENTLY" } else { "" };
        format!("{}{concurrently} {name} ON {table}{}({}){}", self.head, self.method, self.keys, self.rest)
    }
}

/// Where the parenthesis closes that a text begins with. Names and literals are skipped.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut quote = None;
    for (at, char) in text.char_indices() {
        match (quote, char) {
            // A doubled quote closes and opens again, which comes to the same. The server doubles backslashes in E''.
            (Some(open), _) => quote = Some(open).filter(|_| char != open),
            (None, '\'' | '"') => quote = Some(char),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// A trigger's definition, with `target` in the place of its table. Names that are quoted are skipped: they may look like it.
pub fn trigger_on(definition: &str, table: &str, target: &str) -> String {
    let on = format!(" ON {table} ");
    let mut quote = None;
    for (at, char) in definition.char_indices() {
        match (quote, char) {
            (Some(open), _) => quote = Some(open).filter(|_| char != open),
            (None, '\'' | '"') => quote = Some(char),
            (None, ' ') if definition[at..].starts_with(&on) => {
                return format!("{} ON {target} {}", &definition[..at], &definition[at + on.len()..]);
            }
            _ => {}
        }
    }
    definition.to_owned()
}

/// How long to wait before the next try to get a lock, in milliseconds: longer each time, and never in step with others.
pub fn pause_ms(tries: u32, seed: u64) -> i64 {
    const FIRST_MS: u64 = 40;
    const MOST_MS: u64 = 1_000;
    let longest = FIRST_MS.saturating_mul(1 << tries.min(10)).min(MOST_MS);
    (longest / 2 + seed % (longest / 2 + 1)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{Every, Key};
    use crate::schedule::Utc;
    use proptest::prelude::*;

    const DAY_US: i64 = 24 * 3_600 * 1_000_000;
    /// 2026-11-23 07:00 UTC.
    const NOW: i64 = 1_795_417_200 * 1_000_000;

    fn ruler(every: Every, key: Key) -> Ruler<'static> {
        Ruler { every, key, zone: &Utc }
    }

    fn bound(every: Every, now: i64, newest: Option<i64>) -> String {
        let ruler = ruler(every, Key::Timestamptz);
        boundary(&ruler, now, newest).map_or_else(String::new, |at| crate::partition::literal(Key::Timestamptz, at))
    }

    #[test]
    fn first_partition_ends_a_day_after_the_clock_and_the_newest_row() {
        assert_eq!(bound(Every::Month, NOW, None), "'2026-12-01 00:00:00+00'");
        assert_eq!(bound(Every::Month, NOW + 7 * DAY_US, None), "'2027-01-01 00:00:00+00'");
        assert_eq!(bound(Every::Day, NOW, None), "'2026-11-25 00:00:00+00'");
        assert_eq!(bound(Every::Month, NOW, Some(NOW - 90 * DAY_US)), "'2026-12-01 00:00:00+00'");
        assert_eq!(bound(Every::Month, NOW, Some(NOW + 30 * DAY_US)), "'2027-01-01 00:00:00+00'");
        assert_eq!(bound(Every::Year, NOW, Some(NOW + 30 * DAY_US)), "'2027-01-01 00:00:00+00'");
    }

    #[test]
    fn rows_of_no_time_are_refused() {
        assert_eq!(bound(Every::Year, NOW, Some(NOW + 120 * 366 * DAY_US)), "");
        assert_eq!(bound(Every::Year, NOW, Some(i64::MAX)), "");
        assert_eq!(bound(Every::Year, NOW, Some(i64::MIN)), "'2027-01-01 00:00:00+00'");
    }

    #[test]
    fn an_end_is_good_for_a_while() {
        let ruler = ruler(Every::Day, Key::Timestamptz);
        let end = boundary(&ruler, NOW, None).unwrap();
        assert!(is_far_enough(&ruler, NOW, end));
        assert!(!is_far_enough(&ruler, end - 1, end));
        assert!(!is_far_enough(&ruler, end + DAY_US, end));
    }

    #[test]
    fn names_are_short_and_free() {
        assert_eq!(free_name("events", "legacy", |_| false), "events_legacy");
        assert_eq!(free_name("events", "legacy", |name| name == "events_legacy"), "events_legacy2");
        let long = free_name(&"ä".repeat(60), "legacy", |_| false);
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with("_legacy"), "{long}");
    }

    #[test]
    fn definitions_get_a_key() {
        let definition = "CREATE UNIQUE INDEX events_pkey ON public.events USING btree (id)";
        let parsed = Definition::parse(definition, "events_pkey", "public.events").unwrap();
        assert_eq!(parsed.statement(false, "events_pkey", "public.events"), definition);
        assert_eq!(
            parsed.with_key("at").statement(true, "other", "public.x"),
            "CREATE UNIQUE INDEX CONCURRENTLY other ON public.x USING btree (id, at)"
        );
        let definition = r#"CREATE UNIQUE INDEX "a(b" ON s."t)" USING btree (lower(((a || ')'::text) || "c"")")) COLLATE "C" DESC, b text_pattern_ops) INCLUDE (x, y) NULLS NOT DISTINCT WITH (fillfactor='70') TABLESPACE t WHERE (a > '(')"#;
        let parsed = Definition::parse(definition, "\"a(b\"", "s.\"t)\"").unwrap();
        assert_eq!(parsed.statement(false, "\"a(b\"", "s.\"t)\""), definition);
        assert!(parsed.with_key("at").statement(false, "n", "t").contains("b text_pattern_ops, at) INCLUDE (x, y)"));
        let only = "CREATE INDEX i ON ONLY public.t USING btree (a)";
        let parsed = Definition::parse(only, "i", "public.t").unwrap();
        assert_eq!(parsed.statement(false, "i", "public.t"), "CREATE INDEX i ON public.t USING btree (a)");
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        for text in [
            "",
            "CREATE TABLE t (a)",
            "CREATE INDEX i ON t",
            "CREATE INDEX i ON t USING btree (a",
            "CREATE INDEX j ON t USING btree (a)",
        ] {
            assert_eq!(Definition::parse(text, "i", "t"), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_definition_comes_back_as_it_was(keys in r#"[a-z]{1,5}( DESC)?(, "[^"\x00]{1,5}")?(, \([a-z]+\('[^'\x00]{0,5}'\)\))?"#, rest in "( WHERE \\(a > 1\\))?") {
            let definition = format!("CREATE INDEX i ON public.t USING btree ({keys}){rest}");
            let parsed = Definition::parse(&definition, "i", "public.t").unwrap();
            prop_assert_eq!(parsed.statement(false, "i", "public.t"), definition);
            prop_assert_eq!(&parsed.keys, &keys);
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,60}") {
            let _ = Definition::parse(&format!("CREATE INDEX i ON t{text}"), "i", "t");
            let _ = closing(&text);
        }

        #[test]
        fn a_trigger_goes_to_the_other_table(name in "[a-z ON.\"']{1,30}", column in "[a-z ON.]{1,20}") {
            let name = format!("\"{}\"", name.replace('"', "\"\""));
            let of = |table: &str| {
                format!("CREATE TRIGGER {name} AFTER UPDATE OF \"{column}\" ON {table} FOR EACH ROW EXECUTE FUNCTION f(' ON a.t ')")
            };
            prop_assert_eq!(trigger_on(&of("a.t"), "a.t", "b.u"), of("b.u"));
            prop_assert_eq!(trigger_on(&of("\"a b\".t"), "\"a b\".t", "b.u"), of("b.u"));
        }

        #[test]
        fn the_end_lies_beyond_the_margin(now in -1_000_000_000i64..4_000_000_000, ahead in -100_000_000i64..100_000_000) {
            let (now, newest) = (now * 1_000_000, (now + ahead) * 1_000_000);
            for every in [Every::Day, Every::Week, Every::Month, Every::Quarter, Every::Year] {
                let ruler = ruler(every, Key::Timestamptz);
                let end = boundary(&ruler, now, Some(newest)).unwrap();
                prop_assert!(end >= now.max(newest) + MARGIN_US);
                prop_assert!(is_far_enough(&ruler, now, end));
                prop_assert_eq!(ruler.interval_of(end).lower, end);
            }
        }

        #[test]
        fn pauses_are_bounded(tries: u32, seed: u64) {
            let pause = pause_ms(tries, seed);
            prop_assert!((20..=1_000).contains(&pause));
        }
    }
}
