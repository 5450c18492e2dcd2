//! How many rows the steps of a plan really gave, told apart from the plan: a count belongs to what is read and joined, not
//! to the method, so that what one plan measured corrects the estimates of another. Identities are equal in all processes
//! of a server and across its versions' plans of the same query, as far as those do the same.

use crate::fnv::fnv1a;

/// What a node gives, whichever way.
pub type Identity = u64;

/// Counts kept of one execution.
pub const KEPT_MAX: usize = 32;
/// Nodes looked at in one plan; a larger plan is not measured.
const SEEN_MAX: usize = 128;
/// Correction of an estimate, at least and at most.
const FACTOR_RANGE: (f64, f64) = (1e-3, 1e4);
/// Bytes of one count in its stored form.
const STORED: usize = 12;

fn mixed(identity: Identity, with: u64) -> Identity {
    let product = (identity ^ with).wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1);
    product ^ product >> 32
}

/// A relation under its alias, read in the main plan (0) or in a subplan by its number.
pub fn scan(relation: u32, alias: &[u8], subplan: i32) -> Identity {
    fnv1a(relation.to_le_bytes().into_iter().chain(subplan.to_le_bytes()).chain(alias.iter().copied()))
}

/// A join of two inputs, whichever comes first.
pub fn join(one: Identity, other: Identity) -> Identity {
    one.wrapping_add(other)
}

/// Groups or distinct rows of an input.
pub fn grouped(input: Identity) -> Identity {
    mixed(input, 0x6f00)
}

/// An input of which a condition keeps a part.
pub fn filtered(input: Identity) -> Identity {
    mixed(input, 0xf117)
}

/// Inputs one after the other.
pub fn appended(sum_of_inputs: Identity) -> Identity {
    mixed(sum_of_inputs, 0xa99e)
}

/// How far off an estimate is, as the factor that corrects it. Less than one row is as good as one: no estimate is less.
pub fn factor(estimated: f64, actual: f64) -> f64 {
    bounded(actual.max(1.0) / estimated.max(1.0))
}

/// A correction, kept within reason.
pub fn bounded(factor: f64) -> f64 {
    if factor.is_finite() {
        factor.clamp(FACTOR_RANGE.0, FACTOR_RANGE.1)
    } else {
        1.0
    }
}

/// Size of a misestimate in either direction: 1 for none.
pub fn misestimate(factor: f64) -> f64 {
    factor.max(1.0 / factor)
}

#[derive(Clone, Copy)]
struct Counted {
    identity: Identity,
    estimated: f64,
    /// None when it is not known, or not only one.
    rows: Option<f64>,
}

/// Gathers the counts of one execution without allocating.
pub struct Gathered {
    nodes: [Counted; SEEN_MAX],
    len: usize,
    too_many: bool,
}

impl Default for Gathered {
    fn default() -> Self {
        Gathered { nodes: [Counted { identity: 0, estimated: 0.0, rows: None }; SEEN_MAX], len: 0, too_many: false }
    }
}

impl Gathered {
    /// Adds a node; `rows` is None when it was not read to its end, or more than once. Nodes of the same identity that do
    /// not agree have no count.
    pub fn add(&mut self, identity: Identity, estimated: f64, rows: Option<f64>) {
        if let Some(known) = self.nodes[..self.len].iter_mut().find(|known| known.identity == identity) {
            if known.rows != rows {
                known.rows = None;
            }
            return;
        }
        match self.nodes.get_mut(self.len) {
            Some(place) => {
                *place = Counted { identity, estimated, rows };
                self.len += 1;
            }
            None => self.too_many = true,
        }
    }

    /// Whether more nodes would be in vain.
    pub fn is_full(&self) -> bool {
        self.too_many
    }

    /// The counts, worst misestimates first: what is left out is what estimates get right.
    pub fn counts(&mut self) -> impl Iterator<Item = (Identity, f64)> + '_ {
        let len = if self.too_many { 0 } else { self.len };
        let nodes = &mut self.nodes[..len];
        let off = |node: &Counted| node.rows.map_or(0.0, |rows| misestimate(factor(node.estimated, rows)));
        nodes.sort_unstable_by(|a, b| off(b).total_cmp(&off(a)));
        nodes.iter().filter_map(|node| Some((node.identity, node.rows?))).take(KEPT_MAX)
    }
}

