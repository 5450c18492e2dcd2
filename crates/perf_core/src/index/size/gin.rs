//! How many pages a GIN index takes right after CREATE INDEX, and how many keys a sample of rows stands for.
//!
//! A tree of keys, each with the list of its rows: compressed in place while key and list fit a third of a page, else in a
//! tree of pages of its own. Rows are numbered block * 2048 + offset and stored as differences of seven bits a byte
//! (`ginpostinglist.c`). The build inserts keys in order, and a page of keys splits in the middle of its bytes, so pages of
//! keys are left half full; pages of rows are filled.

use super::{align_up, Estimate, LINE_POINTER_BYTES, PAGE_BYTES};

/// What a page of keys can hold.
const KEY_PAGE_BYTES: f64 = PAGE_BYTES - 24.0 - 8.0;
/// What a page of rows can hold: whole segments of 384 bytes, of which 8 are a header.
const ROW_PAGE_BYTES: f64 = 21.0 * 384.0;
const SEGMENT_BYTES: f64 = 384.0;
const SEGMENT_HEADER_BYTES: f64 = 8.0;
/// Pages that one inner page of a tree of rows points to.
const ROW_FANOUT: f64 = 815.0;
/// The largest key with its rows.
const ITEM_BYTES_MAX: f64 = 2_712.0;
/// Where pages of keys end up when many rounds of the build have inserted keys everywhere.
const RANDOM_FILL: f64 = 0.69;
/// What the build keeps in memory for a row of a key, and for a key, besides the key itself.
const MEMORY_PER_POSTING_BYTES: f64 = 9.0;
const MEMORY_PER_KEY_BYTES: f64 = 128.0;

/// Keys that occur equally often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// How many keys.
    pub keys: f64,
    /// In how many rows each.
    pub rows: f64,
}

/// An index to price.
#[derive(Clone, Debug)]
pub struct Gin {
    /// Rows of the table.
    pub tuples: f64,
    /// Its blocks.
    pub heap_pages: f64,
    /// Its keys.
    pub groups: Vec<Group>,
    /// An index tuple of one key without its rows, rounded up to 8 bytes.
    pub key_bytes: f64,
    /// What the build may use, in bytes.
    pub memory_bytes: f64,
}

/// An index tuple of a key of this width, without its rows: header, the number of the column when there are several, the key.
pub fn key_bytes(width: f64, several_columns: bool) -> f64 {
    let before = if several_columns { 12.0 } else { 8.0 };
    align_up(before + width, 8.0).max(16.0)
}

/// Prices a GIN index.
pub fn gin(index: &Gin) -> Estimate {
    let (mut bytes, mut squares, mut keys, mut postings, mut row_pages) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for group in index.groups.iter().filter(|group| group.keys > 0.0 && group.rows > 0.0) {
        let list = list_bytes(index, group.rows);
        let whole = align_up(index.key_bytes + SEGMENT_HEADER_BYTES + align_up(list, 2.0), 8.0);
        let item = if whole <= ITEM_BYTES_MAX {
            whole
        } else {
            row_pages += group.keys * tree_pages(list);
            index.key_bytes
        } + LINE_POINTER_BYTES;
        bytes += group.keys * item;
        squares += group.keys * item * item;
        keys += group.keys;
        postings += group.keys * group.rows;
    }
    let mean_item = if bytes > 0.0 { squares / bytes } else { 0.0 };
    let memory = postings * MEMORY_PER_POSTING_BYTES + keys * (MEMORY_PER_KEY_BYTES + index.key_bytes);
    let rounds = memory / index.memory_bytes.max(1.0);
    let half = KEY_PAGE_BYTES / 2.0 + 0.75 * mean_item;
    let per_page = if rounds > 2.0 { half.max(KEY_PAGE_BYTES * RANDOM_FILL) } else { half };
    let mut level =
        if bytes <= KEY_PAGE_BYTES { 1.0 } else { 1.0 + ((bytes - 0.75 * KEY_PAGE_BYTES) / per_page).ceil().max(1.0) };
    let fanout = (KEY_PAGE_BYTES / 2.0 / (index.key_bytes + LINE_POINTER_BYTES)).max(2.0);
    let mut key_pages = level;
    while level > 1.0 {
        level = if level <= fanout * 2.0 { 1.0 } else { (level / fanout).ceil() };
        key_pages += level;
    }
    Estimate { pages: 1.0 + key_pages + row_pages.round(), key_pages, height: 0 }
}

