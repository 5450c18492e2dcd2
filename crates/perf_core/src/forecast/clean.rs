//! Makes a series fit for a trend: one value a day, without one-off steps, with the rhythm of the week known.

use super::Point;
use crate::stats::{median, quantile_sorted, robust_deviation, theil_sen};

/// Weekday offsets need this many days.
const WEEKS_MIN_DAYS: f64 = 21.0;
/// A step is this many times larger than the usual change from a day to the next.
const STEP_DEVIATIONS: f64 = 8.0;
/// And at least this part of the largest value.
const STEP_MIN_SHARE: f64 = 0.02;
/// Values on each side of a step that must agree that the level has changed.
const STEP_WINDOW: usize = 4;

/// Finite points in order of time, one a day (the median of a day), at most ten years.
pub(super) fn sorted_daily(series: &[Point]) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = series
        .iter()
        .filter(|p| p.value.is_finite() && p.day.is_finite() && p.day.abs() < 1e9 && p.value.abs() < 1e300)
        .map(|p| (p.day, p.value))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut daily: Vec<(f64, f64)> = points
        .chunk_by(|a, b| a.0.floor() == b.0.floor())
        .filter_map(|day| Some((day.last()?.0, median(day.iter().map(|p| p.1))?)))
        .collect();
    let excess = daily.len().saturating_sub(3660);
    daily.drain(..excess);
    daily
}

/// The series with the one-off changes of level taken out (the earlier part is lifted to the later level), and their sizes.
///
/// A change that comes again and again is growth and stays: more than one in half a year is no one-off.
pub(super) fn without_steps(points: &[(f64, f64)]) -> (Vec<(f64, f64)>, Vec<f64>) {
    let mut level = points.to_vec();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return (level, Vec::new()) };
    if points.len() < 2 * STEP_WINDOW {
        return (level, Vec::new());
    }
    let change = |w: &[(f64, f64)]| (w[1].1 - w[0].1, (w[1].0 - w[0].0).max(1e-6));
    let daily: Vec<f64> = points.windows(2).map(change).map(|(d, days)| d / days).collect();
    let (Some(usual), Some(deviation)) = (median(daily.iter().copied()), robust_deviation(&daily)) else {
        return (level, Vec::new());
    };
    let largest = points.iter().map(|p| p.1.abs()).fold(0.0, f64::max);
    let mut steps = Vec::new();
    for (i, window) in points.windows(2).enumerate() {
        let (grown, days) = change(window);
        let excess = grown - usual * days;
        let threshold = (STEP_DEVIATIONS * deviation * days.max(1.0).sqrt()).max(STEP_MIN_SHARE * largest);
        if excess.abs() <= threshold || i + 1 < STEP_WINDOW || i + 1 + STEP_WINDOW > points.len() {
            continue;
        }
        // A spike comes back, a step stays: seen from both sides, what usual growth would have done left out.
        let at = |p: &(f64, f64)| p.1 - usual * (p.0 - window[1].0);
        let before = median(points[i + 1 - STEP_WINDOW..=i].iter().map(at));
        let after = median(points[i + 1..i + 1 + STEP_WINDOW].iter().map(at));
        if let (Some(before), Some(after)) = (before, after) {
            let shift = after - before;
            if shift * excess > 0.0 && shift.abs() >= 0.6 * excess.abs() {
                steps.push((i, excess));
            }
        }
    }
    let one_offs_max = 1 + ((last.0 - first.0) / 180.0) as usize;
    if steps.len() > one_offs_max {
        return (level, Vec::new());
    }
    for &(i, size) in &steps {
        for point in &mut level[..=i] {
            point.1 += size;
        }
    }
    (level, steps.into_iter().map(|(_, size)| size).collect())
}

/// Which of seven days a time is.
pub(super) fn weekday_of(day: f64) -> usize {
    (day.floor().rem_euclid(7.0) as usize).min(6)
}

/// What each weekday adds to the trend; zeros with less than three weeks or where the week explains little.
/// `origin` is the day that x = 0 stands for.
pub(super) fn weekday_offsets(points: &[(f64, f64)], origin: f64) -> [f64; 7] {
    let none = [0.0; 7];
    let (Some(first), Some(last), Some(line)) = (points.first(), points.last(), theil_sen(points)) else { return none };
    if last.0 - first.0 < WEEKS_MIN_DAYS {
        return none;
    }
    let residuals: Vec<(usize, f64)> = points.iter().map(|p| (weekday_of(p.0 + origin), p.1 - line.at(p.0))).collect();
    let mut offsets = none;
    for (weekday, offset) in offsets.iter_mut().enumerate() {
        let of_day = residuals.iter().filter(|r| r.0 == weekday);
        if of_day.clone().count() < 3 {
            return none;
        }
        *offset = median(of_day.map(|r| r.1)).unwrap_or(0.0);
    }
    let centre = offsets.iter().sum::<f64>() / 7.0;
    offsets.iter_mut().for_each(|o| *o -= centre);
    // The typical size of what is left over must shrink by a quarter, or the week is noise.
    let typical = |of: &dyn Fn(&(usize, f64)) -> f64| {
        let mut sizes: Vec<f64> = residuals.iter().map(|r| of(r).abs()).collect();
        sizes.sort_by(f64::total_cmp);
        quantile_sorted(&sizes, 0.75).unwrap_or(0.0)
    };
    if typical(&|r| r.1 - offsets[r.0]) < 0.75 * typical(&|r| r.1) {
        offsets
    } else {
        none
    }
}
