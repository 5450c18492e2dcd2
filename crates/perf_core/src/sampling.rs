//! Which events to keep of a stream that may be slow or fast: all while there are few, and one of so many that a budget
//! is kept when there are more. Every event has the same chance at a time, whoever it comes from. Pure: counts and times
//! in, decisions out.

/// Events that may be kept in a second, over time.
pub const BUDGET_PER_S: u64 = 20;
/// Events that may be kept at once after a time with few.
pub const BURST: u64 = 512;
/// What the chance aims at: less than the budget, so that it is seldom exhausted.
const TARGET_PER_S: u64 = 16;
/// Nanoseconds after which the chance is looked at again.
pub const WINDOW_NS: u64 = 1_000_000_000;
/// Less than this says nothing of how many there are in a second.
const LEAST_NS: u64 = 100_000_000;
const LEAST_DRAWN: u64 = 16;
/// Events that are never more than this many for one that is drawn.
const STRIDE_MAX: u64 = 1 << 20;

/// Takes one event off the budget. `paid_until_ns` is the time until which what was taken is paid for; its new value, or
/// `None` when the budget is exhausted.
pub fn grant(paid_until_ns: u64, now_ns: u64) -> Option<u64> {
    let price_ns = WINDOW_NS / BUDGET_PER_S;
    let from_ns = paid_until_ns.max(now_ns);
    (from_ns - now_ns < BURST * price_ns).then_some(from_ns + price_ns)
}

/// Of how many events one is to be drawn from now on: `stride` as it is, `drawn` in the `elapsed_ns` since it was looked at
/// last. `exhausted` when the budget is; until it is for the first time, every event is drawn.
pub fn next_stride(stride: u32, drawn: u64, elapsed_ns: u64, exhausted: bool) -> u32 {
    let stride = u64::from(stride.max(1));
    let too_early = elapsed_ns < LEAST_NS && drawn < LEAST_DRAWN;
    if too_early || (stride == 1 && !exhausted) {
        return stride as u32;
    }
    let events = u128::from(drawn) * u128::from(stride) * u128::from(WINDOW_NS);
    let fitting = events.div_ceil(u128::from(TARGET_PER_S) * u128::from(elapsed_ns.max(1)));
    let fitting = u64::try_from(fitting).unwrap_or(u64::MAX).min(STRIDE_MAX);
    // A pause is no reason to keep everything at once when it is over.
    fitting.max(stride.div_ceil(8)) as u32
}

/// Events to let pass before the first one that is drawn, given a random number: as many as are left of a gap that began
/// before anybody looked.
pub fn first_gap(stride: u32, random: u32) -> u32 {
    below(stride, random)
}

/// Events to let pass before the next one that is drawn, given a random number: one less than the stride, on average.
pub fn next_gap(stride: u32, random: u32) -> u32 {
    below(stride.saturating_mul(2).saturating_sub(1), random)
}

fn below(limit: u32, random: u32) -> u32 {
    ((u64::from(random) * u64::from(limit)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream of events, as memory and backends sample it.
    struct Stream {
        now_ns: u64,
        stride: u32,
        drawn: u64,
        window_ns: u64,
        paid_until_ns: u64,
        random: u64,
        gap: Option<u32>,
        kept: u64,
    }

    impl Stream {
        fn new() -> Stream {
            let now_ns = 1_000_000 * WINDOW_NS;
            Stream {
                now_ns,
                stride: 1,
                drawn: 0,
                window_ns: now_ns,
                paid_until_ns: 0,
                random: 88_172_645,
                gap: None,
                kept: 0,
            }
        }

        fn look(&mut self, exhausted: bool) {
            let elapsed_ns = self.now_ns - self.window_ns;
            let next = next_stride(self.stride, self.drawn, elapsed_ns, exhausted);
            if elapsed_ns >= WINDOW_NS || next != self.stride {
                if next != self.stride {
                    self.gap = None;
                }
                (self.stride, self.drawn, self.window_ns) = (next, 0, self.now_ns);
            }
        }

        fn event(&mut self) {
            if self.now_ns - self.window_ns >= WINDOW_NS {
                self.look(false);
            }
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let random = (self.random >> 32) as u32;
            match self.gap.unwrap_or_else(|| first_gap(self.stride, random)) {
                0 => self.gap = Some(next_gap(self.stride, random)),
                left => {
                    self.gap = Some(left - 1);
                    return;
                }
            }
            self.drawn += 1;
            match grant(self.paid_until_ns, self.now_ns) {
                Some(paid_until_ns) => {
                    self.paid_until_ns = paid_until_ns;
                    self.kept += 1;
                }
                None => self.look(true),
            }
        }

        /// How many of so many events a second are kept in a time.
        fn run(&mut self, per_s: u64, seconds: u64) -> u64 {
            let before = self.kept;
            for _ in 0..per_s * seconds {
                self.now_ns += WINDOW_NS / per_s;
                self.event();
            }
            self.kept - before
        }
    }

    #[test]
    fn few_are_all_kept() {
        for per_s in [1, 5, 16] {
            assert_eq!(Stream::new().run(per_s, 120), per_s * 120);
        }
        assert!(Stream::new().run(100_000, 1) >= BURST, "the first ones are kept however fast they come");
    }

    #[test]
    fn many_are_kept_at_the_rate() {
        for per_s in [100, 3_000, 50_000] {
            let mut stream = Stream::new();
            stream.run(per_s, 20);
            let kept = stream.run(per_s, 30);
            assert!((10 * 30..=BUDGET_PER_S * 30).contains(&kept), "{kept} of {per_s} a second");
        }
    }

    #[test]
    fn a_pause_is_noticed() {
        let mut stream = Stream::new();
        stream.run(50_000, 10);
        assert!(stream.stride > 1_000);
        stream.run(5, 30);
        assert_eq!(stream.run(5, 30), 150);
    }

    #[test]
    fn gaps_are_as_long_as_the_stride_says() {
        for stride in [1u32, 2, 7, 1_000, 1 << 20] {
            let numbers = (0..1_000u32).map(|number| number * 4_294_967);
            let mean = |gap: fn(u32, u32) -> u32| {
                numbers.clone().map(|random| f64::from(gap(stride, random))).sum::<f64>() / 1_000.0
            };
            let stride = f64::from(stride);
            assert!((mean(next_gap) - (stride - 1.0)).abs() <= 0.01 * stride, "{stride}");
            assert!((mean(first_gap) - (stride - 1.0) / 2.0).abs() <= 0.01 * stride, "{stride}");
        }
    }

    proptest! {
        #[test]
        fn the_budget_is_never_exceeded(rates in prop::collection::vec((1u64..5_000, 1u64..4), 1..12)) {
            let mut stream = Stream::new();
            let began_ns = stream.now_ns;
            for (per_s, seconds) in rates {
                stream.run(per_s, seconds);
                let seconds = (stream.now_ns - began_ns) / WINDOW_NS + 1;
                prop_assert!(stream.kept <= BURST + BUDGET_PER_S * seconds);
            }
        }

        #[test]
        fn strides_stay_in_bounds(stride in any::<u32>(), drawn in any::<u64>(), elapsed in any::<u64>(), exhausted in any::<bool>()) {
            let next = next_stride(stride, drawn, elapsed, exhausted);
            prop_assert!(next >= 1);
            prop_assert!(next <= stride.max(1 << 20));
        }
    }
}
