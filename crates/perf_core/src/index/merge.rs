//! One index for several statements: reorderings and extensions that keep every statement's prefix.

use super::candidates::{INCLUDE_MAX, KEYS_MAX};
use super::{keys_cover, Candidate, Key, Kind, Part};

/// Adds to `candidates` the indexes that serve two of them at once; at most `added_max`.
///
/// Three ways, all safe for the one whose prefix is kept: the equality columns of one are brought to the front of the
/// other's equality columns, the columns of one are appended to the other, and the INCLUDE columns of one are added to the
/// other whose keys serve both.
pub fn merged(candidates: &[Candidate], added_max: usize) -> Vec<Candidate> {
    let mut added: Vec<Candidate> = Vec::new();
    for (at, a) in candidates.iter().enumerate() {
        for (bt, b) in candidates.iter().enumerate() {
            if at == bt
                || a.relation != b.relation
                || a.kind != Kind::Btree
                || b.kind != Kind::Btree
                || a.predicate != b.predicate
            {
                continue;
            }
            for new in [reordered(a, b), appended(a, b), widened(a, b)].into_iter().flatten() {
                if added.len() >= added_max {
                    return added;
                }
                if !candidates.iter().chain(&added).any(|known| known.same_index(&new)) {
                    added.push(new);
                }
            }
        }
    }
    added
}

/// `b` with the keys of `a` first, when all of `a` are equality columns of `b`.
fn reordered(a: &Candidate, b: &Candidate) -> Option<Candidate> {
    if a.keys.len() >= b.keys.len() || !a.parts().iter().all(|part| b.parts()[..b.free].contains(part)) {
        return None;
    }
    let mut keys = a.keys.clone();
    keys.extend(b.keys.iter().filter(|key| !a.parts().contains(&key.part)));
    let include = included(a, b, &keys)?;
    Some(Candidate { keys, include, free: a.keys.len(), ..b.clone() })
}

/// `a`, then what `b` has more, when both begin with the same column.
fn appended(a: &Candidate, b: &Candidate) -> Option<Candidate> {
    if a.keys.first() != b.keys.first() {
        return None;
    }
    let more: Vec<Key> = b.keys.iter().copied().filter(|key| !a.parts().contains(&key.part)).collect();
    if more.is_empty() || a.keys.len() + more.len() > KEYS_MAX {
        return None;
    }
    let mut keys = a.keys.clone();
    keys.extend(more);
    let include = included(a, b, &keys)?;
    Some(Candidate { keys, include, free: a.free.min(a.keys.len()), ..a.clone() })
}

/// `a` with what `b` includes, when `a`'s keys serve `b` too and `b` includes more.
fn widened(a: &Candidate, b: &Candidate) -> Option<Candidate> {
    if !keys_cover(&a.keys, &b.keys) {
        return None;
    }
    let include = included(a, b, &a.keys)?;
    (include.len() > a.include.len()).then(|| Candidate { include, ..a.clone() })
}

/// The INCLUDE columns of both that are not among the keys; None when they are too many for one index.
fn included(a: &Candidate, b: &Candidate, keys: &[Key]) -> Option<Vec<i16>> {
    let mut columns: Vec<i16> = a.include.iter().chain(&b.include).copied().collect();
    columns.sort_unstable();
    columns.dedup();
    columns.retain(|column| !keys.iter().any(|key| key.part == Part::Column(*column)));
    (columns.len() <= INCLUDE_MAX).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(columns: &[i16], free: usize) -> Candidate {
        Candidate::btree(1, columns.iter().map(|c| Key::ascending(*c)).collect(), free)
    }

    fn numbers(candidate: &Candidate) -> Vec<i16> {
        candidate.keys.iter().filter_map(|key| key.column()).collect()
    }

    #[test]
    fn equality_columns_are_brought_forward() {
        let added = merged(&[candidate(&[2], 1), candidate(&[1, 2, 3], 2)], 10);
        assert!(added.iter().any(|new| numbers(new) == [2, 1, 3]), "{added:?}");
    }

    #[test]
    fn a_common_start_is_extended() {
        let added = merged(&[candidate(&[1, 2], 1), candidate(&[1, 3], 1)], 10);
        assert!(added.iter().any(|new| numbers(new) == [1, 2, 3]), "{added:?}");
        assert!(added.iter().any(|new| numbers(new) == [1, 3, 2]), "{added:?}");
    }

    #[test]
    fn what_two_include_is_one_index() {
        let first = Candidate { include: vec![5, 6], ..candidate(&[1, 2], 1) };
        let second = Candidate { include: vec![2, 7], ..candidate(&[1], 1) };
        let added = merged(&[first.clone(), second.clone()], 10);
        assert!(added.iter().any(|new| numbers(new) == [1, 2] && new.include == [5, 6, 7]), "{added:?}");
        let partial = Candidate { predicate: Some(0), ..second };
        assert!(merged(&[first, partial], 10).is_empty());
    }

    proptest! {
        #[test]
        fn merged_serves_one_of_its_parents(shapes in prop::collection::vec(
            (prop::collection::vec(1i16..6, 1..4), 0usize..4, prop::collection::btree_set(1i16..20, 0..7), prop::option::of(0u32..2)), 1..8
        )) {
            let candidates: Vec<Candidate> = shapes.iter().map(|(columns, free, include, predicate)| {
                let mut unique = Vec::new();
                for column in columns { if !unique.contains(column) { unique.push(*column); } }
                let include = include.iter().copied().filter(|column| !unique.contains(column)).collect();
                Candidate { include, predicate: *predicate, ..candidate(&unique, (*free).min(unique.len())) }
            }).collect();
            for new in merged(&candidates, 50) {
                prop_assert!(new.keys.len() <= KEYS_MAX && new.include.len() <= INCLUDE_MAX);
                prop_assert!(!new.include.iter().any(|column| numbers(&new).contains(column)));
                prop_assert!(candidates.iter().any(|old| new.covers(old)));
            }
        }
    }
}
