//! Which indexes index maintenance rebuilds or drops, and whether there is time and room for it. Plain facts in, a
//! judgement with its reason out; what a fresh build would take is estimated by `size`.

/// A rebuild is expected to get through this many bytes of table and index in a second until one was measured: slow enough
/// for most disks, so that the first one does not overrun its window.
pub const BYTES_PER_S: f64 = 20.0 * 1024.0 * 1024.0;
/// What is measured is believed down to a tenth of that: a rebuild that waited for others says little of the next one.
const BYTES_PER_S_MIN: f64 = BYTES_PER_S / 10.0;
/// A rebuild of less says nothing of how fast one is.
const MEASURED_BYTES_MIN: f64 = 64.0 * 1024.0 * 1024.0;
/// Free space that a rebuild must find, in sizes of the index: the new index, and as much again for its sort.
const FREE_SHARE: f64 = 2.0;
/// Longest name of a relation, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// An index is rebuilt when this share of it is bloat, in percent.
    pub max_bloat_pct: f64,
    /// Smaller indexes are left alone.
    pub min_size_bytes: f64,
    /// Must stay free on the disk.
    pub min_free_bytes: f64,
    /// No rebuild is begun that is not expected to end within this.
    pub window_ms: f64,
}

/// What became of the index's last build.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Queries use it.
    Valid,
    /// What a concurrent rebuild of this other index left behind.
    Leftover(String),
    /// Somebody may be building or dropping it now.
    Building,
    /// Not valid for another reason.
    Invalid,
}

/// An index.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Size.
    pub size_bytes: f64,
    /// Estimated size of a fresh build; None when it cannot be estimated.
    pub fresh_bytes: Option<f64>,
    /// Its size after the last rebuild that was measured, for as many rows as it has now.
    pub rebuilt_bytes: Option<f64>,
    /// How it stands.
    pub state: State,
    /// It belongs to an exclusion constraint.
    pub excludes: bool,
    /// The role may rebuild it.
    pub may_rebuild: bool,
    /// The role may drop it.
    pub may_drop: bool,
    /// Free space where it lies; None when that is not known.
    pub free_bytes: Option<f64>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// REINDEX INDEX CONCURRENTLY.
    Reindex,
    /// DROP INDEX CONCURRENTLY.
    Drop,
    /// Nothing, although something is the matter with it.
    Skip,
}

impl Action {
    /// As users see it.
    pub fn name(self) -> &'static str {
        match self {
            Action::Reindex => "reindex",
            Action::Drop => "drop",
            Action::Skip => "skip",
        }
    }
}

impl Facts {
    /// What a fresh build takes, by the estimate or by what a rebuild came to: whichever is more, so that an index that an
    /// estimate is wrong about is rebuilt once and no more.
    pub fn expected_bytes(&self) -> Option<f64> {
        match (self.fresh_bytes, self.rebuilt_bytes) {
            (Some(fresh), Some(rebuilt)) => Some(fresh.max(rebuilt)),
            (fresh, rebuilt) => fresh.or(rebuilt),
        }
    }

    /// Share of the index that a rebuild would free, in percent.
    pub fn bloat_pct(&self) -> Option<f64> {
        let expected = self.expected_bytes()?;
        (self.size_bytes > 0.0).then(|| (100.0 * (1.0 - expected / self.size_bytes)).clamp(0.0, 100.0))
    }

    /// Bytes that a rebuild would free.
    pub fn freed_bytes(&self) -> f64 {
        self.expected_bytes().map_or(0.0, |expected| (self.size_bytes - expected).max(0.0))
    }
}

/// What to do about an index, and why; None when nothing is the matter with it.
pub fn judge(index: &Facts, limits: &Limits) -> Option<(Action, String)> {
    let skip = |reason: &str| Some((Action::Skip, reason.to_owned()));
    match &index.state {
        State::Leftover(of) if index.may_drop => {
            Some((Action::Drop, format!("left behind by a rebuild of {of} that did not end")))
        }
        State::Leftover(_) => skip("left behind by a rebuild, and you may not drop it"),
        State::Building => skip("somebody may be building or dropping it now"),
        State::Invalid => skip("not valid, and not known to be left by a rebuild: rebuild or drop it by hand"),
        State::Valid => {
            let bloat = index.bloat_pct()?;
            if index.size_bytes < limits.min_size_bytes || bloat < limits.max_bloat_pct || index.freed_bytes() <= 0.0 {
                return None;
            }
            if !index.may_rebuild {
                return skip("you may not rebuild it");
            }
            if index.excludes {
                return skip("belongs to an exclusion constraint, which cannot be rebuilt concurrently");
            }
            if let Err(reason) = has_room(index.size_bytes, index.free_bytes, limits.min_free_bytes) {
                return Some((Action::Skip, reason));
            }
            Some((Action::Reindex, format!("{bloat:.0} % of it is bloat")))
        }
    }
}

