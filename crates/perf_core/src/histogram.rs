//! A latency histogram with a fixed size: log-linear, 16 sub-buckets an octave over the 30 octaves from 2^10 ns (about
//! 1 us) to 2^40 ns (about 18 min). A percentile read from it is the middle of its bucket, so it is at most half a
//! bucket, 1/32 = 3.125 %, away from the true value. What is faster than 1 us counts in the first bucket, what is
//! slower than 18 min in the last.

/// Sub-buckets an octave.
const SUBS: usize = 16;
/// log2 of the lower bound, in nanoseconds.
const FIRST_OCTAVE: u32 = 10;
/// Octaves covered.
const OCTAVES: usize = 30;
/// Number of buckets.
pub const BUCKETS: usize = SUBS * OCTAVES;

/// Executions per latency bucket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Histogram {
    /// Executions in each bucket, in order of latency. Saturates instead of wrapping.
    pub counts: [u32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS] }
    }
}

/// The bucket a latency belongs to.
#[inline]
pub fn bucket_of_ns(ns: u64) -> usize {
    if ns < 1 << FIRST_OCTAVE {
        return 0;
    }
    let exponent = 63 - ns.leading_zeros();
    let octave = (exponent - FIRST_OCTAVE) as usize;
    if octave >= OCTAVES {
        return BUCKETS - 1;
    }
    let sub = (ns >> (exponent - SUBS.ilog2())) as usize & (SUBS - 1);
    octave * SUBS + sub
}

/// Lower bound of a bucket in nanoseconds; `bucket == BUCKETS` gives the upper bound of the last one.
pub fn lower_ns(bucket: usize) -> f64 {
    let octave = (bucket / SUBS) as i32 + FIRST_OCTAVE as i32;
    let sub = (bucket % SUBS) as f64;
    2f64.powi(octave) * (1.0 + sub / SUBS as f64)
}

/// The value a bucket stands for: its middle.
fn middle_ns(bucket: usize) -> f64 {
    (lower_ns(bucket) + lower_ns(bucket + 1)) / 2.0
}

/// The octaves of a histogram that have counts, a bit each; a superset will do. Most statements stay within a few, and
/// merging or clearing only those is several times cheaper.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Octaves(pub u32);

impl Octaves {
    /// Every octave.
    pub const ALL: Octaves = Octaves((1 << OCTAVES) - 1);

    /// Adds the octave of a bucket.
    #[inline]
    pub fn insert(&mut self, bucket: usize) {
        self.0 |= 1 << (bucket / SUBS);
    }

    /// Adds those of another histogram.
    #[inline]
    pub fn insert_all(&mut self, other: Octaves) {
        self.0 |= other.0;
    }

    /// The buckets of each octave.
    #[inline]
    fn ranges(self) -> impl Iterator<Item = core::ops::Range<usize>> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let octave = left.trailing_zeros() as usize;
            left &= left - 1;
            Some(octave * SUBS..(octave + 1) * SUBS)
        })
        .take_while(|range| range.end <= BUCKETS)
    }

    /// Shows `each` the buckets that have counts in small ones.
    #[inline]
    pub fn each_small(self, counts: &[u8; BUCKETS], mut each: impl FnMut(usize, u32)) {
        for range in self.ranges() {
            // Eight at a time: most are zero.
            for first in range.step_by(8) {
                let mut word = counts[first..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                while word != 0 {
                    let byte = word.trailing_zeros() / 8;
                    each(first + byte as usize, u32::from((word >> (8 * byte)) as u8));
                    word &= !(0xff << (8 * byte));
                }
            }
        }
    }

    /// Moves small counts into another such array, whose octaves are empty, and leaves zeros.
    #[inline]
    pub fn move_small(self, from: &mut [u8; BUCKETS], to: &mut [u8; BUCKETS]) {
        for range in self.ranges() {
            to[range.clone()].copy_from_slice(&from[range.clone()]);
            from[range].fill(0);
        }
    }
}

impl Histogram {
    /// Counts one execution of this latency.
    #[inline]
    pub fn record_ns(&mut self, ns: u64) {
        let count = &mut self.counts[bucket_of_ns(ns)];
        *count = count.saturating_add(1);
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// As [`merge`](Self::merge), where `other` has counts in these octaves only.
    #[inline]
    pub fn merge_octaves(&mut self, other: &Histogram, octaves: Octaves) {
        for range in octaves.ranges() {
            for (mine, theirs) in self.counts[range.clone()].iter_mut().zip(&other.counts[range]) {
                *mine = mine.saturating_add(*theirs);
            }
        }
    }

    /// Adds small counts, as a backend keeps them before it hands them over.
    #[inline]
    pub fn merge_small(&mut self, other: &[u8; BUCKETS], octaves: Octaves) {
        for range in octaves.ranges() {
            for (mine, theirs) in self.counts[range.clone()].iter_mut().zip(&other[range]) {
                *mine = mine.saturating_add(u32::from(*theirs));
            }
        }
    }

    /// Empties a histogram that has counts in these octaves only.
    #[inline]
    pub fn clear_octaves(&mut self, octaves: Octaves) {
        octaves.ranges().for_each(|range| self.counts[range].fill(0));
    }

    /// What came since `earlier` was taken from the same histogram.
    pub fn subtract(&mut self, earlier: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&earlier.counts) {
            *mine = mine.saturating_sub(*theirs);
        }
    }

