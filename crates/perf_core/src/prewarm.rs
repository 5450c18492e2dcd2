//! Decisions of the predictive prewarm: what the readings of counters teach, what to load before an hour, whether to hold
//! an hour out for comparison, and whether loading wins anything. Times are in seconds of Unix time.

/// Hours of a week.
pub const HOURS: i64 = 168;
/// Weight of the latest week: what was so for two months is forgotten in two more.
const LATEST: f64 = 0.3;
/// A relation of which less is touched in an hour is forgotten.
pub const TOUCHED_MIN: f64 = 8.0;
/// Relations remembered of one hour of the week.
pub const RELATIONS_MAX: usize = 200;
/// Readings closer than this are one; further apart than that say nothing of a single hour.
const APART_MIN_S: i64 = 30 * 60;
const APART_MAX_S: i64 = 90 * 60;
/// One hour in so many is not warmed, for comparison.
const CONTROL_EVERY: i64 = 6;
/// Warmed hours whose gain decides.
const DECIDING: usize = 6;
/// Warmed hours without gain are tried again once in so many.
const TRIAL_EVERY: i64 = 24;
const MONDAY: i64 = 3;

/// The hour of the week, from Monday 0 h, of a local time (Unix time plus the zone's offset).
pub fn hour_of_week(local_s: i64) -> i64 {
    let hours = local_s.div_euclid(3_600);
    (hours + 24 * MONDAY).rem_euclid(HOURS)
}

/// The number of the week of a local time.
pub fn week(local_s: i64) -> i64 {
    (local_s.div_euclid(3_600) + 24 * MONDAY).div_euclid(HOURS)
}

/// The beginning of the local hour after the one of a local time.
pub fn next_hour(local_s: i64) -> i64 {
    (local_s.div_euclid(3_600) + 1) * 3_600
}

/// What a reading can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Too soon after the last one: the next one is compared with that.
    Wait,
    /// It tells what was read around this time.
    Of(i64),
    /// Only to compare the next one with: there is none before, or too long ago.
    First,
}

/// What a reading at `now` after one at `last` is for.
pub fn reading(last_s: Option<i64>, now_s: i64) -> Reading {
    match last_s.map(|last| (last, now_s - last)) {
        Some((_, apart)) if (0..APART_MIN_S).contains(&apart) => Reading::Wait,
        Some((last, apart)) if (APART_MIN_S..=APART_MAX_S).contains(&apart) => Reading::Of(last + apart / 2),
        _ => Reading::First,
    }
}

/// Blocks of a relation that an hour touches, and has to read from disk. Touching one twice counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Touched.
    pub touched: f64,
    /// Read.
    pub reads: f64,
}

/// What is known of an hour after another week.
pub fn learn(before: Option<Use>, observed: Use) -> Option<Use> {
    let mix = |old: f64, new: f64| old + LATEST * (new - old);
    let known = before.map_or(observed, |old| Use {
        touched: mix(old.touched, observed.touched),
        reads: mix(old.reads, observed.reads),
    });
    (known.touched >= TOUCHED_MIN).then_some(known)
}

/// How many different blocks `touched` accesses to a relation of `blocks` can concern, at most.
fn distinct_blocks(touched: f64, blocks: u32) -> u32 {
    touched.ceil().clamp(0.0, f64::from(blocks)) as u32
}

/// A relation that an hour is expected to use.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Blocks it has.
    pub blocks: u32,
    /// Accesses expected.
    pub touched: f64,
    /// It is an index.
    pub is_index: bool,
}

/// A part to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Place in the list.
    pub at: usize,
    /// First block.
    pub from: u32,
    /// How many.
    pub count: u32,
}

/// What to load within so many blocks: what is touched most often for its size comes first, indexes before tables. Of what
/// does not fit or is not used whole the end is loaded: new rows are there, and it is new rows that are read most.
pub fn plan(wanted: &[Wanted], budget_blocks: u64) -> Vec<Part> {
    let mut order: Vec<usize> = (0..wanted.len()).filter(|at| wanted[*at].blocks > 0).collect();
    let density = |at: usize| wanted[at].touched / f64::from(wanted[at].blocks);
    order.sort_by(|a, b| {
        let first = wanted[*b].is_index.cmp(&wanted[*a].is_index);
        first.then(density(*b).total_cmp(&density(*a))).then(a.cmp(b))
    });
    let mut left = budget_blocks;
    let mut parts = Vec::new();
    for at in order {
        let one = &wanted[at];
        let count = u64::from(distinct_blocks(one.touched, one.blocks)).min(left) as u32;
        if count > 0 {
            parts.push(Part { at, from: one.blocks - count, count });
            left -= u64::from(count);
        }
    }
    parts
}

