//! What the judgements of changes have in common: how statements are compared with themselves, what has still to be waited
//! for, and what was won and lost in all.

use super::{Moved, Observed, Part};
use crate::baseline::CALLS_MIN;

/// Other statements without which nothing is said of the machine as a whole.
const CONTROLS_MIN: usize = 3;
/// Share of the concerned statements' time that must have been seen again.
const SEEN_MIN: f64 = 0.8;

/// Whether it was executed often enough, before and since, to be compared.
pub fn is_seen(one: &Observed) -> bool {
    one.before.calls.min(one.after.calls) >= CALLS_MIN
}

/// The mean time of an execution, in relation to before.
pub fn time_ratio(one: &Observed) -> Option<f64> {
    let was = one.before.mean_ms().filter(|ms| *ms > 0.0)?;
    Some(one.after.mean_ms()? / was).filter(|ratio| ratio.is_finite())
}

/// The blocks of an execution, in relation to before. One more block: the first ones of small numbers are no evidence.
pub fn block_ratio(one: &Observed) -> f64 {
    (one.blocks_after + 1.0) / (one.blocks_before + 1.0)
}

/// What these statements take in relation to before, by a factor of `most` at most: the median; `None` of too few.
pub fn drift_of<'a>(controls: impl Iterator<Item = &'a Observed>, most: f64) -> Option<f64> {
    let mut ratios: Vec<f64> = controls.filter_map(time_ratio).collect();
    if ratios.len() < CONTROLS_MIN {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let (low, high) = (ratios[(ratios.len() - 1) / 2], ratios[ratios.len() / 2]);
    Some(((low + high) / 2.0).clamp(1.0 / most, most))
}

/// What of these statements has still to be executed, in words.
pub fn missing(concerned: &[&Observed], min_calls: u64) -> Option<String> {
    let calls: u64 = concerned.iter().map(|one| one.after.calls).sum();
    if calls < min_calls {
        return Some(format!(
            "{calls} executions of the statements concerned since the change, {min_calls} are needed"
        ));
    }
    unseen(concerned, "statements with")
}

/// Which of the statements that were executed often before have not been seen again, in words.
pub fn unseen(statements: &[&Observed], which: &str) -> Option<String> {
    // What was never seen before cannot be compared, however long one waits.
    let known = || statements.iter().filter(|one| one.before.calls >= CALLS_MIN);
    let all: f64 = known().map(|one| one.weight_ms).sum();
    let seen: f64 = known().filter(|one| is_seen(one)).map(|one| one.weight_ms).sum();
    (seen < SEEN_MIN * all).then(|| {
        let share = 100.0 * (all - seen) / all;
        format!("{which} {share:.0} % of the time concerned were executed less than {CALLS_MIN} times since the change")
    })
}

/// What the statements concerned have won and lost. Times in ms of the workload before the change.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub gain: f64,
    pub loss: f64,
    /// Of all that could be compared.
    pub concerned: f64,
    pub judged: usize,
    pub faster: usize,
    pub slower: usize,
    /// The greatest loss: its time, how many times as long it takes, and whose it is.
    pub worst: Option<(f64, f64, i64)>,
    /// How many times as long the one takes that has become slowest; 1 of none.
    pub factor: f64,
}

impl Tally {
    /// Adds them up; statements on other tables do not count.
    pub fn of(statements: &[Observed], moved: &[Moved]) -> Tally {
        let mut sum = Tally { factor: 1.0, ..Tally::default() };
        for (one, moved) in statements.iter().zip(moved).filter(|(one, _)| one.part != Part::Control) {
            if *moved == Moved::Unknown {
                continue;
            }
            sum.judged += 1;
            sum.concerned += one.weight_ms;
            let saved = one.weight_ms * moved.saved_share();
            match moved {
                Moved::Faster(_) => {
                    sum.faster += 1;
                    sum.gain += saved;
                }
                Moved::Slower(ratio) => {
                    sum.slower += 1;
                    sum.loss -= saved;
                    sum.factor = sum.factor.max(*ratio);
                    if sum.worst.is_none_or(|(most, _, _)| -saved > most) {
                        sum.worst = Some((-saved, *ratio, one.queryid));
                    }
                }
                Moved::Same | Moved::Unknown => {}
            }
        }
        sum
    }

    /// The statement with the greatest loss, in words.
    pub fn slowest(&self) -> String {
        self.worst.map_or_else(String::new, |(_, ratio, queryid)| {
            format!("statement {queryid} takes {ratio:.1} times as long as before")
        })
    }

    /// Both as shares of a whole time, in words.
    pub fn lost_and_won(&self, total: f64) -> String {
        format!(
            "{:.1} % of the measured time is lost and {:.1} % won",
            100.0 * self.loss / total,
            100.0 * self.gain / total
        )
    }
}
