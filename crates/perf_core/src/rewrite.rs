//! What makes a statement worth writing anew: the rules with their words, and the decisions that need no server. Pure; called
//! by the adviser on captured statements.

use std::collections::HashMap;

/// What a statement can be told to do better, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A function or operator around a column that has an index.
    FunctionOnColumn,
    /// A cast that the server put around such a column.
    ImplicitCast,
    /// LIKE with a pattern that begins with a wildcard.
    LeadingWildcard,
    /// OR of conditions on different columns.
    OrAcrossColumns,
    /// NOT IN with a subquery.
    NotIn,
    /// An OFFSET that skips many rows.
    DeepOffset,
    /// A count that is asked for existence only.
    CountForExistence,
    /// DISTINCT over a join with a table that nothing is selected from.
    DistinctOverJoin,
    /// All columns of a wide table.
    SelectStar,
    /// A subquery that runs for each row.
    CorrelatedSubquery,
    /// All of a table that grows with time.
    MissingTimeBound,
    /// One statement many times in one transaction.
    RepeatedStatement,
    /// A long list of values.
    LongInList,
    /// A subquery that is sorted in vain.
    OrderInSubquery,
    /// Temporary files.
    WorkMemSpill,
    /// Statistics that are out of date.
    StaleStatistics,
    /// Planning that takes longer than execution.
    PlanningTime,
}

impl Rule {
    /// Title and problem.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Rule::FunctionOnColumn => (
                "A function hides an indexed column",
                "The condition is on an expression of the column, so an index on the column cannot serve it.",
            ),
            Rule::ImplicitCast => (
                "An implicit cast hides an indexed column",
                "The value has another type, so the server converts the column, row by row, instead of the value.",
            ),
            Rule::LeadingWildcard => (
                "LIKE with a leading wildcard",
                "A pattern that begins with a wildcard has no beginning to search a btree index for.",
            ),
            Rule::OrAcrossColumns => {
                ("OR across columns", "No one index serves a condition on this column or that one.")
            }
            Rule::NotIn => (
                "NOT IN with a subquery",
                "NOT IN cannot become an anti join: a NULL in the subquery would make it true for no row.",
            ),
            Rule::DeepOffset => ("Deep OFFSET", "All rows before the page are read, sorted and thrown away."),
            Rule::CountForExistence => {
                ("count(*) for existence", "All rows are counted to learn whether there is one.")
            }
            Rule::DistinctOverJoin => {
                ("DISTINCT over a join", "The join multiplies rows that DISTINCT then has to sort out again.")
            }
            Rule::SelectStar => (
                "SELECT * from a wide table",
                "All columns are read, sorted and sent, whichever are used; no index can hold them all.",
            ),
            Rule::CorrelatedSubquery => ("Correlated subquery", "The subquery runs once for each row."),
            Rule::MissingTimeBound => {
                ("No bound in time", "It reads a table that grows with time as a whole: it gets slower every day.")
            }
            Rule::RepeatedStatement => (
                "The same statement many times in a transaction (N+1)",
                "Each execution is a round trip and an index search of its own.",
            ),
            Rule::LongInList => (
                "Long IN list",
                "Each value is parsed and planned, and each length of the list is another statement to a plan cache.",
            ),
            Rule::OrderInSubquery => (
                "ORDER BY in a subquery",
                "The rows are sorted, and then used in a way that does not depend on their order.",
            ),
            Rule::WorkMemSpill => (
                "Sorts or hashes spill to disk",
                "work_mem is too small for this statement: it writes temporary files.",
            ),
            Rule::StaleStatistics => {
                ("Stale statistics", "The planner goes by statistics that do not describe the rows any more.")
            }
            Rule::PlanningTime => (
                "Planned longer than executed",
                "Each execution is planned anew, which takes longer than executing it.",
            ),
        }
    }

    /// What it is called.
    pub fn title(self) -> &'static str {
        self.words().0
    }

    /// What is slow about it.
    pub fn problem(self) -> &'static str {
        self.words().1
    }
}

/// How much less `after` is than `before`, in percent; negative when it is more. None without costs.
pub fn improvement_pct(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    let (before, after) = before.zip(after)?;
    (before > 0.0 && before.is_finite() && after.is_finite()).then(|| 100.0 * (before - after) / before)
}

/// A rewritten statement is told when it is cheaper by this much, in percent: less is within what estimates are off.
const WORTH_PCT: f64 = 1.0;

/// Whether it pays to write it that way.
pub fn is_worth(before: f64, after: f64) -> bool {
    improvement_pct(Some(before), Some(after)).is_some_and(|pct| pct >= WORTH_PCT)
}

