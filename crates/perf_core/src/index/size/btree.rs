//! How many pages a B-tree takes right after CREATE INDEX, deduplication included (PostgreSQL 13 and later).
//!
//! The model follows the leaf-building rules of the server: 8 kB pages, fillfactor 90 on leaves and 70 above, key tuples
//! rounded up to 8 bytes, duplicates of one key folded into posting lists of at most a tenth of a page, the last tuple
//! of a full page moved to the next one and replaced by a truncated high key.

use super::{align_up, mean_tuple_bytes, Column, Estimate, LINE_POINTER_BYTES, PAGE_BYTES, TID_BYTES};

/// Page header and B-tree special space.
const PAGE_OVERHEAD_BYTES: f64 = 24.0 + 16.0;
const NONLEAF_FILLFACTOR: f64 = 70.0;
/// Largest posting-list tuple: a tenth of a page, less its line pointer, rounded down to 8.
const POSTING_BYTES_MAX: f64 = 808.0;

/// An index to price.
#[derive(Clone, Debug)]
pub struct Btree {
    /// Rows indexed.
    pub tuples: f64,
    /// Key columns, then INCLUDE columns.
    pub columns: Vec<Column>,
    /// How many of them are keys.
    pub keys: usize,
    /// Whether the server would fold duplicates (no INCLUDE, every key type equal exactly when its image is).
    pub deduplicate: bool,
    /// Leaf fillfactor in percent, 90 by default.
    pub fillfactor: f64,
}

/// Prices a B-tree.
pub fn btree(index: &Btree) -> Estimate {
    let tuples = index.tuples.max(0.0).round();
    if tuples < 1.0 {
        return Estimate { pages: 1.0, key_pages: 0.0, height: 0 };
    }
    let tuple_bytes = mean_tuple_bytes(&index.columns);
    let key_bytes = mean_tuple_bytes(&index.columns[..index.keys.min(index.columns.len())]);

    let groups = if index.deduplicate { groups(index, tuples) } else { vec![Group { count: tuples, rows: 1.0 }] };
    let usable =
        PAGE_BYTES - PAGE_OVERHEAD_BYTES - LINE_POINTER_BYTES - PAGE_BYTES * (100.0 - index.fillfactor) / 100.0;
    let leaf_pages = groups
        .iter()
        .map(|group| {
            let (bytes, largest) = group_bytes(tuple_bytes, group.rows);
            // A page closes with the item that crosses its target, and that item moves on: half an item is lost on average,
            // all of the remainder when every item is of one large size.
            let per_page =
                if largest > usable / 16.0 { usable - (usable % largest).min(largest / 2.0) } else { usable };
            group.count * bytes / per_page.max(1.0)
        })
        .sum::<f64>()
        .max(1.0)
        .ceil();

    let fanout =
        ((PAGE_BYTES - PAGE_OVERHEAD_BYTES - LINE_POINTER_BYTES - PAGE_BYTES * (100.0 - NONLEAF_FILLFACTOR) / 100.0)
            / (key_bytes + LINE_POINTER_BYTES))
            .floor()
            .max(2.0);
    let (mut pages, mut level, mut height) = (leaf_pages, leaf_pages, 0);
    while level > 1.0 {
        level = (level / fanout).ceil();
        pages += level;
        height += 1;
    }
    Estimate { pages: pages + 1.0, key_pages: leaf_pages, height }
}

/// `count` distinct keys with `rows` rows each.
struct Group {
    count: f64,
    rows: f64,
}

/// Common values of one key that are looked at apart: more for the first, for they multiply.
const COMMON_FIRST_MAX: usize = 100;
const COMMON_MAX: usize = 12;
/// Combinations looked at apart; beyond it, columns count by their distinct values alone.
const CLASSES_MAX: usize = 5_000;

/// Some rows: their share, and how many distinct values they spread over.
#[derive(Clone, Copy)]
struct Class {
    share: f64,
    distinct: f64,
}

/// The rows of one column: NULLs, common values, the rest.
fn classes(column: &Column, common_max: usize) -> Vec<Class> {
    let mut result = Vec::new();
    let nulls = column.null_fraction.clamp(0.0, 1.0);
    let (mut rest, mut distinct) = (1.0 - nulls, column.distinct.max(1.0));
    if nulls > 0.0 {
        result.push(Class { share: nulls, distinct: 1.0 });
    }
    for share in column.common.iter().take(common_max) {
        let share = share.min(rest);
        if share > 0.0 && distinct > 1.0 {
            result.push(Class { share, distinct: 1.0 });
            rest -= share;
            distinct -= 1.0;
        }
    }
    if rest > 0.0 {
        result.push(Class { share: rest, distinct });
    }
    result
}

/// Splits the rows into groups of equal keys: NULLs and common values of each column apart, the rest evenly.
fn groups(index: &Btree, tuples: f64) -> Vec<Group> {
    let keys = &index.columns[..index.keys.min(index.columns.len())];
    // Share, possible keys, keys known to occur.
    let mut sets = vec![(1.0f64, 1.0f64, 1.0f64)];
    for (at, column) in keys.iter().enumerate() {
        let mut parts = classes(column, if at == 0 { COMMON_FIRST_MAX } else { COMMON_MAX });
        if sets.len() * parts.len() > CLASSES_MAX {
            parts = vec![Class { share: 1.0, distinct: column.distinct.max(1.0) }];
        }
        sets = sets
            .iter()
            .flat_map(|(share, cells, occupied)| {
                parts.iter().map(move |part| {
                    // Of a set of rows, only so many distinct values can be expected.
                    let seen = part.distinct.min(part.distinct * share + 1.0);
                    (
                        share * part.share,
                        (cells * part.distinct).min(1e15),
                        (occupied * part.share + 1.0).min(*occupied).max(seen),
                    )
                })
            })
            .collect();
    }
    let mut result = Vec::new();
    for (share, cells, occupied) in sets {
        let rows = tuples * share;
        // Less than a row: counted as what is left of it, so that no row is lost.
        if rows > 0.0 {
            spread(&mut result, rows, cells, occupied.min(rows.max(1.0)));
        }
    }
    result
}

