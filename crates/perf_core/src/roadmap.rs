//! What becomes of a task of the roadmap, by what was found of its parts: an index task has its tables, a cache task its
//! caches. Plain values, no clock, no locks; called by the advisor that reads the database.

/// How far a task, or a part of one, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is there.
    Done,
    /// It has begun, or some of it is there.
    InProgress,
    /// It can be done now.
    Ready,
    /// Something is in the way.
    Blocked,
    /// It would not gain anything.
    NotNeeded,
    /// What it is about is not in this database.
    NotApplicable,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 6] =
        [Status::Done, Status::InProgress, Status::Ready, Status::Blocked, Status::NotNeeded, Status::NotApplicable];

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::InProgress => "in_progress",
            Status::Ready => "ready",
            Status::Blocked => "blocked",
            Status::NotNeeded => "not_needed",
            Status::NotApplicable => "not_applicable",
        }
    }

    /// Whether there is something left to do.
    pub fn is_left(self) -> bool {
        matches!(self, Status::InProgress | Status::Ready | Status::Blocked)
    }
}

/// How a gain is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// From what the server has counted.
    Measured,
    /// From what its planner, or a model of the captured workload, estimates.
    WhatIf,
}

impl Known {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Known::Measured => "measured",
            Known::WhatIf => "what_if",
        }
    }
}

/// A part of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// How far it is.
    pub status: Status,
    /// Share of the workload's time that it would save, 0 to 100, where it is left to do and that is known.
    pub gain: Option<(f64, Known)>,
    /// What does it.
    pub ddl: Option<String>,
    /// Why it has this status: part of a sentence.
    pub reason: String,
}

impl Part {
    /// One without a gain and without anything to run.
    pub fn new(status: Status, reason: impl Into<String>) -> Part {
        Part { status, gain: None, ddl: None, reason: reason.into() }
    }

    /// The same with what does it.
    #[must_use]
    pub fn with_ddl(self, ddl: impl Into<String>) -> Part {
        Part { ddl: Some(ddl.into()), ..self }
    }
}

/// All parts together.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// How far the task is.
    pub status: Status,
    /// What is left would save this share, 0 to 100; None: of nothing that is left that is known.
    pub gain: Option<(f64, Known)>,
    /// Parts that are left.
    pub left: usize,
    /// Those of them whose gain is not known.
    pub unknown: usize,
}

/// Puts the parts together. A task without parts is not applicable.
///
/// What is not there, and then what is not needed, counts only where there is nothing else. What has begun, and what is
/// done in part, is in progress, unless all that is left of it is blocked. The gains of parts are shares of one workload with
/// nothing in common, as the advisors give them, so they add up; never to more than all of it.
pub fn whole(parts: &[Part]) -> Whole {
    let count = |status: Status| parts.iter().filter(|part| part.status == status).count();
    let left: Vec<&Part> = parts.iter().filter(|part| part.status.is_left()).collect();
    let status = match (left.is_empty(), count(Status::Done) > 0) {
        (true, true) => Status::Done,
        (true, false) if count(Status::NotNeeded) > 0 => Status::NotNeeded,
        (true, false) => Status::NotApplicable,
        (false, _) if count(Status::Blocked) == left.len() => Status::Blocked,
        (false, done) if done || count(Status::InProgress) > 0 => Status::InProgress,
        (false, _) => Status::Ready,
    };
    let known: Vec<(f64, Known)> =
        left.iter().filter_map(|part| part.gain).filter(|(gain, _)| gain.is_finite()).collect();
    let sum = known.iter().map(|(gain, _)| gain.max(0.0)).sum::<f64>().min(100.0);
    let how = known.iter().map(|(_, how)| *how).max();
    Whole { status, gain: how.map(|how| (sum, how)), left: left.len(), unknown: left.len() - known.len() }
}

/// What changes that were made one after the other have gained together, 0 to 100, each measured in per cent of what the
/// workload took before it; less than 0 is a loss. None where nothing was measured.
pub fn after_each_other(achieved: &[f64]) -> Option<f64> {
    let mut remaining: Option<f64> = None;
    for pct in achieved.iter().filter(|pct| pct.is_finite()) {
        remaining = Some(remaining.unwrap_or(1.0) * (1.0 - pct.min(100.0) / 100.0));
    }
    remaining.map(|share| 100.0 * (1.0 - share)).filter(|pct| pct.is_finite())
}