/// Bytes of the compressed differences between the rows of a key that occurs in `rows` rows anywhere in the table.
fn list_bytes(index: &Gin, rows: f64) -> f64 {
    let share = (rows / index.tuples.max(1.0)).clamp(1e-12, 1.0);
    let per_page = (index.tuples / index.heap_pages.max(1.0)).max(1.0);
    // The chance that none of the next `n` rows has the key.
    let absent = |n: f64| (1.0 - share).powf(n);
    // From a random place on a page: the next row with the key is on another page.
    let leaves = if share >= 1.0 { 1.0 / per_page } else { (1.0 - absent(per_page)) / (per_page * share) };
    let far = |pages: f64| leaves * absent((pages - 1.0) * per_page);
    let within = if per_page > 128.0 { (1.0 - leaves) * absent(128.0) } else { 0.0 };
    let each = 1.0 + within + leaves + far(8.0) + far(1_024.0) + far(131_072.0);
    (rows - 1.0).max(0.0) * each
}

/// Pages of a tree of rows whose differences take `list` bytes.
fn tree_pages(list: f64) -> f64 {
    let segments = list / (SEGMENT_BYTES - SEGMENT_HEADER_BYTES);
    let mut level = (segments * SEGMENT_BYTES / ROW_PAGE_BYTES).ceil().max(1.0);
    let mut pages = level;
    while level > 1.0 {
        level = (level / ROW_FANOUT).ceil();
        pages += level;
    }
    pages
}

/// What the keys of sampled rows say of those of all rows.
///
/// `counts` holds, for every distinct key of the sample, in how many sampled rows it occurs; `scale` is rows over sampled rows.
/// A key seen often occurs `scale` times as often. How many keys were not seen is extrapolated from how the number of
/// distinct keys grows with the sample: between the abundance-based coverage estimator (Chao and Lee 1992), which is right for
/// keys that are about equally rare and low for words, and the growth law of words (Heaps), which is the reverse.
pub fn extrapolate(counts: &[u32], scale: f64) -> Vec<Group> {
    let mut frequencies = std::collections::BTreeMap::<u32, f64>::new();
    for count in counts {
        *frequencies.entry(*count).or_default() += 1.0;
    }
    let scale = scale.max(1.0);
    let seen = counts.len() as f64;
    let unseen = (distinct(&frequencies, seen, scale) - seen).max(0.0);
    let mut groups = Vec::new();
    let (mut rare_keys, mut rare_rows) = (unseen, 0.0);
    for (count, keys) in &frequencies {
        if *count <= RARE {
            rare_keys += keys;
            rare_rows += keys * f64::from(*count) * scale;
        } else {
            groups.push(Group { keys: *keys, rows: f64::from(*count) * scale });
        }
    }
    if rare_keys > 0.0 {
        groups.push(Group { keys: rare_keys, rows: (rare_rows / rare_keys).max(1.0) });
    }
    groups
}

/// Keys seen at most this often share their rows with those not seen.
const RARE: u32 = 2;
/// Keys seen more often than this say nothing of those not seen.
const ABUNDANT: u32 = 10;