/// What comparing a count with a number asks: Some(true) whether there is a row, Some(false) whether there is none.
pub fn existence(operator: &str, number: i64) -> Option<bool> {
    match (operator, number) {
        (">" | "<>", 0) | (">=", 1) => Some(true),
        ("=" | "<=", 0) | ("<", 1) => Some(false),
        _ => None,
    }
}

/// The same comparison with its sides exchanged.
pub fn commuted(operator: &str) -> Option<&'static str> {
    Some(match operator {
        "=" => "=",
        "<>" => "<>",
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        _ => return None,
    })
}

/// A pattern of LIKE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// It begins with what is searched for: a btree can serve it.
    Anchored,
    /// It begins with a wildcard, and has this many characters in a row that are none.
    Open(usize),
}

/// Looks at a pattern; a backslash takes a character at its word.
pub fn pattern(text: &str) -> Pattern {
    let mut chars = text.chars();
    if !matches!(chars.clone().next(), Some('%' | '_')) {
        return Pattern::Anchored;
    }
    let (mut longest, mut run) = (0, 0);
    while let Some(char) = chars.next() {
        run = match char {
            '%' | '_' => 0,
            '\\' => run + usize::from(chars.next().is_some()),
            _ => run + 1,
        };
        longest = longest.max(run);
    }
    Pattern::Open(longest)
}

/// Characters in a row that a trigram index needs to be of use.
pub const TRIGRAM: usize = 3;
/// Rows skipped from which on an OFFSET is deep.
pub const DEEP_OFFSET: i64 = 1_000;
/// Values from which on a list is long.
pub const LONG_LIST: usize = 100;
/// Executions in one transaction from which on they should be one.
pub const REPEATS_MIN: usize = 10;
/// Columns or bytes a row from which on a table is wide.
pub const WIDE: (i64, f64) = (20, 500.0);
/// Rows from which on reading all of a table is worth a word.
pub const LARGE_ROWS: f64 = 10_000.0;

/// How long one step of `date_trunc` is, as an interval; None for a unit whose steps it is not sure of.
pub fn unit_interval(unit: &str) -> Option<&'static str> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "second" => "1 second",
        "minute" => "1 minute",
        "hour" => "1 hour",
        "day" => "1 day",
        "week" => "7 days",
        "month" => "1 month",
        "quarter" => "3 months",
        "year" => "1 year",
        _ => return None,
    })
}

/// Work memory that is never exceeded: many sessions may take it at once, several times each.
const WORK_MEM_MAX_KB: i64 = 1 << 20;
/// What is written to disk takes about this much more in memory.
const IN_MEMORY: f64 = 2.0;

/// The `work_mem`, in kB, that an execution writing so many bytes of temporary files would have stayed in memory with: a power
/// of two of megabytes. None where that is no more than there is, or more than is sensible.
pub fn work_mem_kb(temp_bytes: f64, current_kb: i64) -> Option<i64> {
    if temp_bytes <= 0.0 || !temp_bytes.is_finite() {
        return None;
    }
    let wanted = (temp_bytes * IN_MEMORY / 1024.0).ceil() as i64 + current_kb.max(0);
    let mut size = 1024;
    while size < wanted {
        if size >= WORK_MEM_MAX_KB {
            return None;
        }
        size *= 2;
    }
    (size > current_kb).then_some(size)
}

/// Executions from which on planning times say something.
const PLANNED_MIN: u64 = 20;
/// A statement that is planned is planned at nearly every execution.
const PLANNED_SHARE: f64 = 0.5;

/// The share of its time that a statement is planned, in percent, where that is more than it is executed.
pub fn planning_pct(plans: u64, calls: u64, planning_ns: u64, execution_ns: u64) -> Option<f64> {
    let each_time = plans as f64 >= PLANNED_SHARE * calls as f64;
    (calls >= PLANNED_MIN && each_time && planning_ns > execution_ns)
        .then(|| 100.0 * planning_ns as f64 / (planning_ns + execution_ns) as f64)
}

/// Share of a table's rows that may have changed since ANALYZE: twice what autovacuum allows by default.
const CHANGED_SHARE: f64 = 0.2;
/// A table with fewer rows is planned well whatever its statistics say.
const ROWS_MIN: f64 = 1_000.0;
/// Rows that were expected and rows that came may differ by this factor.
pub const MISESTIMATE: f64 = 10.0;

/// Whether the statistics of a table are stale: rows alive, rows changed since ANALYZE, whether there ever was one.
pub fn is_stale(live: f64, changed: f64, analyzed: bool) -> bool {
    live.max(changed) >= ROWS_MIN && (!analyzed || changed > CHANGED_SHARE * live)
}

