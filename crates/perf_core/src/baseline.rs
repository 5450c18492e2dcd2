//! Whether a statement has become faster or slower, rather than merely varied: two histograms of its latencies, before and
//! after. Pure.
//!
//! Two looks, since a statement can get worse in two ways. The mean, by which the time of a server goes: different when it has
//! moved by [`CHANGE_MIN`] and by more than [`ERRORS_MIN`] standard errors (Welch). The rank, which a few outliers do not
//! move: different when an execution of one side is the slower one with a probability of [`SUPERIORITY_MIN`] (the effect size of
//! Mann and Whitney, ties split), more often than chance would have it ([`ERRORS_MIN`] standard deviations of U, corrected for
//! ties), and the medians differ by [`CHANGE_MIN`] as well. Where both speak, the mean decides. Executions are taken for
//! independent, which they are not quite: hence bounds on the effect and not on its significance alone.

use crate::histogram::Histogram;

/// Executions of each side without which nothing is said.
pub const CALLS_MIN: u64 = 10;
/// Change of a mean or median below which it is the same, as a share.
pub const CHANGE_MIN: f64 = 0.05;
/// Standard errors beyond which a difference is no chance; 3 is one case in 370 where nothing has changed.
pub const ERRORS_MIN: f64 = 3.0;
/// Probability that an execution of one side takes longer than one of the other, from which on ranks differ.
pub const SUPERIORITY_MIN: f64 = 0.6;

/// What is known of a statement in some time.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Executions.
    pub calls: u64,
    /// Time of all of them.
    pub total_ms: f64,
    /// Latencies.
    pub latency: Histogram,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Takes less time.
    Faster,
    /// No difference that could not be chance, or too few executions to tell.
    Same,
    /// Takes more time.
    Slower,
    /// Was not there before.
    New,
    /// Is there no more.
    Gone,
}

impl Verdict {
    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Same => "same",
            Verdict::Slower => "slower",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        }
    }
}

impl Side {
    /// Mean time of an execution, in ms.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.total_ms / self.calls as f64)
    }

    /// A percentile of its latencies, in ms.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.latency.quantile_ns(q).map(|ns| ns * 1e-6)
    }

    /// Variance of the latencies around the mean, in ms².
    fn variance(&self) -> f64 {
        let middle_ms = |lower: f64, upper: f64| (lower + upper) * 0.5e-6;
        let (mut count, mut sum) = (0.0, 0.0);
        for (lower, upper, calls) in self.latency.buckets() {
            count += calls as f64;
            sum += middle_ms(lower, upper) * calls as f64;
        }
        if count < 2.0 {
            return 0.0;
        }
        let mean = sum / count;
        let squares: f64 =
            self.latency.buckets().map(|(lower, upper, n)| n as f64 * (middle_ms(lower, upper) - mean).powi(2)).sum();
        squares / (count - 1.0)
    }
}

/// What has become of a statement.
pub fn verdict(before: &Side, after: &Side) -> Verdict {
    match (before.calls, after.calls) {
        (0, 0) => Verdict::Same,
        (0, _) => Verdict::New,
        (_, 0) => Verdict::Gone,
        _ if before.calls.min(after.calls) < CALLS_MIN => Verdict::Same,
        _ => match mean_moved(before, after).or_else(|| ranks_moved(before, after)) {
            Some(true) => Verdict::Slower,
            Some(false) => Verdict::Faster,
            None => Verdict::Same,
        },
    }
}

/// Change of the mean in per cent of what it was; `None` where one side has none.
pub fn change_pct(before: &Side, after: &Side) -> Option<f64> {
    let was = before.mean_ms().filter(|ms| *ms > 0.0)?;
    Some(100.0 * (after.mean_ms()? - was) / was)
}

/// Whether the mean has grown; `None`: it has not moved.
fn mean_moved(before: &Side, after: &Side) -> Option<bool> {
    let change = after.mean_ms()? - before.mean_ms()?;
    let error = (before.variance() / before.calls as f64 + after.variance() / after.calls as f64).sqrt();
    (change.abs() > ERRORS_MIN * error && change.abs() > CHANGE_MIN * before.mean_ms()?).then_some(change > 0.0)
}

