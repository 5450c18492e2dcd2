//! What a change has done to the statements that it concerns, judged by what was measured before and after it. Pure.
//!
//! Each statement is compared with itself ([`baseline::verdict`]: more than chance, and more than five per cent). Three things
//! keep what has nothing to do with the change out of it. Statements that do not touch the relation tell how much faster or
//! slower everything has become meanwhile ([`drift`]). A statement whose blocks per call have not moved with its time must
//! have moved by half to count: what an index changes is mostly what is read; and where too few other statements run to tell
//! how the machine fares, it counts as slower only if it reads more, and as faster if it reads less or
//! takes a third. And what counts is weighed by the share that the statement has in the measured time, so that the sum can be
//! laid next to what was promised.

pub mod cache;
#[cfg(test)]
pub(crate) mod drawn;
pub(crate) mod evidence;

use crate::baseline::{self, Side, CALLS_MIN, CHANGE_MIN};
use evidence::{block_ratio, drift_of, is_seen, time_ratio, unseen, Tally};

/// The machine as a whole is not taken to have changed by more than this factor.
const DRIFT_MAX: f64 = 5.0;
/// From this factor on a change of time counts although as many blocks are read as before.
const CLEAR: f64 = 1.5;
/// The same where nothing tells how the machine fares.
const CLEAR_ALONE: f64 = 3.0;
/// Share of the whole time below which nothing is gained, and share of what was promised.
const GAIN_MIN: f64 = 0.001;
const KEPT_MIN: f64 = 0.1;
/// Share of the concerned statements' time from which on a loss is a regression.
const HARM_MIN: f64 = 0.02;
/// Points between what was predicted and what was achieved from which on the reason says where they come from.
const GAP_MIN_PCT: f64 = 10.0;
/// A statement that takes so many times as long is one by itself, where nobody has promised another a gain.
const HARM_FACTOR: f64 = 2.0;

/// What a statement has to do with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It was said to gain.
    Promised,
    /// It reads the relation.
    Reader,
    /// It writes to the relation.
    Writer,
    /// It does not touch the relation.
    Control,
}

impl Part {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Part::Promised => "promised",
            Part::Reader => "reader",
            Part::Writer => "writer",
            Part::Control => "control",
        }
    }

    /// The reverse.
    pub fn from_name(name: &str) -> Option<Part> {
        [Part::Promised, Part::Reader, Part::Writer, Part::Control].into_iter().find(|part| part.name() == name)
    }
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The server's query id.
    pub queryid: i64,
    /// What it has to do with the change.
    pub part: Part,
    /// What it was said to take, in relation to before.
    pub promised_ratio: Option<f64>,
    /// Its time in the workload that the promise is about, in ms.
    pub weight_ms: f64,
    /// Executions before the change.
    pub before: Side,
    /// And since.
    pub after: Side,
    /// Blocks found or read by each, before.
    pub blocks_before: f64,
    /// And since.
    pub blocks_after: f64,
}

/// What a change is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Statements get faster.
    Speed,
    /// Something is saved (space, writes), and no statement gets slower.
    Thrift,
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// What for.
    pub aim: Aim,
    /// Of the whole time, in per cent.
    pub predicted_pct: Option<f64>,
    /// The whole time of the workload that this is a share of, in ms.
    pub total_ms: f64,
    /// Executions of the concerned statements without which nothing is said.
    pub min_calls: u64,
    /// It was waited long enough for those that are seldom executed.
    pub is_late: bool,
}

/// What has become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too little was executed since.
    Waiting,
    /// It does what it was made for.
    Verified,
    /// Nothing got better.
    NoGain,
    /// More was lost than won.
    Regressed,
}

impl Verdict {
    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Waiting => "waiting",
            Verdict::Verified => "verified",
            Verdict::NoGain => "no_gain",
            Verdict::Regressed => "regressed",
        }
    }
}

/// What has become of one statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moved {
    /// Takes this share of what it took, the machine's own change taken out.
    Faster(f64),
    /// Likewise.
    Slower(f64),
    /// Nothing that could not be chance, or something else's doing.
    Same,
    /// Too few executions.
    Unknown,
}

