//! What others have changed, and whether it does harm: values of settings as they are compared, settings of a command line,
//! and the judgement of a change that nobody has promised anything of. Pure.
//!
//! A change that somebody made by hand may be put back unasked, so more is wanted of the evidence than of a change of
//! perf_opt's own: the *work* of an execution (blocks found and read, temporary blocks, WAL records) must have moved with
//! its time, which neither a busier machine nor a cold cache does. What a statement whose work is as before takes tells what has
//! become of the machine. Time alone counts where a setting may have no other effect, when it has doubled beyond that.

use std::collections::BTreeMap;

use crate::baseline::{self, CHANGE_MIN};
use crate::change::evidence::{self, block_ratio, drift_of, is_seen, time_ratio, Tally};
use crate::change::{Judgement, Moved, Observed, Part, Verdict};

/// The machine as a whole is not taken to have changed by more than this factor.
const DRIFT_MAX: f64 = 10.0;
/// From this factor on a change of work needs no test of times: blocks and records vary little.
const WORK_CLEAR: f64 = 1.25;
/// From this factor on a change of time counts although the work is as before.
const TIME_CLEAR: f64 = 2.0;
/// Share of the concerned statements' time from which on a loss is harm.
const HARM_MIN: f64 = 0.05;
/// Statements that must have become slower by a setting, unless one takes twice as long.
const AGREE_MIN: usize = 2;
/// Share of the whole time that must be saved for a gain.
const GAIN_MIN: f64 = 0.001;
/// Indexes that somebody has made since the last look, beyond which they are part of something larger: a restore, a rollout.
pub const INDEXES_MAX: usize = 5;

/// How the values of a setting are written, as pg_settings says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// bool.
    Bool,
    /// integer or real, with the unit in which it is kept.
    Number(Option<&'a str>),
    /// string or enum.
    Word,
}

impl<'a> Kind<'a> {
    /// By the columns vartype and unit.
    pub fn of(vartype: &str, unit: Option<&'a str>) -> Kind<'a> {
        match vartype {
            "bool" => Kind::Bool,
            "integer" | "real" => Kind::Number(unit),
            _ => Kind::Word,
        }
    }
}

/// A value in the form in which equal ones are the same text: 4MB and 4096kB, on and true.
pub fn canonical(value: &str, kind: Kind) -> String {
    let trimmed = value.trim();
    let lower = trimmed.to_ascii_lowercase();
    match kind {
        Kind::Bool if !lower.is_empty() => {
            let means = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
            if lower == "1" || means("on", 2) || means("true", 1) || means("yes", 1) {
                "on".to_owned()
            } else if lower == "0" || means("off", 2) || means("false", 1) || means("no", 1) {
                "off".to_owned()
            } else {
                lower
            }
        }
        Kind::Number(unit) => number(trimmed, unit).unwrap_or(lower),
        Kind::Bool | Kind::Word => lower,
    }
}

/// A number in the unit of a setting.
fn number(text: &str, unit: Option<&str>) -> Option<String> {
    let end = text
        .char_indices()
        .find(|(at, c)| {
            let exponent =
                matches!(c, 'e' | 'E') && text[at + 1..].starts_with(|next: char| next.is_ascii_digit() || next == '-');
            !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+') || exponent)
        })
        .map_or(text.len(), |(at, _)| at);
    let (digits, suffix) = (&text[..end], text[end..].trim());
    let value: f64 = digits.parse().ok().filter(|value: &f64| value.is_finite())?;
    let value = match (suffix, unit) {
        ("", _) => value,
        (suffix, Some(unit)) => value * (size(suffix)? / size(unit)?),
        (_, None) => return None,
    };
    // Integers are rounded to their unit; fractions of plain numbers are not.
    let value = if suffix.is_empty() { value } else { value.round() };
    Some(format!("{value}"))
}

/// Bytes, or microseconds, of a unit; with a number before it as in 8kB.
fn size(unit: &str) -> Option<f64> {
    let digits: String = unit.chars().take_while(char::is_ascii_digit).collect();
    let factor: f64 = if digits.is_empty() { 1.0 } else { digits.parse().ok()? };
    let one = match &unit[digits.len()..] {
        "B" => 1.0,
        "kB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3_600e6,
        "d" => 86_400e6,
        _ => return None,
    };
    Some(factor * one)
}

/// Settings that the command line of a server has, of the text of postmaster.opts: words in double quotes.
pub fn command_line(options: &str) -> BTreeMap<String, String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = options;
    while let Some((_, after)) = rest.split_once('"') {
        let Some((word, next)) = after.split_once('"') else { break };
        words.push(word.to_owned());
        rest = next;
    }
    let mut found = BTreeMap::new();
    let mut add = |assignment: &str| {
        if let Some((name, value)) = assignment.split_once('=') {
            found.insert(name.trim().replace('-', "_").to_ascii_lowercase(), value.to_owned());
        }
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            add(long);
        } else if word == "-c" {
            words.next().into_iter().for_each(|next| add(next));
        } else if let Some(short) = word.strip_prefix("-c") {
            add(short);
        }
    }
    found
}

