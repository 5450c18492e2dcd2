//! Whether an alert fires: a state machine over samples of one metric, with hysteresis, and since when. Pure: the
//! caller keeps the state between samples and gives the time.
//!
//! An alert fires after `fire_after` samples in a row beyond the threshold, and has been firing since the first of
//! them. It is over after `clear_after` samples in a row that are better than the threshold by a margin: a value that
//! trembles at the threshold makes one change, not many. Without a value for `stale_us` nothing is known, which is
//! neither good nor bad: when values come back, an alert that was firing goes on as if it had fired all the time,
//! unless it is over.

/// When to fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Above the threshold is bad.
    Above,
    /// Below the threshold is bad.
    Below,
}

impl Comparison {
    /// From the operator that `perf.alert_threshold` has. None for any other text.
    pub fn parse(operator: &str) -> Option<Comparison> {
        match operator {
            ">" => Some(Comparison::Above),
            "<" => Some(Comparison::Below),
            _ => None,
        }
    }
}

/// The worst of several values, NaN left out: which one, and the value.
pub fn worst(comparison: Comparison, values: impl IntoIterator<Item = Option<f64>>) -> Option<(usize, f64)> {
    let known = values.into_iter().enumerate().filter_map(|(n, v)| Some((n, v.filter(|v| v.is_finite())?)));
    known.reduce(|worst, next| {
        let worse = match comparison {
            Comparison::Above => next.1 > worst.1,
            Comparison::Below => next.1 < worst.1,
        };
        if worse {
            next
        } else {
            worst
        }
    })
}

/// A threshold and how patient it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Which side is bad.
    pub comparison: Comparison,
    /// Beyond it (not at it) is bad.
    pub threshold: f64,
    /// Samples in a row before it fires; 0 is taken for 1.
    pub fire_after: u32,
    /// Samples in a row before it is over; 0 is taken for 1.
    pub clear_after: u32,
    /// How much better than the threshold a value must be to end it, as a part of the threshold: 0.1 ends an alert on
    /// 80 at 72. Below 0 or not a number is taken for 0.
    pub margin: f64,
    /// The best value there can be: 100 for a hit rate in percent. The margin is never more than half of the way there,
    /// or an alert on 98 % would never be over.
    pub best: Option<f64>,
    /// A value older than this says nothing, in microseconds.
    pub stale_us: i64,
}

impl Rule {
    /// Three samples to fire, three to end, a tenth of the threshold, five minutes.
    pub fn new(comparison: Comparison, threshold: f64, best: Option<f64>) -> Rule {
        Rule { comparison, threshold, fire_after: 3, clear_after: 3, margin: 0.1, best, stale_us: 300_000_000 }
    }

    /// Whether a value is beyond the threshold.
    pub fn bad(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.threshold,
            Comparison::Below => value < self.threshold,
        }
    }

    /// The value at which an alert is over.
    pub fn clear_at(&self) -> f64 {
        let part = if self.margin > 0.0 { self.margin.min(1.0) } else { 0.0 };
        let room = self.best.map_or(f64::INFINITY, |b| (b - self.threshold).abs() / 2.0);
        let margin = (part * self.threshold.abs()).min(room);
        match self.comparison {
            Comparison::Above => self.threshold - margin,
            Comparison::Below => self.threshold + margin,
        }
    }

    fn good(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value <= self.clear_at(),
            Comparison::Below => value >= self.clear_at(),
        }
    }
}

/// What users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The threshold is kept.
    Ok,
    /// It is not.
    Firing,
    /// No value, or none for long.
    NoData,
}

impl Status {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Firing => "firing",
            Status::NoData => "no_data",
        }
    }
}

/// A change of the status, to be told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: Status,
    /// What it is.
    pub to: Status,
    /// Since when it is so.
    pub since_us: i64,
}

/// What is kept of an alert between samples. All fields may be stored and read back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// What users see.
    pub status: Status,
    /// Since when. None before the first sample.
    pub since_us: Option<i64>,
    /// The last value.
    pub value: Option<f64>,
    /// When it was taken.
    pub value_at_us: Option<i64>,
    /// Samples in a row that speak for a change: bad ones while it does not fire, good ones while it does.
    pub in_a_row: u32,
    /// When the first of them was taken.
    pub row_since_us: Option<i64>,
    /// While nothing is known: since when it had been firing before.
    pub fired_since_us: Option<i64>,
}