impl Moved {
    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Moved::Faster(_) => "faster",
            Moved::Slower(_) => "slower",
            Moved::Same => "same",
            Moved::Unknown => "unknown",
        }
    }

    fn saved_share(self) -> f64 {
        match self {
            Moved::Faster(ratio) | Moved::Slower(ratio) => 1.0 - ratio,
            Moved::Same | Moved::Unknown => 0.0,
        }
    }
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// In a word.
    pub verdict: Verdict,
    /// Of the whole time, in per cent; less than zero: lost. `None` while it waits.
    pub achieved_pct: Option<f64>,
    /// In a sentence.
    pub reason: String,
    /// What everything else takes in relation to before.
    pub drift: f64,
    /// In the order of the statements.
    pub moved: Vec<Moved>,
}

/// What statements that have nothing to do with the change take in relation to before: the median; `None` of too few.
pub fn drift(statements: &[Observed]) -> Option<f64> {
    drift_of(statements.iter().filter(|one| one.part == Part::Control && is_seen(one)), DRIFT_MAX)
}

/// What has become of one statement, while everything else takes `drift` of what it took.
pub fn moved(one: &Observed, drift: Option<f64>) -> Moved {
    let Some(ratio) = time_ratio(one).filter(|_| is_seen(one)) else { return Moved::Unknown };
    let ratio = ratio / drift.unwrap_or(1.0);
    let blocks = block_ratio(one);
    let clear = if drift.is_some() { CLEAR } else { CLEAR_ALONE };
    match baseline::verdict(&one.before, &one.after) {
        baseline::Verdict::Faster
            if ratio < 1.0 - CHANGE_MIN && (blocks < 1.0 - CHANGE_MIN || ratio <= 1.0 / clear) =>
        {
            Moved::Faster(ratio)
        }
        baseline::Verdict::Slower
            if ratio > 1.0 + CHANGE_MIN && (blocks > 1.0 + CHANGE_MIN || (ratio >= CLEAR && drift.is_some())) =>
        {
            Moved::Slower(ratio)
        }
        _ => Moved::Same,
    }
}

/// Judges a change by the statements that it concerns.
pub fn judge(statements: &[Observed], promise: &Promise) -> Judgement {
    let drift = drift(statements);
    let moved: Vec<Moved> = statements.iter().map(|one| moved(one, drift)).collect();
    let without_figures = |verdict: Verdict, reason: String| Judgement {
        verdict,
        achieved_pct: None,
        reason,
        drift: drift.unwrap_or(1.0),
        moved: moved.clone(),
    };
    if let Some(reason) = missing(statements, promise) {
        return without_figures(Verdict::Waiting, reason);
    }
    let tally = Tally::of(statements, &moved);
    if tally.judged == 0 {
        // Nothing was executed often enough to be compared, and it was waited for long enough.
        return match promise.aim {
            Aim::Thrift => {
                without_figures(Verdict::Verified, "no statement on the table was executed often since".to_owned())
            }
            Aim::Speed => without_figures(
                Verdict::NoGain,
                format!("the statements that it was made for were not executed {CALLS_MIN} times since"),
            ),
        };
    }
    let Tally { judged, faster, slower, .. } = tally;
    let total = promise.total_ms.max(tally.concerned).max(f64::MIN_POSITIVE);
    let net = tally.gain - tally.loss;
    let achieved_pct = 100.0 * net / total;
    let is_harm = net < 0.0
        && (tally.loss >= HARM_MIN * tally.concerned || (promise.aim == Aim::Thrift && tally.factor >= HARM_FACTOR));
    let wanted = (KEPT_MIN * promise.predicted_pct.unwrap_or(0.0)).max(100.0 * GAIN_MIN);
    let verdict = match promise.aim {
        _ if is_harm => Verdict::Regressed,
        Aim::Thrift => Verdict::Verified,
        Aim::Speed if achieved_pct >= wanted => Verdict::Verified,
        Aim::Speed => Verdict::NoGain,
    };
    let slowest = tally.slowest();
    let reason = match verdict {
        Verdict::Regressed => format!("{slowest}: {}", tally.lost_and_won(total)),
        Verdict::Verified if promise.aim == Aim::Thrift && slower == 0 => {
            format!("none of {judged} statements on the table has become slower")
        }
        Verdict::Verified => {
            let promised = promise.predicted_pct.map_or_else(String::new, |pct| format!("; {pct:.1} % were predicted"));
            let but = if slower > 0 { format!("; but {slowest}") } else { String::new() };
            format!("{faster} of {judged} statements are faster, {achieved_pct:.1} % of the measured time is saved{promised}{but}")
        }
        _ if faster == 0 => format!("none of {judged} statements has become faster by more than chance"),
        _ => format!(
            "{faster} of {judged} statements are faster, but only {achieved_pct:.2} % of the measured time is saved"
        ),
    };
    let off = promise.predicted_pct.is_some_and(|pct| (pct - achieved_pct).abs() > GAP_MIN_PCT);
    let reason = if off { reason + &gap(statements, &moved) } else { reason };
    Judgement { verdict, achieved_pct: Some(achieved_pct), reason, drift: drift.unwrap_or(1.0), moved }
}