/// `30-40 %`, `40 %`; None where the policy says nothing.
pub fn range(low: Option<f64>, high: Option<f64>) -> Option<String> {
    match (low, high) {
        (Some(low), Some(high)) if low != high => Some(format!("{low}-{high} %")),
        (Some(pct), _) | (None, Some(pct)) => Some(format!("{pct} %")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(status: Status) -> Part {
        Part::new(status, "")
    }

    fn status_of(all: &[Status]) -> Status {
        whole(&all.iter().map(|status| part(*status)).collect::<Vec<_>>()).status
    }

    #[test]
    fn one_part_speaks_for_the_task() {
        for status in Status::ALL {
            assert_eq!(status_of(&[status]), status);
            assert_eq!(status_of(&[status, Status::NotApplicable]), status);
        }
        assert_eq!(status_of(&[]), Status::NotApplicable);
    }

    #[test]
    fn what_is_not_needed_does_not_hold_up_the_rest() {
        use Status::{Blocked, Done, InProgress, NotApplicable, NotNeeded, Ready};
        for status in [Done, InProgress, Ready, Blocked] {
            assert_eq!(status_of(&[NotNeeded, status, NotApplicable]), status);
        }
        assert_eq!(status_of(&[NotNeeded, NotApplicable]), NotNeeded);
    }

    #[test]
    fn done_in_part_is_in_progress() {
        use Status::{Blocked, Done, InProgress, Ready};
        assert_eq!(status_of(&[Done, Ready]), InProgress);
        assert_eq!(status_of(&[Done, Ready, Blocked]), InProgress);
        assert_eq!(status_of(&[Ready, Blocked]), Ready);
        assert_eq!(status_of(&[InProgress, Blocked]), InProgress);
        // Nothing of what is left can be done.
        assert_eq!(status_of(&[Done, Blocked]), Blocked);
    }

    #[test]
    fn only_what_is_left_has_a_gain() {
        let with = |status, gain| Part { gain: Some((gain, Known::WhatIf)), ..part(status) };
        let found = whole(&[with(Status::Done, 30.0), with(Status::Ready, 12.5), part(Status::Ready)]);
        assert_eq!((found.gain, found.left, found.unknown), (Some((12.5, Known::WhatIf)), 2, 1));
        assert_eq!(whole(&[with(Status::Done, 30.0)]).gain, None);
        assert_eq!(whole(&[part(Status::Ready)]).gain, None);
        let most = whole(&[with(Status::Ready, 80.0), with(Status::Ready, 80.0)]);
        assert_eq!(most.gain, Some((100.0, Known::WhatIf)));
        assert_eq!(whole(&[with(Status::Ready, f64::NAN)]).gain, None);
    }

    #[test]
    fn the_weaker_way_of_knowing_is_told() {
        let with = |how| Part { gain: Some((1.0, how)), ..part(Status::Ready) };
        assert_eq!(whole(&[with(Known::Measured), with(Known::WhatIf)]).gain, Some((2.0, Known::WhatIf)));
        assert_eq!(whole(&[with(Known::Measured)]).gain, Some((1.0, Known::Measured)));
    }

    #[test]
    fn changes_one_after_the_other() {
        assert_eq!(after_each_other(&[]), None);
        assert_eq!(after_each_other(&[f64::NAN]), None);
        assert_eq!(after_each_other(&[50.0, 50.0]), Some(75.0));
        assert_eq!(after_each_other(&[0.0]), Some(0.0));
        assert_eq!(after_each_other(&[-100.0]), Some(-100.0));
        // Half of the time, then twice that.
        assert_eq!(after_each_other(&[50.0, -100.0]), Some(0.0));
    }

    #[test]
    fn ranges_of_the_policy() {
        assert_eq!(range(Some(30.0), Some(40.0)).as_deref(), Some("30-40 %"));
        assert_eq!(range(Some(40.0), Some(40.0)).as_deref(), Some("40 %"));
        assert_eq!(range(None, Some(2.5)).as_deref(), Some("2.5 %"));
        assert_eq!(range(None, None), None);
    }

    proptest! {
        #[test]
        fn bounded_and_in_any_order(found in prop::collection::vec((0..6_usize, prop::option::of(-10.0..200.0_f64)), 0..12)) {
            let mut parts: Vec<Part> = found
                .iter()
                .map(|(at, gain)| Part { gain: gain.map(|g| (g, Known::WhatIf)), ..part(Status::ALL[*at]) })
                .collect();
            let one = whole(&parts);
            parts.reverse();
            let other = whole(&parts);
            prop_assert_eq!((one.status, one.left, one.unknown), (other.status, other.left, other.unknown));
            prop_assert!(one.unknown <= one.left);
            prop_assert_eq!(one.left > 0, one.status.is_left());
            if let Some((gain, _)) = one.gain {
                prop_assert!((0.0..=100.0).contains(&gain));
                prop_assert!(one.status.is_left());
            }
        }

        #[test]
        fn gains_never_exceed_all(achieved in prop::collection::vec(-500.0..500.0_f64, 0..8)) {
            let found = after_each_other(&achieved);
            prop_assert_eq!(found.is_none(), achieved.is_empty());
            prop_assert!(found.is_none_or(|pct| pct <= 100.0));
        }
    }
}
