//! Judges models by what they would have said: fitted to the beginning of the history, tested on what came after.

use std::collections::HashSet;

use super::{Fit, Model};
use crate::stats::{median, quantile_sorted};

/// Points in time from which the models look ahead.
const ORIGINS: usize = 8;
/// A training part is no shorter than this share of the points.
const TRAIN_MIN_SHARE: f64 = 0.4;
const TRAIN_MIN_POINTS: usize = 7;
/// Looks ahead from each origin.
const LEADS: usize = 6;
/// Intervals are made to cover this share of past errors. What they do cover is measured apart.
const INTERVAL_SHARE: f64 = 0.9;
/// A model whose typical error is within this factor of the best one's is taken seriously: its disagreement widens the
/// interval.
const SERIOUS_FACTOR: f64 = 1.5;

/// A model must have been tried from so many origins.
const ORIGINS_MIN: usize = 3;
/// Errors within this factor of the least are equal.
const TIE_FACTOR: f64 = 1.02;
/// Errors within this factor of the least may be so by luck: few trials, and they overlap.
const LUCK_FACTOR: f64 = 1.4;
/// A model that fits the last third of the history within this factor of the best one has missed nothing there ...
const RECENT_FACTOR: f64 = 1.08;
/// ... and this much more, divided by its points: a model of the last third bends towards their noise.
const RECENT_PARAMETERS: f64 = 2.0;

/// Models that are no further from the last third than this many times the best one have equal rights where none fits.
const MIXED_FACTOR: f64 = 2.0;

/// What the back-test of the chosen model has shown.
#[derive(Debug, Clone)]
pub(super) struct Backtest {
    pub(super) error_pct: Option<f64>,
    pub(super) coverage_pct: Option<f64>,
    growth: Growth,
    /// Quantile of past errors, in units of `growth`.
    quantile: f64,
}

/// How errors grow with the lead: `level + lead * per_day`.
#[derive(Debug, Clone, Copy)]
struct Growth {
    level: f64,
    per_day: f64,
}

impl Growth {
    fn at(&self, lead: f64) -> f64 {
        self.level + lead.max(0.0) * self.per_day
    }
}

impl Backtest {
    /// Half the width of the interval, `lead` days ahead.
    pub(super) fn margin(&self, lead: f64) -> f64 {
        self.quantile * self.growth.at(lead)
    }

    pub(super) fn scaled(mut self, scale: f64) -> Self {
        self.growth = Growth { level: self.growth.level * scale, per_day: self.growth.per_day * scale };
        self
    }
}

/// One look ahead: what each model said, in the order of the models.
struct Trial {
    origin: usize,
    lead: f64,
    actual: f64,
    said: Vec<Option<f64>>,
}

/// What to project by.
pub(super) struct Chosen {
    pub(super) backtest: Backtest,
    /// The models whose mean is the projection, the best one first.
    pub(super) mixed: Vec<Fit>,
    /// The models whose disagreement widens the interval: `mixed` and those that did nearly as well.
    pub(super) serious: Vec<Fit>,
}

/// Chooses among models by their back-test. None without a model.
pub(super) fn choose(fits: &[Fit], points: &[(f64, f64)]) -> Option<Chosen> {
    let trials = trials(fits, points);
    let recent: Vec<f64> = fits.iter().map(|f| recent_misfit(f, points)).collect();
    let recent_least = recent.iter().copied().fold(f64::INFINITY, f64::min);
    let typical: Vec<f64> = (0..fits.len()).map(|m| typical_error(&trials, m)).collect();
    let mut order: Vec<usize> = (0..fits.len()).collect();
    order.sort_by(|&a, &b| typical[a].total_cmp(&typical[b]));
    let least = typical[*order.first()?];
    // The simplest of those that are as good as the best: a tie must not be settled by rounding errors, and a
    // difference that may be luck not at all, unless the simple model plainly misses what came last.
    let recent_limit = RECENT_FACTOR + RECENT_PARAMETERS / points.len().div_ceil(3) as f64;
    let fits_all = |m: usize| typical[m] <= least * LUCK_FACTOR && recent[m] <= recent_least * recent_limit;
    let best = (0..fits.len()).find(|&m| typical[m] <= least * TIE_FACTOR + 1e-9 || fits_all(m))?;
    order.retain(|&m| m != best);
    order.insert(0, best);
    let limit = typical[best] * SERIOUS_FACTOR;
    let serious: Vec<usize> = order.into_iter().filter(|&m| m == best || typical[m] <= limit).collect();
    // A series that no model of the whole history fits wanders, or has changed its pace: the mean of the models that are
    // near its end errs less than any one of them.
    let wanders = !fits_all(best) || !matches!(fits[best].model, Model::Linear | Model::Log);
    let mixed: Vec<usize> = (serious.iter().copied())
        .filter(|&m| m == best || wanders && recent[m] <= recent_least * MIXED_FACTOR)
        .collect();

    let mix = |t: &Trial| -> Option<f64> {
        let said: Vec<f64> = mixed.iter().filter_map(|&m| t.said[m]).collect();
        (!said.is_empty()).then(|| said.iter().sum::<f64>() / said.len() as f64)
    };
    let error = |t: &Trial| mix(t).map(|s| (s - t.actual).abs());
    let growth = error_growth(&trials, error, fits[best], points);
    let scores: Vec<(usize, f64)> =
        trials.iter().filter_map(|t| Some((t.origin, error(t)? / growth.at(t.lead).max(f64::MIN_POSITIVE)))).collect();
    let backtest = Backtest {
        error_pct: median(
            trials.iter().filter(|t| t.actual != 0.0).filter_map(|t| Some(100.0 * error(t)? / t.actual.abs())),
        ),
        coverage_pct: coverage_pct(&trials, &scores, growth, mix, &serious),
        growth,
        quantile: conformal(scores.iter().map(|s| s.1)).unwrap_or(1.0),
    };
    let of = |numbers: &[usize]| numbers.iter().map(|&m| fits[m]).collect();
    Some(Chosen { backtest, mixed: of(&mixed), serious: of(&serious) })
}

