//! Order statistics and robust lines. Every function takes whatever it is given: what is not finite is left out.

/// The `q`-quantile of values in ascending order, interpolated between neighbours. None of nothing.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    Some((below + (above - below) * position.fract()).clamp(below, above))
}

/// The median. None when nothing is finite.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut kept: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    if kept.is_empty() {
        return None;
    }
    let (lower, upper) = ((kept.len() - 1) / 2, kept.len() / 2);
    let (_, &mut low, rest) = kept.select_nth_unstable_by(lower, f64::total_cmp);
    if upper == lower {
        return Some(low);
    }
    let high = rest.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(low + (high - low) / 2.0)
}

/// Median of the absolute deviations from the median, times 1.4826: the standard deviation of a normal distribution,
/// but deaf to outliers.
pub fn robust_deviation(values: &[f64]) -> Option<f64> {
    let middle = median(values.iter().copied())?;
    median(values.iter().map(|v| (v - middle).abs())).map(|mad| 1.4826 * mad)
}

/// A line `intercept + slope * x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Value at x = 0.
    pub intercept: f64,
    /// Change of the value for each unit of x.
    pub slope: f64,
}

impl Line {
    /// The value at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

/// Points beyond this number are thinned evenly before pairs are formed: 120 points are 7,140 pairs.
pub const THEIL_SEN_POINTS_MAX: usize = 120;

/// The Theil-Sen line: the median of the slopes of all pairs, and the median of what it leaves. A third of the points
/// may be wrong without moving it. None with fewer than two distinct x.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<Line> {
    let kept: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    // Thinned by medians of neighbouring points, not by leaving points out: the noise shrinks instead of staying.
    let group = kept.len().div_ceil(THEIL_SEN_POINTS_MAX).max(1);
    let thinned: Vec<(f64, f64)> = kept
        .chunks(group)
        .filter_map(|c| Some((median(c.iter().map(|p| p.0))?, median(c.iter().map(|p| p.1))?)))
        .collect();
    let mut slopes = Vec::with_capacity(thinned.len() * thinned.len().saturating_sub(1) / 2);
    for (i, a) in thinned.iter().enumerate() {
        for b in &thinned[i + 1..] {
            if b.0 != a.0 {
                slopes.push((b.1 - a.1) / (b.0 - a.0));
            }
        }
    }
    let slope = median(slopes)?;
    let intercept = median(thinned.iter().map(|(x, y)| y - slope * x))?;
    Some(Line { intercept, slope })
}

/// Points further from a robust line than this many robust deviations are left out when it is made finer.
const INLIER_DEVIATIONS: f64 = 3.5;

/// A Theil-Sen line made finer by least squares over the points it calls its own: as deaf to outliers, and on plain
/// noise as exact as least squares (Theil-Sen alone needs a tenth more points, and more where it thins them).
pub fn robust_line(points: &[(f64, f64)]) -> Option<Line> {
    let rough = theil_sen(points)?;
    let left: Vec<f64> = points.iter().map(|(x, y)| y - rough.at(*x)).filter(|r| r.is_finite()).collect();
    let limit = INLIER_DEVIATIONS * robust_deviation(&left).unwrap_or(0.0);
    let own = || points.iter().filter(|(x, y)| (y - rough.at(*x)).abs() <= limit);
    let n = own().count() as f64;
    let (x, y) = (own().map(|p| p.0).sum::<f64>() / n, own().map(|p| p.1).sum::<f64>() / n);
    let below: f64 = own().map(|p| (p.0 - x) * (p.0 - x)).sum();
    let slope = own().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / below;
    let fine = Line { intercept: y - slope * x, slope };
    // Nothing was left to fit, or all of it at one x.
    Some(if limit > 0.0 && below > 0.0 && fine.slope.is_finite() && fine.intercept.is_finite() { fine } else { rough })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_and_medians_of_known_values() {
        assert_eq!(quantile_sorted(&[], 0.5), None);
        assert_eq!(quantile_sorted(&[7.0], 0.95), Some(7.0));
        assert_eq!(quantile_sorted(&[0.0, 10.0], 0.95), Some(9.5));
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([f64::INFINITY]), None);
        assert_eq!(robust_deviation(&[1.0, 1.0, 1.0, 1000.0]), Some(0.0));
    }

    #[test]
    fn a_line_survives_a_quarter_of_wild_points() {
        let points: Vec<(f64, f64)> =
            (0..200).map(|i| (f64::from(i), if i % 4 == 0 { 1e9 } else { 5.0 + 2.0 * f64::from(i) })).collect();
        let line = theil_sen(&points[..100]).map(|l| l.slope);
        assert!(line.is_some_and(|s| (s - 2.0).abs() < 0.2), "{line:?}");
        assert_eq!(theil_sen(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(theil_sen(&[]), None);
    }

    proptest! {
        #[test]
        fn medians_agree_with_sorting(mut values in proptest::collection::vec(-1e6f64..1e6, 1..60)) {
            let got = median(values.iter().copied());
            values.sort_by(f64::total_cmp);
            let want = quantile_sorted(&values, 0.5);
            prop_assert!((got.unwrap_or(f64::NAN) - want.unwrap_or(0.0)).abs() < 1e-6);
        }

        #[test]
        fn a_finer_line_is_as_deaf_to_outliers(slope in -10f64..10.0, wild in 1e3f64..1e9, every in 4usize..9) {
            let points: Vec<_> = (0..120)
                .map(|i| {
                    let odd = if (i as usize).is_multiple_of(every) { wild } else { f64::from(i % 3) };
                    (f64::from(i), slope * f64::from(i) + odd)
                })
                .collect();
            let line = robust_line(&points).ok_or_else(|| TestCaseError::fail("no line"))?;
            prop_assert!((line.slope - slope).abs() < 0.05, "{} {}", line.slope, slope);
        }

        #[test]
        fn an_exact_line_is_found(intercept in -1e6f64..1e6, slope in -1e3f64..1e3, n in 2usize..300) {
            let points: Vec<_> = (0..n).map(|i| (i as f64, intercept + slope * i as f64)).collect();
            let line = theil_sen(&points).ok_or_else(|| TestCaseError::fail("no line"))?;
            prop_assert!((line.slope - slope).abs() < 1e-6 * (1.0 + slope.abs()));
            prop_assert!((line.at(n as f64) - (intercept + slope * n as f64)).abs() < 1e-3);
        }
    }
}
