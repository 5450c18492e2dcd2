//! Prints how good forecasts are on generated series whose future is known: coverage of the interval, error against a
//! seven-day delta and against least squares, and the time they take.
//!
//! `cargo run --release -p perf_core --example forecast_quality [SERIES OF EACH FAMILY]`

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use perf_core::forecast::{Forecast, Point};
use support::measure::Measured;
use support::rng::Rng;
use support::series::FAMILIES;

fn main() {
    let each = std::env::args().nth(1).and_then(|a| a.parse::<usize>().ok()).unwrap_or(100).max(1);
    println!(
        "{} series, horizons of 1/8, 1/4, 1/2 and 1 history; errors in percent of the last value",
        each * FAMILIES.len()
    );
    println!(
        "{:16} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>10}",
        "family", "coverage %", "said %", "width %", "error", "7 days", "OLS", "of 7d", "of OLS"
    );
    let mut all = Measured::default();
    for family in FAMILIES {
        let measured = Measured::of(family, each);
        measured.print(family);
        all.add(&measured);
    }
    all.print("all");

    let mut rng = Rng::new(5);
    let points: Vec<Point> = (0..1095)
        .map(|d| Point { day: f64::from(d), value: 1e9 + 1e6 * f64::from(d) + 1e7 * rng.between(-1.0, 1.0) })
        .collect();
    let slowest = (0..20).map(|_| {
        let started = Instant::now();
        std::hint::black_box(Forecast::of(&points).at(365.0));
        started.elapsed().as_secs_f64() * 1e3
    });
    println!("three years of days: {:.1} ms at most of 20", slowest.fold(0.0, f64::max));
}
