//! Which partitions a table needs, and which of those it has may go or be compressed. Called by the partition job at
//! each of its runs, and by the check of partitions for the gaps.

use super::{At, Range, Ruler, Span};

/// What a table is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How many intervals there are to be after the one that contains now, up to [`PREMAKE_MAX`].
    pub premake: u32,
    /// The age from which data is no longer kept.
    pub retention: Option<Span>,
    /// The age from which data is compressed.
    pub compress_after: Option<Span>,
}

/// What is to be done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Partitions to create, by their lower bounds. None overlaps another or one that exists.
    pub create: Vec<Range>,
    /// Which of those that exist lie beyond the retention as a whole.
    pub expire: Vec<usize>,
    /// Which of those that exist are old enough to be compressed and do not expire.
    pub compress: Vec<usize>,
    /// Holes that this plan leaves open, since they would take too many partitions; the newest first. A later plan
    /// fills those that only had no room in this one.
    pub wide_gaps: Vec<Range>,
}

/// How many partitions one plan creates at most.
pub const CREATED_MAX: usize = 1_000;
/// How many intervals ahead are looked at. What is beyond the most that one plan creates comes with the next plans.
pub const PREMAKE_MAX: u32 = 10_000;

/// Decides by the clock alone.
///
/// Creates what is missing of the interval that contains now and of the `premake` following ones, then fills holes
/// between partitions: from the lowest bound that there is up to the end of the intervals ahead, or of the last
/// partition that has an end; the hole below a partition without an end is left. All is cut where the intervals are,
/// nothing is created that would expire at once, and what exists is never overlapped, however odd its bounds are.
///
/// Expires what ends at or before now minus the retention, so nothing younger, and never the partition that contains
/// now or one without an end.
pub fn plan(ruler: &Ruler, existing: &[Range], wish: &Wish, utc_us: i64) -> Plan {
    let now = ruler.now(utc_us);
    let cutoff = wish.retention.map_or(At::MIN, |age| ruler.before(utc_us, &age));
    let compressed = wish.compress_after.map_or(At::MIN, |age| ruler.before(utc_us, &age));
    let (expire, rest): (Vec<usize>, Vec<usize>) = (0..existing.len()).partition(|at| is_over(&existing[*at], cutoff));
    let compress = rest.into_iter().filter(|at| is_over(&existing[*at], compressed)).collect();
    let mut plan = Plan { expire, compress, ..Plan::default() };

    let covered = sorted(existing);
    let ahead = ahead(ruler, now, wish.premake);
    for hole in holes(&covered, ahead) {
        let room = CREATED_MAX - plan.create.len();
        plan.create.extend(pieces(ruler, cutoff, hole).take(room));
    }
    let (before, after) = around(&covered, ahead);
    for hole in holes(&covered, after).into_iter().rev().chain(holes(&covered, before).into_iter().rev()) {
        let room = CREATED_MAX - plan.create.len();
        let mut filling: Vec<Range> = pieces(ruler, cutoff, hole).take(room + 1).collect();
        match filling.first() {
            Some(first) if filling.len() > room => {
                plan.wide_gaps.push(Range { lower: first.lower, upper: hole.upper });
            }
            _ => plan.create.append(&mut filling),
        }
    }
    plan.create.sort_by_key(|range| range.lower);
    plan
}

/// Those that hold anything, by their lower bounds.
pub(super) fn sorted(existing: &[Range]) -> Vec<Range> {
    let mut covered: Vec<Range> = existing.iter().filter(|range| !range.is_empty()).copied().collect();
    covered.sort_by_key(|range| range.lower);
    covered
}

/// Whether all of it is before a position.
fn is_over(range: &Range, cutoff: At) -> bool {
    !range.is_empty() && range.upper <= cutoff && range.upper != At::MAX
}

/// The interval that contains now, with the following ones.
fn ahead(ruler: &Ruler, now: At, premake: u32) -> Range {
    let mut ahead = ruler.interval_of(now);
    for _ in 0..premake.min(PREMAKE_MAX) {
        ahead.upper = ruler.following(&ahead).upper;
    }
    ahead.intersection(&ruler.key.line())
}

/// Where holes are filled before and after the intervals ahead. What has no beginning covers up to its end.
fn around(covered: &[Range], ahead: Range) -> (Range, Range) {
    let lowest = covered.first().map(|range| range.lower);
    let highest = covered.iter().filter(|range| range.upper != At::MAX).map(|range| range.upper).max();
    let before = Range { lower: lowest.unwrap_or(ahead.lower), upper: ahead.lower };
    let after = Range { lower: ahead.upper, upper: highest.unwrap_or(ahead.upper) };
    (before, after)
}

/// What of a range is not covered. The ranges that cover are sorted by their lower bounds.
pub(super) fn holes(covered: &[Range], within: Range) -> Vec<Range> {
    let mut holes = Vec::new();
    let mut from = within.lower;
    for range in covered {
        let hole = Range { lower: from, upper: range.lower.min(within.upper) };
        if !hole.is_empty() {
            holes.push(hole);
        }
        from = from.max(range.upper);
    }
    let last = Range { lower: from, upper: within.upper };
    if !last.is_empty() {
        holes.push(last);
    }
    holes
}

/// A hole cut where the intervals are, without what would expire at once.
fn pieces<'a>(ruler: &'a Ruler, cutoff: At, hole: Range) -> impl Iterator<Item = Range> + 'a {
    let hole = hole.intersection(&ruler.key.line());
    // All intervals before the one that contains the cutoff have expired.
    let lower = if cutoff == At::MIN { hole.lower } else { hole.lower.max(ruler.interval_of(cutoff).lower) };
    let part = move |from: At| {
        let rest = Range { lower: from, upper: hole.upper };
        (!rest.is_empty()).then(|| Range { lower: from, upper: ruler.interval_of(from).upper.min(hole.upper) })
    };
    std::iter::successors(part(lower), move |piece| part(piece.upper)).filter(move |piece| piece.upper > cutoff)
}