/// Mean error of a model. One that needs a longer history than some trials had is compared with the first model, which needs
/// the least, on the trials that both had: not on its easy ones alone.
fn typical_error(trials: &[Trial], model: usize) -> f64 {
    let error = |t: &Trial, m: usize| t.said[m].map(|s| (s - t.actual).abs());
    let shared = || trials.iter().filter_map(|t| Some((t.origin, error(t, 0)?, error(t, model)?)));
    let origins = shared().map(|s| s.0).collect::<HashSet<_>>().len();
    let of_first: Vec<f64> = trials.iter().filter_map(|t| error(t, 0)).collect();
    if origins < ORIGINS_MIN || of_first.is_empty() {
        return f64::INFINITY;
    }
    let (first, own) = shared().fold((0.0, 0.0), |sum, s| (sum.0 + s.1, sum.1 + s.2));
    let mean = of_first.iter().sum::<f64>() / of_first.len() as f64;
    mean * (own + 1e-9) / (first + 1e-9)
}

/// Mean distance of the last third of the points from what a model, which knows them, says.
fn recent_misfit(fit: &Fit, points: &[(f64, f64)]) -> f64 {
    let recent = &points[points.len() - points.len().div_ceil(3)..];
    // Values are in units of the largest one; what is added keeps rounding errors from counting.
    1e-9 + recent.iter().map(|p| (p.1 - fit.at(p.0)).abs()).sum::<f64>() / recent.len().max(1) as f64
}

fn trials(fits: &[Fit], points: &[(f64, f64)]) -> Vec<Trial> {
    let n = points.len();
    let first = ((n as f64 * TRAIN_MIN_SHARE).ceil() as usize).max(TRAIN_MIN_POINTS);
    let mut trials = Vec::new();
    for origin in 0..ORIGINS {
        let train = first + n.saturating_sub(first) * origin / ORIGINS;
        let ahead = n.saturating_sub(train);
        if ahead == 0 {
            break;
        }
        let known = &points[..train];
        let refitted: Vec<Option<Fit>> = fits.iter().map(|f| Fit::of(f.model, known)).collect();
        let Some(&(now, _)) = known.last() else { continue };
        let mut tested: Vec<usize> = (1..=LEADS).map(|k| train - 1 + (ahead * k).div_ceil(LEADS)).collect();
        tested.dedup();
        for &(day, actual) in tested.iter().filter_map(|&i| points.get(i)) {
            let said = refitted.iter().map(|f| f.map(|f| f.at(day)).filter(|v| v.is_finite())).collect();
            trials.push(Trial { origin, lead: day - now, actual, said });
        }
    }
    trials
}

/// Level: what the model leaves unexplained of the history. A day: by how much errors exceed that for each day ahead.
fn error_growth(trials: &[Trial], error: impl Fn(&Trial) -> Option<f64>, best: Fit, points: &[(f64, f64)]) -> Growth {
    let largest = points.iter().map(|p| p.1.abs()).fold(0.0, f64::max);
    let level = median(points.iter().map(|p| (p.1 - best.at(p.0)).abs())).unwrap_or(0.0).max(1e-9 * largest);
    let per_day =
        median(trials.iter().filter(|t| t.lead > 0.0).filter_map(|t| Some((error(t)? - level).max(0.0) / t.lead)));
    Growth { level, per_day: per_day.unwrap_or(0.0) }
}

/// The quantile that, with one more error to come, covers the wanted share: the conformal rank.
fn conformal(scores: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = scores.filter(|s| s.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    quantile_sorted(&sorted, (INTERVAL_SHARE * (n + 1.0) / n).min(1.0))
}

/// Every origin is judged with the scores of the others: errors that made an interval do not prove it.
fn coverage_pct(
    trials: &[Trial],
    scores: &[(usize, f64)],
    growth: Growth,
    mix: impl Fn(&Trial) -> Option<f64>,
    serious: &[usize],
) -> Option<f64> {
    let (mut inside, mut tested) = (0u32, 0u32);
    for origin in 0..ORIGINS {
        let Some(quantile) = conformal(scores.iter().filter(|s| s.0 != origin).map(|s| s.1)) else { continue };
        for trial in trials.iter().filter(|t| t.origin == origin) {
            let Some(value) = mix(trial) else { continue };
            let margin = quantile * growth.at(trial.lead);
            let said = || serious.iter().filter_map(|&m| trial.said[m]);
            let (low, high) = (said().fold(value - margin, f64::min), said().fold(value + margin, f64::max));
            tested += 1;
            inside += u32::from(low <= trial.actual && trial.actual <= high);
        }
    }
    (tested > 0).then(|| 100.0 * f64::from(inside) / f64::from(tested))
}