/// Writes counts in their stored form; how many bytes that takes, or None when `out` is too small.
pub fn write(counts: impl Iterator<Item = (Identity, f64)>, out: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    for (identity, rows) in counts {
        let place = out.get_mut(len..len + STORED)?;
        place[..8].copy_from_slice(&identity.to_le_bytes());
        place[8..].copy_from_slice(&(rows as f32).to_le_bytes());
        len += STORED;
    }
    Some(len)
}

/// Reads what [`write`] wrote; nothing when it is damaged.
pub fn read(stored: &[u8]) -> Vec<(Identity, f64)> {
    if !stored.len().is_multiple_of(STORED) {
        return Vec::new();
    }
    let one = |bytes: &[u8]| {
        let (identity, rows) = bytes.split_first_chunk::<8>()?;
        let rows = f64::from(f32::from_le_bytes(*rows.first_chunk::<4>()?));
        (rows.is_finite() && rows >= 0.0).then_some((u64::from_le_bytes(*identity), rows))
    };
    stored.chunks_exact(STORED).map(one).collect::<Option<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_tell_relations_aliases_and_subplans_apart_and_joins_not_by_order() {
        let (a, b, c) = (scan(16_384, b"a", 0), scan(16_385, b"b", 0), scan(16_386, b"c", 0));
        assert_ne!(a, scan(16_384, b"b", 0));
        assert_ne!(a, scan(16_385, b"a", 0));
        assert_ne!(a, scan(16_384, b"a", 1));
        assert_eq!(join(join(a, b), c), join(a, join(c, b)));
        let all = [a, grouped(a), filtered(a), appended(a), grouped(grouped(a)), join(a, b), join(grouped(a), b)];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn an_identity_is_the_same_in_every_build() {
        assert_eq!(scan(16_384, b"orders", 0), 0x34ff_6e4b_9efa_512c);
    }

    #[test]
    fn what_disagrees_is_not_counted() {
        let mut gathered = Gathered::default();
        gathered.add(1, 10.0, Some(5.0));
        gathered.add(1, 10.0, Some(5.0));
        gathered.add(2, 10.0, Some(5.0));
        gathered.add(2, 10.0, Some(6.0));
        gathered.add(2, 10.0, Some(6.0));
        gathered.add(3, 10.0, None);
        gathered.add(4, 10.0, Some(5.0));
        gathered.add(4, 10.0, None);
        assert_eq!(gathered.counts().collect::<Vec<_>>(), [(1, 5.0)]);
    }

    #[test]
    fn the_worst_misestimates_are_kept() {
        let mut gathered = Gathered::default();
        for node in 0..100u64 {
            gathered.add(
                node,
                100.0,
                Some(if node.is_multiple_of(2) { 100.0 + node as f64 } else { 100.0 / node as f64 }),
            );
        }
        let counts: Vec<_> = gathered.counts().collect();
        assert_eq!(counts.len(), KEPT_MAX);
        assert_eq!(counts[0].0, 99);
        assert!(counts.iter().all(|(node, _)| node % 2 == 1));
    }

    #[test]
    fn a_plan_that_is_too_large_has_no_counts() {
        let mut gathered = Gathered::default();
        (0..=SEEN_MAX as u64).for_each(|node| gathered.add(node, 1.0, Some(2.0)));
        assert!(gathered.is_full());
        assert_eq!(gathered.counts().count(), 0);
    }

    #[test]
    fn counts_survive_being_stored() {
        let counts = [(u64::MAX, 0.0), (0, 1.0), (42, 1_234_567.0)];
        let mut buffer = [0; 36];
        assert_eq!(write(counts.into_iter(), &mut buffer), Some(36));
        assert_eq!(read(&buffer), counts);
        assert_eq!(write(counts.into_iter(), &mut buffer[..35]), None);
        assert_eq!(read(&buffer[..35]), []);
        assert_eq!(read(&[]), []);
        buffer[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(read(&buffer), []);
    }

    #[test]
    fn factors_stay_within_reason() {
        assert_eq!(factor(10.0, 1_000.0), 100.0);
        assert_eq!(factor(1.0, 0.0), 1.0);
        assert_eq!(factor(1.0, 1e9), 1e4);
        assert_eq!(factor(1e9, 0.0), 1e-3);
        assert_eq!(bounded(f64::NAN), 1.0);
        assert_eq!(misestimate(0.25), 4.0);
        assert_eq!(misestimate(4.0), 4.0);
    }
}