impl Default for State {
    fn default() -> Self {
        State {
            status: Status::NoData,
            since_us: None,
            value: None,
            value_at_us: None,
            in_a_row: 0,
            row_since_us: None,
            fired_since_us: None,
        }
    }
}

impl State {
    /// Takes a sample; None, or no finite value, says that there was none. Returns the change it makes, if any.
    pub fn observe(&mut self, rule: &Rule, at_us: i64, value: Option<f64>) -> Option<Change> {
        let Some(value) = value.filter(|v| v.is_finite()) else { return self.pass(rule, at_us) };
        // A gap that nobody saw while it lasted is a gap all the same; it breaks a row of samples.
        let gap = self.pass(rule, at_us);
        (self.value, self.value_at_us) = (Some(value), Some(at_us));
        let change = if self.status == Status::NoData { self.resume(rule, at_us, value) } else { None };
        let change = change.or_else(|| self.count(rule, at_us, value));
        match (gap, change) {
            // Two changes at once are one: what was before the gap, and what is now.
            (Some(gap), Some(change)) => (gap.from != change.to).then_some(Change { from: gap.from, ..change }),
            (gap, change) => change.or(gap),
        }
    }

    /// The threshold has been set anew. An alert that fires goes on firing only where its last value is beyond the new
    /// one as well, and every other begins again: samples taken under the old threshold do not speak for the new one.
    pub fn rule_changed(&mut self, rule: &Rule) {
        let stays = self.status == Status::Firing && self.value.is_some_and(|v| rule.bad(v));
        *self = if stays { State { in_a_row: 0, row_since_us: None, ..*self } } else { State::default() };
    }

    /// Whether a change from this state to status `to` is news: it begins, ends or interrupts firing. That nothing was
    /// measured for a while, and then something good, is not.
    pub fn is_news(&self, to: Status) -> bool {
        self.status != to && (self.status == Status::Firing || to == Status::Firing || self.fired_since_us.is_some())
    }

    /// Time has passed without a sample.
    pub fn pass(&mut self, rule: &Rule, now_us: i64) -> Option<Change> {
        // A value from far ahead is of a clock that has been set right since: it says as little as an old one.
        let age = self.value_at_us.map(|at| now_us.saturating_sub(at));
        if self.status == Status::NoData
            || age.is_some_and(|a| (rule.stale_us.saturating_neg()..=rule.stale_us).contains(&a))
        {
            // The first look at an alert without any value: it has been unknown since then.
            self.since_us.get_or_insert(now_us);
            return None;
        }
        let fired = self.since_us.filter(|_| self.status == Status::Firing);
        let change = self.become_status(Status::NoData, now_us);
        self.fired_since_us = fired;
        Some(change)
    }

    /// The first value after none.
    fn resume(&mut self, rule: &Rule, at_us: i64, value: f64) -> Option<Change> {
        match self.fired_since_us {
            Some(since) if !rule.good(value) => Some(self.become_status(Status::Firing, since)),
            _ if rule.bad(value) && rule.fire_after > 1 => {
                // Not known to be good either, but one bad sample does not fire.
                let change = self.become_status(Status::Ok, at_us);
                self.count(rule, at_us, value);
                Some(change)
            }
            _ if rule.bad(value) => Some(self.become_status(Status::Firing, at_us)),
            _ => Some(self.become_status(Status::Ok, at_us)),
        }
    }