/// Whether most executions take longer; `None`: they do not differ.
fn ranks_moved(before: &Side, after: &Side) -> Option<bool> {
    let (n, m) = (before.latency.total() as f64, after.latency.total() as f64);
    if n < CALLS_MIN as f64 || m < CALLS_MIN as f64 {
        return None;
    }
    let mut rows: Vec<(f64, f64, f64)> =
        before.latency.buckets().map(|(lower, _, calls)| (lower, calls as f64, 0.0)).collect();
    rows.extend(after.latency.buckets().map(|(lower, _, calls)| (lower, 0.0, calls as f64)));
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    // U: pairs in which the later execution took longer. What is in one bucket is a tie.
    let (mut below, mut u, mut ties) = (0.0, 0.0, 0.0);
    for bucket in rows.chunk_by(|a, b| a.0 == b.0) {
        let was: f64 = bucket.iter().map(|row| row.1).sum();
        let is: f64 = bucket.iter().map(|row| row.2).sum();
        u += is * (below + was / 2.0);
        below += was;
        ties += (was + is).powi(3) - (was + is);
    }
    let all = n + m;
    let deviation = (n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)))).max(0.0).sqrt();
    let superiority = u / (n * m);
    let medians = (before.quantile_ms(0.5)?, after.quantile_ms(0.5)?);
    let is_clear = (u - n * m / 2.0).abs() > ERRORS_MIN * deviation
        && superiority.max(1.0 - superiority) >= SUPERIORITY_MIN
        && (medians.1 - medians.0).abs() > CHANGE_MIN * medians.0;
    is_clear.then_some(superiority > 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Draws that look like latencies: log-normal, from a generator that is the same everywhere.
    fn draw(seed: &mut u64, median_ms: f64, sigma: f64) -> f64 {
        let mut uniform = || {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((*seed >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        median_ms * (sigma * normal).exp()
    }

    fn side(latencies_ms: impl IntoIterator<Item = f64>) -> Side {
        let mut side = Side::default();
        for ms in latencies_ms {
            side.calls += 1;
            side.total_ms += ms;
            side.latency.record_ns((ms * 1e6) as u64);
        }
        side
    }

    fn sides(seed: u64, calls: usize, sigma: f64, factor: f64) -> (Side, Side) {
        let mut seed = seed;
        let before = side((0..calls).map(|_| draw(&mut seed, 10.0, sigma)).collect::<Vec<_>>());
        let after = side((0..calls).map(|_| draw(&mut seed, 10.0 * factor, sigma)).collect::<Vec<_>>());
        (before, after)
    }

    #[test]
    fn noise_is_the_same() {
        let wrong = (0..1_000).filter(|seed| {
            let (before, after) = sides(*seed, 200, 0.8, 1.0);
            verdict(&before, &after) != Verdict::Same
        });
        assert!(wrong.count() <= 8);
    }

    #[test]
    fn what_is_faster_by_a_third_is_found() {
        let found = (0..200).filter(|seed| {
            let (before, after) = sides(*seed, 200, 0.5, 0.67);
            verdict(&before, &after) == Verdict::Faster
        });
        assert!(found.count() >= 198);
    }

    #[test]
    fn one_in_twenty_that_takes_a_hundred_times_as_long_is_slower() {
        let before = side(vec![1.0; 1_000]);
        let after = side((0..1_000).map(|n| if n % 20 == 0 { 100.0 } else { 1.0 }));
        assert_eq!(verdict(&before, &after), Verdict::Slower);
        assert!(change_pct(&before, &after).unwrap() > 400.0);
    }

    #[test]
    fn one_outlier_does_not_hide_a_gain() {
        let before = side(vec![10.0; 100]);
        let after = side((0..100).map(|n| if n == 0 { 600.0 } else { 5.0 }));
        assert_eq!(verdict(&before, &after), Verdict::Faster);
    }

    #[test]
    fn too_few_tell_nothing() {
        assert_eq!(verdict(&side(vec![10.0; 9]), &side(vec![1.0; 1_000])), Verdict::Same);
        assert_eq!(verdict(&Side::default(), &side(vec![1.0; 3])), Verdict::New);
        assert_eq!(verdict(&side(vec![1.0; 3]), &Side::default()), Verdict::Gone);
        assert_eq!(verdict(&Side::default(), &Side::default()), Verdict::Same);
        assert_eq!(change_pct(&Side::default(), &side(vec![1.0])), None);
    }

    #[test]
    fn three_per_cent_are_the_same_however_sure() {
        assert_eq!(verdict(&side(vec![10.0; 100_000]), &side(vec![10.3; 100_000])), Verdict::Same);
    }

    proptest! {
        #[test]
        fn what_one_way_is_faster_is_slower_the_other(seed in any::<u64>(), factor in 0.3f64..3.0, calls in 10usize..300) {
            let (before, after) = sides(seed, calls, 0.4, factor);
            let there = verdict(&before, &after);
            let back = verdict(&after, &before);
            let is_opposite = matches!(
                (there, back),
                // A change just beyond the bound in per cent of one side is within it in per cent of the other.
                (Verdict::Faster, Verdict::Slower) | (Verdict::Slower, Verdict::Faster) | (Verdict::Same, _) | (_, Verdict::Same)
            );
            prop_assert!(is_opposite, "{there:?} {back:?}");
        }
    }
}
