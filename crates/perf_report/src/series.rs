//! Samples made fit to be drawn: in order, without what is no number, cut where nothing was measured, and few enough. Pure;
//! called by the charts and the tables below them.

use crate::document::Sample;

/// A sample on its way to a chart: seconds since 1970, and a value or a gap.
pub(crate) type Point = (f64, Option<f64>);

/// How much further apart than usual two samples are when something is missing between them.
const GAP: f64 = 3.0;

/// The samples in the order of time; what is not a number becomes a gap, and where samples are missing one is put in.
pub(crate) fn points(samples: &[Sample]) -> Vec<Point> {
    let mut points: Vec<Point> = samples.iter().map(|s| (s.at.seconds(), s.value.filter(|v| v.is_finite()))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some(usual) = usual_step(&points) else { return points };
    let mut out = Vec::with_capacity(points.len());
    let mut last: Option<f64> = None;
    for point in points {
        if let Some(last) = last.filter(|last| point.0 - last > GAP * usual) {
            out.push(((last + point.0) / 2.0, None));
        }
        last = Some(point.0);
        out.push(point);
    }
    out
}

/// The median distance of neighbours; None of fewer than four samples, of which nothing is usual.
fn usual_step(points: &[Point]) -> Option<f64> {
    let mut steps: Vec<f64> = points.windows(2).map(|w| w[1].0 - w[0].0).filter(|step| *step > 0.0).collect();
    if steps.len() < 3 {
        return None;
    }
    steps.sort_by(f64::total_cmp);
    steps.get(steps.len() / 2).copied()
}

/// At most about `limit` points that look the same: of each of `limit / 3` stretches of time the lowest, the highest, and a
/// gap where there is one. Peaks stay what they are, unlike in a mean.
pub(crate) fn downsample(points: &[Point], limit: usize) -> Vec<Point> {
    if points.len() <= limit {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(limit);
    for stretch in stretches(points, (limit / 3).max(1)) {
        let by_value = |a: &&Point, b: &&Point| a.1.unwrap_or(0.0).total_cmp(&b.1.unwrap_or(0.0));
        let known = || stretch.iter().filter(|p| p.1.is_some());
        let mut kept: Vec<Point> =
            known().min_by(by_value).into_iter().chain(known().max_by(by_value)).copied().collect();
        kept.extend(stretch.iter().find(|p| p.1.is_none()));
        kept.sort_by(|a, b| a.0.total_cmp(&b.0));
        kept.dedup();
        out.extend(kept);
    }
    out
}

/// The points by equal stretches of time, at most `count` of them; stretches without a point are left out.
fn stretches(points: &[Point], count: usize) -> Vec<&[Point]> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let width = ((last.0 - first.0) / count as f64).max(f64::MIN_POSITIVE);
    let place = |at: f64| (((at - first.0) / width) as usize).min(count - 1);
    points.chunk_by(|a, b| place(a.0) == place(b.0)).collect()
}

/// What a table tells of a chart: of at most `limit` stretches of time the begin and the highest value.
pub(crate) fn highest(points: &[Point], limit: usize) -> Vec<Point> {
    if points.len() <= limit {
        return points.to_vec();
    }
    stretches(points, limit)
        .into_iter()
        .filter_map(|stretch| {
            let highest = stretch.iter().filter_map(|p| p.1).max_by(f64::total_cmp);
            stretch.first().map(|first| (first.0, highest))
        })
        .collect()
}

/// The runs of points between gaps.
pub(crate) fn runs(points: &[Point]) -> Vec<Vec<(f64, f64)>> {
    points
        .split(|p| p.1.is_none())
        .map(|run| run.iter().filter_map(|(at, value)| value.map(|v| (*at, v))).collect::<Vec<_>>())
        .filter(|run| !run.is_empty())
        .collect()
}

/// The lowest and the highest value.
pub(crate) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |extent, v| match extent {
        None => Some((v, v)),
        Some((lo, hi)) => Some((v.min(lo), v.max(hi))),
    })
}

/// The last value that is known.
pub(crate) fn last(points: &[Point]) -> Option<f64> {
    points.iter().rev().find_map(|p| p.1)
}

/// A series as `width` blocks of a terminal, from zero to its highest value; a blank is a gap.
pub(crate) fn blocks(points: &[Point], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = points.iter().filter_map(|p| p.1);
    let Some((_, max)) = extent(values) else { return String::new() };
    let (Some(first), Some(end)) = (points.first(), points.last()) else { return String::new() };
    let count = width.min(points.len()).max(1);
    let step = ((end.0 - first.0) / count as f64).max(f64::MIN_POSITIVE);
    let mut columns: Vec<Option<f64>> = vec![None; count];
    for (at, value) in points {
        let place = (((at - first.0) / step) as usize).min(count - 1);
        if let (Some(column), Some(value)) = (columns.get_mut(place), value) {
            *column = Some(column.unwrap_or(*value).max(*value));
        }
    }
    let block = |value: f64| {
        let share = if max > 0.0 { (value / max).clamp(0.0, 1.0) } else { 0.0 };
        BLOCKS.get((share * 7.0).round() as usize).copied().unwrap_or('▁')
    };
    columns.into_iter().map(|value| value.map_or(' ', block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    fn samples(values: &[(i64, f64)]) -> Vec<Sample> {
        values.iter().map(|(at, v)| Sample { at: Timestamp::from_unix_s(*at), value: Some(*v) }).collect()
    }

    #[test]
    fn missing_samples_leave_a_gap() {
        let points = points(&samples(&[(0, 1.0), (60, 2.0), (600, 9.0), (120, 3.0), (180, f64::NAN), (240, 4.0)]));
        let runs = runs(&points);
        assert_eq!(runs, [vec![(0.0, 1.0), (60.0, 2.0), (120.0, 3.0)], vec![(240.0, 4.0)], vec![(600.0, 9.0)]]);
    }

    #[test]
    fn a_peak_survives_thinning() {
        let mut values: Vec<_> = (0..10_000).map(|at| (at * 60, 1.0)).collect();
        values[4321].1 = 99.0;
        let points = points(&samples(&values));
        let few = downsample(&points, 500);
        assert!(few.len() <= 500 && few.iter().any(|p| p.1 == Some(99.0)));
        assert!(highest(&points, 48).len() <= 48 && highest(&points, 48).iter().any(|p| p.1 == Some(99.0)));
    }

    #[test]
    fn blocks_start_at_zero() {
        let points = points(&samples(&[(0, 50.0), (1, 100.0), (2, 0.0)]));
        assert_eq!(blocks(&points, 10), "▅█▁");
        assert_eq!(blocks(&[], 10), "");
    }

    proptest! {
        #[test]
        fn thinning_is_bounded_ordered_and_keeps_the_extent(
            values in proptest::collection::vec((0_i64..1_000_000_000, proptest::num::f64::ANY), 0..900),
            limit in 3_usize..600,
        ) {
            let points = points(&samples(&values));
            let few = downsample(&points, limit);
            prop_assert!(few.len() <= limit.max(3));
            prop_assert!(few.windows(2).all(|w| w[0].0 <= w[1].0));
            let values = |points: &[Point]| extent(points.iter().filter_map(|p| p.1));
            prop_assert_eq!(values(&few), values(&points));
            prop_assert!(blocks(&points, 40).chars().count() <= 40);
        }
    }
}
