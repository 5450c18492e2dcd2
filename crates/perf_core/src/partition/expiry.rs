//! How files and tables of expired partitions are called. Called by the job that archives them; decides only.

/// Bytes of a file's name that the part before its extension may take: with what is added to it while it is written, it
/// stays within the 255 of most filesystems.
const STEM_BYTES_MAX: usize = 200;
/// Of each name in it.
const PART_BYTES_MAX: usize = 63;
/// What archives end in.
pub const EXTENSION: &str = ".csv.zst";

/// The name of the file for a partition, without extension: the names of database, schema and table, the bounds of its
/// range, and its identity, which no other table of any server has. What is not a letter, a digit, `-` or `_` in ASCII
/// is replaced, so that no shell and no filesystem minds; what is too long loses some of all but the identity.
pub fn file_stem(names: [&str; 3], [lower, upper]: [&str; 2], identity: &str) -> String {
    let identity = plain(identity, PART_BYTES_MAX);
    let names = names.map(|name| plain(name, PART_BYTES_MAX));
    let mut stem = format!("{}.{}_{}", names.join("."), bound(lower), bound(upper));
    stem.truncate(STEM_BYTES_MAX.saturating_sub(identity.len() + 1));
    format!("{stem}.{identity}")
}

/// The name of the n-th try, from 1 on.
pub fn file_name(stem: &str, n: u32) -> String {
    match n {
        0 | 1 => format!("{stem}{EXTENSION}"),
        n => format!("{stem}_{n}{EXTENSION}"),
    }
}

fn plain(name: &str, bytes_max: usize) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    name.chars().map(kept).take(bytes_max).collect()
}

/// A bound as it is written in SQL: `'2026-03-01 00:00:00+00'` is `2026-03-01T000000`, and what is a whole day is the
/// day.
fn bound(literal: &str) -> String {
    let text = literal.trim_matches('\'');
    let text = text.split_once('+').map_or(text, |(before, _)| before).trim_end_matches(" 00:00:00");
    let kept = text.chars().filter(|c| *c != ':').map(|c| if c == ' ' { 'T' } else { c });
    plain(&kept.collect::<String>(), PART_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_table_and_range() {
        let stem = file_stem(
            ["shop", "public", "events_p2026_03"],
            ["'2026-03-01 00:00:00+00'", "'2026-04-01 00:00:00+00'"],
            "68a1b2-5-16400",
        );
        assert_eq!(stem, "shop.public.events_p2026_03.2026-03-01_2026-04-01.68a1b2-5-16400");
        assert_eq!(file_name("a", 1), "a.csv.zst");
        assert_eq!(file_name("a", 3), "a_3.csv.zst");
    }

    #[test]
    fn bounds_of_all_kinds() {
        assert_eq!(bound("'2026-03-01 06:00:00+00'"), "2026-03-01T060000");
        assert_eq!(bound("'2026-03-01'"), "2026-03-01");
        assert_eq!(bound("1767225600000"), "1767225600000");
        assert_eq!(bound("MINVALUE"), "MINVALUE");
        assert_eq!(bound("'0044-03-15 BC'"), "0044-03-15TBC");
    }

    proptest! {
        #[test]
        fn is_a_plain_short_name(parts in prop::array::uniform5(".{0,80}"), identity in "[0-9a-f-]{1,40}", n in 0u32..1000) {
            let [database, schema, table, lower, upper] = &parts;
            let stem = file_stem([database, schema, table], [lower, upper], &identity);
            let end = format!(".{identity}");
            prop_assert!(stem.ends_with(&end));
            let name = file_name(&stem, n);
            prop_assert!(name.len() <= 220);
            prop_assert!(!name.contains('/') && !name.contains(' ') && name.is_ascii());
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
        }
    }
}