    /// Whether it can have come from `earlier` by adding to it.
    pub fn includes(&self, earlier: &Histogram) -> bool {
        self.counts.iter().zip(&earlier.counts).all(|(mine, theirs)| mine >= theirs)
    }

    /// Number of executions.
    pub fn total(&self) -> u64 {
        self.octave_sums(Octaves::ALL).iter().sum()
    }

    fn octave_sums(&self, octaves: Octaves) -> [u64; OCTAVES] {
        let mut sums = [0u64; OCTAVES];
        for range in octaves.ranges() {
            let octave = range.start / SUBS;
            sums[octave] = self.counts[range].iter().map(|&count| u64::from(count)).sum();
        }
        sums
    }

    /// Latencies in nanoseconds at the quantiles `qs` (each 0 to 1, ascending or not); `None` when nothing was counted.
    pub fn quantiles_ns<const N: usize>(&self, qs: [f64; N]) -> Option<[f64; N]> {
        self.quantiles_in(Octaves::ALL, qs)
    }

    /// As [`quantiles_ns`](Self::quantiles_ns), of a histogram that has counts in these octaves only.
    pub fn quantiles_in<const N: usize>(&self, octaves: Octaves, qs: [f64; N]) -> Option<[f64; N]> {
        let sums = self.octave_sums(octaves);
        let total: u64 = sums.iter().sum();
        if total == 0 {
            return None;
        }
        Some(qs.map(|q| {
            // The nearest-rank definition: the smallest value with at least q of the executions at or below it.
            let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
            let mut before = 0u64;
            for (octave, sum) in sums.iter().enumerate() {
                if before + sum < rank {
                    before += sum;
                    continue;
                }
                for sub in 0..SUBS {
                    let bucket = octave * SUBS + sub;
                    before += u64::from(self.counts[bucket]);
                    if before >= rank {
                        return middle_ns(bucket);
                    }
                }
            }
            middle_ns(BUCKETS - 1)
        }))
    }

    /// Latency in nanoseconds at one quantile.
    pub fn quantile_ns(&self, q: f64) -> Option<f64> {
        self.quantiles_ns([q]).map(|[value]| value)
    }

