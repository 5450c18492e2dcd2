//! What a cache has done since it was set up, judged by how often it was asked and how often it knew the answer. Pure.

use super::{Judgement, Verdict, KEPT_MIN};
use crate::cache::candidate::saved_ms_per_min;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Times a value was asked for.
    pub gets: f64,
    /// Times there was one.
    pub hits: f64,
    /// For so long.
    pub minutes: f64,
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Promise<'a> {
    /// What computing a value takes.
    pub mean_ms: f64,
    /// Time of the whole workload in a minute, before the cache.
    pub total_ms_per_min: f64,
    /// Of that, in per cent.
    pub predicted_pct: Option<f64>,
    /// Gets without which nothing is said.
    pub min_calls: u64,
    /// It was waited long enough for what is seldom asked.
    pub is_late: bool,
    /// How it is asked.
    pub call: &'a str,
}

/// Judges a cache. `tables`: what has become of the statements on the tables that are watched for it.
pub fn judge(asked: &Asked, promise: &Promise<'_>, tables: Judgement) -> Judgement {
    if tables.verdict == Verdict::Regressed {
        return Judgement {
            reason: format!("watching its tables costs more than it saves: {}", tables.reason),
            ..tables
        };
    }
    let with = |verdict: Verdict, achieved_pct: Option<f64>, reason: String| Judgement {
        verdict,
        achieved_pct,
        reason,
        ..tables.clone()
    };
    let (gets, call) = (asked.gets, promise.call);
    if gets < promise.min_calls.max(1) as f64 {
        if !promise.is_late {
            let reason = format!("{gets:.0} gets since, {} are needed: applications ask by {call}", promise.min_calls);
            return with(Verdict::Waiting, None, reason);
        }
        if gets < 1.0 {
            return with(Verdict::NoGain, Some(0.0), format!("nobody asks it: applications do by {call}"));
        }
    }
    let share = (asked.hits / gets).clamp(0.0, 1.0);
    let saved = saved_ms_per_min(gets / asked.minutes.max(f64::MIN_POSITIVE), promise.mean_ms, share);
    let achieved = 100.0 * saved / promise.total_ms_per_min.max(f64::MIN_POSITIVE);
    let seen = format!("{:.0} % of {gets:.0} gets were hits", 100.0 * share);
    if saved < 0.0 {
        let reason = format!("{seen}: keeping and asking costs {:.1} ms a minute more than it saves", -saved);
        return with(Verdict::Regressed, Some(achieved), reason);
    }
    let promised = promise
        .predicted_pct
        .map_or_else(String::new, |pct| format!("; {pct:.1} % of the measured time were predicted"));
    let reason = format!("{seen}: {saved:.1} ms a minute are saved, {achieved:.1} % of the measured time{promised}");
    let is_enough = achieved > 0.0 && achieved >= KEPT_MIN * promise.predicted_pct.unwrap_or(0.0);
    with(if is_enough { Verdict::Verified } else { Verdict::NoGain }, Some(achieved), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tables(verdict: Verdict) -> Judgement {
        Judgement { verdict, achieved_pct: None, reason: "as it was".to_owned(), drift: 1.0, moved: Vec::new() }
    }

    fn promise(is_late: bool) -> Promise<'static> {
        Promise {
            mean_ms: 10.0,
            total_ms_per_min: 1_000.0,
            predicted_pct: Some(50.0),
            min_calls: 100,
            is_late,
            call: "SELECT perf.cached('x')",
        }
    }

    fn judged(gets: f64, hits: f64, is_late: bool) -> Judgement {
        judge(&Asked { gets, hits, minutes: 2.0 }, &promise(is_late), tables(Verdict::Waiting))
    }

    #[test]
    fn waits_until_it_is_asked() {
        assert_eq!(judged(99.0, 90.0, false).verdict, Verdict::Waiting);
        assert!(judged(99.0, 90.0, false).reason.contains("SELECT perf.cached('x')"));
        assert_eq!(judged(0.0, 0.0, true).verdict, Verdict::NoGain);
        assert_eq!(judged(10.0, 9.0, true).verdict, Verdict::NoGain);
    }

    #[test]
    fn what_it_saves_counts() {
        // 50 gets a minute: 0.8 * 10 - 0.1 - 0.2 * 0.2 ms each.
        let found = judged(100.0, 80.0, false);
        assert_eq!(found.verdict, Verdict::Verified);
        assert!((found.achieved_pct.unwrap_or(0.0) - 39.3).abs() < 1e-9, "{found:?}");
        assert_eq!(judged(100.0, 0.0, false).verdict, Verdict::Regressed);
        assert_eq!(judged(100.0, 4.0, false).verdict, Verdict::NoGain);
    }

    #[test]
    fn harm_to_writers_outweighs() {
        let found = judge(&Asked { gets: 1e3, hits: 1e3, minutes: 1.0 }, &promise(false), tables(Verdict::Regressed));
        assert_eq!(found.verdict, Verdict::Regressed);
        assert!(found.reason.ends_with("as it was"));
    }

    proptest! {
        #[test]
        fn more_hits_are_never_worse(gets in 100f64..1e6, few in 0f64..1.0, more in 0f64..1.0) {
            let rank = |found: &Judgement| [Verdict::Regressed, Verdict::NoGain, Verdict::Verified]
                .iter().position(|one| *one == found.verdict);
            let (low, high) = (few.min(more), few.max(more));
            let (worse, better) = (judged(gets, low * gets, false), judged(gets, high * gets, false));
            prop_assert!(rank(&worse) <= rank(&better) && rank(&worse).is_some());
            prop_assert!(worse.achieved_pct <= better.achieved_pct);
        }
    }
}