/// Whether the disk has room for a rebuild; the reason when it has not.
pub fn has_room(size_bytes: f64, free_bytes: Option<f64>, min_free_bytes: f64) -> Result<(), String> {
    let needed = FREE_SHARE * size_bytes + min_free_bytes;
    match free_bytes {
        None => Err("how much space is free where it lies is not known".to_owned()),
        Some(free) if free < needed => {
            Err(format!("{free:.0} bytes are free where it lies, and {needed:.0} are needed"))
        }
        Some(_) => Ok(()),
    }
}

/// How long a rebuild is expected to take, in ms: it reads the table twice and writes the index.
pub fn expected_ms(table_bytes: f64, fresh_bytes: f64, bytes_per_s: f64) -> f64 {
    1e3 * work_bytes(table_bytes, fresh_bytes) / bytes_per_s.max(1.0)
}

/// What a rebuild has to get through.
pub fn work_bytes(table_bytes: f64, fresh_bytes: f64) -> f64 {
    2.0 * table_bytes.max(0.0) + fresh_bytes.max(0.0)
}

/// How fast rebuilds were that got through so many bytes; None when that was too little to tell.
pub fn measured_rate(work_bytes: f64, ms: f64) -> Option<f64> {
    (work_bytes >= MEASURED_BYTES_MIN && ms > 0.0).then(|| (1e3 * work_bytes / ms).max(BYTES_PER_S_MIN))
}

/// Whether a rebuild may begin; the reason when not.
pub fn has_time(elapsed_ms: f64, expected_ms: f64, window_ms: f64) -> Result<(), String> {
    if elapsed_ms >= window_ms {
        return Err(format!("the window of {:.0} s is over", window_ms / 1e3));
    }
    if elapsed_ms + expected_ms > window_ms {
        return Err(format!(
            "expected to take {:.0} s, and the window has {:.0} s left",
            expected_ms / 1e3,
            (window_ms - elapsed_ms) / 1e3
        ));
    }
    Ok(())
}

/// The name that a leftover of a concurrent rebuild was made from: `a_ccnew`, `a_ccold`, `a_ccnew1` give `a`.
pub fn leftover_stem(name: &str) -> Option<&str> {
    let end = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = end.strip_suffix("_ccnew").or_else(|| end.strip_suffix("_ccold"))?;
    (!stem.is_empty()).then_some(stem)
}