/// An hour that has been measured: what the relations of its plan touched and read.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// It was warmed; else held out.
    pub warmed: bool,
    /// What happened.
    pub used: Use,
}

/// What to do about an hour.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Load.
    Warm,
    /// Hold it out for comparison.
    Control,
    /// Loading has won nothing.
    Stop(String),
}

/// What warming has won lately: percent of the reads that hours without it would have had to do. Hours are given latest
/// first. None until there is something to compare.
pub fn won_pct(hours: &[Measured]) -> Option<f64> {
    let sum = |warmed: bool, most: usize| {
        let used = hours.iter().filter(|hour| hour.warmed == warmed && hour.used.touched >= TOUCHED_MIN).take(most);
        used.fold((0usize, Use::default()), |(count, sum), hour| {
            let sum = Use { touched: sum.touched + hour.used.touched, reads: sum.reads + hour.used.reads };
            (count + 1, sum)
        })
    };
    let ((warm_hours, warm), (control_hours, control)) = (sum(true, DECIDING), sum(false, usize::MAX));
    if warm_hours < DECIDING || control_hours == 0 {
        return None;
    }
    let expected = control.reads / control.touched * warm.touched;
    if expected < 1.0 {
        // Everything is in the cache without our help.
        return Some(0.0);
    }
    Some((100.0 * (1.0 - warm.reads / expected)).clamp(-100.0, 100.0))
}

/// Decides about the hour `hour` of week `week`; `runs` counts the runs of the job.
pub fn decide(hours: &[Measured], min_gain_pct: f64, week: i64, hour: i64, runs: i64) -> Decision {
    match won_pct(hours) {
        Some(won) if won < min_gain_pct && runs.rem_euclid(TRIAL_EVERY) != 0 => Decision::Stop(format!(
            "the last {DECIDING} warmed hours won {won:.0} % of the reads, and {min_gain_pct:.0} % are wanted; tried again \
             every {TRIAL_EVERY} runs"
        )),
        // A trial is no control.
        Some(won) if won < min_gain_pct => Decision::Warm,
        _ if !hours.iter().any(|hour| !hour.warmed) || is_control(week, hour) => Decision::Control,
        _ => Decision::Warm,
    }
}

/// Whether an hour is held out: each hour of the week in turn.
fn is_control(week: i64, hour: i64) -> bool {
    (week + hour).rem_euclid(CONTROL_EVERY) == 0
}