/// The statement by which most of the time that was predicted to be saved has gone another way, in words.
fn gap(statements: &[Observed], moved: &[Moved]) -> String {
    let missed = |(one, moved): (&Observed, &Moved)| {
        let (promised, share) = (one.promised_ratio?, 1.0 - moved.saved_share());
        Some((one.weight_ms * (share - promised).abs(), one.queryid, share, promised))
    };
    let worst = statements.iter().zip(moved).filter_map(missed).max_by(|a, b| a.0.total_cmp(&b.0));
    worst.map_or_else(String::new, |(_, queryid, share, promised)| {
        format!(
            "; statement {queryid} takes {:.0} % of the time it took, and {:.0} % were expected",
            100.0 * share,
            100.0 * promised
        )
    })
}

/// What has still to be executed, in words.
fn missing(statements: &[Observed], promise: &Promise) -> Option<String> {
    if promise.is_late {
        return None;
    }
    let has_promised = statements.iter().any(|one| one.part == Part::Promised);
    let concerned: Vec<&Observed> = statements
        .iter()
        .filter(|one| if has_promised { one.part == Part::Promised } else { one.part != Part::Control })
        .collect();
    if concerned.is_empty() {
        return Some("no captured statement reads or writes the table yet".to_owned());
    }
    let writers: Vec<&Observed> = statements.iter().filter(|one| one.part == Part::Writer).collect();
    evidence::missing(&concerned, promise.min_calls)
        .or_else(|| unseen(&writers, "statements that write to the table, with"))
}

/// The disk of an index that is to be built has room for it: the index itself, as much again for the sort, and what shall
/// stay free. What to say when it has not.
pub fn lack_of_room(index_bytes: f64, free_bytes: Option<f64>, keep_free_bytes: f64) -> Option<String> {
    let needed = SORT_FACTOR * index_bytes + keep_free_bytes;
    let megabytes = |bytes: f64| bytes / 1_048_576.0;
    match free_bytes {
        None => Some("how much space is free where the index would lie is not known".to_owned()),
        Some(free) if free < needed => Some(format!(
            "the index is estimated at {:.1} MB, and its build needs {:.1} MB with {:.0} MB left free; {:.1} MB are free",
            megabytes(index_bytes),
            megabytes(needed),
            megabytes(keep_free_bytes),
            megabytes(free)
        )),
        Some(_) => None,
    }
}