/// Statements that one transaction executed at least [`REPEATS_MIN`] times with values that differ, and how often. `steps`
/// has of each execution the statement and a hash of its values.
pub fn repeated(steps: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, usize)> {
    let mut seen: HashMap<u64, (usize, std::collections::HashSet<u64>)> = HashMap::new();
    for (statement, values) in steps {
        let (count, distinct) = seen.entry(statement).or_default();
        *count += 1;
        distinct.insert(values);
    }
    let often = seen.into_iter().filter(|(_, (count, values))| *count >= REPEATS_MIN && values.len() * 2 > *count);
    let mut found: Vec<(u64, usize)> = often.map(|(statement, (count, _))| (statement, count)).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_ask_for_existence_at_the_border_only() {
        for (operator, number, expected) in [
            (">", 0, Some(true)),
            ("<>", 0, Some(true)),
            (">=", 1, Some(true)),
            ("=", 0, Some(false)),
            ("<", 1, Some(false)),
            (">", 1, None),
            ("=", 1, None),
            (">=", 0, None),
            ("!~", 0, None),
        ] {
            assert_eq!(existence(operator, number), expected, "count(*) {operator} {number}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(pattern("abc%"), Pattern::Anchored);
        assert_eq!(pattern(""), Pattern::Anchored);
        assert_eq!(pattern("\\%abc"), Pattern::Anchored);
        assert_eq!(pattern("%abc%"), Pattern::Open(3));
        assert_eq!(pattern("_ab%c"), Pattern::Open(2));
        assert_eq!(pattern("%a\\%b"), Pattern::Open(3));
        assert_eq!(pattern("%\\"), Pattern::Open(0));
    }

    #[test]
    fn statistics_go_stale_by_share() {
        assert!(!is_stale(100_000.0, 20_000.0, true));
        assert!(is_stale(100_000.0, 20_001.0, true));
        assert!(is_stale(1_000.0, 0.0, false));
        assert!(!is_stale(999.0, 999.0, false));
    }

    #[test]
    fn planning_counts_where_it_takes_longer() {
        assert_eq!(planning_pct(20, 20, 300, 100), Some(75.0));
        assert_eq!(planning_pct(19, 19, 300, 100), None);
        assert_eq!(planning_pct(20, 20, 100, 100), None);
        assert_eq!(planning_pct(5, 20, 300, 100), None);
    }

    #[test]
    fn work_memory_has_an_end() {
        assert_eq!(work_mem_kb(0.0, 4096), None);
        assert_eq!(work_mem_kb(1024.0 * 1024.0, 4096), Some(8192));
        assert_eq!(work_mem_kb(1e12, 4096), None);
    }

    #[test]
    fn repeats_differ_in_their_values() {
        let many = |values: u64| (0..20).map(move |at| (7, at % values)).chain([(8, 1)]);
        assert_eq!(repeated(many(20)), [(7, 20)]);
        assert_eq!(repeated(many(1)), []);
        assert_eq!(repeated((0..9).map(|at| (7, at))), []);
    }

    #[test]
    fn improvement_is_of_before() {
        assert_eq!(improvement_pct(Some(200.0), Some(50.0)), Some(75.0));
        assert_eq!(improvement_pct(Some(100.0), Some(150.0)), Some(-50.0));
        assert_eq!(improvement_pct(Some(0.0), Some(1.0)), None);
        assert_eq!(improvement_pct(None, Some(1.0)), None);
        assert!(!is_worth(100.0, 99.5) && is_worth(100.0, 98.0));
    }

    #[test]
    fn operators_commute_back() {
        for operator in ["=", "<>", "<", "<=", ">", ">="] {
            assert_eq!(commuted(operator).and_then(commuted), Some(operator));
        }
        assert_eq!(commuted("~~"), None);
    }

    proptest! {
        #[test]
        fn existence_is_what_the_comparison_says(count in 0i64..5, number in -1i64..3,
                                                 operator in prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">="])) {
            let holds = match operator {
                "=" => count == number,
                "<>" => count != number,
                "<" => count < number,
                "<=" => count <= number,
                ">" => count > number,
                _ => count >= number,
            };
            if let Some(exists) = existence(operator, number) {
                prop_assert_eq!(holds, (count > 0) == exists);
            }
        }

        #[test]
        fn work_memory_grows_with_what_is_written(bytes in 1.0f64..1e10, more in 1.0f64..10.0, current in 64i64..1_000_000) {
            if let (Some(less), Some(larger)) = (work_mem_kb(bytes, current), work_mem_kb(bytes * more, current)) {
                prop_assert!(less <= larger && less > current);
            }
        }

        #[test]
        fn patterns_never_panic(text in ".{0,20}") {
            let _ = pattern(&text);
        }
    }
}