    /// The non-empty buckets: lower bound, upper bound (ns), executions.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, f64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, &count)| count > 0)
            .map(|(bucket, &count)| (lower_ns(bucket), lower_ns(bucket + 1), u64::from(count)))
    }

    /// A small form for storage: for each non-empty bucket the distance from the one before and the count, as
    /// LEB128 varints. An empty histogram is no bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut previous = 0;
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, &count)| count > 0) {
            push_varint(&mut out, (bucket - previous) as u64);
            push_varint(&mut out, u64::from(count));
            previous = bucket;
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` when the bytes are not of that form.
    pub fn decode(bytes: &[u8]) -> Option<Histogram> {
        let mut histogram = Histogram::default();
        let mut rest = Encoded::new(bytes);
        while let Some((bucket, count)) = rest.next()? {
            histogram.counts[bucket] = count;
        }
        Some(histogram)
    }
}

/// The sum of two histograms in the form that [`Histogram::encode`] writes, without all the buckets that neither has; `None`
/// when one is not of that form.
pub fn merge_encoded(one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let (mut ones, mut others) = (Encoded::new(one), Encoded::new(other));
    let (mut left, mut right) = (ones.next()?, others.next()?);
    let mut out = Vec::with_capacity(one.len() + other.len());
    let mut previous = 0;
    loop {
        let (bucket, count) = match (left, right) {
            (Some(mine), Some(theirs)) if mine.0 == theirs.0 => {
                (left, right) = (ones.next()?, others.next()?);
                (mine.0, mine.1.saturating_add(theirs.1))
            }
            (Some(mine), theirs) if theirs.is_none_or(|theirs| mine.0 < theirs.0) => {
                left = ones.next()?;
                mine
            }
            (_, Some(theirs)) => {
                right = others.next()?;
                theirs
            }
            _ => return Some(out),
        };
        push_varint(&mut out, (bucket - previous) as u64);
        push_varint(&mut out, u64::from(count));
        previous = bucket;
    }
}

/// The non-empty buckets of an encoded histogram, one after the other.
struct Encoded<'a> {
    rest: &'a [u8],
    /// The bucket before.
    previous: Option<usize>,
}

impl<'a> Encoded<'a> {
    fn new(bytes: &'a [u8]) -> Encoded<'a> {
        Encoded { rest: bytes, previous: None }
    }

    /// The next bucket and its count; `None` when the bytes are not of the form.
    #[inline]
    fn next(&mut self) -> Option<Option<(usize, u32)>> {
        if self.rest.is_empty() {
            return Some(None);
        }
        let step = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let count = u32::try_from(take_varint(&mut self.rest)?).ok()?;
        let bucket = self.previous.unwrap_or(0).checked_add(step)?;
        // In ascending order, each once.
        if bucket >= BUCKETS || (step == 0 && self.previous.is_some()) {
            return None;
        }
        self.previous = Some(bucket);
        Some(Some((bucket, count)))
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_fall_in_the_first_and_last_bucket() {
        assert_eq!(bucket_of_ns(0), 0);
        assert_eq!(bucket_of_ns(1023), 0);
        assert_eq!(bucket_of_ns(1024), 0);
        assert_eq!(bucket_of_ns(1 << 40), BUCKETS - 1);
        assert_eq!(bucket_of_ns(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn empty_has_no_quantile() {
        assert_eq!(Histogram::default().quantile_ns(0.5), None);
        assert_eq!(Histogram::decode(&[]), Some(Histogram::default()));
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(Histogram::decode(&[0x80]), None);
        assert_eq!(Histogram::decode(&[0xff, 0xff, 0x7f, 1]), None);
        assert_eq!(Histogram::decode(&[3, 1, 0, 1]), None, "a bucket twice");
        assert_eq!(merge_encoded(&[3, 1], &[0x80]), None);
        assert_eq!(merge_encoded(&[3], &[3, 1]), None);
    }

    proptest! {
        #[test]
        fn bounds_enclose_the_value(ns in 1024u64..(1 << 40)) {
            let bucket = bucket_of_ns(ns);
            prop_assert!(lower_ns(bucket) <= ns as f64);
            prop_assert!((ns as f64) < lower_ns(bucket + 1));
        }

        #[test]
        fn quantiles_are_within_3_2_percent(mut values in prop::collection::vec(1100u64..1_000_000_000_000, 1..400), q in 0.0f64..1.0) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&ns| histogram.record_ns(ns));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let got = histogram.quantile_ns(q).unwrap();
            prop_assert!((got - exact).abs() <= 0.032 * exact, "{got} for {exact}");
        }

        #[test]
        fn encoding_round_trips(values in prop::collection::vec(any::<u64>(), 0..300)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&ns| histogram.record_ns(ns));
            prop_assert_eq!(Histogram::decode(&histogram.encode()), Some(histogram));
        }

        #[test]
        fn merge_and_subtract_are_inverse(a in prop::collection::vec(any::<u64>(), 0..100), b in prop::collection::vec(any::<u64>(), 0..100)) {
            let (mut one, mut two) = (Histogram::default(), Histogram::default());
            a.iter().for_each(|&ns| one.record_ns(ns));
            b.iter().for_each(|&ns| two.record_ns(ns));
            let mut both = one;
            both.merge(&two);
            prop_assert_eq!(merge_encoded(&one.encode(), &two.encode()), Some(both.encode()));
            prop_assert_eq!(both.total(), (a.len() + b.len()) as u64);
            both.subtract(&two);
            prop_assert_eq!(both, one);
        }

        #[test]
        fn octaves_say_where_the_counts_are(a in prop::collection::vec(any::<u64>(), 0..60), b in prop::collection::vec(any::<u64>(), 0..60)) {
            let (mut one, mut two, mut octaves) = (Histogram::default(), Histogram::default(), Octaves::default());
            let (mut small, mut moved) = ([0u8; BUCKETS], [0u8; BUCKETS]);
            a.iter().for_each(|&ns| one.record_ns(ns));
            for &ns in &b {
                two.record_ns(ns);
                small[bucket_of_ns(ns)] += 1;
                octaves.insert(bucket_of_ns(ns));
            }
            let (mut whole, mut by_octaves, mut by_small) = (one, one, one);
            whole.merge(&two);
            by_octaves.merge_octaves(&two, octaves);
            octaves.move_small(&mut small, &mut moved);
            by_small.merge_small(&moved, octaves);
            let mut by_each = one;
            octaves.each_small(&moved, |bucket, count| by_each.counts[bucket] += count);
            prop_assert_eq!(by_each, whole);
            prop_assert_eq!(two.quantiles_in(octaves, [0.5, 0.99]), two.quantiles_ns([0.5, 0.99]));
            prop_assert_eq!(by_octaves, whole);
            prop_assert_eq!(by_small, whole);
            two.clear_octaves(octaves);
            prop_assert_eq!(two, Histogram::default());
            prop_assert_eq!(small, [0u8; BUCKETS]);
        }

        #[test]
        fn decode_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let known = Histogram::decode(&bytes);
            prop_assert_eq!(merge_encoded(&bytes, &[]).is_some(), known.is_some());
        }
    }
}
