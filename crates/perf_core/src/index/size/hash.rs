//! How many pages a hash index takes right after CREATE INDEX.
//!
//! The build allocates buckets for the rows it expects, in powers of two up to 512 and in quarters of a doubling above
//! (`_hash_init_metabuffer`, `_hash_spareindex`), one page each; what does not fit the page of its bucket goes to overflow
//! pages. Equal keys share a bucket whatever the number of buckets, so skew makes overflow pages.

use super::{Column, Estimate, LINE_POINTER_BYTES, PAGE_BYTES};

/// An index tuple: header and hash code, both rounded up to 8 bytes.
const TUPLE_BYTES: f64 = 16.0 + LINE_POINTER_BYTES;
/// Tuples on a full page: page header and special space take 40 bytes.
const PER_PAGE: f64 = 407.0;
/// Overflow pages that one bitmap page keeps track of: 4 kB of bits.
const PAGES_PER_BITMAP: f64 = 32_768.0;
/// Doublings that are allocated in one go.
const WHOLE_DOUBLINGS: u32 = 10;
/// The most buckets there can be at first.
const BUCKETS_MAX: f64 = 1_073_741_824.0;
/// Common values looked at apart.
const COMMON_MAX: usize = 1_000;

/// An index to price.
#[derive(Clone, Debug)]
pub struct Hash {
    /// Rows of the table: what the build expects, whatever a predicate keeps.
    pub expected: f64,
    /// Rows indexed, NULLs included: they are left out here.
    pub tuples: f64,
    /// The key.
    pub column: Column,
    /// Fillfactor in percent, 75 by default.
    pub fillfactor: f64,
}

/// Prices a hash index.
pub fn hash(index: &Hash) -> Estimate {
    let per_bucket = (PAGE_BYTES * index.fillfactor / 100.0 / TUPLE_BYTES).floor().max(10.0);
    let rows = index.tuples.max(0.0) * (1.0 - index.column.null_fraction.clamp(0.0, 1.0));
    let mut buckets = first_buckets(index.expected.max(0.0) / per_bucket);
    // More rows than expected: one split each time the mean is exceeded, allocated a phase at a time.
    if rows > per_bucket * buckets {
        buckets = phases(rows / per_bucket);
    }
    let overflow = overflow_pages(index, rows, buckets);
    let bitmaps = 1.0 + (overflow / PAGES_PER_BITMAP).floor();
    let pages = 1.0 + buckets + bitmaps + overflow;
    Estimate { pages, key_pages: pages, height: 0 }
}

fn first_buckets(wanted: f64) -> f64 {
    if wanted <= 2.0 {
        2.0
    } else {
        phases(wanted.floor()).min(BUCKETS_MAX)
    }
}

/// The number of buckets that is allocated when `wanted` are needed.
fn phases(wanted: f64) -> f64 {
    let wanted = wanted.clamp(2.0, BUCKETS_MAX) as u64;
    let power = wanted.next_power_of_two();
    if power.trailing_zeros() < WHOLE_DOUBLINGS {
        return power as f64;
    }
    let (half, quarter) = (power / 2, power / 8);
    (half + quarter * (wanted - half).div_ceil(quarter)) as f64
}

/// Pages beyond the first of every bucket: each common value makes a bucket of its own long, the rest fall on the buckets at
/// random, all rows of one value on the same.
fn overflow_pages(index: &Hash, rows: f64, buckets: f64) -> f64 {
    let column = &index.column;
    let mut rest = rows;
    let mut common = Vec::new();
    for share in column.common.iter().take(COMMON_MAX) {
        let count = (index.tuples * share).min(rest);
        rest -= count;
        common.push(count);
    }
    let distinct = (column.distinct - common.len() as f64).max(1.0).min(rest.max(1.0));
    let each = rest / distinct;
    let mean = rest / buckets;
    let long: f64 = common.iter().map(|count| beyond(count + mean)).sum();
    // Values in a bucket: Poisson with this mean, walked from the least likely to matter upwards.
    let values = distinct / buckets;
    let spread = 8.0 * values.sqrt() + 8.0;
    let (from, to) = ((values - spread).max(0.0).floor(), (values + spread).ceil());
    let mut short = 0.0;
    let step = ((to - from) / 2_000.0).ceil().max(1.0);
    let (mut at, mut total) = (from, 0.0);
    while at <= to {
        let probability = poisson(at, values);
        total += probability;
        short += probability * beyond(at * each);
        at += step;
    }
    long + (buckets - common.len() as f64).max(0.0) * short / total.max(f64::MIN_POSITIVE)
}

fn beyond(tuples: f64) -> f64 {
    ((tuples / PER_PAGE).ceil() - 1.0).max(0.0)
}

/// The chance of `count` where `mean` are expected, by Stirling's series for the factorial.
fn poisson(count: f64, mean: f64) -> f64 {
    if mean <= 0.0 {
        return if count < 0.5 { 1.0 } else { 0.0 };
    }
    let log_factorial = if count < 1.5 {
        0.0
    } else {
        count * count.ln() - count + 0.5 * (std::f64::consts::TAU * count).ln() + 1.0 / (12.0 * count)
    };
    (count * mean.ln() - mean - log_factorial).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(rows: f64, distinct: f64) -> Hash {
        let column = Column { width: 4.0, align: 4.0, widths: vec![], null_fraction: 0.0, distinct, common: vec![] };
        Hash { expected: rows, tuples: rows, column, fillfactor: 75.0 }
    }

    /// 100,000 distinct keys: 512 buckets, none of which overflows, and two pages of bookkeeping.
    #[test]
    fn buckets_come_in_powers_of_two() {
        assert_eq!(hash(&index(1e5, 1e5)).pages, 514.0);
        assert_eq!(phases(3257.0), 3584.0);
        assert_eq!(phases(2048.0), 2048.0);
        assert_eq!(phases(2049.0), 2560.0);
    }

    #[test]
    fn skew_makes_overflow_pages() {
        let mut skewed = index(1e5, 1e4);
        skewed.column.common = vec![0.5];
        let pages = hash(&skewed).pages;
        assert!((pages - (514.0 + 122.0)).abs() <= 3.0, "{pages}");
    }

    #[test]
    fn nulls_are_left_out() {
        let mut nulls = index(1e5, 5.0);
        nulls.column.null_fraction = 1.0;
        assert_eq!(hash(&nulls).pages, 514.0);
    }

    proptest! {
        #[test]
        fn holds_all_rows(rows in 0.0f64..1e8, distinct in 1.0f64..1e8, nulls in 0.0f64..1.0, share in 0.0f64..1.0) {
            let mut one = index(rows, distinct);
            one.column.null_fraction = nulls;
            one.column.common = vec![share * (1.0 - nulls)];
            let pages = hash(&one).pages;
            prop_assert!(pages.is_finite() && pages >= 4.0);
            prop_assert!(pages * PER_PAGE >= rows * (1.0 - nulls) * 0.95, "{pages}");
        }
    }
}