/// A statement is run ahead of an hour that sees at least half as many calls of it as its busiest one; one without any
/// known call, ahead of every hour.
pub fn is_peak(calls_of_hour: f64, calls_of_busiest: f64) -> bool {
    calls_of_busiest <= 0.0 || calls_of_hour >= calls_of_busiest / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hour(warmed: bool, touched: f64, reads: f64) -> Measured {
        Measured { warmed, used: Use { touched, reads } }
    }

    #[test]
    fn hours_of_the_week() {
        // 2026-11-23 was a Monday.
        let monday = 1_795_392_000;
        assert_eq!((hour_of_week(monday), hour_of_week(monday - 1), hour_of_week(monday + 3_600)), (0, 167, 1));
        assert_eq!(week(monday), week(monday - 1) + 1);
        assert_eq!(next_hour(monday), monday + 3_600);
        assert_eq!(next_hour(monday + 3_000), monday + 3_600);
    }

    #[test]
    fn readings_belong_to_the_middle() {
        assert_eq!(reading(None, 5), Reading::First);
        assert_eq!(reading(Some(0), 600), Reading::Wait);
        assert_eq!(reading(Some(0), 3_600), Reading::Of(1_800));
        assert_eq!(reading(Some(0), 7_200), Reading::First);
        // The clock was set back.
        assert_eq!(reading(Some(100), 0), Reading::First);
    }

    #[test]
    fn weeks_are_forgotten_by_and_by() {
        let mut known = learn(None, Use { touched: 1000.0, reads: 10.0 });
        assert_eq!(known, Some(Use { touched: 1000.0, reads: 10.0 }));
        let mut weeks = 0;
        while let Some(before) = known {
            known = learn(Some(before), Use::default());
            weeks += 1;
        }
        assert!((10..20).contains(&weeks), "{weeks}");
    }

    #[test]
    fn whole_if_it_fits_else_its_end() {
        let wanted = [
            Wanted { blocks: 100, touched: 500.0, is_index: false },
            Wanted { blocks: 10, touched: 20.0, is_index: true },
            Wanted { blocks: 1000, touched: 50.0, is_index: false },
            Wanted { blocks: 0, touched: 50.0, is_index: false },
        ];
        let parts = [Part { at: 1, from: 0, count: 10 }, Part { at: 0, from: 0, count: 100 }];
        assert_eq!(plan(&wanted, 130), [parts[0], parts[1], Part { at: 2, from: 980, count: 20 }]);
        assert_eq!(plan(&wanted, 1_000)[2], Part { at: 2, from: 950, count: 50 });
        assert_eq!(plan(&wanted, 0), []);
    }

    #[test]
    fn gain_is_measured_against_hours_held_out() {
        let control = hour(false, 1000.0, 500.0);
        let won = |reads: f64| {
            let mut hours = vec![hour(true, 1000.0, reads); DECIDING];
            hours.push(control);
            won_pct(&hours)
        };
        assert_eq!(won(0.0), Some(100.0));
        assert_eq!(won(250.0), Some(50.0));
        assert_eq!(won(500.0), Some(0.0));
        assert_eq!(won(1000.0), Some(-100.0));
        assert_eq!(won_pct(&[control; 20]), None);
        assert_eq!(won_pct(&vec![hour(true, 1000.0, 0.0); 20]), None);
        // Nothing is read from disk without us.
        let mut cached = vec![hour(true, 1000.0, 0.0); DECIDING];
        cached.push(hour(false, 1000.0, 0.0));
        assert_eq!(won_pct(&cached), Some(0.0));
    }

    #[test]
    fn stops_without_gain_tries_now_and_then_and_comes_back() {
        let mut hours = vec![hour(false, 1000.0, 100.0)];
        assert_eq!(decide(&[], 10.0, 0, 1, 1), Decision::Control);
        assert_eq!(decide(&hours, 10.0, 0, 1, 1), Decision::Warm);
        assert_eq!(decide(&hours, 10.0, 0, 6, 1), Decision::Control);
        hours.splice(0..0, vec![hour(true, 1000.0, 100.0); DECIDING]);
        assert!(matches!(decide(&hours, 10.0, 0, 1, 1), Decision::Stop(_)));
        assert_eq!(decide(&hours, 10.0, 0, 1, TRIAL_EVERY), Decision::Warm);
        // Trials that win bring it back.
        hours.insert(0, hour(true, 1000.0, 0.0));
        assert_eq!(decide(&hours, 10.0, 0, 1, 1), Decision::Warm);
    }

    #[test]
    fn statements_run_ahead_of_their_peak() {
        assert!(is_peak(0.0, 0.0) && is_peak(50.0, 100.0));
        assert!(!is_peak(49.0, 100.0));
    }

    proptest! {
        #[test]
        fn never_loads_more_than_it_may_nor_beyond_the_end(
            wanted in proptest::collection::vec((0u32..100_000, 0.0f64..1e9, any::<bool>()), 0..50), budget in 0u64..1_000_000
        ) {
            let wanted: Vec<Wanted> =
                wanted.into_iter().map(|(blocks, touched, is_index)| Wanted { blocks, touched, is_index }).collect();
            let parts = plan(&wanted, budget);
            prop_assert!(parts.iter().map(|part| u64::from(part.count)).sum::<u64>() <= budget);
            for part in &parts {
                prop_assert!(part.count > 0 && part.from + part.count == wanted[part.at].blocks);
            }
        }

        #[test]
        fn every_hour_of_the_week_is_held_out_in_turn(hour in 0i64..HOURS) {
            let held_out = (0..CONTROL_EVERY).filter(|week| is_control(*week, hour)).count();
            prop_assert_eq!(held_out, 1);
        }

        #[test]
        fn gain_is_a_percentage(hours in proptest::collection::vec((any::<bool>(), 0.0f64..1e12, 0.0f64..1e12), 0..40)) {
            let hours: Vec<Measured> = hours.into_iter().map(|(warmed, touched, reads)| hour(warmed, touched, reads)).collect();
            if let Some(won) = won_pct(&hours) {
                prop_assert!((-100.0..=100.0).contains(&won));
            }
        }
    }
}
