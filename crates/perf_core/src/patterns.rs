//! Why a statement is slow, and whether it gets worse: rules over plain numbers, for `perf.slow_query_patterns()`.

/// What is known of a slow statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The latest plan that was kept, as EXPLAIN prints it.
    pub plan: Option<&'a str>,
    /// Finished executions.
    pub calls: f64,
    /// Their execution time.
    pub total_ms: f64,
    /// Planning time.
    pub planning_ms: f64,
    /// Time to read and write blocks; 0 where track_io_timing is off.
    pub block_io_ms: f64,
    /// Time seen waiting for heavyweight locks.
    pub lock_wait_ms: f64,
    /// Temporary blocks written.
    pub temp_blks_written: f64,
    /// Shared blocks found in the buffer cache.
    pub shared_blks_hit: f64,
    /// Shared blocks read.
    pub shared_blks_read: f64,
    /// Rows returned.
    pub rows: f64,
    /// Rows the planner expected in the latest kept execution.
    pub estimated_rows: f64,
    /// Rows that execution returned.
    pub actual_rows: f64,
}

/// One cause: its name, and when it holds.
pub struct Rule {
    /// The word shown to users.
    pub cause: &'static str,
    /// Whether the evidence speaks for it.
    pub holds: fn(&Evidence<'_>) -> bool,
}

/// A share of the execution time that explains it.
const MAJOR_SHARE: f64 = 0.5;
/// A misjudgement of rows that turns plans: the factor in either direction.
const ESTIMATE_FACTOR: f64 = 10.0;
/// Fewer rows than this cannot mislead the planner into much.
const ESTIMATE_ROWS_MIN: f64 = 1_000.0;
/// Rows per call that take their time to produce and to send, whatever the plan.
const MANY_ROWS: f64 = 100_000.0;

/// In order: the first that holds is the cause. What is measured comes before what the plan suggests.
pub const RULES: &[Rule] = &[
    Rule { cause: "lock_wait", holds: |e| e.lock_wait_ms >= MAJOR_SHARE * e.total_ms },
    // Planning is not part of the execution time.
    Rule { cause: "planning", holds: |e| e.planning_ms >= e.total_ms },
    Rule {
        cause: "hash_spill",
        holds: |e| e.temp_blks_written > 0.0 && has_node(e.plan, &["Hash"]) && !has_sort(e.plan),
    },
    Rule { cause: "sort_spill", holds: |e| e.temp_blks_written > 0.0 && (has_sort(e.plan) || e.plan.is_none()) },
    Rule {
        cause: "bad_estimate",
        holds: |e| {
            let (low, high) = (e.estimated_rows.min(e.actual_rows), e.estimated_rows.max(e.actual_rows));
            e.estimated_rows > 0.0 && high >= ESTIMATE_ROWS_MIN && high >= ESTIMATE_FACTOR * low.max(1.0)
        },
    },
    Rule { cause: "many_rows", holds: |e| e.calls > 0.0 && e.rows / e.calls >= MANY_ROWS },
    Rule { cause: "seq_scan", holds: |e| has_node(e.plan, &["Seq Scan"]) },
    Rule {
        cause: "io",
        holds: |e| e.block_io_ms >= MAJOR_SHARE * e.total_ms || e.shared_blks_read > e.shared_blks_hit,
    },
];

/// The cause of a slow statement: the first rule that holds, else `unknown`.
pub fn cause(evidence: &Evidence<'_>) -> &'static str {
    if evidence.total_ms + evidence.planning_ms <= 0.0 {
        return "unknown";
    }
    RULES.iter().find(|rule| (rule.holds)(evidence)).map_or("unknown", |rule| rule.cause)
}

/// Whether a plan has a node whose type contains one of the words.
fn has_node(plan: Option<&str>, words: &[&str]) -> bool {
    node_lines(plan).any(|line| words.iter().any(|word| line.contains(word)))
}

fn has_sort(plan: Option<&str>) -> bool {
    node_lines(plan).any(|line| line.starts_with("Sort") || line.starts_with("Incremental Sort"))
}

/// The lines of a plan that name a node: the first, and those behind an arrow. Conditions and their literals are
/// not looked at.
fn node_lines(plan: Option<&str>) -> impl Iterator<Item = &str> {
    plan.unwrap_or_default().lines().enumerate().filter_map(|(number, line)| {
        let line = line.trim_start();
        match line.strip_prefix("->") {
            Some(node) => Some(node.trim_start()),
            None => (number == 0).then_some(line),
        }
    })
}

/// Half a window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Half {
    /// Time spent in the statement.
    pub total_ms: f64,
    /// Length of this half.
    pub minutes: f64,
}

/// Less than this is too little to compare: one collection interval more or less would be a trend.
pub const HALF_MINUTES_MIN: f64 = 5.0;
/// A change of load smaller than this, in percent, is no trend.
pub const STEADY_PCT: f64 = 20.0;

/// Compares the load (milliseconds spent in the statement per minute: how often times how slow) of the recent half of
/// the observed time to that of the earlier half. `seen_before`: it ran at all before the recent half. Gives the word
/// and the change in percent; no percentage where there is nothing to compare with.
pub fn trend(earlier: Half, recent: Half, seen_before: bool) -> (&'static str, Option<f64>) {
    if !seen_before {
        return ("new", None);
    }
    if earlier.minutes < HALF_MINUTES_MIN || recent.minutes < HALF_MINUTES_MIN {
        return ("steady", None);
    }
    let (before, after) = (earlier.total_ms / earlier.minutes, recent.total_ms / recent.minutes);
    if before <= 0.0 {
        return if after > 0.0 { ("rising", None) } else { ("steady", None) };
    }
    let change = (after / before - 1.0) * 100.0;
    let word = if change > STEADY_PCT {
        "rising"
    } else if change < -STEADY_PCT {
        "falling"
    } else {
        "steady"
    };
    (word, Some(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQ: &str =
        "Aggregate  (cost=1.0..2.0 rows=1)\n  ->  Seq Scan on t  (cost=0..1 rows=9)\n        Filter: (a = $1)";
    const SORT: &str = "Sort  (cost=1.0..2.0 rows=1)\n  Sort Key: a\n  ->  Index Scan using i on t";
    const HASH: &str =
        "Hash Join  (cost=1)\n  ->  Index Scan using i on t\n  ->  Hash\n        ->  Index Scan using i on u";
    const INDEX: &str = "Index Scan using i on t\n  Filter: (note = 'Seq Scan')";

    #[test]
    fn one_cause_for_each_rule() {
        let slow =
            Evidence { calls: 10.0, total_ms: 20_000.0, rows: 10.0, shared_blks_hit: 9.0, ..Evidence::default() };
        let cases: &[(&str, Evidence<'_>)] = &[
            ("lock_wait", Evidence { lock_wait_ms: 15_000.0, plan: Some(SEQ), ..slow }),
            ("planning", Evidence { planning_ms: 30_000.0, plan: Some(SEQ), ..slow }),
            ("hash_spill", Evidence { temp_blks_written: 5.0, plan: Some(HASH), ..slow }),
            ("sort_spill", Evidence { temp_blks_written: 5.0, plan: Some(SORT), ..slow }),
            ("sort_spill", Evidence { temp_blks_written: 5.0, ..slow }),
            ("bad_estimate", Evidence { estimated_rows: 1.0, actual_rows: 50_000.0, plan: Some(SEQ), ..slow }),
            ("many_rows", Evidence { rows: 2_000_000.0, plan: Some(SEQ), ..slow }),
            ("seq_scan", Evidence { plan: Some(SEQ), ..slow }),
            ("io", Evidence { block_io_ms: 12_000.0, plan: Some(INDEX), ..slow }),
            ("io", Evidence { shared_blks_read: 100.0, ..slow }),
            ("unknown", Evidence { plan: Some(INDEX), ..slow }),
            ("unknown", slow),
            ("unknown", Evidence::default()),
        ];
        for (wanted, evidence) in cases {
            assert_eq!(cause(evidence), *wanted, "{evidence:?}");
        }
        for rule in RULES {
            assert!(cases.iter().any(|(wanted, _)| *wanted == rule.cause), "{} has no case", rule.cause);
        }
    }

    #[test]
    fn small_misjudgements_are_no_cause() {
        let slow = Evidence { calls: 1.0, total_ms: 2_000.0, shared_blks_hit: 1.0, ..Evidence::default() };
        assert_eq!(cause(&Evidence { estimated_rows: 1.0, actual_rows: 900.0, ..slow }), "unknown");
        assert_eq!(cause(&Evidence { estimated_rows: 1_000.0, actual_rows: 9_000.0, ..slow }), "unknown");
        assert_eq!(cause(&Evidence { estimated_rows: 9_000.0, actual_rows: 0.0, ..slow }), "bad_estimate");
    }

    #[test]
    fn trends() {
        let half = |total_ms| Half { total_ms, minutes: 10.0 };
        assert_eq!(trend(half(0.0), half(5.0), false), ("new", None));
        assert_eq!(trend(half(100.0), half(150.0), true), ("rising", Some(50.0)));
        assert_eq!(trend(half(100.0), half(110.0), true).0, "steady");
        assert_eq!(trend(half(100.0), half(50.0), true), ("falling", Some(-50.0)));
        assert_eq!(trend(half(0.0), half(5.0), true), ("rising", None));
        assert_eq!(trend(Half::default(), half(5.0), true), ("steady", None));
        // Halves of different length are compared by rate.
        assert_eq!(trend(Half { total_ms: 50.0, minutes: 5.0 }, half(100.0), true), ("steady", Some(0.0)));
        // A minute proves nothing.
        let minute = |total_ms| Half { total_ms, minutes: 1.0 };
        assert_eq!(trend(minute(10.0), minute(500.0), true), ("steady", None));
    }
}
