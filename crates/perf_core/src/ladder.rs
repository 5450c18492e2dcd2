//! Bounds of time partitions: which are missing, which have had their time. Used by the history tables of the collector.
//!
//! Times are microseconds since any fixed epoch; a partition covers `lower <= t < upper`.

/// How a table is cut by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    /// Width of a partition in seconds, aligned to the epoch (UTC).
    pub step_s: i64,
    /// How many partitions exist beyond the one that holds now.
    pub premake: u32,
    /// A partition whose upper bound is older than this many seconds may go.
    pub keep_s: i64,
}

/// The half-open range of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounds {
    /// First instant inside.
    pub lower: i64,
    /// First instant after.
    pub upper: i64,
}

const US_PER_S: i64 = 1_000_000;
/// No ladder makes more at once, whatever it asks for.
const MISSING_MAX: usize = 64;

impl Ladder {
    /// The ranges to create so that everything from now to the end of the premade steps is covered, without overlapping
    /// a partition that exists: also where the step was another one when those were made.
    pub fn missing(&self, existing: &[Bounds], now: i64) -> Vec<Bounds> {
        let step = self.step_s.clamp(1, i64::MAX / US_PER_S / 4).saturating_mul(US_PER_S);
        let align = |t: i64| t.div_euclid(step).saturating_mul(step);
        let end = align(now).saturating_add(step.saturating_mul(i64::from(self.premake) + 1));
        let mut cursor = align(now);
        let mut missing = Vec::new();
        while cursor < end && missing.len() < MISSING_MAX {
            if let Some(holder) = existing.iter().find(|b| b.lower <= cursor && cursor < b.upper) {
                cursor = holder.upper;
                continue;
            }
            let next = existing.iter().map(|b| b.lower).filter(|&l| l > cursor).min().unwrap_or(i64::MAX);
            let upper = align(cursor).saturating_add(step).min(next);
            missing.push(Bounds { lower: cursor, upper });
            cursor = upper;
        }
        missing
    }

    /// Whether a partition holds nothing that is to be kept.
    pub fn is_expired(&self, bounds: &Bounds, now: i64) -> bool {
        bounds.upper <= now.saturating_sub(self.keep_s.max(0).saturating_mul(US_PER_S))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3600 * US_PER_S;
    const HOURLY: Ladder = Ladder { step_s: 3600, premake: 2, keep_s: 7200 };

    #[test]
    fn an_empty_table_gets_now_and_the_premade_steps() {
        let got = HOURLY.missing(&[], 10 * HOUR + 5);
        assert_eq!(got.iter().map(|b| b.lower / HOUR).collect::<Vec<_>>(), [10, 11, 12]);
        assert!(got.iter().all(|b| b.upper - b.lower == HOUR));
    }

    #[test]
    fn nothing_is_made_twice_and_odd_ranges_are_filled_around() {
        let odd = Bounds { lower: 10 * HOUR + 7, upper: 11 * HOUR + 9 };
        let got = HOURLY.missing(&[odd], 10 * HOUR + 5);
        assert_eq!(
            got,
            [
                Bounds { lower: 10 * HOUR, upper: odd.lower },
                Bounds { lower: odd.upper, upper: 12 * HOUR },
                Bounds { lower: 12 * HOUR, upper: 13 * HOUR }
            ]
        );
        let all: Vec<_> = got.into_iter().chain([odd]).collect();
        assert!(HOURLY.missing(&all, 10 * HOUR + 5).is_empty());
    }

    #[test]
    fn a_partition_expires_by_its_upper_bound() {
        let b = Bounds { lower: HOUR, upper: 2 * HOUR };
        assert!(!HOURLY.is_expired(&b, 4 * HOUR - 1));
        assert!(HOURLY.is_expired(&b, 4 * HOUR));
    }

    proptest! {
        #[test]
        fn what_is_made_covers_without_overlap(
            step_s in 1i64..1_000_000, premake in 0u32..8, now in -1_000_000_000_000_000i64..1_000_000_000_000_000,
            seeds in proptest::collection::vec((-5_000i64..5_000, 1i64..5_000), 0..6)
        ) {
            let ladder = Ladder { step_s, premake, keep_s: 0 };
            let mut existing: Vec<Bounds> = Vec::new();
            for (offset, width) in seeds {
                let b = Bounds { lower: now + offset * step_s * 1000, upper: now + (offset + width) * step_s * 1000 };
                if existing.iter().all(|e| b.upper <= e.lower || e.upper <= b.lower) {
                    existing.push(b);
                }
            }
            let made = ladder.missing(&existing, now);
            let mut all: Vec<Bounds> = existing.iter().chain(&made).copied().collect();
            all.sort();
            prop_assert!(all.windows(2).all(|w| w[0].upper <= w[1].lower));
            prop_assert!(all.iter().all(|b| b.lower < b.upper));
            prop_assert!(all.iter().any(|b| b.lower <= now && now < b.upper));
            prop_assert!(ladder.missing(&all, now).is_empty());
        }
    }
}
