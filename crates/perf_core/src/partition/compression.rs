//! Which order old rows are written in, and whether writing them again was worth it. Called by the job that compresses
//! partitions; decides only.

/// An index of a partition, as far as rows can be put in its order: a B-tree of all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// `ORDER BY` of its keys.
    pub keys: String,
    /// Somebody has clustered the table by it.
    pub is_clustered: bool,
    /// It is the primary key.
    pub is_primary: bool,
    /// It is unique.
    pub is_unique: bool,
    /// Scans of it since the statistics were reset.
    pub scans: i64,
}

/// The order to write rows in: what somebody has clustered the table by, else the index that most scans use, of those
/// with as many the primary key, then a unique one; the time where there is no index.
pub fn best_order<'a>(orders: &'a [Order], time: &'a str) -> &'a str {
    let rank = |order: &&Order| (order.is_clustered, order.scans, order.is_primary, order.is_unique);
    // Of equals the first, so that the choice does not depend on where it stands.
    let best = orders.iter().rev().max_by_key(rank);
    best.map_or(time, |order| &order.keys)
}

/// What a rewrite must save at least, as a part of the whole.
const GAIN_MIN: f64 = 0.05;

/// Whether a rewrite saves enough to be kept.
pub fn is_worth_it(bytes_before: u64, bytes_after: u64) -> bool {
    bytes_after as f64 <= bytes_before as f64 * (1.0 - GAIN_MIN)
}

/// Room that a rewrite needs beside what is there: the new table and its indexes, and as much again to sort.
pub fn room_needed(bytes_before: u64) -> u64 {
    bytes_before.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(keys: &str, scans: i64) -> Order {
        Order { keys: keys.to_owned(), is_clustered: false, is_primary: false, is_unique: false, scans }
    }

    #[test]
    fn what_was_clustered_wins() {
        let clustered = Order { is_clustered: true, ..order("a", 0) };
        assert_eq!(best_order(&[order("b", 1_000), clustered], "at"), "a");
    }

    #[test]
    fn most_used_then_primary_then_unique() {
        let primary = Order { is_primary: true, is_unique: true, ..order("id", 10) };
        let unique = Order { is_unique: true, ..order("u", 10) };
        assert_eq!(best_order(&[unique.clone(), primary.clone(), order("x", 11)], "at"), "x");
        assert_eq!(best_order(&[order("x", 10), unique.clone(), primary], "at"), "id");
        assert_eq!(best_order(&[order("x", 10), unique], "at"), "u");
        assert_eq!(best_order(&[order("x", 0), order("y", 0)], "at"), "x");
        assert_eq!(best_order(&[], "at"), "at");
    }

    #[test]
    fn a_twentieth_is_worth_it() {
        assert!(is_worth_it(1_000, 950));
        assert!(!is_worth_it(1_000, 951));
        assert!(!is_worth_it(1_000, 2_000));
        assert!(is_worth_it(0, 0));
    }

    proptest! {
        #[test]
        fn picks_one_of_them(scans in prop::collection::vec(0i64..5, 1..8)) {
            let known = scans.iter().enumerate();
            let orders: Vec<Order> = known.map(|(at, scans)| order(&at.to_string(), *scans)).collect();
            let best: usize = best_order(&orders, "at").parse().unwrap_or(usize::MAX);
            prop_assert_eq!(scans[best], *scans.iter().max().unwrap_or(&0));
            prop_assert!(scans[..best].iter().all(|scans| *scans < orders[best].scans));
        }
    }
}