/// What is asked of a change that somebody has made.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// A setting: it concerns all statements, and those whose work is as before tell of the machine.
    pub is_setting: bool,
    /// The whole time of the workload before it, in ms.
    pub total_ms: f64,
    /// Executions without which nothing is said.
    pub min_calls: u64,
    /// It was waited long enough for those that are seldom executed.
    pub is_late: bool,
}

/// What a statement takes, in relation to before, whose work is the same: the median; `None` of too few. What counts as its
/// blocks is all its work.
pub fn steady(statements: &[Observed], is_setting: bool) -> Option<f64> {
    let is_steady = |one: &&Observed| {
        (is_setting || one.part == Part::Control) && is_seen(one) && (block_ratio(one) - 1.0).abs() <= CHANGE_MIN
    };
    drift_of(statements.iter().filter(is_steady), DRIFT_MAX)
}

fn moved(one: &Observed, steady: Option<f64>, is_setting: bool) -> Moved {
    let Some(ratio) = time_ratio(one).filter(|_| is_seen(one)) else { return Moved::Unknown };
    let ratio = ratio / steady.unwrap_or(1.0);
    let (work, seen) = (block_ratio(one), baseline::verdict(&one.before, &one.after));
    let by_time = is_setting && steady.is_some();
    if ratio > 1.0 + CHANGE_MIN {
        let by_work = work >= WORK_CLEAR || work > 1.0 + CHANGE_MIN && seen == baseline::Verdict::Slower;
        if by_work || by_time && ratio >= TIME_CLEAR && seen == baseline::Verdict::Slower {
            return Moved::Slower(ratio);
        }
    }
    if ratio < 1.0 - CHANGE_MIN {
        let by_work = work <= 1.0 / WORK_CLEAR || work < 1.0 - CHANGE_MIN && seen == baseline::Verdict::Faster;
        if by_work || by_time && ratio <= 1.0 / TIME_CLEAR && seen == baseline::Verdict::Faster {
            return Moved::Faster(ratio);
        }
    }
    Moved::Same
}

/// Judges what somebody has changed.
pub fn judge(statements: &[Observed], question: &Question) -> Judgement {
    let steady = steady(statements, question.is_setting);
    let drift = steady.unwrap_or(1.0);
    let moved: Vec<Moved> = statements.iter().map(|one| moved(one, steady, question.is_setting)).collect();
    if let Some(reason) = missing(statements, question) {
        return Judgement { verdict: Verdict::Waiting, achieved_pct: None, reason, drift, moved };
    }
    let tally = Tally::of(statements, &moved);
    let Tally { judged, faster, slower, .. } = tally;
    let total = question.total_ms.max(tally.concerned).max(f64::MIN_POSITIVE);
    let achieved_pct = 100.0 * (tally.gain - tally.loss) / total;
    let agree =
        !question.is_setting || slower >= AGREE_MIN || tally.worst.is_some_and(|(_, ratio, _)| ratio >= TIME_CLEAR);
    let verdict = if tally.loss > tally.gain && tally.loss >= HARM_MIN * tally.concerned && agree {
        Verdict::Regressed
    } else if achieved_pct >= 100.0 * GAIN_MIN {
        Verdict::Verified
    } else {
        Verdict::NoGain
    };
    let reason = match verdict {
        Verdict::Regressed => format!("{}, and does more work: {}", tally.slowest(), tally.lost_and_won(total)),
        Verdict::Verified => {
            format!("{faster} of {judged} statements are faster, {achieved_pct:.1} % of the measured time is saved")
        }
        _ if slower > 0 => {
            format!("{faster} of {judged} statements are faster and {slower} slower, by too little to matter")
        }
        _ => format!("none of {judged} statements has become faster or slower by more than chance"),
    };
    Judgement { verdict, achieved_pct: Some(achieved_pct), reason, drift, moved }
}

/// What has still to be executed, in words.
fn missing(statements: &[Observed], question: &Question) -> Option<String> {
    if question.is_late {
        return None;
    }
    let concerned: Vec<&Observed> = statements.iter().filter(|one| one.part != Part::Control).collect();
    evidence::missing(&concerned, question.min_calls)
}