/// The sorted entries wait on disk while the index is written.
const SORT_FACTOR: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::drawn::Draw;
    use super::*;
    use proptest::prelude::*;

    fn promise(aim: Aim, total_ms: f64) -> Promise {
        Promise { aim, predicted_pct: Some(90.0), total_ms, min_calls: 100, is_late: false }
    }

    #[test]
    fn a_gain_is_verified_and_measured() {
        let mut draw = Draw(1);
        let one = draw.observed(Part::Promised, (10.0, 1.0), (1000.0, 10.0));
        let total = one.weight_ms;
        let judgement = judge(&[one], &promise(Aim::Speed, total));
        assert_eq!(judgement.verdict, Verdict::Verified);
        assert!((judgement.achieved_pct.unwrap() - 90.0).abs() < 2.0, "{judgement:?}");
        assert!(judgement.reason.contains("90.0 % were predicted"), "{}", judgement.reason);
        assert!(!judgement.reason.contains("were expected"), "{}", judgement.reason);
    }

    #[test]
    fn a_gain_that_is_another_than_predicted_says_where() {
        let mut draw = Draw(8);
        let one = draw.observed(Part::Promised, (10.0, 4.0), (1000.0, 10.0));
        let total = one.weight_ms;
        let judgement = judge(&[one], &promise(Aim::Speed, total));
        assert_eq!(judgement.verdict, Verdict::Verified);
        assert!(judgement.reason.contains("% of the time it took, and 10 % were expected"), "{}", judgement.reason);
    }

    #[test]
    fn noise_is_no_gain() {
        let mut draw = Draw(2);
        let one = draw.observed(Part::Promised, (10.0, 10.0), (100.0, 100.0));
        let total = one.weight_ms;
        let judgement = judge(&[one], &promise(Aim::Speed, total));
        assert_eq!((judgement.verdict, judgement.achieved_pct), (Verdict::NoGain, Some(0.0)));
    }

    #[test]
    fn what_everything_else_does_too_is_not_the_changes_doing() {
        let mut draw = Draw(3);
        let mut all: Vec<Observed> = (0..4).map(|_| draw.observed(Part::Control, (5.0, 2.5), (50.0, 50.0))).collect();
        all.push(draw.observed(Part::Promised, (10.0, 5.0), (100.0, 100.0)));
        let total = all.iter().map(|one| one.weight_ms).sum();
        let judgement = judge(&all, &promise(Aim::Speed, total));
        assert!((judgement.drift - 0.5).abs() < 0.05);
        assert_eq!(judgement.verdict, Verdict::NoGain, "{judgement:?}");
        // And a machine that got slower makes no regression of a drop.
        let mut all: Vec<Observed> = (0..4).map(|_| draw.observed(Part::Control, (5.0, 10.0), (50.0, 50.0))).collect();
        all.push(draw.observed(Part::Reader, (10.0, 20.0), (100.0, 100.0)));
        assert_eq!(judge(&all, &promise(Aim::Thrift, total)).verdict, Verdict::Verified);
    }

    #[test]
    fn a_needed_index_that_was_dropped_is_a_regression() {
        let mut draw = Draw(4);
        let mut small = draw.observed(Part::Reader, (0.1, 5.0), (4.0, 900.0));
        let large = draw.observed(Part::Reader, (50.0, 50.0), (900.0, 900.0));
        let total = small.weight_ms + large.weight_ms;
        assert_eq!(judge(&[small.clone(), large.clone()], &promise(Aim::Thrift, total)).verdict, Verdict::Regressed);
        // However seldom it is asked.
        small.weight_ms *= 0.001;
        let judgement = judge(&[small, large], &promise(Aim::Thrift, total));
        assert_eq!(judgement.verdict, Verdict::Regressed);
        assert!(judgement.achieved_pct.unwrap() < 0.0);
    }

    #[test]
    fn what_writers_pay_counts() {
        let mut draw = Draw(5);
        let reader = draw.observed(Part::Promised, (1.0, 0.5), (10.0, 5.0));
        let mut writer = draw.observed(Part::Writer, (1.0, 1.15), (3.0, 6.0));
        let total = reader.weight_ms + writer.weight_ms;
        assert_eq!(judge(&[reader.clone(), writer.clone()], &promise(Aim::Speed, total)).verdict, Verdict::Verified);
        writer.weight_ms *= 10.0;
        let total = reader.weight_ms + writer.weight_ms;
        assert_eq!(judge(&[reader, writer], &promise(Aim::Speed, total)).verdict, Verdict::Regressed);
    }

    #[test]
    fn it_waits_for_enough_executions() {
        let mut draw = Draw(6);
        let mut one = draw.observed(Part::Promised, (10.0, 1.0), (1000.0, 10.0));
        let mut seldom = one.clone();
        seldom.after = draw.side(1, 1.0);
        one.weight_ms = 1.0;
        let wanted = promise(Aim::Speed, 1e4);
        let judgement = judge(&[one.clone(), seldom.clone()], &wanted);
        assert_eq!(judgement.verdict, Verdict::Waiting);
        assert!(judgement.reason.contains("executed less than 10 times"), "{}", judgement.reason);
        assert_eq!(judge(&[one.clone(), seldom], &Promise { is_late: true, ..wanted }).verdict, Verdict::NoGain);
        one.after = draw.side(50, 1.0);
        let judgement = judge(&[one.clone()], &wanted);
        assert!(judgement.reason.contains("50 executions"), "{}", judgement.reason);
        assert_eq!(judge(&[], &wanted).verdict, Verdict::Waiting);
        let late = Promise { is_late: true, aim: Aim::Thrift, ..wanted };
        assert_eq!(judge(&[], &late).verdict, Verdict::Verified);
        // What is never executed again is not waited for without end.
        one.after = Side::default();
        let judgement = judge(&[one.clone()], &wanted);
        assert_eq!(judgement.verdict, Verdict::Waiting);
        let judgement = judge(&[one], &Promise { is_late: true, ..wanted });
        assert_eq!((judgement.verdict, judgement.achieved_pct), (Verdict::NoGain, None));
    }

    #[test]
    fn it_waits_for_those_who_pay() {
        let mut draw = Draw(9);
        let reader = draw.observed(Part::Promised, (10.0, 1.0), (1000.0, 10.0));
        let mut writer = draw.observed(Part::Writer, (1.0, 3.0), (3.0, 30.0));
        writer.weight_ms = 10.0 * reader.weight_ms;
        let wanted = promise(Aim::Speed, reader.weight_ms + writer.weight_ms);
        assert_eq!(judge(&[reader.clone(), writer.clone()], &wanted).verdict, Verdict::Regressed);
        writer.after = Side::default();
        let judgement = judge(&[reader.clone(), writer.clone()], &wanted);
        assert_eq!(judgement.verdict, Verdict::Waiting);
        assert!(judgement.reason.contains("that write"), "{}", judgement.reason);
        let late = Promise { is_late: true, predicted_pct: Some(8.0), ..wanted };
        assert_eq!(judge(&[reader, writer], &late).verdict, Verdict::Verified);
    }

    #[test]
    fn a_slow_machine_is_no_regression_where_nothing_tells_how_slow_it_is() {
        let mut draw = Draw(10);
        let slow = draw.observed(Part::Reader, (5.0, 15.0), (100.0, 100.0));
        let total = slow.weight_ms;
        assert_eq!(judge(std::slice::from_ref(&slow), &promise(Aim::Thrift, total)).verdict, Verdict::Verified);
        // With others that run as fast as before it is.
        let mut all: Vec<Observed> = (0..4).map(|_| draw.observed(Part::Control, (5.0, 5.0), (50.0, 50.0))).collect();
        all.push(slow);
        assert_eq!(judge(&all, &promise(Aim::Thrift, total)).verdict, Verdict::Regressed);
    }

    #[test]
    fn room_is_told_in_numbers() {
        let megabyte = 1_048_576.0;
        assert_eq!(lack_of_room(megabyte, Some(3.0 * megabyte), megabyte), None);
        let told = lack_of_room(10.0 * megabyte, Some(5.0 * megabyte), megabyte).unwrap();
        for number in ["10.0 MB", "21.0 MB", "5.0 MB"] {
            assert!(told.contains(number), "{told}");
        }
        assert!(lack_of_room(1.0, None, 0.0).is_some());
    }

    proptest! {
        /// Where nothing has changed, nothing is undone, whatever the seed.
        #[test]
        fn nothing_is_wrongfully_a_regression(seed in any::<u64>(), readers in 1usize..6) {
            let mut draw = Draw(seed);
            let all: Vec<Observed> =
                (0..readers).map(|_| draw.observed(Part::Reader, (3.0, 3.0), (20.0, 20.0))).collect();
            let total = all.iter().map(|one| one.weight_ms).sum();
            for aim in [Aim::Speed, Aim::Thrift] {
                prop_assert_ne!(judge(&all, &promise(aim, total)).verdict, Verdict::Regressed);
            }
        }

        /// Never more is won than there was.
        #[test]
        fn achieved_is_a_share(seed in any::<u64>(), after in 0.01f64..30.0) {
            let mut draw = Draw(seed);
            let one = draw.observed(Part::Promised, (3.0, after), (20.0, 20.0 * after));
            let judgement = judge(std::slice::from_ref(&one), &promise(Aim::Speed, one.weight_ms));
            prop_assert!(judgement.achieved_pct.unwrap_or(0.0) <= 100.0);
        }
    }
}