/// Rows thrown at `cells` possible keys of which at least `occupied` are known to occur: how many keys there are, and how
/// often each. Every key occurs once, the remaining rows fall on them at random.
fn spread(into: &mut Vec<Group>, rows: f64, cells: f64, occupied: f64) {
    let cells = cells.max(1.0);
    let expected = cells * -(-rows / cells).exp_m1();
    let keys = expected.max(occupied.min(rows)).clamp(rows.min(1.0), rows);
    let mean = (rows / keys).max(1.0);
    if mean >= 16.0 {
        into.push(Group { count: keys, rows: mean });
        return;
    }
    let mut probability = (1.0 - mean).exp();
    let mut left = rows;
    for more in 0..64u32 {
        if more > 0 {
            probability *= (mean - 1.0) / f64::from(more);
        }
        let each = f64::from(more + 1);
        let count = (keys * probability).min(left / each);
        if count > 0.0 {
            into.push(Group { count, rows: each });
            left -= count * each;
        }
    }
}

/// Bytes on leaf pages for one group with line pointers, and its largest item.
fn group_bytes(tuple_bytes: f64, rows: f64) -> (f64, f64) {
    let single = tuple_bytes + LINE_POINTER_BYTES;
    if rows < 1.5 {
        return (rows * single, single);
    }
    let per_posting = ((POSTING_BYTES_MAX - tuple_bytes) / TID_BYTES).floor().max(1.0);
    if per_posting < 2.0 {
        return (rows * single, single);
    }
    let full = (rows / per_posting).floor();
    let rest = rows - full * per_posting;
    let full_bytes = align_up(tuple_bytes + per_posting * TID_BYTES, 8.0).min(POSTING_BYTES_MAX) + LINE_POINTER_BYTES;
    let rest_bytes = match rest {
        r if r <= 0.0 => 0.0,
        r if r < 1.5 => single,
        r => tuple_bytes + r * TID_BYTES + 3.5 + LINE_POINTER_BYTES,
    };
    (full * full_bytes + rest_bytes, if full >= 1.0 { full_bytes } else { rest_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixed(width: f64, distinct: f64) -> Column {
        Column { width, align: width.min(8.0), widths: vec![], null_fraction: 0.0, distinct, common: vec![] }
    }

    fn index(tuples: f64, columns: Vec<Column>) -> Btree {
        let keys = columns.len();
        Btree { tuples, columns, keys, deduplicate: true, fillfactor: 90.0 }
    }

    /// CREATE INDEX on a million distinct int4 values takes 2,745 pages: 2,733 leaves, 10 above, root, meta page.
    #[test]
    fn a_million_distinct_integers() {
        let estimate = btree(&index(1e6, vec![fixed(4.0, 1e6)]));
        assert!((estimate.pages - 2745.0).abs() <= 4.0, "{estimate:?}");
        assert_eq!(estimate.height, 2);
    }

    #[test]
    fn alignment_between_columns() {
        let text = Column { align: 1.0, widths: vec![(5, 1.0), (7, 1.0)], ..fixed(6.0, 9.0) };
        assert_eq!(mean_tuple_bytes(&[text.clone(), fixed(8.0, 9.0)]), 24.0);
        assert_eq!(mean_tuple_bytes(&[text.clone(), fixed(1.0, 2.0)]), 16.0);
        let wide = Column { align: 1.0, widths: vec![(8, 1.0), (9, 1.0)], ..fixed(6.0, 9.0) };
        assert_eq!(mean_tuple_bytes(&[wide]), 20.0);
        let half_null = Column { null_fraction: 0.5, ..fixed(8.0, 9.0) };
        assert_eq!(mean_tuple_bytes(&[fixed(8.0, 9.0), half_null]), 0.5 * 24.0 + 0.5 * 24.0);
    }

    #[test]
    fn duplicates_fold() {
        let folded = btree(&index(1e6, vec![fixed(4.0, 10.0)])).pages;
        let plain = btree(&Btree { deduplicate: false, ..index(1e6, vec![fixed(4.0, 10.0)]) }).pages;
        assert!(folded < plain / 2.8 && folded > plain / 3.6, "{folded} {plain}");
    }

    #[test]
    fn empty_index_is_the_meta_page() {
        assert_eq!(btree(&index(0.0, vec![fixed(4.0, 1.0)])).pages, 1.0);
    }

    proptest! {
        #[test]
        fn grows_with_rows_and_never_beyond_no_deduplication(
            tuples in 1.0f64..1e8, distinct in 1.0f64..1e8, width in 1.0f64..200.0, nulls in 0.0f64..1.0, keys in 1usize..4
        ) {
            let column = Column { width, align: 1.0, widths: vec![(width as u32, 1.0), (width as u32 / 2, 2.0)], null_fraction: nulls, distinct, common: vec![0.1, 0.05] };
            let columns = vec![column; keys];
            let small = btree(&index(tuples, columns.clone()));
            let large = btree(&index(tuples * 2.0, columns.clone()));
            prop_assert!(small.pages.is_finite() && small.pages >= 2.0);
            prop_assert!(large.pages >= small.pages);
            let plain = btree(&Btree { deduplicate: false, ..index(tuples, columns) });
            prop_assert!(small.pages <= plain.pages * 1.10 + 2.0, "{small:?} {plain:?}");
        }
    }
}
