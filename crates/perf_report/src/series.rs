//! Samples made fit to be drawn: in order, without what is no number, cut where nothing was measured, and few enough:
//! of long series lowest, mean and highest of stretches of time. Pure; called by the charts and the tables below
//! them.

use crate::document::Sample;

/// A sample on its way to a chart: seconds since 1970, and a value or a gap.
pub(crate) type Point = (f64, Option<f64>);

/// How much further apart than usual two samples are when something is missing between them.
const GAP: f64 = 3.0;
/// Seconds of a day.
const DAY_S: f64 = 86_400.0;

/// The samples in the order of time; what is not a number becomes a gap, and where samples are missing one is put in.
///
/// Older history is often coarser: samples are missing where the distance is unusual next to its neighbours as well.
pub(crate) fn points(samples: &[Sample]) -> Vec<Point> {
    let mut points: Vec<Point> = samples.iter().map(|s| (s.at.seconds(), s.value.filter(|v| v.is_finite()))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some(usual) = usual_step(&points) else { return points };
    let step = |at: usize| Some(points.get(at + 1)?.0 - points.get(at)?.0);
    let mut out = Vec::with_capacity(points.len());
    for (at, point) in points.iter().enumerate() {
        out.push(*point);
        let Some(length) = step(at) else { break };
        let neighbours = [at.checked_sub(1).and_then(step), step(at + 1)];
        let near = neighbours.into_iter().flatten().fold(f64::INFINITY, f64::min);
        if length > GAP * usual.max(near) {
            out.push((point.0 + length / 2.0, None));
        }
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

/// What is left of the samples of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Band {
    /// Its middle.
    pub at: f64,
    /// The lowest value.
    pub low: f64,
    /// The mean of all.
    pub mean: f64,
    /// The highest value.
    pub high: f64,
}

/// Long series in at most about `count` stretches of time, in runs between gaps. What is longer than a quarter of a day
/// becomes whole days: means of parts of days would show a wave that is none.
pub(crate) fn bands(points: &[Point], count: usize) -> Vec<Vec<Band>> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let width = ((last.0 - first.0) / count.max(1) as f64).max(f64::MIN_POSITIVE);
    let (start, width) = if width > DAY_S / 4.0 {
        ((first.0 / DAY_S).floor() * DAY_S, (width / DAY_S).ceil() * DAY_S)
    } else {
        (first.0, width)
    };
    let place = |at: f64| ((at - start) / width) as usize;
    let mut runs: Vec<Vec<Band>> = Vec::new();
    let mut previous = None;
    for stretch in points.chunk_by(|a, b| place(a.0) == place(b.0)) {
        let Some(here) = stretch.first().map(|p| place(p.0)) else { continue };
        let Some((low, high)) = extent(stretch.iter().filter_map(|p| p.1)) else { continue };
        let known = stretch.iter().filter(|p| p.1.is_some()).count() as f64;
        // Divided before they are added: a sum of large numbers would have no end.
        let mean: f64 = stretch.iter().filter_map(|p| p.1).map(|v| v / known).sum();
        let at = (start + (here as f64 + 0.5) * width).clamp(first.0, last.0);
        let band = Band { at, low, mean: mean.clamp(low, high), high };
        match runs.last_mut().filter(|_| previous.is_some_and(|p| p + 1 == here)) {
            Some(run) => run.push(band),
            None => runs.push(vec![band]),
        }
        previous = Some(here);
    }
    runs
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
        let bands = bands(&points, 120);
        assert!(bands.len() == 1 && bands[0].len() <= 122 && bands[0].iter().any(|b| b.high == 99.0));
        assert!(highest(&points, 48).len() <= 48 && highest(&points, 48).iter().any(|p| p.1 == Some(99.0)));
    }

    #[test]
    fn coarser_history_has_no_gaps_and_a_stop_of_the_sampler_has_one() {
        let hours = (0..200).map(|at| (at * 3600, 1.0));
        let minutes =
            (0..500).map(|at| (200 * 3600 + at * 300, 1.0)).filter(|(at, _)| !(770_000..790_000).contains(at));
        let points = points(&samples(&hours.chain(minutes).collect::<Vec<_>>()));
        let gaps: Vec<f64> = points.iter().filter(|p| p.1.is_none()).map(|p| p.0).collect();
        // Where the resolution changes a distance is unusual as well.
        assert!(gaps.len() <= 2 && gaps.iter().any(|at| (770_000.0..790_000.0).contains(at)), "{gaps:?}");
    }

    #[test]
    fn long_spans_are_told_by_days() {
        let values: Vec<_> = (0..90 * 288).map(|at| (at * 300, if at % 288 < 144 { 0.0 } else { 2.0 })).collect();
        let bands = bands(&points(&samples(&values)), 120);
        assert_eq!((bands.len(), bands[0].len()), (1, 90));
        assert!(bands[0].iter().all(|b| (b.low, b.high) == (0.0, 2.0) && (b.mean - 1.0).abs() < 1e-9));
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
            limit in 1_usize..600,
        ) {
            let points = points(&samples(&values));
            let bands: Vec<Band> = bands(&points, limit).concat();
            prop_assert!(bands.len() <= limit + 2);
            prop_assert!(bands.windows(2).all(|w| w[0].at <= w[1].at));
            prop_assert!(bands.iter().all(|b| b.low <= b.mean && b.mean <= b.high));
            let values = extent(points.iter().filter_map(|p| p.1));
            prop_assert_eq!(extent(bands.iter().flat_map(|b| [b.low, b.high])), values);
            prop_assert!(blocks(&points, 40).chars().count() <= 40);
        }
    }
}