    fn count(&mut self, rule: &Rule, at_us: i64, value: f64) -> Option<Change> {
        let (speaks, needed, to) = match self.status {
            Status::Firing => (rule.good(value), rule.clear_after, Status::Ok),
            _ => (rule.bad(value), rule.fire_after, Status::Firing),
        };
        if !speaks {
            (self.in_a_row, self.row_since_us) = (0, None);
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let first = *self.row_since_us.get_or_insert(at_us);
        (self.in_a_row >= needed.max(1)).then(|| self.become_status(to, first))
    }

    fn become_status(&mut self, to: Status, since_us: i64) -> Change {
        let change = Change { from: self.status, to, since_us };
        *self = State {
            status: to,
            since_us: Some(since_us),
            in_a_row: 0,
            row_since_us: None,
            fired_since_us: None,
            ..*self
        };
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000_000;

    fn above(threshold: f64) -> Rule {
        Rule { fire_after: 2, clear_after: 2, ..Rule::new(Comparison::Above, threshold, None) }
    }

    /// Feeds a value a minute, and returns the changes as (minute, status, since in minutes).
    fn run(rule: &Rule, values: &[Option<f64>]) -> Vec<(i64, Status, i64)> {
        let mut state = State::default();
        let told = |(minute, value): (usize, &Option<f64>)| {
            let minute = minute as i64;
            let change = state.observe(rule, minute * MINUTE, *value)?;
            Some((minute, change.to, change.since_us / MINUTE))
        };
        values.iter().enumerate().filter_map(told).collect()
    }

    #[test]
    fn it_fires_since_the_first_of_enough_and_clears_with_a_margin() {
        let values = [50.0, 90.0, 50.0, 90.0, 85.0, 79.0, 81.0, 71.0, 79.0, 72.0, 70.0, 90.0].map(Some);
        use Status::*;
        assert_eq!(run(&above(80.0), &values), [(0, Ok, 0), (4, Firing, 3), (10, Ok, 9)]);
    }

    #[test]
    fn at_the_threshold_is_not_beyond_it() {
        assert_eq!(run(&above(80.0), &[Some(80.0); 5]).len(), 1);
        let below = Rule { comparison: Comparison::Below, ..above(80.0) };
        assert_eq!(run(&below, &[Some(80.0); 5]), [(0, Status::Ok, 0)]);
        assert_eq!(run(&below, &[Some(79.9); 5]), [(0, Status::Ok, 0), (1, Status::Firing, 0)]);
    }

    #[test]
    fn a_rate_near_its_best_value_can_be_over() {
        let rule = Rule::new(Comparison::Below, 98.0, Some(100.0));
        assert_eq!(rule.clear_at(), 99.0);
        assert_eq!(Rule { best: None, ..rule }.clear_at(), 98.0 + 9.8);
        assert_eq!(Rule::new(Comparison::Above, 0.0, None).clear_at(), 0.0);
        assert_eq!(Rule::new(Comparison::Above, 5.0, None).clear_at(), 4.5);
        assert_eq!(Rule { margin: f64::NAN, ..rule }.clear_at(), 98.0);
    }

    #[test]
    fn a_gap_is_no_data_and_remembers_what_fired() {
        let mut values = vec![Some(50.0), Some(90.0), Some(90.0)];
        values.extend([None; 8]);
        use Status::*;
        let mut back = values.clone();
        back.extend([Some(78.0), Some(90.0)]);
        assert_eq!(run(&above(80.0), &back), [(0, Ok, 0), (2, Firing, 1), (8, NoData, 8), (11, Firing, 1)]);
        values.extend([Some(10.0), Some(90.0)]);
        assert_eq!(run(&above(80.0), &values), [(0, Ok, 0), (2, Firing, 1), (8, NoData, 8), (11, Ok, 11)]);
        // Nobody looked during the gap: no change if it is as it was.
        let mut state = State::default();
        state.observe(&above(80.0), 0, Some(1.0));
        assert_eq!(state.observe(&above(80.0), 60 * MINUTE, Some(1.0)), None);
        assert_eq!(run(&above(80.0), &[None, None, Some(f64::NAN)]), []);
    }

    #[test]
    fn a_new_threshold_counts_from_its_first_sample() {
        let fires = |threshold| {
            let mut state = State { status: Status::Firing, since_us: Some(7), value: Some(90.0), ..State::default() };
            state.rule_changed(&above(threshold));
            (state.status, state.since_us)
        };
        assert_eq!(fires(85.0), (Status::Firing, Some(7)));
        assert_eq!(fires(95.0), (Status::NoData, None));
        let mut state = State { status: Status::Ok, in_a_row: 1, value: Some(90.0), ..State::default() };
        state.rule_changed(&above(85.0));
        assert_eq!(state, State::default());
    }

    #[test]
    fn what_does_not_touch_firing_is_no_news() {
        use Status::*;
        let at = |status, fired_since_us| State { status, fired_since_us, ..State::default() };
        assert!(at(Ok, None).is_news(Firing) && at(Firing, None).is_news(Ok) && at(Firing, None).is_news(NoData));
        assert!(at(NoData, Some(1)).is_news(Ok) && at(NoData, Some(1)).is_news(Firing));
        assert!(!at(NoData, None).is_news(Ok) && !at(Ok, None).is_news(NoData) && !at(Firing, None).is_news(Firing));
    }

    #[test]
    fn the_worst_is_the_highest_or_the_lowest() {
        let values = [None, Some(2.0), Some(f64::NAN), Some(5.0), Some(1.0), Some(5.0)];
        assert_eq!(worst(Comparison::Above, values), Some((3, 5.0)));
        assert_eq!(worst(Comparison::Below, values), Some((4, 1.0)));
        assert_eq!(worst(Comparison::Above, [None, Some(f64::NAN)]), None);
    }

    #[test]
    fn operators_are_read() {
        assert_eq!(Comparison::parse(">"), Some(Comparison::Above));
        assert_eq!(Comparison::parse("<"), Some(Comparison::Below));
        assert_eq!(Comparison::parse(">="), None);
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        (any::<bool>(), -100.0f64..100.0, 0u32..5, 0u32..5, -0.5f64..1.5).prop_map(
            |(above, threshold, fire_after, clear_after, margin)| Rule {
                comparison: if above { Comparison::Above } else { Comparison::Below },
                threshold,
                fire_after,
                clear_after,
                margin,
                best: None,
                stale_us: 5 * MINUTE,
            },
        )
    }

    proptest! {
        /// What is seen is what the last samples say, and changes are told exactly when it changes.
        #[test]
        fn a_status_is_earned_and_told_once(
            rule in any_rule(),
            samples in proptest::collection::vec(
                (0i64..4 * MINUTE, proptest::option::weighted(0.9, -200.0f64..200.0)), 1..80)
        ) {
            let (mut state, mut told, mut now) = (State::default(), Status::NoData, 0i64);
            let mut seen: Vec<f64> = Vec::new();
            let mut last = None;
            for (passed, value) in samples {
                now += passed;
                if value.is_some() && last.is_some_and(|l| now - l > rule.stale_us) {
                    seen.clear();
                }
                if let Some(value) = value {
                    seen.push(value);
                    last = Some(now);
                }
                let before = state.status;
                let change = state.observe(&rule, now, value);
                prop_assert_eq!(change.is_some(), before != state.status);
                if let Some(change) = change {
                    prop_assert_eq!((change.from, change.to), (told, state.status));
                    prop_assert!(change.since_us <= now && Some(change.since_us) == state.since_us);
                    told = change.to;
                    let row = |n: u32, speaks: &dyn Fn(f64) -> bool| {
                        seen.len() >= n.max(1) as usize && seen.iter().rev().take(n.max(1) as usize).all(|v| speaks(*v))
                    };
                    match (before, change.to) {
                        (Status::Ok, Status::Firing) => prop_assert!(row(rule.fire_after, &|v| rule.bad(v))),
                        (Status::Firing, Status::Ok) => {
                            prop_assert!(row(rule.clear_after, &|v| rule.good(v)) || seen.len() == 1)
                        }
                        (_, Status::NoData) => prop_assert!(value.is_none()),
                        _ => {}
                    }
                }
            }
        }

        /// Between the level that ends an alert and the threshold nothing changes.
        #[test]
        fn trembling_at_the_threshold_changes_nothing(rule in any_rule(),
                                                      parts in proptest::collection::vec(0.0f64..1.0, 1..60),
                                                      firing in any::<bool>()) {
            let status = if firing { Status::Firing } else { Status::Ok };
            let mut state = State { status, since_us: Some(0), value_at_us: Some(0), ..State::default() };
            let level = |part: f64| rule.threshold + (rule.clear_at() - rule.threshold) * part * 0.999;
            prop_assume!(rule.clear_at() != rule.threshold);
            for (n, part) in parts.into_iter().enumerate() {
                prop_assert_eq!(state.observe(&rule, n as i64 * MINUTE, Some(level(part))), None);
            }
        }

        #[test]
        fn any_numbers_are_taken(threshold in any::<f64>(), margin in any::<f64>(),
                                 best in proptest::option::of(any::<f64>()),
                                 stale_us in any::<i64>(),
                                 samples in proptest::collection::vec((any::<i64>(), any::<f64>()), 0..20)) {
            let rule = Rule { margin, stale_us, ..Rule::new(Comparison::Above, threshold, best) };
            let mut state = State::default();
            for (at, value) in samples {
                state.observe(&rule, at, Some(value));
            }
        }
    }
}