/// The work memory that is advised of one session, in kB, at most: of the memory that buffers leave a quarter, for so many
/// sessions that sort or hash twice each. A power of two of megabytes; `None` below one.
pub fn work_mem_bound_kb(memory_bytes: f64, buffers_bytes: f64, sessions: f64) -> Option<i64> {
    const SHARE: f64 = 0.25;
    const NODES: f64 = 2.0;
    let each_mb = (memory_bytes - buffers_bytes) * SHARE / (sessions.max(1.0) * NODES) / 1_048_576.0;
    (each_mb >= 1.0 && each_mb.is_finite()).then(|| 1024 * (1i64 << (each_mb.log2().floor() as u32).min(20)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::drawn::Draw;
    use proptest::prelude::*;

    fn question(is_setting: bool) -> Question {
        Question { is_setting, total_ms: 0.0, min_calls: 100, is_late: false }
    }

    #[test]
    fn equal_values_are_the_same_text() {
        for (left, right, kind) in [
            ("4MB", "4096kB", Kind::Number(Some("kB"))),
            ("4096", "4MB", Kind::Number(Some("kB"))),
            ("4GB", "524288", Kind::Number(Some("8kB"))),
            ("1min", "60000", Kind::Number(Some("ms"))),
            ("4", "4.0", Kind::Number(None)),
            ("1e3", "1000", Kind::Number(None)),
            ("true", "on", Kind::Bool),
            ("NO", "off", Kind::Bool),
            ("1", "yes", Kind::Bool),
            ("Auto", "auto", Kind::Word),
        ] {
            assert_eq!(canonical(left, kind), canonical(right, kind), "{left} {right}");
        }
        assert_ne!(canonical("4MB", Kind::Number(Some("kB"))), canonical("4GB", Kind::Number(Some("kB"))));
        assert_eq!(canonical("1.1", Kind::Number(None)), "1.1");
        // What is no value of its kind stays what it is.
        assert_eq!(canonical("many", Kind::Number(Some("kB"))), "many");
        assert_eq!(canonical("", Kind::Bool), "");
        assert_eq!(canonical("4XB", Kind::Number(Some("kB"))), "4xb");
    }

    #[test]
    fn a_command_line_is_read() {
        let line = "/usr/bin/postgres \"-D\" \"/data\" \"-c\" \"work_mem=64kB\" \"--enable-hashjoin=off\" \"-cjit=on\" \"-p\" \"5432\"\n";
        let found = command_line(line);
        let expected = [("enable_hashjoin", "off"), ("jit", "on"), ("work_mem", "64kB")];
        assert_eq!(found, expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        for odd in ["", "\"", "\"-c\"", "\"-c\" \"work_mem\"", "postgres"] {
            assert!(command_line(odd).is_empty(), "{odd}");
        }
    }

    #[test]
    fn a_setting_that_makes_statements_work_more_does_harm() {
        let mut draw = Draw(1);
        let mut all: Vec<Observed> = (0..4).map(|_| draw.observed(Part::Reader, (1.0, 1.0), (4.0, 4.0))).collect();
        all.push(draw.observed(Part::Reader, (1.0, 9.0), (4.0, 900.0)));
        let judgement = judge(&all, &question(true));
        assert_eq!(judgement.verdict, Verdict::Regressed, "{judgement:?}");
        assert!(judgement.achieved_pct.unwrap() < 0.0);
        assert!(judgement.reason.contains("times as long"), "{}", judgement.reason);
    }

    #[test]
    fn a_busier_machine_and_a_cold_cache_do_none() {
        let mut draw = Draw(2);
        // Everything takes three times as long, two statements five times; none does more.
        let mut all: Vec<Observed> = (0..6).map(|_| draw.observed(Part::Reader, (1.0, 3.0), (40.0, 40.0))).collect();
        assert_eq!(judge(&all, &question(true)).verdict, Verdict::NoGain);
        all.push(draw.observed(Part::Reader, (1.0, 5.0), (40.0, 40.0)));
        assert_eq!(judge(&all, &question(true)).verdict, Verdict::NoGain);
        // With nobody to tell of the machine, time says nothing at all.
        let alone = [draw.observed(Part::Reader, (1.0, 30.0), (40.0, 40.0))];
        assert_eq!(judge(&alone, &question(true)).verdict, Verdict::NoGain);
        let index: Vec<Observed> = (0..3).map(|_| draw.observed(Part::Writer, (1.0, 3.0), (4.0, 4.0))).collect();
        assert_eq!(judge(&index, &question(false)).verdict, Verdict::NoGain);
    }

    #[test]
    fn time_alone_counts_of_a_setting_beside_steady_statements() {
        let mut draw = Draw(3);
        let mut all: Vec<Observed> = (0..5).map(|_| draw.observed(Part::Reader, (1.0, 1.0), (4.0, 4.0))).collect();
        all.push(draw.observed(Part::Reader, (5.0, 25.0), (40.0, 40.0)));
        assert_eq!(judge(&all, &question(true)).verdict, Verdict::Regressed);
        assert_eq!(judge(&all, &question(false)).verdict, Verdict::NoGain);
    }

    #[test]
    fn an_index_that_writers_pay_for_does_harm_and_a_useless_one_none() {
        let mut draw = Draw(4);
        let controls: Vec<Observed> = (0..3).map(|_| draw.observed(Part::Control, (1.0, 1.0), (4.0, 4.0))).collect();
        let harmed = draw.observed(Part::Writer, (0.1, 0.14), (6.0, 13.0));
        let with = |one: Observed| controls.iter().cloned().chain([one]).collect::<Vec<_>>();
        assert_eq!(judge(&with(harmed.clone()), &question(false)).verdict, Verdict::Regressed);
        let same = draw.observed(Part::Writer, (0.1, 0.1), (6.0, 6.0));
        assert_eq!(judge(&with(same), &question(false)).verdict, Verdict::NoGain);
        // A reader that gains more than writers lose.
        let mut both = with(harmed);
        both.push(draw.observed(Part::Reader, (5.0, 0.2), (500.0, 4.0)));
        assert_eq!(judge(&both, &question(false)).verdict, Verdict::Verified);
    }

    #[test]
    fn it_waits_for_executions() {
        let mut draw = Draw(5);
        let mut one = draw.observed(Part::Reader, (1.0, 1.0), (4.0, 4.0));
        one.after = draw.side(20, 1.0);
        assert!(judge(std::slice::from_ref(&one), &question(true)).reason.contains("20 executions"));
        let late = Question { is_late: true, ..question(true) };
        assert_eq!(judge(&[one], &late).verdict, Verdict::NoGain);
        let mut seldom = draw.observed(Part::Reader, (50.0, 50.0), (4.0, 4.0));
        seldom.after = draw.side(1, 50.0);
        let often = draw.observed(Part::Reader, (1.0, 1.0), (4.0, 4.0));
        let judgement = judge(&[seldom, often], &question(true));
        assert_eq!(judgement.verdict, Verdict::Waiting);
        assert!(judgement.reason.contains("less than 10 times"), "{}", judgement.reason);
        assert_eq!(judge(&[], &late).verdict, Verdict::NoGain);
    }

    #[test]
    fn work_memory_is_bounded_by_the_machine() {
        let gigabyte = 1_073_741_824.0;
        assert_eq!(work_mem_bound_kb(9.0 * gigabyte, gigabyte, 16.0), Some(64 * 1024));
        assert_eq!(work_mem_bound_kb(gigabyte, gigabyte, 16.0), None);
        assert_eq!(work_mem_bound_kb(gigabyte, 0.0, 1000.0), None);
        assert_eq!(work_mem_bound_kb(f64::INFINITY, 0.0, 1.0), None);
    }

    proptest! {
        /// Where the work is as before, nothing that somebody made is called harm, whatever the machine does to all alike.
        #[test]
        fn nothing_is_wrongfully_harm(seed in any::<u64>(), count in 1usize..8, factor in 0.3f64..4.0) {
            let mut draw = Draw(seed);
            let all: Vec<Observed> =
                (0..count).map(|_| draw.observed(Part::Reader, (3.0, 3.0 * factor), (20.0, 20.0))).collect();
            for is_setting in [true, false] {
                prop_assert_ne!(judge(&all, &question(is_setting)).verdict, Verdict::Regressed);
            }
        }

        /// A value is as it is read again.
        #[test]
        fn canonical_values_stay(value in "[ -~]{0,12}", unit in prop::option::of(prop::sample::select(vec!["kB", "8kB", "ms"]))) {
            for kind in [Kind::Bool, Kind::Number(unit), Kind::Word] {
                let once = canonical(&value, kind);
                prop_assert_eq!(canonical(&once, kind), once);
            }
        }

        /// Odd command lines are read without complaint.
        #[test]
        fn any_command_line_is_read(line in ".{0,80}") {
            command_line(&line);
        }
    }
}