/// Whether `leftover` is the name that a rebuild of the index `name` gives: the server cuts a long name to make room.
pub fn is_named_after(leftover: &str, name: &str) -> bool {
    leftover_stem(leftover)
        .is_some_and(|stem| stem == name || (leftover.len() >= NAME_BYTES_MAX - 3 && name.starts_with(stem)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { max_bloat_pct: 40.0, min_size_bytes: 1e7, min_free_bytes: 1e9, window_ms: 3_600_000.0 };

    fn bloated() -> Facts {
        Facts {
            size_bytes: 1e8,
            fresh_bytes: Some(1e7),
            rebuilt_bytes: None,
            state: State::Valid,
            excludes: false,
            may_rebuild: true,
            may_drop: true,
            free_bytes: Some(1e12),
        }
    }

    fn action(index: &Facts) -> Option<Action> {
        judge(index, &LIMITS).map(|(action, _)| action)
    }

    #[test]
    fn bloat_is_rebuilt_where_it_can_be() {
        assert_eq!(judge(&bloated(), &LIMITS), Some((Action::Reindex, "90 % of it is bloat".to_owned())));
        assert_eq!(action(&Facts { fresh_bytes: Some(7e7), ..bloated() }), None);
        assert_eq!(action(&Facts { size_bytes: 9e6, fresh_bytes: Some(1e5), ..bloated() }), None);
        assert_eq!(action(&Facts { fresh_bytes: None, ..bloated() }), None);
        assert_eq!(action(&Facts { may_rebuild: false, ..bloated() }), Some(Action::Skip));
        assert_eq!(action(&Facts { excludes: true, ..bloated() }), Some(Action::Skip));
    }

    #[test]
    fn what_a_rebuild_came_to_corrects_the_estimate() {
        let wrong = Facts { rebuilt_bytes: Some(9e7), ..bloated() };
        assert_eq!(wrong.bloat_pct().map(f64::round), Some(10.0));
        assert_eq!(action(&wrong), None);
        let unknown = Facts { fresh_bytes: None, rebuilt_bytes: Some(1e7), ..bloated() };
        assert_eq!(action(&unknown), Some(Action::Reindex));
    }

    #[test]
    fn room_is_twice_the_index_and_what_must_stay() {
        let free = |bytes: f64| judge(&Facts { free_bytes: Some(bytes), ..bloated() }, &LIMITS);
        assert_eq!(free(1.2e9).map(|(action, _)| action), Some(Action::Reindex));
        let reason = "1199999999 bytes are free where it lies, and 1200000000 are needed";
        assert_eq!(free(1.2e9 - 1.0), Some((Action::Skip, reason.to_owned())));
        assert_eq!(action(&Facts { free_bytes: None, ..bloated() }), Some(Action::Skip));
    }

    #[test]
    fn nothing_starts_that_cannot_end_in_time() {
        assert_eq!(has_time(10.0, 80.0, 100.0), Ok(()));
        assert_eq!(has_time(3e6, 1e6, 3.6e6), Err("expected to take 1000 s, and the window has 600 s left".to_owned()));
        assert_eq!(has_time(100.0, 0.0, 100.0), Err("the window of 0 s is over".to_owned()));
        assert_eq!(expected_ms(1e9, 1e8, 2.1e8), 10_000.0);
    }

    #[test]
    fn a_wait_is_no_measure_of_speed() {
        assert_eq!(measured_rate(1e9, 10_000.0), Some(1e8));
        assert_eq!(measured_rate(1e6, 60_000.0), None);
        assert_eq!(measured_rate(1e8, 3_600_000.0), Some(BYTES_PER_S_MIN));
    }

    #[test]
    fn leftovers_are_dropped_and_others_are_not() {
        let state = |state: State| action(&Facts { state, size_bytes: 0.0, fresh_bytes: None, ..bloated() });
        assert_eq!(state(State::Leftover("a".to_owned())), Some(Action::Drop));
        assert_eq!(state(State::Building), Some(Action::Skip));
        assert_eq!(state(State::Invalid), Some(Action::Skip));
        let foreign = Facts { state: State::Leftover("a".to_owned()), may_drop: false, ..bloated() };
        assert_eq!(action(&foreign), Some(Action::Skip));
    }

    #[test]
    fn names_of_leftovers() {
        assert!(
            is_named_after("a_ccnew", "a") && is_named_after("a_ccold12", "a") && is_named_after("a b_ccnew", "a b")
        );
        assert!(!is_named_after("a_ccnew", "b") && !is_named_after("_ccnew", "") && !is_named_after("a_new", "a"));
        assert!(!is_named_after("a_ccnew", "ab"));
        let long = "n".repeat(63);
        assert!(is_named_after(&format!("{}_ccnew", "n".repeat(57)), &long));
        assert!(is_named_after(&format!("{}_ccnew1", "n".repeat(56)), &long));
    }

    proptest! {
        #[test]
        fn never_starts_after_the_window(elapsed in 0.0f64..1e9, expected in 0.0f64..1e9, window in 1.0f64..1e9) {
            prop_assert_eq!(has_time(elapsed, expected, window).is_ok(), elapsed < window && elapsed + expected <= window);
        }

        #[test]
        fn a_rebuild_always_frees_something_and_has_room(
            size in 0.0f64..1e12, fresh in 0.0f64..1e12, free in 0.0f64..1e13, pct in 0.0f64..=100.0
        ) {
            let index = Facts { size_bytes: size, fresh_bytes: Some(fresh), free_bytes: Some(free), ..bloated() };
            let limits = Limits { max_bloat_pct: pct, ..LIMITS };
            if let Some((Action::Reindex, _)) = judge(&index, &limits) {
                prop_assert!(fresh < size && free >= 2.0 * size && size >= limits.min_size_bytes);
                prop_assert!(100.0 * (size - fresh) / size >= pct - 1e-6);
            }
        }
    }
}
