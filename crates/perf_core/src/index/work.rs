//! What a plan does, counted in steps of the executor, and how long that takes.
//!
//! The planner's cost is made for choosing between plans, with pages as its unit; it is not time. On data that is mostly in
//! memory a sequential page costs next to nothing, a numeric addition or a `LIKE` many times an integer comparison, and a
//! visit to a random tuple a cache miss. So a plan's gain is valued by counting its steps and pricing each in nanoseconds.
//! Prices are those of one machine; only ratios of times are used, and the measured time of a statement sets the scale.

use std::fmt;

/// A kind of step. The prices are a non-negative least-squares fit of measured times of some 290 plans of
/// TPC-H at scale 1 in memory, with the rows counted when they ran; median error of a time 21 %. Made by
/// `tests/bench/advisor/prices.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// Starting and ending one execution of one plan node.
    Node,
    /// A tuple looked at by a sequential scan.
    SequentialTuple,
    /// A page read in order.
    SequentialPage,
    /// A descent from the root of an index.
    Descent,
    /// An index entry read.
    IndexEntry,
    /// A heap tuple fetched through an index whose order is that of the table.
    NearFetch,
    /// A heap tuple fetched through an index from anywhere in the table.
    FarFetch,
    /// A tuple looked at by a bitmap heap scan.
    BitmapTuple,
    /// A page visited by a bitmap heap scan.
    BitmapPage,
    /// A comparison or function of a type that fits in a register.
    Operation,
    /// An operation on numeric, or a function that makes one.
    NumericOperation,
    /// A comparison or function of a type of variable length.
    TextOperation,
    /// A pattern match.
    PatternMatch,
    /// A tuple put into a hash table.
    HashBuild,
    /// A hash table asked for a tuple.
    HashProbe,
    /// A comparison of a sort.
    SortComparison,
    /// A tuple given to an aggregate or grouping node.
    GroupedTuple,
    /// A group made.
    Group,
    /// A tuple handed from a node to the one above.
    Row,
    /// A page of a temporary file written and read.
    TemporaryPage,
}

/// How many kinds of steps there are.
pub const STEPS: usize = Step::TemporaryPage as usize + 1;

/// Names of the steps, in order.
pub const NAMES: [&str; STEPS] = [
    "nodes",
    "sequential_tuples",
    "sequential_pages",
    "descents",
    "index_entries",
    "near_fetches",
    "far_fetches",
    "bitmap_tuples",
    "bitmap_pages",
    "operations",
    "numeric_operations",
    "text_operations",
    "pattern_matches",
    "hash_builds",
    "hash_probes",
    "sort_comparisons",
    "grouped_tuples",
    "groups",
    "rows",
    "temporary_pages",
];

/// Nanoseconds a step, in order.
const PRICES_NS: [f64; STEPS] = [
    350.0, 53.0, 435.0, 2_400.0, 43.0, 70.0, 1_150.0, 110.0, 740.0, 11.0, 21.0, 19.0, 100.0, 160.0, 100.0, 15.0, 90.0,
    340.0, 32.0, 10_000.0,
];

/// Counts of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    counts: [f64; STEPS],
}

impl Work {
    /// Adds steps; what is not a positive number counts as none.
    pub fn add(&mut self, step: Step, count: f64) {
        if count > 0.0 && count.is_finite() {
            self.counts[step as usize] += count;
        }
    }

    /// Adds all steps of another plan.
    pub fn add_all(&mut self, other: &Work) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// How many steps of a kind there are.
    pub fn count(&self, step: Step) -> f64 {
        self.counts[step as usize]
    }

    /// Names and counts of all steps, in order.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        NAMES.iter().copied().zip(self.counts)
    }

    /// The time it takes with everything in memory.
    pub fn milliseconds(&self) -> f64 {
        self.counts.iter().zip(PRICES_NS).map(|(count, price)| count * price).sum::<f64>() * 1e-6
    }
}

/// `sequential_tuples 100, rows 3`: what there is, rounded.
impl fmt::Display for Work {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, count)) in self.counted().filter(|(_, count)| *count > 0.0).enumerate() {
            write!(formatter, "{}{name} {count:.0}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_prices() {
        let mut work = Work::default();
        work.add(Step::SequentialTuple, 1e6);
        work.add(Step::Row, f64::NAN);
        work.add(Step::Row, -1.0);
        assert_eq!(work.count(Step::Row), 0.0);
        let price = PRICES_NS[Step::SequentialTuple as usize];
        assert!((work.milliseconds() - price).abs() < 1e-9);
        assert_eq!(work.counted().filter(|(_, count)| *count > 0.0).count(), 1);
    }
}
