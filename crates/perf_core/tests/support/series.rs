//! Daily series of eight families with a future that is known, and the two simple methods to beat.

use perf_core::forecast::Point;

use super::rng::Rng;

/// The families.
pub const FAMILIES: [&str; 8] =
    ["linear", "exponential", "seasonal", "changepoint", "bulk steps", "retention drops", "noise", "random walk"];

/// A series: what is known of it, and what came after.
pub struct Series {
    /// Days that a forecast may see.
    pub history: Vec<Point>,
    /// The days after them, as long again.
    pub future: Vec<Point>,
}

/// The value of a day, without the noise of measuring.
type Value = dyn FnMut(f64, &mut Rng) -> f64;

/// Gaussian, mean 0 and deviation 1.
fn gauss(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos()
}

/// Series number `number` of a family.
pub fn series(family: &str, number: usize) -> Series {
    let mut rng = Rng::new(number as u64 * 31 + family.len() as u64 * 1_000_003 + family.as_bytes()[0] as u64);
    let rng = &mut rng;
    let days = 60 + rng.below(440);
    let base = rng.between(1.0, 100.0) * 1e9;
    // Growth over the history, relative to the level at its beginning.
    let growth = base * rng.between(-0.2, 1.5) / days as f64;
    let noise = base * rng.between(0.002, 0.02);
    let first = 20_000.0 + rng.below(7) as f64;
    let mut value: Box<Value> = match family {
        "linear" => Box::new(move |d, _| base + growth * d),
        "exponential" => {
            let rate = rng.between(0.4, 1.5) / days as f64;
            Box::new(move |d, _| base * (rate * d).exp())
        }
        "seasonal" => {
            let amplitude = base * rng.between(0.05, 0.3);
            let shape: Vec<f64> = (0..7).map(|_| gauss(rng)).collect();
            Box::new(move |d, _| base + growth * d + amplitude * shape[(d + first) as usize % 7])
        }
        "changepoint" => {
            let at = days as f64 * rng.between(0.2, 0.85);
            let after = base * rng.between(-0.5, 3.0) / days as f64;
            Box::new(move |d, _| base + growth * d.min(at) + after * (d - at).max(0.0))
        }
        "bulk steps" => {
            let mut steps = vec![(days as f64 * rng.between(0.15, 0.9), base * rng.between(0.2, 1.5))];
            if days > 250 && rng.unit() < 0.5 {
                steps.push((days as f64 * rng.between(0.15, 0.9), -base * rng.between(0.1, 0.3)));
            }
            Box::new(move |d, _| base + growth * d + steps.iter().filter(|s| d >= s.0).map(|s| s.1).sum::<f64>())
        }
        "retention drops" => {
            // Partitions of a month, dropped after a few months: a saw over a level.
            let (month, kept) = (30.0, 2.0 + rng.below(4) as f64);
            let daily = base / (month * kept);
            let offset = rng.between(0.0, month);
            Box::new(move |d, _| {
                let since = d + offset;
                let dropped = ((since / month).floor() - kept).max(0.0) * month;
                0.2 * base + daily * (since - dropped)
            })
        }
        "noise" => {
            let loud = base * rng.between(0.05, 0.3);
            Box::new(move |_, rng| base + loud * gauss(rng))
        }
        _ => {
            let (mut at, step) = (base, base * rng.between(0.003, 0.01));
            let drift = if rng.unit() < 0.5 { 0.0 } else { 0.3 * growth };
            Box::new(move |_, rng| {
                at += drift + step * gauss(rng);
                at
            })
        }
    };
    let point = |d: usize, rng: &mut Rng, value: &mut Value| Point {
        day: first + d as f64,
        value: (value(d as f64, rng) + noise * gauss(rng)).max(0.0),
    };
    let mut all: Vec<Point> = (0..2 * days).map(|d| point(d, rng, &mut value)).collect();
    let future = all.split_off(days);
    Series { history: all, future }
}

/// What growth over the last seven days, continued, says.
pub fn seven_day_delta(history: &[Point], horizon: f64) -> f64 {
    let last = history[history.len() - 1];
    let before = history[history.len().saturating_sub(8)];
    last.value + (last.value - before.value) / (last.day - before.day) * horizon
}

/// What a line through all points by least squares says.
pub fn least_squares(history: &[Point], horizon: f64) -> f64 {
    let n = history.len() as f64;
    let mean = |of: fn(&Point) -> f64| history.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.day), mean(|p| p.value));
    let above: f64 = history.iter().map(|p| (p.day - x) * (p.value - y)).sum();
    let below: f64 = history.iter().map(|p| (p.day - x).powi(2)).sum();
    y + above / below * (history[history.len() - 1].day + horizon - x)
}