fn distinct(frequencies: &std::collections::BTreeMap<u32, f64>, seen: f64, scale: f64) -> f64 {
    let once = frequencies.get(&1).copied().unwrap_or(0.0);
    if once <= 0.0 || scale <= 1.0 {
        return seen;
    }
    let rare = || frequencies.range(..=ABUNDANT).map(|(count, keys)| (f64::from(*count), *keys));
    let rare_seen: f64 = rare().map(|(_, keys)| keys).sum();
    let rare_rows: f64 = rare().map(|(count, keys)| count * keys).sum();
    // Every rare key once: nothing repeats, so neither will the rest.
    if rare_rows - once < 1.0 {
        return seen + once * (scale - 1.0);
    }
    let coverage = 1.0 - once / rare_rows;
    let pairs: f64 = rare().map(|(count, keys)| count * (count - 1.0) * keys).sum();
    let variation = (rare_seen / coverage * pairs / (rare_rows * (rare_rows - 1.0)).max(1.0) - 1.0).max(0.0);
    let missing = (rare_seen / coverage + once / coverage * variation - rare_seen).max(once * 1e-3);
    // Not all of them turn up in `scale` times the rows.
    let even = seen + missing * -(-(scale - 1.0) * once / missing).exp_m1();
    // The growth law: exponent now, and at half the sample.
    let half: f64 = frequencies.iter().map(|(count, keys)| keys * (1.0 - 0.5f64.powf(f64::from(*count)))).sum();
    let half_once: f64 =
        frequencies.iter().map(|(count, keys)| keys * f64::from(*count) * 0.5f64.powf(f64::from(*count))).sum();
    let now = once / seen;
    let decay = (half_once / half / now).log2().max(0.0);
    let growth = if decay < 1e-6 { now * scale.ln() } else { now * (1.0 - scale.powf(-decay)) / decay };
    let words = seen * growth.exp();
    (even * words).sqrt().min(seen + once * (scale - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(groups: Vec<Group>) -> Gin {
        Gin { tuples: 1e5, heap_pages: 1_000.0, groups, key_bytes: 16.0, memory_bytes: 6.4e7 }
    }

    #[test]
    fn empty_is_meta_page_and_root() {
        assert_eq!(gin(&index(vec![])).pages, 2.0);
    }

    /// One key in every row: differences of one byte, in full pages of 8,064 bytes.
    #[test]
    fn a_key_in_every_row_takes_a_byte_a_row() {
        let pages = gin(&index(vec![Group { keys: 1.0, rows: 1e5 }])).pages;
        assert!((15.0..=17.0).contains(&pages), "{pages}");
    }

    /// A hundred thousand keys in one row each: 24 bytes and a line pointer, in pages left half full.
    #[test]
    fn rare_keys_leave_pages_half_full() {
        let pages = gin(&index(vec![Group { keys: 1e5, rows: 1.0 }])).pages;
        assert!((680.0..=700.0).contains(&pages), "{pages}");
    }

    #[test]
    fn all_keys_seen_or_none_repeated() {
        let full = extrapolate(&[50; 100], 10.0);
        assert_eq!(full, vec![Group { keys: 100.0, rows: 500.0 }]);
        let unique = extrapolate(&[1; 100], 10.0);
        assert_eq!(unique, vec![Group { keys: 1_000.0, rows: 1.0 }]);
    }

    proptest! {
        #[test]
        fn extrapolation_keeps_the_rows(counts in prop::collection::vec(1u32..200, 1..300), scale in 1.0f64..1e4) {
            let rows: f64 = counts.iter().map(|count| f64::from(*count) * scale).sum();
            let groups = extrapolate(&counts, scale);
            let sum: f64 = groups.iter().map(|group| group.keys * group.rows).sum();
            prop_assert!((sum / rows - 1.0).abs() < 0.01, "{sum} {rows}");
            prop_assert!(groups.iter().map(|group| group.keys).sum::<f64>() >= counts.len() as f64 * 0.999);
        }

        #[test]
        fn grows_with_rows(keys in 1.0f64..1e6, rows in 1.0f64..1e5) {
            let small = gin(&index(vec![Group { keys, rows }]));
            let large = gin(&index(vec![Group { keys: keys * 2.0, rows }]));
            prop_assert!(small.pages.is_finite() && small.pages >= 2.0 && large.pages >= small.pages);
            prop_assert!(small.key_pages < small.pages);
        }
    }
}
